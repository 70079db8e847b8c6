"""Retention: what is older than the record has to be kept goes, except what still matters.

A visit goes with all that hangs on it, in one transaction: the decision that made it, the re-entries that
leaned on it, their answers, its corrections. It stays while a limit of the member's present plan counts it
or a younger re-entry leaned on it; once statements are closed, also while its month is not, or something about
its day is still to be adjusted. Visits go by whole days, so that which one of a day is paid for never
changes: those before the last midnight that lies before the limit in every time zone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Table, delete, func, select

from guestgate import adjustments, changes, clock, directory, partitions, schema
from guestgate.attendance.webhook import Kind
from guestgate.bulk import BulkSelect
from guestgate.changes import Change
from guestgate.database import MAX_CHUNK, BusyError, Database
from guestgate.days import Day, day_of, visits_of
from guestgate.errors import UsageError
from guestgate.model import VisitState
from guestgate.periods import month_day

_SPAN = re.compile(r"(\d{1,5}) ?(d|days?|months?|y|years?)")
FIRST_YEAR = 1970
# A local date can be a day ahead of or behind the one in UTC.
ZONES = timedelta(days=1)

_d, _a, _v, _w, _c, _n = (
    schema.decisions.c,
    schema.answers.c,
    schema.visits.c,
    schema.visit_changes.c,
    schema.changes.c,
    schema.validations.c,
)
_s, _t, _p = schema.sightings.c, schema.webhooks.c, schema.named_customers.c
_plan_of = BulkSelect(schema.members.c.id, schema.members.c.plan_id, among=schema.members.c.id)
_reentries = BulkSelect(
    _d.id, _d.visit_id, among=_d.member_id, where=[schema.made_no_visit, _d.visit_id.is_not(None)]
)


class Limit(NamedTuple):
    """Before which instant what was recorded may go; visits by local dates before ``day``."""

    at: datetime
    day: date


def parse_keep(text: str, now: datetime) -> Limit:
    """How long to keep the record: ``25months``, ``400d``, ``2years``. Raises UsageError below a month."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--keep: {text!r} is not a span of time; write 25months, 400d or 2years")
    number, unit = int(match[1]), match[2][0]
    try:
        at = now - timedelta(days=number) if unit == "d" else _months_before(now, number * (12 if unit == "y" else 1))
    except (ValueError, OverflowError):
        at = now.replace(year=FIRST_YEAR, month=1, day=1)
    if at > _months_before(now, 1):
        raise UsageError("--keep: at least a month has to be kept; write 1month or more")
    at = max(at, now.replace(year=FIRST_YEAR, month=1, day=1))
    return Limit(at, at.date() - ZONES)


def _months_before(now: datetime, months: int) -> datetime:
    return datetime.combine(month_day(now.date(), -months, now.day), now.timetz())


@dataclass
class Pruned:
    """How many rows went, or would go, and how many old visits stay because they still matter."""

    visits: int = 0
    decisions: int = 0
    changes: int = 0
    validations: int = 0
    webhooks: int = 0
    kept_visits: int = 0


