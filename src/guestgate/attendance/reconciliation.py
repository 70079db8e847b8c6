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
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from guestgate import clock, record, schema, sequence, stretch
from guestgate.attendance import attendances, customers, progress
from guestgate.attendance.clerk import Clerk
from guestgate.attendance.history import History, Stay
from guestgate.attendance.matching import WINDOW_MS, Unit, Witness
from guestgate.attendance.others import Others
from guestgate.attendance.webhook import Kind
from guestgate.bulk import BulkInsert, BulkSelect
from guestgate.corrections import BY_CHECKIN, UNDELIVERED
from guestgate.database import SYSTEM, Database
from guestgate.errors import ConflictError, OperationError
from guestgate.forget import NO_CUSTOMER
from guestgate.model import Outcome, VisitState

# How far back differences are looked for, and the history is asked where that was never done.
REACH = timedelta(days=31)
RETRY_S = 0.5

_d, _a, _v, _s = schema.decisions.c, schema.answers.c, schema.visits.c, schema.sightings.c
_r = schema.reconciled_studios.c
_customer_of = BulkSelect(_d.id, _d.customer_id, among=_d.id)
_insert = BulkInsert(schema.sightings, ignore_existing=True)


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

    def run(self, since: datetime | None = None, who: str = SYSTEM, *, patience_s: float = 0.0) -> Report:
        """Reconcile what happened since then, by default since the last time.

        Somebody else who is at it is waited for; raises ConflictError where that takes longer than `patience_s`, or
        where somebody else began meanwhile.
        """
        self._begin(who, clock.monotonic() + patience_s)
        began = clock.now()
        try:
            report = self._run(began, since, who)
            with self._database.write(who) as connection:
                self._go_on(connection)
                if not self._stopping():
                    progress.note(connection, reconciled_at_ms=clock.to_ms(began))
        finally:
            with self._database.write(who) as connection:
                progress.end_reconciling(connection, self._until_ms)
        return report

    def _begin(self, who: str, give_up_at: float) -> None:
        while True:
            try:
                with self._database.write(who) as connection:
                    self._until_ms = progress.begin_reconciling(connection)
                return
            except ConflictError:
                if clock.monotonic() >= give_up_at:
                    raise
            clock.sleep(RETRY_S)

    def _go_on(self, connection: Connection) -> None:
        self._until_ms = progress.go_on_reconciling(connection, self._until_ms)

    def _run(self, began: datetime, since: datetime | None, who: str) -> Report:
        first, until = since or began - REACH, began - self._grace
        report = Report(clock.iso(first), clock.iso(until))
        report.take(Clerk(self._database).catch_up(to_the_end=True))
        self._judge_undelivered(since, report, who)
        asking = self._asking(first, since is not None)
        due = self._due(asking, until)
        for studio_id in sorted(asking):
            self._ask(studio_id, due[studio_id], until, report, who)
        report.others_dropped = Others(self._database).drop(clock.to_ms(until))
        if first < until:
            report.visits_without_entry = list(self._visits_without_entry(first, until))
            report.entries_without_visit = list(self._entries_without_visit(first, until))
        return report

    def _judge_undelivered(self, since: datetime | None, report: Report, who: str) -> None:
        """It may have become known after an entry was read that an answer near it never left."""
        with self._database.read() as connection:
            last_ms = progress.reconciled_at_ms(connection)
            start = since or clock.from_ms(last_ms) - self._grace
            query = (
                select(_d.studio_id, _d.customer_id, _d.received_at_ms)
                .join(schema.answers, _a.decision_id == _d.id)
                .where(_a.undelivered, _d.visit_id.is_not(None), _d.customer_id != NO_CUSTOMER)
                .where(*record.received(connection, max(start, clock.EPOCH)))
            )
            units = [Unit(*row, row[-1]) for row in connection.execute(query)]

        def follow(connection: Connection, some: Sequence[Unit]) -> None:
            report.take(attendances.follow(connection, some))

        for _ in self._database.write_many(units, follow, who, at_most=attendances.FEW):
            pass

    def _asking(self, first: datetime, again: bool) -> dict[str, int]:
        """From which instant on each studio's history is to be asked: where it has not been, or all of it `again`."""
        with self._database.read() as connection:
            done = {row.studio_id: row.until_ms for row in connection.execute(select(schema.reconciled_studios))}
        first_ms = clock.to_ms(first)
        return {
            studio_id: first_ms if again else max(first_ms, done.get(studio_id, 0))
            for studio_id in self._history.studios()
        }

    def _due(self, asking: dict[str, int], until: datetime) -> dict[str, dict[int, list[int]]]:
        """By studio and customer, the instants of what no webhook has explained: visits, and denials."""
        due: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        if not asking:
            return due
        since = clock.from_ms(min(asking.values()))
        until_ms = clock.to_ms(until)
        for row in [*self._doubtful_visits(since, until_ms), *self._denials(since, until)]:
            studio_id, customer_id, at_ms = row
            if asking.get(studio_id, until_ms) <= at_ms < until_ms and customer_id != NO_CUSTOMER:
                due[studio_id][customer_id].append(at_ms)
        return due

    def _doubtful_visits(self, since: datetime, until_ms: int) -> Iterator[tuple[str, int, int]]:
        """Visits by check-in that no entry confirms, also those that were taken back because nobody was told."""
        with self._database.read() as connection:
            query = select(_v.seq, _v.id, _v.studio_id, _v.at_ms).where(
                _v.at_ms >= clock.to_ms(since),
                _v.at_ms < until_ms,
                _v.source.in_(BY_CHECKIN),
                (_v.state == VisitState.AUTHORIZED.value) | (_v.reversed_why == UNDELIVERED),
                *stretch.of_visits(connection, None, since),
            )
            rows = connection.execute(query).all()
            customer_of = dict(_customer_of(connection, [row.id for row in rows]))
        return ((row.studio_id, customer_of[row.id], row.at_ms) for row in rows if row.id in customer_of)

    def _denials(self, since: datetime, until: datetime) -> Iterator[tuple[str, int, int]]:
        """Check-ins that let nobody in: there should be no entry."""
        with self._database.read() as connection:
            query = select(_d.studio_id, _d.customer_id, _d.received_at_ms).where(
                _d.outcome != Outcome.ALLOWED.value, *record.received(connection, since, until)
            )
            rows = connection.execute(query).all()
        return ((row.studio_id, row.customer_id, row.received_at_ms) for row in rows)

    def _ask(self, studio_id: str, due: dict[int, list[int]], until: datetime, report: Report, who: str) -> None:
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
                return
            self._learn(unit, stays, report, who)
        with self._database.write(who) as connection:
            self._go_on(connection)
            connection.execute(delete(schema.reconciled_studios).where(_r.studio_id == studio_id))
            connection.execute(
                insert(schema.reconciled_studios).values(studio_id=studio_id, until_ms=clock.to_ms(until))
            )

    def _learn(self, unit: Unit, stays: Sequence[Stay] | None, report: Report, who: str) -> None:
        report.asked += 1
        with self._database.write(who) as connection:
            self._go_on(connection)
            if stays is None:
                report.unknown += 1
                return
            _write_down(connection, unit.customer_id, stays)
            elsewhere = [_unit(stay, unit.customer_id) for stay in stays if stay.studio_id != unit.studio_id]
            report.take(attendances.follow(connection, [unit, *elsewhere]))
            report.reversed += attendances.reverse_absent(connection, unit)

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
