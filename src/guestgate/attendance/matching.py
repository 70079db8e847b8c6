"""Which visit somebody came in on: entries and the answers that opened a door, held against one another.

Pure, and of sets: the order in which anything was learned plays no part. It is about one customer at one studio.

The platform tells of an entry without naming our answer, and its clock may differ from ours. So an entry belongs to
an answer that let the customer in within `WINDOW_MS` of it, either way; of several, each to the one next to it, and
each answer to one entry. An answer that never reached the door is thought of last. An entry for which no answer is
left, such as that of a second reader, belongs to the visit next to it all the same.

Webhooks and the history tell of the same entries, with times of their own. What one tells and what the other tells
next to it is one entry, so that nobody who tapped twice came in twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import NamedTuple

from guestgate.attendance.webhook import Kind

WINDOW_MS = 120_000
# Whoever left later than this after coming in was checked out by somebody who cleaned up.
MAX_STAY_MS = 24 * 3600 * 1000


class Witness(StrEnum):
    """Who told of an entry or exit."""

    WEBHOOK = "webhook"
    HISTORY = "history"


class Opening(NamedTuple):
    """An answer that let the customer in, or a visit that staff entered. ``undelivered``: it surely never left."""

    at_ms: int
    id: str
    visit_id: str
    undelivered: bool


class Sighting(NamedTuple):
    """The customer was seen to come in or to leave."""

    at_ms: int
    kind: Kind
    source: Witness
    reference: str


# All that witnesses told of one entry.
Entry = tuple[Sighting, ...]


class Unit(NamedTuple):
    """A customer at a studio, and between which instants something about them may be new."""

    studio_id: str
    customer_id: int
    since_ms: int
    until_ms: int


def visits_of(openings: Collection[Opening], sightings: Collection[Sighting]) -> dict[Sighting, str]:
    """The visit that each entry and exit belongs to; those that belong to none are left out."""
    entries = sorted(sighting for sighting in sightings if sighting.kind is Kind.ENTRY)
    found = {
        sighting: visit_id
        for entry, visit_id in _entries(openings, _told_of_at_once(entries)).items()
        for sighting in entry
    }
    for sighting in sightings:
        if sighting.kind is Kind.EXIT:
            before = [entry for entry in entries if sighting.at_ms - MAX_STAY_MS <= entry.at_ms <= sighting.at_ms]
            if before and before[-1] in found:
                found[sighting] = found[before[-1]]
    return found


def _told_of_at_once(entries: Collection[Sighting]) -> list[Entry]:
    """What each witness told of, put together where it is the same."""
    webhooks, history = ([entry for entry in entries if entry.source is source] for source in Witness)
    pairs = sorted(
        (abs(one.at_ms - other.at_ms), one, other)
        for one in webhooks
        for other in history
        if abs(one.at_ms - other.at_ms) <= WINDOW_MS
    )
    found: list[Entry] = []
    taken: set[Sighting] = set()
    for _, *both in pairs:
        if taken.isdisjoint(both):
            found.append(tuple(both))
            taken.update(both)
    return found + [(entry,) for entry in entries if entry not in taken]


def _entries(openings: Collection[Opening], entries: Iterable[Entry]) -> dict[Entry, str]:
    pairs = sorted(
        (_apart_ms(opening, entry), opening, entry) for entry in entries for opening in _candidates(openings, entry)
    )
    found: dict[Entry, str] = {}
    taken: set[Opening] = set()
    for _, opening, entry in pairs:
        if entry not in found and opening not in taken:
            found[entry] = opening.visit_id
            taken.add(opening)
    for _, opening, entry in pairs:
        found.setdefault(entry, opening.visit_id)
    return found


def _candidates(openings: Collection[Opening], entry: Entry) -> list[Opening]:
    near = [opening for opening in openings if _apart_ms(opening, entry) <= WINDOW_MS]
    return [opening for opening in near if not opening.undelivered] or near


def _apart_ms(opening: Opening, entry: Entry) -> int:
    return min(abs(opening.at_ms - sighting.at_ms) for sighting in entry)
