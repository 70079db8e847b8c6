"""Carrying over to the shared record what was decided on a copy: once each, by the decision's id.

The answer that was sent is the truth. Where the shared ledger has decided the same check-in, too, and says the
same, its decision stands. Where it says something else and ours was sent, ours takes its place, with a new number,
so that whoever follows the record learns of it. What never left lets nobody in: its visit is reversed, as
everywhere. Killed at any point, it is finished by another round.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection, delete, select

from guestgate import changes, clock, corrections, directory, locks, schema, sequence
from guestgate.bulk import BulkInsert, BulkSelect
from guestgate.changes import Change
from guestgate.corrections import UNDELIVERED
from guestgate.database import SYSTEM, BusyError, Database, Fault
from guestgate.decide import decide
from guestgate.directory import Directory, tags_text
from guestgate.errors import OperationError
from guestgate.facts import FactBook
from guestgate.forget import new_pseudonym
from guestgate.model import NO_CUSTOMER, CheckIn, Effect, Outcome, Reason, Source, VisitState
from guestgate.stand_in import copy
from guestgate.stand_in.copy import StandInCopy
from guestgate.stand_in.follower import current_visits, take_visits

log = structlog.get_logger()

PAGE = 400
# How an answer left is recorded within a second; where the server was killed, nobody knows.
ANSWER_PATIENCE_MS = 5_000
# What cannot be carried over is tried again after so long: its cause may be mended.
REFUSED_S = 60.0
STATUS_MEANS = {
    200: Outcome.ALLOWED.value,
    403: Outcome.DENIED.value,
    404: Outcome.DENIED.value,
    503: Outcome.UNDECIDED.value,
}

_d, _a, _v, _w = schema.decisions.c, schema.answers.c, schema.visits.c, schema.visit_changes.c
_members = BulkSelect(schema.members.c.id, among=schema.members.c.id)
_links = BulkSelect(
    schema.customers.c.customer_id, schema.customers.c.member_id, among=schema.customers.c.customer_id
)
_theirs = BulkSelect(_d.id, _d.outcome, among=_d.id)
_counting = BulkSelect(_v.id, among=_v.id, where=[_v.state != VisitState.REVERSED.value])
_insert_decisions, _insert_visits = BulkInsert(schema.decisions), BulkInsert(schema.visits)
_insert_answers = BulkInsert(schema.answers, ignore_existing=True)
_insert_corrections = BulkInsert(schema.visit_changes)

Row = dict[str, Any]


class Waiting(NamedTuple):
    """What was decided here: rows of the copy's tables. No ``answer``: nobody knows how it left, or whether.

    ``about`` is whom the check-in names, also where nothing could be decided: a member that the copy knows.
    """

    decision: Row
    answer: Row | None
    visit: Row | None
    about: str | None

    @property
    def was_sent(self) -> bool:
        """Whether this decision is what the caller was told, or may have been: an allow lets somebody in."""
        if self.answer is None:
            return bool(self.decision["outcome"] == Outcome.ALLOWED.value)
        return self.told(self.decision["outcome"])

    def told(self, outcome: str) -> bool:
        """Whether that is what the caller was told, as far as is known how the answer left.

        By the status: a ledger that ended between its commit and its reply knows of no ruling of its own.
        """
        return self.answer is not None and STATUS_MEANS.get(self.answer["http_status"]) == outcome

    def answer_to(self, outcome: str) -> Row | None:
        """How the answer left, as it is recorded beside a decision of that outcome."""
        return None if self.answer is None else {**self.answer, "undelivered": not self.told(outcome)}

    def takes_the_place_of(self, outcome: str) -> bool:
        """Whether this, and not the shared ledger's decision of that outcome, is what is to be recorded."""
        return self.was_sent and self.decision["outcome"] not in (outcome, Outcome.UNDECIDED.value)


@dataclass
class Report:
    """What was carried over: how many decisions, and the ids of visits that went beyond a limit.

    ``complete`` where that was all that could be.
    """

    carried_over: int = 0
    over_limit: list[str] = field(default_factory=list)
    complete: bool = False