@dataclass
class Prune:
    """One run. ``report`` grows while `run` goes on."""

    database: Database
    keep: str
    now: datetime
    dry_run: bool = False
    report: Pruned = field(default_factory=Pruned)

    def __post_init__(self) -> None:
        """Read what the whole run rests on. Raises UsageError for a `keep` that cannot be."""
        self._limit = parse_keep(self.keep, self.now)
        self._directory = directory.Directory()
        old_ms = clock.to_ms(self._limit.at)
        self._old_visits = select(_v.seq, _v.id, _v.member_id, _v.local_date, _v.state).where(
            _v.local_date < self._limit.day.isoformat()
        )
        self._old_decisions = select(_d.seq, _d.id).where(_d.visit_id.is_(None), _d.received_at_ms < old_ms)
        self._old_changes = select(_c.seq).where(_c.at_ms < old_ms)
        self._old_validations = select(_n.seq, _n.id).where(_n.received_at_ms < old_ms)
        self._old_webhooks = select(_t.seq).where(_t.received_at_ms < old_ms)
        # Those that belong to a visit go with it; those that tell whose a customer is, or is not, stay.
        moves = _s.kind.in_([Kind.ENTRY.value, Kind.EXIT.value])
        self._old_sightings = select(_s.seq).where(_s.at_ms < old_ms, _s.visit_id.is_(None), moves)
        self._not_named_since = _p.last_at_ms < old_ms
        with self.database.read() as connection:
            self._closed = adjustments.closed(connection)
            self._leaned_on = self._days_that_younger_reentries_lean_on(connection)

    def total(self) -> int:
        """How many rows there are to look at."""
        with self.database.read() as connection:
            return sum(
                connection.execute(select(func.count()).select_from(query.subquery())).scalar_one()
                for query in (
                    self._old_visits,
                    self._old_decisions,
                    self._old_changes,
                    self._old_validations,
                    self._old_webhooks,
                    self._old_sightings,
                )
            )

    def run(self, who: str) -> Iterator[int]:
        """Delete, in short transactions, or only count; yields how many rows were looked at so far."""
        if not self.dry_run:
            with self.database.write(who) as connection:
                facts = {"keep": self.keep, "before": clock.iso(self._limit.at)}
                changes.record(connection, [Change("record.pruned", "record", None, facts)])
        before = done = 0
        for query, part in (
            (self._old_visits, self._visits),
            (self._old_decisions, self._decisions),
            (self._old_changes, self._changes),
            (self._old_validations, self._validations),
            (self._old_webhooks, self._webhooks),
            (self._old_sightings, self._sightings),
        ):
            rows = self.database.scan(query, query.selected_columns.seq)
            for count in self._count(rows, part) if self.dry_run else self.database.write_many(rows, part, who):
                done = before + count
                yield done
            before = done
        if not self.dry_run:
            with self.database.write(who) as connection:
                connection.execute(delete(schema.named_customers).where(self._not_named_since))
            partitions.drop_empty(self.database, self.now)
            with suppress(BusyError):  # every server does it daily, too
                partitions.make_ahead(self.database, self.now)

    def _count(self, rows: Iterator[Any], part: Callable[[Connection, list[Any]], None]) -> Iterator[int]:
        done = 0
        while chunk := list(islice(rows, MAX_CHUNK)):
            with self.database.read() as connection:
                part(connection, chunk)
            done += len(chunk)
            yield done

    def _days_that_younger_reentries_lean_on(self, connection: Connection) -> set[Day]:
        """Members and dates of old visits that a re-entry rests on which is kept; around the limit, so few."""
        rows = connection.execute(
            select(_v.member_id, _v.local_date)
            .join(schema.decisions, _d.visit_id == _v.id)
            .where(
                _d.received_at_ms >= clock.to_ms(self._limit.at),
                _d.visit_id != _d.id,
                _v.local_date < self._limit.day.isoformat(),
            )
        )
        return {day_of(row) for row in rows}

    def _unsettled(self, connection: Connection, ids: Collection[str]) -> set[Day]:
        """Of the days of these visits those that statements still have to adjust."""
        if self._closed is None:
            return set()
        return {day_of(line) for line in adjustments.differences(connection, self._closed, ids)}

    def _counts(self, connection: Connection, rows: Collection[Any]) -> set[str]:
        """The visits among these that a limit of their member's present plan still counts."""
        if self._directory.version != directory.current_version(connection):
            self._directory = directory.load(connection)
        plans = dict(_plan_of(connection, {row.member_id for row in rows}))
        counted = set()
        for row in rows:
            plan_id = plans.get(row.member_id)
            if plan_id is None or row.state == VisitState.REVERSED.value:
                continue
            reach = self._directory.plans[plan_id].reach_days
            if reach is None or row.local_date >= (self.now.date() - timedelta(days=reach)).isoformat():
                counted.add(row.id)
        return counted

    def _visits(self, connection: Connection, rows: Collection[Any]) -> None:
        chosen = {row.id for row in rows}
        together = visits_of(connection, chosen)
        counted = self._counts(connection, together)
        kept = self._leaned_on | self._unsettled(connection, chosen)
        gone = {
            row.id: row
            for row in together
            if row.id not in counted
            and day_of(row) not in kept
            and (row.id in chosen or not self.dry_run)
            and (self._closed is None or row.local_date < f"{self._closed.next_month}-01")
        }
        ids = list(gone)
        made = connection.execute(select(_d.id).where(_d.id.in_(ids))).scalars().all()
        reentries = _reentries(connection, {row.member_id for row in gone.values()})
        leaning = [decision_id for decision_id, visit_id in reentries if visit_id in gone]
        self.report.kept_visits += sum(row.id in chosen and row.id not in gone for row in together)
        self.report.visits += len(gone)
        self._delete(connection, schema.visit_changes, _w.visit_id, ids)
        self._delete(connection, schema.sightings, _s.visit_id, ids)
        self._delete(connection, schema.visits, _v.id, ids)
        self._decisions_by_id(connection, [*made, *leaning])

    def _decisions(self, connection: Connection, rows: Collection[Any]) -> None:
        self._decisions_by_id(connection, [row.id for row in rows])

    def _decisions_by_id(self, connection: Connection, ids: list[str]) -> None:
        self.report.decisions += len(ids)
        self._delete(connection, schema.answers, _a.decision_id, ids)
        self._delete(connection, schema.decisions, _d.id, ids)

    def _changes(self, connection: Connection, rows: Collection[Any]) -> None:
        self.report.changes += len(rows)
        self._delete(connection, schema.changes, _c.seq, [row.seq for row in rows])

    def _validations(self, connection: Connection, rows: Collection[Any]) -> None:
        self.report.validations += len(rows)
        self._delete(connection, schema.answers, _a.decision_id, [row.id for row in rows])
        self._delete(connection, schema.validations, _n.seq, [row.seq for row in rows])

    def _webhooks(self, connection: Connection, rows: Collection[Any]) -> None:
        self.report.webhooks += len(rows)
        self._delete(connection, schema.webhooks, _t.seq, [row.seq for row in rows])

    def _sightings(self, connection: Connection, rows: Collection[Any]) -> None:
        self._delete(connection, schema.sightings, _s.seq, [row.seq for row in rows])

    def _delete(self, connection: Connection, table: Table, column: Column[Any], values: list[Any]) -> None:
        if not self.dry_run:
            connection.execute(delete(table).where(column.in_(values)))
