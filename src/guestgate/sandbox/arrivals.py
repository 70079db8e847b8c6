"""Who comes to which door, when, and what goes wrong on the way: a plan made from a seed before anybody moves.

Pure. Nobody's behaviour depends on an answer, so a run can be repeated from its seed. People come as a
Poisson process whose rate follows the studios' own time of day; a run, however long, is one day.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import NamedTuple

from guestgate.sandbox.door import NO_FAULT, Fault
from guestgate.sandbox.town import Member, Studio, Town

# How busy each hour of a studio's day is.
HOURS = (1, 1, 1, 1, 1, 2, 6, 9, 8, 5, 4, 4, 5, 4, 4, 5, 7, 9, 10, 9, 7, 5, 3, 2)
DAY_H = 24
HOUR_S = 3600
# Where people come without an end, ten minutes of ours are a day of theirs; to watch, begin in the morning.
DAY_S, MORNING_H = 600, 7

SECOND_TAP = 0.12
SECOND_READER = 0.05
IMPATIENT = 0.04
STRANGER = 0.02
FOREIGN_CARD = 0.01
AT_HOME = 0.7
RARELY = 0.05  # how often a paused or a test studio is visited, compared with others

# Of those whom a chain does not know yet, so many register at the desk before they first come in; of these so many
# show a code, where there are codes, and staff mistype so many of what they are shown.
ENROLLED, WITH_CODE, MISTYPED = 0.3, 0.8, 0.03
DESK_S = 1.0
# Numbers of customers whom a chain does not know yet, and of those whom nobody knows.
NEW_FROM, STRANGERS_FROM = 4_000_000_000, 5_000_000_000

CALL_FAULTS = {"cut": 0.01, "cancel": 0.03}
EARLY_S = (0.001, 0.06)  # a call is given up somewhere in here; answers usually take that long
FAULTS = (*CALL_FAULTS, "webhooks", "clock")


class PlannedTap(NamedTuple):
    """A card that will be held to a reader, ``due_s`` seconds after the start."""

    number: int
    due_s: float
    studio: Studio
    aggregator_id: str
    customer_id: int
    fault: Fault = NO_FAULT


class PlannedEnrolment(NamedTuple):
    """A member who will register at a desk, ``due_s`` seconds after the start, and become this customer.

    ``text`` is what staff type, unless the member comes ``with_code`` and there are codes. ``member_id`` is None
    where nobody knows who it is.
    """

    number: int
    due_s: float
    studio: Studio
    member_id: str | None
    text: str
    with_code: bool = False
    customer_id: int | None = None
    fault: Fault = NO_FAULT


@dataclass(frozen=True)
class Load:
    """How much comes: people a second on average, for so many seconds; from which seed, with which faults.

    The seconds are a day, which begins at the hour ``from_h`` in UTC.
    """

    rate: float
    seconds: float
    seed: int = 1
    faults: frozenset[str] = frozenset()
    from_h: float = 0


class _Coming(NamedTuple):
    due_s: float
    order: int
    studio: Studio
    aggregator_id: str
    customer_id: int


def taps(town: Town, load: Load) -> Iterator[PlannedTap]:
    """Every tap of a run, in order of time."""
    mishaps = random.Random(f"{load.seed}/faults")
    for number, coming in enumerate(_coming(town, load)):
        yield PlannedTap(number, coming.due_s, *coming[2:], _fault(load.faults, mishaps))


def enrolments(town: Town, load: Load) -> Iterator[PlannedEnrolment]:
    """Every enrolment of a run, in order of time: some who are new to a chain, just before they first come in."""
    dice, mishaps = random.Random(f"{load.seed}/enrolments"), random.Random(f"{load.seed}/enrolments/faults")
    seen: set[tuple[str, int]] = set()
    number = 0
    for tap in taps(town, load):
        who = tap.studio.tenant, tap.customer_id
        if not NEW_FROM <= tap.customer_id < STRANGERS_FROM or who in seen:
            continue
        seen.add(who)
        enrolled, with_code, mistyped = (dice.random() for _ in range(3))
        if enrolled >= ENROLLED:
            continue
        member = town.members[tap.customer_id - NEW_FROM]
        is_wrong = mistyped < MISTYPED
        yield PlannedEnrolment(
            number,
            max(0.0, tap.due_s - DESK_S),
            tap.studio,
            None if is_wrong else member.id,
            f"{member.id}?" if is_wrong else member.id,
            with_code < WITH_CODE and not is_wrong,
            tap.customer_id,
            _fault(load.faults, mishaps),
        )
        number += 1


def _fault(faults: frozenset[str], dice: random.Random) -> Fault:
    chance, detail = dice.random(), dice.random()
    if chance < CALL_FAULTS["cut"]:
        return Fault(cut=detail) if "cut" in faults else NO_FAULT
    if chance < CALL_FAULTS["cut"] + CALL_FAULTS["cancel"] and "cancel" in faults:
        earliest, latest = EARLY_S
        return Fault(cancel_s=round(earliest + (latest - earliest) * detail**2, 4))
    return NO_FAULT


def _coming(town: Town, load: Load) -> Iterator[_Coming]:
    dice = random.Random(f"{load.seed}/arrivals")
    order = 0
    later: list[_Coming] = []
    for due_s, studio, member in _people(town, load, dice):
        while later and later[0].due_s <= due_s:
            yield heapq.heappop(later)
        aggregator_id, customer_id = _card(town, studio, member, dice)
        for pause_s in (0.0, *_again(dice)):
            coming = _Coming(due_s + pause_s, order, studio, aggregator_id, customer_id)
            order += 1
            if coming.due_s < load.seconds:
                heapq.heappush(later, coming)
    while later:
        yield heapq.heappop(later)


def _people(town: Town, load: Load, dice: random.Random) -> Iterator[tuple[float, Studio, Member]]:
    """Arrivals by thinning: come as often as at the busiest hour, and stay away as often as the hour is quieter."""
    busiest, mean = max(HOURS), sum(HOURS) / len(HOURS)
    noon = datetime.combine(date.fromisoformat(town.spec.day), time(12), UTC)
    ahead_h = {
        studio.id: (noon.astimezone(studio.zone).utcoffset() or timedelta()).total_seconds() / HOUR_S
        for studio in town.studios
    }
    weights = [RARELY if studio.test or studio.paused else 1.0 for studio in town.studios]
    due_s = 0.0
    while True:
        due_s += dice.expovariate(load.rate * busiest / mean)
        if due_s >= load.seconds:
            return
        # Few come often and many seldom.
        number = int(len(town.members) * dice.random() ** 2)
        home = number % len(town.studios)
        at_home = dice.random() < AT_HOME and weights[home] == 1
        studio = town.studios[home] if at_home else dice.choices(town.studios, weights)[0]
        hour = (load.from_h + due_s / load.seconds * DAY_H + ahead_h[studio.id]) % DAY_H
        if dice.random() * busiest < HOURS[int(hour)]:
            yield due_s, studio, town.members[number]


def _card(town: Town, studio: Studio, member: Member, dice: random.Random) -> tuple[str, int]:
    """What the card says: usually the member; now and then nobody's id, or somebody else's customer."""
    number = int(member.id[2:8]) - 100_000
    customer_id = member.customers.get(studio.tenant, NEW_FROM + number)
    aggregator_id = member.id
    chance = dice.random()
    if chance < STRANGER:
        aggregator_id, customer_id = f"stranger-{number}", STRANGERS_FROM + number
    elif chance < STRANGER + FOREIGN_CARD:
        other = dice.choice(town.members)
        customer_id = next(iter(other.customers.values()))
    return town.spec.aggregator_id or aggregator_id, customer_id


def _again(dice: random.Random) -> list[float]:
    """Seconds after which the same card comes again: a second tap, a second reader, or no patience at all."""
    chance = dice.random()
    if chance < SECOND_TAP:
        return [dice.uniform(0.3, 3)]
    if chance < SECOND_TAP + SECOND_READER:
        return [dice.uniform(4, 20)]
    if chance < SECOND_TAP + SECOND_READER + IMPATIENT:
        pauses = [dice.uniform(0.02, 0.9) for _ in range(dice.randrange(1, 4))]
        return [sum(pauses[: n + 1]) for n in range(len(pauses))]
    return []


def jumps(town: Town, now: datetime, lead_s: float) -> list[datetime]:
    """Instants a clock may jump to, in order: shortly before a month ends, and before clocks are changed.

    Both on the calendar of the first studio, each `lead_s` seconds ahead of the event, and both in the future.
    """
    zone = town.studios[0].zone
    local = now.astimezone(zone)
    month = (local.replace(day=1) + timedelta(days=32)).date().replace(day=1)
    events = [datetime.combine(month, time(), zone).astimezone(UTC)]
    hours = [now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=hour) for hour in range(1, 370 * DAY_H)]
    events += [
        after
        for before, after in pairwise(hours)
        if before.astimezone(zone).utcoffset() != after.astimezone(zone).utcoffset()
    ][:1]
    lead = timedelta(seconds=lead_s)
    return sorted(event - lead for event in events if event - lead > now)
