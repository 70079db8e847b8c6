"""Holding visits against entries: what webhooks told, and for the rest what the platform's history says.

A visit of which nobody knows whether its answer reached the door is reversed where the history, asked after the grace
period, shows no entry. That of an answer which did is left as it is: the door was told to open. Everything else is
the same as when webhooks are read, so doing it again, in parts, or after being killed changes nothing more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, insert, select

from guestgate import clock, record, schema, sequence, stretch
from guestgate.attendance import attendances, customers, progress
from guestgate.attendance.clerk import Clerk
from guestgate.attendance.history import History, Stay
from guestgate.attendance.matching import WINDOW_MS, Unit, Witness
from guestgate.attendance.others import Others
from guestgate.attendance.webhook import Kind
from guestgate.bulk import BulkInsert, BulkSelect
from guestgate.corrections import UNDELIVERED
from guestgate.database import Database
from guestgate.errors import ConflictError, OperationError, PlatformAwayError, PlatformError
from guestgate.model import BY_CHECKIN, NO_CUSTOMER, Outcome, VisitState

# How far back differences are looked for, and the history is asked where that was never done.
REACH = timedelta(days=31)
RETRY_S = 0.5
# After so many customers in a row about whom it does not answer, a studio is not asked any more.
MAX_REFUSALS = 5
BAD_KEY = 401

_d, _a, _v, _s = schema.decisions.c, schema.answers.c, schema.visits.c, schema.sightings.c
_r = schema.reconciled_studios.c
_customer_of = BulkSelect(_d.id, _d.customer_id, among=_d.id)
_insert = BulkInsert(schema.sightings, ignore_existing=True)


class Asked(NamedTuple):
    """How far a studio's history has been asked: about what happened before an instant, of a part of the record."""

    until_ms: int
    position: int


