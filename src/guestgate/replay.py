"""Recorded check-ins decided again under other plans: whose answers would change, and what that would cost.

The replay builds on itself. What the new rules deny makes no visit, so later check-ins may be allowed; what they
allow makes one. Two histories of each member's visits are kept for that, which are the same until an answer changes.

The record tells which version of which plan each check-in was decided under, and, since a plan's rules are asked
last, that studio, customer and membership were in order. So every check-in that was told anything but one of a plan's
reasons stays as it was. So does one whose answer not even the rules of the time explain (a stand-in's, or that of a
member whose cycles were counted from another day, then): else the difference would be blamed on the new ones.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from guestgate import clock, partitions, plans, schema
from guestgate.calendars import Calendars
from guestgate.decide import PLAN_REASONS, plan_reason, plan_rules
from guestgate.directory import tags_of
from guestgate.history import CHANGE, CHECKIN, UNDELIVERED, VISIT, History
from guestgate.model import Facts, Member, Payable, Plan, Reason, Studio, Visit, VisitState
from guestgate.past_studios import PastStudios
from guestgate.plans_file import PlanDocument, document_of, plan_of
from guestgate.tally import Example, Tally

# Of two sums or answers.
BEFORE, AFTER = 0, 1
OK, UNAVAILABLE = Reason.OK.value, Reason.UNAVAILABLE.value


class Ready:
    """A plan made ready to be asked often."""

    def __init__(self, plan: Plan) -> None:
        """One version of it."""
        self.plan = plan
        self.rules = plan_rules(plan)
        self.has_cycle = plan.has_cycle
        self.reach = None if plan.reach_days is None else timedelta(days=plan.reach_days)
        self.pays_each = plan.payable is Payable.PER_VISIT


class Versions(NamedTuple):
    """A plan as it was when a check-in was decided, and as it would have been."""

    then: Ready
    now: Ready


class Place:
    """A studio, for those who came there under one version of a plan: what they have in common, and their sums."""

    def __init__(self, replay: Replay, plan_id: str | None, version: int | None, studio_id: str) -> None:
        """Nobody has come yet. Without a plan nothing is decided here again."""
        self.plan_id, self.studio_id = plan_id, studio_id
        if plan_id is not None and version is not None:
            self.then, self.now = replay.plans[plan_id, version]
            self.pays_each = self.then.pays_each, self.now.pays_each
        # None where it was not always the same.
        self.studio = replay.studios.always(studio_id)
        # Check-ins by their reason, which stays, and by those before and after.
        self.kept: dict[str, int] = defaultdict(int)
        self.changed: dict[tuple[str, str], int] = defaultdict(int)
        # Visits that are paid for, before and after.
        self.payable = [0, 0]

    def tell(self, tally: Tally) -> None:
        """Hand in the sums."""
        for reason, count in self.kept.items():
            tally.answers[self.plan_id, self.studio_id, reason, reason] += count
        for (before, after), count in self.changed.items():
            tally.answers[self.plan_id, self.studio_id, before, after] += count
        if self.plan_id is not None:
            for sums, count in zip((tally.payable_before, tally.payable_after), self.payable, strict=True):
                if count:
                    sums[self.plan_id, self.studio_id] += count


class Places(dict[tuple["str | None", "int | None", str], Place]):
    """By plan, version and studio."""

    def __init__(self, replay: Replay) -> None:
        """Of one replay."""
        super().__init__()
        self._replay = replay

    def __missing__(self, key: tuple[str | None, int | None, str]) -> Place:
        self[key] = Place(self._replay, *key)
        return self[key]


_FIRST = itemgetter(0)
# A visit in one of the two histories: its instant, its number, and its place, which has no plan where it never pays.
Entry = tuple[int, int, Visit, Place]


class Visits:
    """A member's visits in one of the two histories, as far as they are not reversed."""

    __slots__ = ("_all_near_until", "_near", "_plan", "_reversed", "entries")

    def __init__(self) -> None:
        """There are none yet."""
        self.entries: dict[int, Entry] = {}
        self._reversed: dict[int, Entry] = {}
        # Those that `_plan` still looks at, and perhaps some more: the first one does until a date.
        self._near: list[Visit] = []
        self._plan: Ready | None = None
        self._all_near_until = date.min

    def copy(self) -> Visits:
        """The same, to go another way from here on."""
        other = Visits()
        other.entries, other._reversed = dict(self.entries), dict(self._reversed)
        return other

    def add(self, entry: Entry) -> None:
        """One more."""
        self.entries[entry[1]] = entry
        self._near.append(entry[2])

    def change(self, number: int, is_reversed: bool) -> None:
        """Take a visit back, or the taking back; nothing where it was not made in this history."""
        here, there = (self.entries, self._reversed) if is_reversed else (self._reversed, self.entries)
        entry = here.pop(number, None)
        if entry is not None:
            there[number] = entry
            self._plan = None

    def within_reach(self, plan: Ready, today: date) -> Sequence[Visit]:
        """At least those that a plan looks at on a date, and not many more; only good until something changes."""
        if plan is not self._plan:
            self._plan, self._near = plan, [visit for _, _, visit, _ in self.entries.values()]
            self._all_near_until = date.min
        near = self._near
        if today > self._all_near_until and near and plan.reach is not None:
            first = today - plan.reach
            while near and near[0].local_date < first:
                del near[0]
            self._all_near_until = near[0].local_date + plan.reach if near else today
        return near