class Reconciliation:
    """From one copy to the shared record."""

    def __init__(self, shared: Database, own: StandInCopy, own_id: str | None) -> None:
        """`own_id` is our company id where the platform sends that instead of the member's."""
        self._shared, self._copy, self._own_id = shared, own, own_id
        self._directory = Directory(version=-1)
        # Those that cannot be carried over, and until when they are not tried again.
        self._refused: dict[str, float] = {}

    def run(self, who: str = SYSTEM, pages: int | None = None) -> Report:
        """Carry over all that can be now, or as many pages of it.

        Raises OperationError where one of the databases cannot be used.
        """
        report = Report()
        after, taken, left_members = 0, 0, set[str]()
        while taken != pages:
            page = self._page(after)
            if not page:
                report.complete = True
                break
            after, before = page[-1].decision["seq"], report.carried_over
            self._take(page, left_members, who, report)
            taken += report.carried_over > before
        return report

    def _take(self, page: list[Waiting], left_members: set[str], who: str, report: Report) -> None:
        """Carry over a page; what cannot be is found by taking its decisions one by one, and stays here."""
        page = [each for each in page if self._is_due(each, left_members)]
        if not page:
            return
        try:
            with self._shared.write(who) as connection:
                if directory.current_version(connection) != self._directory.version:
                    self._directory = directory.load(connection)
                batch = _Batch(connection, self._directory, self._own_id, page, left_members)
                batch.carry_over()
        except Exception as error:
            cause = error.__cause__ if isinstance(error, OperationError) else error
            if not isinstance(cause, Exception) or self._shared.fault(cause) is not Fault.OTHER:
                raise
            if len(page) > 1:
                for each in page:
                    self._take([each], left_members, who, report)
                return
            refused = page[0].decision["id"]
            if refused not in self._refused:
                log.error("a decision cannot be carried over", decision=refused, exc_info=error)
            self._refused[refused] = clock.monotonic() + REFUSED_S
            _leave(page[0], left_members)
            return
        report.carried_over += self._settle(batch)
        report.over_limit += batch.over_limit

    def _page(self, after: int) -> list[Waiting]:
        """The next decisions, in the order in which they were made."""
        with self._copy.database.read() as connection:
            rows = connection.execute(
                select(schema.decisions, schema.answers)
                .join(schema.answers, _a.decision_id == _d.id, isouter=True)
                .where(_d.seq > after)
                .order_by(_d.seq)
                .limit(PAGE)
            ).all()
            made = select(schema.visits).where(
                _v.id.in_([row.id for row in rows]), _v.source == Source.STAND_IN.value
            )
            visits = {row.id: dict(row._mapping) for row in connection.execute(made)}
            known = {member_id for (member_id,) in _members(connection, {row.aggregator_id for row in rows})}
            linked: dict[int, str] = dict(_links(connection, {row.customer_id for row in rows}))
        return [
            Waiting(
                {column.name: row._mapping[column] for column in schema.decisions.columns},
                {column.name: row._mapping[column] for column in schema.answers.columns} if row.decision_id else None,
                visits.get(row.id),
                row.member_id or (row.aggregator_id if row.aggregator_id in known else linked.get(row.customer_id)),
            )
            for row in rows
        ]

    def _is_due(self, each: Waiting, left_members: set[str]) -> bool:
        """Whether it can be carried over now; else what is about the same member waits with it.

        A re-entry leans on the visit before it, and must not overtake that.
        """
        known = each.answer is not None or each.decision["received_at_ms"] < clock.now_ms() - ANSWER_PATIENCE_MS
        if not known or clock.monotonic() < self._refused.get(each.decision["id"], 0.0):
            _leave(each, left_members)
            return False
        return each.about not in left_members

    def _settle(self, batch: _Batch) -> int:
        """Nothing of it waits here any more, and its visits are copies from now on; returns how many waited."""
        if not batch.settled:
            return 0
        with self._shared.read() as connection:
            current = current_visits(connection, batch.settled)
        with self._copy.database.write() as connection:
            take_visits(connection, batch.settled, current)
            copy.drop(connection, schema.visit_changes, "visit_id", batch.settled)
            waited = copy.drop(connection, schema.decisions, "id", batch.settled)
            copy.drop(connection, schema.answers, "decision_id", batch.settled)
            copy.counted(connection, waited, len(batch.over_limit))
        if batch.somebody_forgotten:
            self._copy.has_traces = True
            self._copy.erase_traces()
        if batch.over_limit:
            log.warning("visits of a stand-in went beyond a limit", visits=batch.over_limit)
        return waited