@dataclass
class Report:
    """What was found between two instants, and what was changed now.

    ``asked`` counts the customers whose history was asked, ``unknown`` those that the platform knows no more;
    ``others_dropped`` what was told of the gym's own customers.
    """

    since: str
    until: str
    asked: int = 0
    unknown: int = 0
    others_dropped: int = 0
    confirmed: list[str] = field(default_factory=list)
    not_confirmed: list[str] = field(default_factory=list)
    reversed: list[str] = field(default_factory=list)
    visits_without_entry: list[dict[str, Any]] = field(default_factory=list)
    entries_without_visit: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything is another way now."""
        return bool(self.confirmed or self.not_confirmed or self.reversed or self.others_dropped)

    def take(self, attended: attendances.Attended) -> None:
        """Add what became of visits."""
        self.confirmed += attended.confirmed
        self.not_confirmed += attended.not_confirmed


class Reconciliation:
    """One run at a time, on whatever machine."""

    def __init__(
        self, database: Database, history: History, grace: timedelta, *, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        """What happened less than `grace` ago is not judged yet. It ends early once `stopping`."""
        self._database, self._history, self._grace = database, history, grace
        self._stopping = stopping
        self._until_ms = 0

    def run(self, since: datetime | None = None, *, patience_s: float = 0.0, differences: bool = True) -> Report:
        """Reconcile what happened since the last time, and also what did since an instant.

        What is changed follows from what was seen, and is nobody's decision, whoever has it done. Without
        `differences`, which may be many, the report says only what was changed.

        Somebody else who is at it is waited for; raises ConflictError where that takes longer than `patience_s`, or
        where somebody else began meanwhile.
        """
        self._begin(clock.monotonic() + patience_s)
        began = clock.now()
        try:
            report = self._run(began, since)
            if differences:
                self._compare(report, since or began - REACH, began - self._grace)
            with self._database.write() as connection:
                self._go_on(connection)
                if not self._stopping():
                    progress.note(connection, reconciled_at_ms=clock.to_ms(began))
        finally:
            with self._database.write() as connection:
                progress.end_reconciling(connection, self._until_ms)
        return report

    def _begin(self, give_up_at: float) -> None:
        while True:
            try:
                with self._database.write() as connection:
                    self._until_ms = progress.begin_reconciling(connection)
                return
            except ConflictError:
                if clock.monotonic() >= give_up_at:
                    raise
            clock.sleep(RETRY_S)

    def _go_on(self, connection: Connection) -> None:
        self._until_ms = progress.go_on_reconciling(connection, self._until_ms)

    def _run(self, began: datetime, since: datetime | None) -> Report:
        first, until = since or began - REACH, began - self._grace
        report = Report(clock.iso(first), clock.iso(until))
        with self._database.read() as connection:
            _, position = sequence.position(connection)
        report.take(Clerk(self._database).catch_up(to_the_end=True))
        self._judge_undelivered(since, report)
        asked = self._asked(began - REACH, since)
        due = self._due(asked, began - REACH, until)
        for studio_id in sorted(asked):
            self._ask(studio_id, due[studio_id], Asked(clock.to_ms(until), position), report)
        report.others_dropped = Others(self._database).drop(clock.to_ms(until))
        return report

    def _judge_undelivered(self, since: datetime | None, report: Report) -> None:
        """It may have become known after an entry was read that an answer near it never left."""
        with self._database.read() as connection:
            start = clock.from_ms(progress.reconciled_at_ms(connection)) - self._grace
            start = max(clock.EPOCH, start if since is None else min(start, since))
            query = (
                select(_d.studio_id, _d.customer_id, _d.received_at_ms)
                .join(schema.answers, _a.decision_id == _d.id)
                .where(_a.undelivered, _d.visit_id.is_not(None), _d.customer_id != NO_CUSTOMER)
                .where(*record.received(connection, start))
            )
            units = [Unit(*row, row[-1]) for row in connection.execute(query)]

        def follow(connection: Connection, some: Sequence[Unit]) -> None:
            self._go_on(connection)
            report.take(attendances.follow(connection, some))

        for _ in self._database.write_many(units, follow, at_most=attendances.FEW):
            pass

    def _asked(self, reach: datetime, since: datetime | None) -> dict[str, Asked]:
        """How far each studio's history has been asked; what happened since an instant is asked about once more."""
        with self._database.read() as connection:
            done = {row.studio_id: row for row in connection.execute(select(schema.reconciled_studios))}
        asked = {}
        for studio_id in self._history.studios():
            until_ms, position = clock.to_ms(reach), 0
            if studio_id in done:
                until_ms, position = max(until_ms, done[studio_id].until_ms), done[studio_id].position
            asked[studio_id] = Asked(until_ms if since is None else min(until_ms, clock.to_ms(since)), position)
        return asked

    def _due(self, asked: dict[str, Asked], reach: datetime, until: datetime) -> dict[str, dict[int, list[int]]]:
        """By studio and customer, the instants of what no webhook has explained: visits, and denials.

        Also of what was recorded late: a server may have stood in for long, or was away with what it had decided.
        """
        due: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        if not asked:
            return due
        since = clock.from_ms(min(one.until_ms for one in asked.values()))
        position = min(one.position for one in asked.values())
        with self._database.read() as connection:
            lately = stretch.of_visits(connection, None, since)
            rows = [
                *_doubtful_visits(connection, *_between(_v.at_ms, since, until), *lately),
                *_doubtful_visits(connection, *_between(_v.at_ms, reach, since), _v.seq > position),
            ]
            lately = record.received(connection, since, until)
            late = (_d.seq > position, *record.received(connection, reach))
            rows += _denials(connection, *_between(_d.received_at_ms, since, until), *lately)
            rows += _denials(connection, *_between(_d.received_at_ms, reach, since), *late)
        for studio_id, customer_id, at_ms, seq in rows:
            one = asked.get(studio_id)
            if one is not None and customer_id != NO_CUSTOMER and (at_ms >= one.until_ms or seq > one.position):
                due[studio_id][customer_id].append(at_ms)
        return due

    def _ask(self, studio_id: str, due: dict[int, list[int]], upto: Asked, report: Report) -> None:
        """Of a customer about whom the platform does not answer the others are asked, and this one the next time."""
        refused = in_a_row = 0
        for customer_id, instants in sorted(due.items()):
            if self._stopping():
                return
            unit = Unit(studio_id, customer_id, min(instants), max(instants))
            around = clock.from_ms(unit.since_ms - WINDOW_MS), clock.from_ms(unit.until_ms + WINDOW_MS + 1)
            try:
                stays = self._history.stays(studio_id, customer_id, *around)
            except OperationError as error:
                if str(error) not in report.problems:  # of a chain that is away, all studios say the same
                    report.problems.append(str(error))
                refused, in_a_row = refused + 1, in_a_row + 1
                if not _concerns_one(error) or in_a_row == MAX_REFUSALS:
                    return
                continue
            in_a_row = 0
            self._learn(unit, stays, report)
        if refused:
            return
        with self._database.write() as connection:
            self._go_on(connection)
            connection.execute(delete(schema.reconciled_studios).where(_r.studio_id == studio_id))
            connection.execute(insert(schema.reconciled_studios).values(studio_id=studio_id, **upto._asdict()))

    def _learn(self, unit: Unit, stays: Sequence[Stay] | None, report: Report) -> None:
        report.asked += 1
        with self._database.write() as connection:
            self._go_on(connection)
            if stays is None:
                report.unknown += 1
                return
            _write_down(connection, unit.customer_id, stays)
            elsewhere = [_unit(stay, unit.customer_id) for stay in stays if stay.studio_id != unit.studio_id]
            report.take(attendances.follow(connection, [unit, *elsewhere]))
            report.reversed += attendances.reverse_absent(connection, unit)

    def _compare(self, report: Report, since: datetime, until: datetime) -> None:
        if since < until:
            report.visits_without_entry = list(self._visits_without_entry(since, until))
            report.entries_without_visit = list(self._entries_without_visit(since, until))

    def _visits_without_entry(self, since: datetime, until: datetime) -> Iterator[dict[str, Any]]:
        with self._database.read() as connection:
            query = select(schema.visits).where(
                _v.at_ms >= clock.to_ms(since),
                _v.at_ms < clock.to_ms(until),
                _v.source.in_(BY_CHECKIN),
                _v.state == VisitState.AUTHORIZED.value,
                _v.test.is_(False),
                *stretch.of_visits(connection, None, since),
            )
            for row in connection.execute(query.order_by(_v.seq)):
                at = clock.iso_of(row.at_ms)
                yield {"visit": row.id, "studio": row.studio_id, "member": row.member_id, "at": at}

    def _entries_without_visit(self, since: datetime, until: datetime) -> Iterator[dict[str, Any]]:
        """Once each, also where both witnesses tell of it: the history knows it by a number."""
        with self._database.read() as connection:
            query = select(schema.sightings).where(
                schema.unmatched,
                _s.ours,
                _s.at_ms >= clock.to_ms(since),
                _s.at_ms < clock.to_ms(until),
            )
            rows = connection.execute(query.order_by(_s.at_ms, _s.seq)).all()
        in_history = defaultdict[tuple[str, int], list[int]](list)
        for row in rows:
            if row.source == Witness.HISTORY.value:
                in_history[row.studio_id, row.customer_id].append(row.at_ms)
        for row in rows:
            known = in_history[row.studio_id, row.customer_id] if row.source == Witness.WEBHOOK.value else []
            if not any(abs(at_ms - row.at_ms) <= WINDOW_MS for at_ms in known):
                yield {
                    "studio": row.studio_id,
                    "customer": row.customer_id,
                    "member": row.member_id,
                    "at": clock.iso_of(row.at_ms),
                    "source": row.source,
                    "reference": row.reference,
                }


