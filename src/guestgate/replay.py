"""Recorded check-ins decided again under other plans: whose answers would change, and what that would cost.

The replay builds on itself. What the new rules deny makes no visit, so later check-ins may be allowed; what they
allow makes one. Two histories of each member's visits are kept for that, which are the same until an answer changes.

The record tells which version of which plan each check-in was decided under, and, since a plan's rules are asked
last, that studio, customer and membership were in order. So every check-in that was told anything but one of a plan's
reasons stays as it was. So does one whose answer not even the rules of the time explain (a stand-in's, or that of a
member whose cycles were counted from another day, then): else the difference would be blamed on the new ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

OK = Reason.OK.value


class Ready:
    """A plan made ready to be asked often."""

    def __init__(self, plan: Plan) -> None:
        """One version of it."""
        self.plan = plan
        self.rules = plan_rules(plan)
        self.has_cycle = plan.has_cycle
        self.reach = None if plan.reach_days is None else timedelta(days=plan.reach_days)


class Versions(NamedTuple):
    """A plan as it was when a check-in was decided, and as it would have been."""

    then: Ready
    now: Ready


# A visit in one of the two histories: its instant, its number, and its plan, or None where it never pays.
Entry = tuple[int, int, Visit, Versions | None]


class Visits:
    """A member's visits in one of the two histories, as far as they are not reversed."""

    def __init__(self) -> None:
        """There are none yet."""
        self.entries: dict[int, Entry] = {}
        self._reversed: dict[int, Entry] = {}
        # Those that `_plan` still looks at, and perhaps some more.
        self._near: list[Visit] = []
        self._plan: Ready | None = None

    def copy(self) -> Visits:
        """The same, to go another way from here on."""
        other = Visits()
        other.entries, other._reversed = dict(self.entries), dict(self._reversed)
        return other

    def add(self, entry: Entry) -> None:
        """One more."""
        _, number, visit, _ = entry
        self.entries[number] = entry
        self._near.append(visit)

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
        near = self._near
        if near and plan.reach is not None:
            first = today - plan.reach
            while near and near[0].local_date < first:
                del near[0]
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
        self.pays_alike = all(
            versions.then.plan.payable is versions.now.plan.payable for versions in self.plans.values()
        )
        self.studios = PastStudios(connection)
        self.calendars = Calendars()
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
        for member_id, about in groupby(rows, itemgetter(0)):
            done += Person(self, member_id).go(about)
            yield done


class Person:
    """A member, or all whom nobody knew, in both histories."""

    def __init__(self, replay: Replay, member_id: str | None) -> None:
        """Nothing has happened yet."""
        self._replay = replay
        self._id = member_id or ""
        self._anchor: date | None = None
        self._member: Member | None = None
        self._recorded = self._replayed = Visits()
        # Visits; those that only the replay has are taken to be.
        self._confirmed: set[int] = set()
        self._changed: list[Example] = []

    def go(self, rows: Iterator[Any]) -> int:
        """Go through what happened, in order; returns how many check-ins that were."""
        checkins = 0
        for row in rows:
            what, text = row[2], row[7]
            if what >= CHECKIN:
                checkins += 1
                if text in PLAN_REASONS:
                    self._checkin(row)
                elif text != Reason.UNAVAILABLE:
                    self._replay.tally.answers[row[5], row[4], text, text] += 1
            elif what == VISIT:
                self._visit(row)
            elif what == CHANGE:
                self._change(row[3], text)
            elif text is not None:
                self._anchor = date.fromisoformat(text)
        self._settle()
        return checkins

    def _checkin(self, row: Any) -> None:
        """Decide it again. What was not delivered, and made no visit, makes none now."""
        _, number, what, at_ms, studio_id, plan_id, version, before = row
        replay = self._replay
        versions, studio = replay.plans[plan_id, version], replay.studios.at(studio_id, number)
        at = clock.from_ms(at_ms)
        today = replay.calendars[studio.timezone].at(at_ms, at)
        after: str = before
        if replay.asks_all or versions.now is not versions.then or self._replayed is not self._recorded:
            after = self._reason(versions.now, self._replayed, studio, at, today)
        if after != before:
            if after and self._reason(versions.then, self._recorded, studio, at, today) == before:
                self._changed.append(Example(at_ms, studio_id, before, after))
            else:
                replay.tally.unexplained[studio_id] += 1
                after = before
        replay.tally.answers[plan_id, studio_id, before, after] += 1
        made, makes = before == OK, after == OK and what != UNDELIVERED
        if made or makes:
            visit = Visit("", studio_id, at, today, studio.tags, studio.test)
            self._add((at_ms, number, visit, versions), made, makes)

    def _reason(self, ready: Ready, visits: Visits, studio: Studio, at: datetime, today: date) -> str:
        """The answer's reason under a plan; empty where that cannot be known."""
        member = self._member
        if member is None or member.plan is not ready.plan:
            if ready.has_cycle and self._anchor is None:
                return ""
            member = self._member = Member(self._id, ready.plan, cycle_anchor=self._anchor)
        facts = Facts(studio, member, None, visits.within_reach(ready, today))
        return plan_reason(ready.rules, facts, member, at, today)

    def _visit(self, row: Any) -> None:
        """One that no replayed check-in made."""
        _, number, _, at_ms, studio_id, plan_id, version, text = row
        local_date, _, tags = text.partition(" ")
        is_test = self._replay.studios.at(studio_id, number).test
        visit = Visit("", studio_id, clock.from_ms(at_ms), date.fromisoformat(local_date), tags_of(tags), is_test)
        self._add((at_ms, number, visit, plan_id and self._replay.plans[plan_id, version]), True, True)

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
        tally = self._replay.tally
        before = self._payable(self._recorded, 0)
        tally.payable_before.update(before)
        if self._replay.pays_alike and self._replayed is self._recorded:
            tally.payable_after.update(before)
        else:
            tally.payable_after.update(self._payable(self._replayed, 1))
        if self._changed:
            tally.changed(self._id, self._changed)

    def _payable(self, visits: Visits, version: int) -> list[tuple[str, str]]:
        """Plan and studio of each visit that is paid for: the rule of `guestgate.record.PayableRule`."""
        found, days = list[tuple[str, str]](), set[date]()
        for at_ms, number, visit, versions in sorted(visits.entries.values()):
            if visit.test or (self._replay.confirmed_only and versions is not None and number not in self._confirmed):
                continue
            is_first = visit.local_date not in days
            days.add(visit.local_date)
            if versions is not None and at_ms >= self._replay.since_ms:
                plan = versions[version].plan
                if is_first or plan.payable is Payable.PER_VISIT:
                    found.append((plan.id, visit.studio_id))
        return found


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