class _Batch:
    """Some decisions in one transaction of the shared record."""

    def __init__(
        self,
        connection: Connection,
        studios: Directory,
        own_id: str | None,
        page: Sequence[Waiting],
        left_members: set[str],
    ) -> None:
        """Lock the members. Those that somebody else has locked are left for another run."""
        self._connection, self._directory, self._own_id = connection, studios, own_id
        members = {each.about for each in page if each.about is not None}
        left_members |= locks.try_lock(connection, members)
        here = [each for each in page if each.about not in left_members]
        self.settled = [each.decision["id"] for each in here]
        self._theirs: dict[str, str] = dict(_theirs(connection, self.settled))
        self._forgotten = {member: new_pseudonym() for member in members - locks.existing(connection, members)}
        self._ours = [each for each in here if self._is_ours(each)]
        self._theirs_stand = [each for each in here if not self._is_ours(each)]
        self.over_limit: list[str] = []

    @property
    def somebody_forgotten(self) -> bool:
        """Whether somebody was forgotten after the decision."""
        return bool(self._forgotten)

    def _is_ours(self, each: Waiting) -> bool:
        theirs = self._theirs.get(each.decision["id"])
        return theirs is None or each.takes_the_place_of(theirs)

    def carry_over(self) -> None:
        """Write what is ours, and who did so, and of all how the answer left."""
        self._answer_theirs()
        if not self._ours:
            return
        for each in self._ours:
            if each.decision["id"] in self._theirs:
                self._clear(each.decision)
        written = list(self._rows())
        numbers = iter(sequence.take(self._connection, 3 * len(written)))
        decisions, visits, trail = [], [], []
        for decision, visit, _ in written:
            decisions.append(_values(schema.decisions, {**decision, "seq": next(numbers)}))
            if visit is not None:
                visits.append(_values(schema.visits, {**visit, "seq": next(numbers)}))
                if visit["state"] == VisitState.REVERSED.value:
                    trail.append(_correction(next(numbers), visit))
        _insert_decisions(self._connection, decisions)
        _insert_visits(self._connection, visits)
        _insert_answers(self._connection, [_values(schema.answers, row) for _, _, row in written if row is not None])
        _insert_corrections(self._connection, trail)
        counts = {"decisions": len(decisions), "visits": len(visits), "over_limit": len(self.over_limit)}
        changes.record(self._connection, [Change("stand_in.reconciled", socket.gethostname(), None, counts)])

    def _rows(self) -> Iterator[tuple[Row, Row | None, Row | None]]:
        """Each decision with its visit and its answer, in the order in which they were made."""
        leaned_on = {each.decision["visit_id"] for each in self._ours} - {None}
        counting = {visit_id for (visit_id,) in _counting(self._connection, leaned_on)}
        exceeds = self._exceeds()
        for each in self._ours:
            decision, visit = self._named(each), None
            if decision["outcome"] == Outcome.ALLOWED.value and decision["visit_id"] not in counting:
                # Its own; or it leaned on one that did not come about, and then this is where somebody walked in.
                decision["visit_id"] = decision["id"]
                visit = self._visit(decision, each)
                if each.was_sent:
                    counting.add(decision["id"])
                    if exceeds(each):
                        self.over_limit.append(decision["id"])
            yield decision, visit, each.answer_to(decision["outcome"])

    def _answer_theirs(self) -> None:
        """Where the shared ledger's decision stands, too: it may not know how the answer left, or that it left.

        A commit whose reply got lost is told nothing by the door.
        """
        answers = [
            row
            for each in self._theirs_stand
            if (row := each.answer_to(self._theirs[each.decision["id"]])) is not None
        ]
        _insert_answers(self._connection, [_values(schema.answers, row) for row in answers])
        undelivered = [row["decision_id"] for row in answers if row["undelivered"]]
        if corrections.reverse_undelivered(self._connection, undelivered):
            # Of a member whom the copy does not know, and who was not locked by that.
            raise BusyError("a member is being decided on")

    def _named(self, each: Waiting) -> Row:
        """The decision; whoever was forgotten meanwhile is not named."""
        decision = {**each.decision, "stand_in": True}
        pseudonym = None if each.about is None else self._forgotten.get(each.about)
        if pseudonym is not None:
            decision |= {"aggregator_id": pseudonym, "customer_id": NO_CUSTOMER}
            if decision["member_id"] is not None:
                decision["member_id"] = pseudonym
        return decision

    def _visit(self, decision: Row, each: Waiting) -> Row:
        """The visit that a decision makes; with the studio's tags as they were then, where that is known."""
        studio = self._directory.studios[decision["studio_id"]]
        at = clock.from_ms(decision["received_at_ms"])
        return {
            "id": decision["id"],
            "member_id": decision["member_id"],
            "studio_id": studio.id,
            "at_ms": decision["received_at_ms"],
            "local_date": at.astimezone(studio.timezone).date().isoformat(),
            "tags": tags_text(studio.tags) if each.visit is None else each.visit["tags"],
            "test": studio.test,
            "state": (VisitState.AUTHORIZED if each.was_sent else VisitState.REVERSED).value,
            "reversed_why": None if each.was_sent else UNDELIVERED,
            "source": Source.STAND_IN.value,
            "plan_id": decision["plan_id"],
            "plan_version": decision["plan_version"],
        }

    def _exceeds(self) -> Callable[[Waiting], bool]:
        """Whether a visit goes beyond a limit, as the shared record has it with all that is carried over before."""
        checkins = {each.decision["id"]: _checkin(each.decision) for each in self._ours}
        book = FactBook(self._connection, self._directory, checkins.values(), self._own_id)

        def exceeds(each: Waiting) -> bool:
            checkin = checkins[each.decision["id"]]
            facts = book.facts(checkin)
            if facts.member is None or facts.studio.test:
                return False
            decision = decide(checkin, facts)
            book.add(decision, checkin, facts.member, facts.studio)
            return any(
                verdict.rule is Reason.LIMIT_REACHED and verdict.effect is Effect.DENIES
                for verdict in decision.verdicts
            )

        return exceeds

    def _clear(self, decision: Row) -> None:
        """Take the shared ledger's decision away, whose place this one takes.

        Its visit counts no more, unless a later answer that may have been delivered leaned on it.
        """
        decision_id = decision["id"]
        others = (
            select(_d.id)
            .join(schema.answers, _a.decision_id == _d.id, isouter=True)
            .where(
                schema.made_no_visit,
                _d.member_id == decision["member_id"],
                _d.visit_id == decision_id,
                _a.undelivered.is_not(True),
            )
            .limit(1)
        )
        if self._theirs[decision_id] == Outcome.ALLOWED.value and self._connection.execute(others).first() is None:
            corrections.reverse(self._connection, decision_id, UNDELIVERED)
        self._connection.execute(delete(schema.answers).where(_a.decision_id == decision_id))
        self._connection.execute(delete(schema.decisions).where(_d.id == decision_id))


def _leave(each: Waiting, left_members: set[str]) -> None:
    if each.about is not None:
        left_members.add(each.about)


def _checkin(decision: Row) -> CheckIn:
    return CheckIn(
        decision["id"],
        clock.from_ms(decision["received_at_ms"]),
        decision["studio_id"],
        decision["aggregator_id"],
        decision["customer_id"],
    )


def _values(table: Any, row: Row) -> tuple[object, ...]:
    return tuple(row[column.name] for column in table.columns)


def _correction(seq: int, visit: Row) -> tuple[object, ...]:
    return _values(
        schema.visit_changes,
        {
            "seq": seq,
            "visit_id": visit["id"],
            "changed_at_ms": clock.now_ms(),
            "state": visit["state"],
            "who": SYSTEM,
            "why": visit["reversed_why"],
        },
    )