def _between(column: ColumnElement[int], since: datetime, until: datetime) -> tuple[ColumnElement[bool], ...]:
    return column >= clock.to_ms(since), column < clock.to_ms(until)


def _doubtful_visits(connection: Connection, *where: ColumnElement[bool]) -> list[tuple[str, int, int, int]]:
    """Visits by check-in that no entry confirms, also those that were taken back because nobody was told."""
    doubtful = (_v.state == VisitState.AUTHORIZED.value) | (_v.reversed_why == UNDELIVERED)
    query = select(_v.seq, _v.id, _v.studio_id, _v.at_ms).where(_v.source.in_(BY_CHECKIN), doubtful, *where)
    rows = connection.execute(query).all()
    customer_of = dict(_customer_of(connection, [row.id for row in rows]))
    return [(row.studio_id, customer_of[row.id], row.at_ms, row.seq) for row in rows if row.id in customer_of]


def _denials(connection: Connection, *where: ColumnElement[bool]) -> list[tuple[str, int, int, int]]:
    """Check-ins that let nobody in: there should be no entry."""
    query = select(_d.studio_id, _d.customer_id, _d.received_at_ms, _d.seq)
    return [tuple(row) for row in connection.execute(query.where(_d.outcome != Outcome.ALLOWED.value, *where))]


def _concerns_one(error: OperationError) -> bool:
    """Whether others may well be answered: neither is the platform away, nor is the key or the account wrong."""
    return isinstance(error, PlatformError) and not isinstance(error, PlatformAwayError) and error.status != BAD_KEY


def _unit(stay: Stay, customer_id: int) -> Unit:
    at_ms = clock.to_ms(stay.entered_at)
    return Unit(stay.studio_id, customer_id, at_ms, at_ms)


def _write_down(connection: Connection, customer_id: int, stays: Sequence[Stay]) -> None:
    """What the history says is kept like what webhooks tell."""
    moves = [(stay, Kind.ENTRY, stay.entered_at) for stay in stays]
    moves += [(stay, Kind.EXIT, stay.left_at) for stay in stays if stay.left_at is not None]
    now_ms = clock.now_ms()
    known = customers.known(connection, {(stay.studio_id, customer_id) for stay in stays})
    _insert(
        connection,
        [
            (
                number,
                customer_id,
                stay.studio_id,
                kind.value,
                Witness.HISTORY.value,
                str(stay.id),
                clock.to_ms(at),
                now_ms,
                (stay.studio_id, customer_id) in known,
                None,
                None,
            )
            for number, (stay, kind, at) in zip(sequence.take(connection, len(moves)), moves, strict=True)
        ],
    )