class Replay:
    """One replay. `run` does it; then the tally says what it came to."""

    def __init__(
        self,
        connection: Connection,
        since: datetime,
        documents: Mapping[str, PlanDocument],
        tally: Tally,
        *,
        payable_requires: str,
    ) -> None:
        """Of what was received since an instant, within the connection's transaction, which sees one state.

        `documents` are the new plans; others stay as they were. Without any, every check-in is decided again as it
        was, which shows whether the record explains itself; else only those whose plan or earlier visits differ from
        what they were, for only their answers can. `payable_requires` is the setting. Raises OperationError where the
        plans could not be put into force.
        """
        self.asks_all = not documents
        self.tally = tally
        self.plans = _plans(connection, documents)
        self.since_ms = clock.to_ms(since)
        self.confirmed_only = payable_requires == VisitState.CONFIRMED.value
        self.pays_alike = all(then.pays_each is now.pays_each for then, now in self.plans.values())
        self.studios = PastStudios(connection)
        self.calendars = Calendars()
        self.places = Places(self)
        self._history = History(connection, since)
        self._asked = _asked(connection, self.plans, since)

    def total(self) -> int:
        """How many check-ins there are to go through."""
        return self._history.checkins()

    def run(self) -> Iterator[int]:
        """Go through the record; yields how many check-ins are done so far."""
        rows = self._history.rows(
            max((plan.reach_days for plan in self._asked if plan.reach_days is not None), default=0),
            endless=sorted({plan.id for plan in self._asked if plan.reach_days is None}),
            cycles=sorted({plan.id for plan in self._asked if plan.has_cycle}),
            confirmations=self.confirmed_only,
        )
        done = 0
        with _no_collection():
            for member_id, about in groupby(rows, _FIRST):
                done += Person(self, member_id).go(about)
                yield done
        for place in self.places.values():
            place.tell(self.tally)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No search for garbage in circles, of which a replay makes none: it takes a tenth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Person:
    """A member, or all whom nobody knew, in both histories."""

    __slots__ = ("_anchor", "_changed", "_confirmed", "_id", "_members", "_recorded", "_replay", "_replayed")

    def __init__(self, replay: Replay, member_id: str | None) -> None:
        """Nothing has happened yet."""
        self._replay = replay
        self._id = member_id or ""
        self._anchor: date | None = None
        # As of each plan that is asked.
        self._members: dict[Ready, Member] = {}
        self._recorded = self._replayed = Visits()
        # Visits; those that only the replay has are taken to be.
        self._confirmed: set[int] = set()
        self._changed: list[Example] = []

    def go(self, rows: Iterator[Any]) -> int:
        """Go through what happened, in order; returns how many check-ins that were."""
        checkins, places = 0, self._replay.places
        for _, number, what, at_ms, studio_id, plan_id, version, text in rows:
            if what >= CHECKIN:
                checkins += 1
                place = places[plan_id, version, studio_id]
                if text in PLAN_REASONS:
                    self._checkin(place, number, what, at_ms, text)
                elif text != UNAVAILABLE:
                    place.kept[text] += 1
            elif what == VISIT:
                self._visit(places[plan_id, version, studio_id], number, at_ms, text)
            elif what == CHANGE:
                self._change(at_ms, text)
            elif text is not None:
                self._anchor = date.fromisoformat(text)
        self._settle()
        return checkins

    def _checkin(self, place: Place, number: int, what: int, at_ms: int, before: str) -> None:
        """Decide it again. What was not delivered, and made no visit, makes none now."""
        replay, now = self._replay, place.now
        studio = place.studio or replay.studios.at(place.studio_id, number)
        at = clock.from_ms(at_ms)
        today = replay.calendars[studio.timezone].at(at_ms, at)
        recorded, replayed = self._recorded, self._replayed
        after = before
        if replay.asks_all or now is not place.then or replayed is not recorded:
            after = self._reason(now, replayed, studio, at, today)
        if after == before:
            place.kept[before] += 1
        elif after and self._reason(place.then, recorded, studio, at, today) == before:
            place.changed[before, after] += 1
            self._changed.append(Example(at_ms, studio.id, before, after))
        else:
            replay.tally.unexplained[studio.id] += 1
            place.kept[before] += 1
            after = before
        made, makes = before == OK, after == OK and what != UNDELIVERED
        if made or makes:
            visit = Visit("", studio.id, at, today, studio.tags, studio.test)
            self._add((at_ms, number, visit, place), made, makes)

    def _reason(self, ready: Ready, visits: Visits, studio: Studio, at: datetime, today: date) -> str:
        """The answer's reason under a plan; empty where that cannot be known."""
        member = self._members.get(ready)
        if member is None:
            if ready.has_cycle and self._anchor is None:
                return ""
            member = self._members[ready] = Member(self._id, ready.plan, cycle_anchor=self._anchor)
        facts = Facts(studio, member, None, visits.within_reach(ready, today))
        return plan_reason(ready.rules, facts, member, at, today)

    def _visit(self, place: Place, number: int, at_ms: int, text: str) -> None:
        """One that no replayed check-in made."""
        day, _, tags = text.partition(" ")
        is_test = self._replay.studios.at(place.studio_id, number).test
        visit = Visit("", place.studio_id, clock.from_ms(at_ms), date.fromisoformat(day), tags_of(tags), is_test)
        self._add((at_ms, number, visit, place), True, True)

    def _add(self, entry: Entry, made: bool, makes: bool) -> None:
        """A visit of the record, the replay, or both; where they differ there are two histories from then on."""
        if made is makes and self._replayed is self._recorded:
            self._recorded.add(entry)
            return
        if self._replayed is self._recorded:
            self._replayed = self._recorded.copy()
        if made:
            self._recorded.add(entry)
        if makes:
            self._replayed.add(entry)
            if not made:
                self._confirmed.add(entry[1])

    def _change(self, number: int, state: str) -> None:
        if state == VisitState.CONFIRMED:
            self._confirmed.add(number)
        else:
            self._confirmed.discard(number)
        self._recorded.change(number, state == VisitState.REVERSED)
        if self._replayed is not self._recorded:
            self._replayed.change(number, state == VisitState.REVERSED)

    def _settle(self) -> None:
        """Count what is paid for, and what changed."""
        if self._replay.pays_alike and self._replayed is self._recorded:
            self._pay(self._recorded, BEFORE, AFTER)
        else:
            self._pay(self._recorded, BEFORE)
            self._pay(self._replayed, AFTER)
        if self._changed:
            self._replay.tally.changed(self._id, self._changed)

    def _pay(self, visits: Visits, *sums: int) -> None:
        """Add the visits that are paid for to their places' sums: the rule of `guestgate.payable.PayableRule`."""
        days = set[date]()
        confirmed_only, since_ms = self._replay.confirmed_only, self._replay.since_ms
        for at_ms, number, (_, _, _, day, _, is_test), place in sorted(visits.entries.values()):
            if is_test or (confirmed_only and place.plan_id is not None and number not in self._confirmed):
                continue
            is_first = day not in days
            if is_first:
                days.add(day)
            if place.plan_id is not None and at_ms >= since_ms and (is_first or place.pays_each[sums[0]]):
                for version in sums:
                    place.payable[version] += 1


