"""Closing a month: from then on its statement stays as it is, whatever becomes of its visits.

Lines are written in short transactions beside open doors, and count only once the last one says that the month is
closed; broken off before, nothing is closed, and the next attempt begins anew. What is written about visits while
that goes on is either in the lines or an adjustment of the next month, never both and never neither.

Months are closed one after the other, from the first one with a visit that could pay.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, select, update

from guestgate import adjustments, changes, clock, schema, sequence, statements, stretch
from guestgate.adjustments import Closed
from guestgate.bulk import BulkInsert, BulkSelect
from guestgate.changes import Change
from guestgate.database import PAGE, SYSTEM, Database
from guestgate.errors import ConflictError
from guestgate.model import Source, VisitState
from guestgate.payable import PayableRule
from guestgate.settings import RECONCILE_GRACE_S
from guestgate.statement_lines import Kind, Line, Totals, lines

# How long after its end a month is left alone, so that what came in late and the reconciliation are in it.
GRACE = timedelta(seconds=RECONCILE_GRACE_S)

# So many lines, or days to be adjusted, take hardly longer than one: most of it is the transaction's own.
AT_LEAST = 50

_v, _s, _l = schema.visits.c, schema.statements.c, schema.statement_lines.c
_insert = BulkInsert(schema.statement_lines)
_names = BulkSelect(_v.id, _v.member_id, among=_v.id)


@dataclass
class Closing:
    """One attempt. `run` does it."""

    database: Database
    month: str
    payable_requires: str
    grace: timedelta = GRACE  # the setting `reconcile_grace_s`
    _attempt: int = field(default=0, init=False)
    _count: int = field(default=0, init=False)
    _position: int = field(default=0, init=False)
    _totals: Totals = field(default_factory=Totals, init=False)

    def run(self, who: str) -> Iterator[int]:
        """Close the month; yields how many lines are written so far.

        Raises UsageError for what is no month, ConflictError where it is closed already, not over, or not the
        next one, and where somebody else begins to close it meanwhile.
        """
        statements.check_month(self.month)
        with self.database.read() as connection:  # it may take long, where no lock is held
            first = first_month(connection) if adjustments.closed(connection) is None else None
            _, self._position = sequence.position(connection)
        with self.database.write(who) as connection:
            done = self._begin(connection, first)
        for attempt in range(1, self._attempt):
            yield from self._clear(attempt, who)
        with self.database.read() as connection:
            bounds = stretch.of_visits(connection, self.month)
            changed = [] if done is None else adjustments.changed_days(connection, done)
        visits = select(schema.visits).where(*statements.of_month(self.month), *bounds)
        for _ in self.database.write_many(self._prepared(visits), self._write_visits, who, at_least=AT_LEAST):
            yield self._count
        if done is not None:
            write = self._writing_adjustments(done)
            for _ in self.database.write_many(changed, write, who, at_least=AT_LEAST):
                yield self._count
        with self.database.write(who) as connection:
            self._finish(connection, who)

    def _begin(self, connection: Connection, first: str | None) -> Closed | None:
        done = adjustments.closed(connection)
        if done is not None and self.month in done.requires:
            raise ConflictError(f"{self.month} is closed already")
        if not closable(self.month, clock.now(), self.grace):
            raise ConflictError(
                f"{self.month} cannot be closed yet: it has to be over in every time zone, and {_hours(self.grace)} "
                "more are for what comes in late"
            )
        following = first if done is None else done.next_month
        if following is None:
            raise ConflictError("there is nothing to close yet: no visit pays")
        if following != self.month:
            raise ConflictError(f"months are closed one after the other, and the next one is {following}")
        begun = connection.execute(select(_s.attempt).where(_s.month == self.month)).scalar_one_or_none()
        self._attempt = (begun or 0) + 1
        values = {"attempt": self._attempt, "payable_requires": self.payable_requires, "position": self._position}
        if begun is None:
            connection.execute(
                insert(schema.statements).values(month=self.month, line_count=0, totals="[]", **values)
            )
        else:
            connection.execute(update(schema.statements).where(_s.month == self.month).values(**values))
        return done

    def _clear(self, attempt: int, who: str) -> Iterator[int]:
        """Remove what an attempt that was broken off has left."""
        left = (_l.month == self.month, _l.attempt == attempt)

        def remove(connection: Connection, rows: Sequence[Any]) -> None:
            connection.execute(delete(schema.statement_lines).where(*left, _l.number.in_([row.seq for row in rows])))

        numbers = select(_l.number.label("seq")).where(*left)
        for _ in self.database.write_many(self.database.scan(numbers, _l.number), remove, who):
            yield self._count

    def _prepared(self, visits: Select[Any]) -> Iterator[Line]:
        """Lines as things stood at some instant since the beginning; nobody is kept waiting for that."""
        after = 0
        while True:
            with self.database.read() as connection:
                page = connection.execute(visits.where(_v.seq > after).order_by(_v.seq).limit(PAGE)).all()
                found = self._lines(connection, page)
            yield from found
            if len(page) < PAGE:
                return
            after = page[-1].seq

    def _lines(self, connection: Connection, visits: Sequence[Any]) -> list[Line]:
        pays = PayableRule(connection, self.payable_requires)(visits)
        return lines(connection, visits, dict.fromkeys(pays, 1), Kind.VISIT)

    def _write_visits(self, connection: Connection, prepared: Sequence[Line]) -> None:
        """What became of a visit since its line was prepared is an adjustment; but nobody is forgotten halfway."""
        names = dict(_names(connection, [line.visit_id for line in prepared]))
        told = any(line.confirmed_by not in (None, SYSTEM) for line in prepared)
        if told or any(names.get(line.visit_id) != line.member_id for line in prepared):
            query = select(schema.visits).where(_v.id.in_(names)).order_by(_v.seq)
            prepared = self._lines(connection, connection.execute(query).all())
        self._write(connection, prepared)

    def _writing_adjustments(self, done: Closed) -> Callable[[Connection, list[str]], None]:
        def write(connection: Connection, days: list[str]) -> None:
            self._write(connection, adjustments.differences(connection, done, days))

        return write

    def _write(self, connection: Connection, found: Sequence[Line]) -> None:
        self._check_alone(connection)
        rows = [
            (self.month, self._attempt, number, *line) for number, line in enumerate(found, start=self._count + 1)
        ]
        _insert(connection, rows)
        self._count += len(rows)
        for line in found:
            self._totals.add(line)

    def _check_alone(self, connection: Connection) -> None:
        """The last one that began is the one that closes."""
        row = connection.execute(select(_s.attempt, _s.closed_at_ms).where(_s.month == self.month)).one()
        if row.attempt != self._attempt:
            raise ConflictError(f"somebody else began to close {self.month} meanwhile; this attempt gave way")

    def _finish(self, connection: Connection, who: str) -> None:
        self._check_alone(connection)
        sums = self._totals.sums()
        connection.execute(
            update(schema.statements)
            .where(_s.month == self.month)
            .values(closed_at_ms=clock.now_ms(), closed_by=who, line_count=self._count, totals=json.dumps(sums))
        )
        facts = {
            "lines": self._count,
            "payable": sum(total["payable"] + total["adjustments"] for total in sums),
            "payable_requires": self.payable_requires,
        }
        changes.record(connection, [Change("statement.closed", self.month, None, facts)])


def first_month(connection: Connection) -> str | None:
    """The one to begin with, if nothing has been closed: the first that has a visit which could pay; None without."""
    could_pay = (_v.test.is_(False), _v.source != Source.IMPORT.value, _v.state != VisitState.REVERSED.value)
    first = connection.execute(select(func.min(_v.local_date)).where(*could_pay)).scalar()
    return None if first is None else str(first)[:7]


def _hours(span: timedelta) -> str:
    return f"{span // timedelta(hours=1)} hours"


def closable(month: str, now: datetime, grace: timedelta = GRACE) -> bool:
    """Whether a month has been over for long enough."""
    return not statements.is_open(month, now - grace)