def _plans(connection: Connection, documents: Mapping[str, PlanDocument]) -> dict[tuple[str, int], Versions]:
    """Every version of every plan, and what would have been in its place."""
    v = schema.plan_versions.c
    rows = connection.execute(select(v.plan_id, v.version, v.document).order_by(v.version)).all()
    newest = {plan_id: version for plan_id, version, _ in rows}
    fresh = {plan_id: document_of(content) for plan_id, content in documents.items()}
    ready = {
        plan_id: Ready(plan_of(plan_id, newest.get(plan_id, 0) + 1, document)) for plan_id, document in fresh.items()
    }
    for now in ready.values():
        plans.check_anchors(connection, now.plan)
    found = {}
    for plan_id, version, document in rows:
        then = Ready(plan_of(plan_id, version, document))
        found[plan_id, version] = Versions(then, then if fresh.get(plan_id, document) == document else ready[plan_id])
    return found


def _asked(connection: Connection, known: Mapping[tuple[str, int], Versions], since: datetime) -> list[Plan]:
    """The plans that are asked: of each its versions since then, and what would have been in their place."""
    v = schema.plan_versions.c
    before = v.applied_at_ms < clock.to_ms(since - partitions.CLOCK_STEP)
    over = {
        (plan_id, version) for plan_id, version in connection.execute(select(v.plan_id, v.version - 1).where(before))
    }
    return [ready.plan for key, versions in known.items() if key not in over for ready in versions]
