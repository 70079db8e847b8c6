"""A month's statement: visits, payable visits, and corrections; frozen once the month is closed.

Visits belong to the month of their local date; those of test studios are left out. A closed month is read from its
lines. Any other is derived from the record, and the first of those has what became of closed ones as adjustments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, select

from guestgate import adjustments, clock, corrections, record, schema, stretch
from guestgate.adjustments import Closed
from guestgate.database import Database
from guestgate.errors import UsageError
from guestgate.payable import Count, PayableRule
from guestgate.record import Filter
from guestgate.statement_lines import Kind, Line, Totals, line_dict, lines

MONTH = re.compile(r"^[0-9]{4}-(0[1-9]|1[0-2])$")
# The last time zone to end a month is so far behind.
LAST_ZONE = timedelta(hours=12)
# Places of adjustments come after every `seq`.
AFTER_VISITS = 9 * 10**17
SUMS = ("visits", "payable", "reversed", "adjustments")

_v, _s, _l = schema.visits.c, schema.statements.c, schema.statement_lines.c


def check_month(month: str) -> None:
    """Raise UsageError for what is no month."""
    if not MONTH.fullmatch(month):
        raise UsageError(f"{month!r} is not a month; write 2026-11")


def is_open(month: str, now: datetime) -> bool:
    """Whether it is still this month, or not yet, somewhere."""
    return clock.iso(now - LAST_ZONE)[:7] <= month


def of_month(month: str) -> tuple[ColumnElement[bool], ...]:
    """Which visits are a month's."""
    return (_v.local_date.between(f"{month}-01", f"{month}-31"), _v.test.is_(False))


def statement(connection: Connection, month: str, studio: str | None, *, payable_requires: str) -> dict[str, Any]:
    """Totals, adjustments, and every correction of a visit of that month. Raises UsageError for what is no month.

    ``open`` says that the month is not over yet somewhere, ``closed_at`` that its lines are frozen. ``totals`` are
    by studio, ``plan_totals`` by studio and plan.
    """
    check_month(month)
    closed = _closed(connection, month)
    if closed is not None:
        by_plan = [total for total in json.loads(closed.totals) if studio in (None, total["studio"])]
        # Lines of visits come first, so that the others are found without reading those.
        visits = sum(total["visits"] + total["reversed"] for total in json.loads(closed.totals))
        adjusted = [line_dict(month, line) for _, line in _frozen(connection, closed, studio, visits)]
    else:
        totals, adjusted, done = Totals(), [], adjustments.closed(connection)
        for count in _counts(connection, month, studio, payable_requires, done):
            totals.count(count)
        for _, line in _adjustments(connection, month, studio, done):
            totals.add(line)
            adjusted.append(line_dict(month, line))
        by_plan = totals.sums()
    return {
        "month": month,
        "open": is_open(month, clock.now()),
        "closed_at": None if closed is None else clock.iso_of(closed.closed_at_ms),
        "closed_by": None if closed is None else closed.closed_by,
        "payable_requires": payable_requires if closed is None else closed.payable_requires,
        "totals": _by_studio(by_plan),
        "plan_totals": by_plan,
        "adjustments": adjusted,
        "corrections": corrections.of_statement(
            connection, month, studio, None if closed is None else closed.position
        ),
    }


def statement_lines(
    connection: Connection, month: str, studio: str | None, *, payable_requires: str, after: int = 0
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every line after a place, with its own: the month's visits as they were recorded, then adjustments."""
    check_month(month)
    closed = _closed(connection, month)
    if closed is None:
        found = _live(connection, month, studio, payable_requires, after)
    else:
        found = _frozen(connection, closed, studio, after)
    for place, line in found:
        yield place, line_dict(month, line)


def is_closed(connection: Connection, month: str) -> bool:
    """Whether its lines are frozen."""
    return _closed(connection, month) is not None


def closed_lines(database: Database, month: str) -> Iterator[dict[str, Any]]:
    """The lines of a closed month, some at a time, each time in a transaction of its own."""
    after = 0
    while True:
        with database.read() as connection:
            page = list(islice(_frozen(connection, _closed(connection, month), None, after), record.PAGE))
        yield from (line_dict(month, line) for _, line in page)
        if len(page) < record.PAGE:
            return
        after, _ = page[-1]


def closed_list(connection: Connection) -> list[dict[str, Any]]:
    """The months that are closed, the latest first, each with its sums."""
    rows = connection.execute(select(schema.statements).where(_s.closed_at_ms.is_not(None)).order_by(_s.month.desc()))
    found = []
    for row in rows:
        totals = json.loads(row.totals)
        found.append(
            {
                "month": row.month,
                "closed_at": clock.iso_of(row.closed_at_ms),
                "closed_by": row.closed_by,
                "payable_requires": row.payable_requires,
                "lines": row.line_count,
                **{name: sum(total[name] for total in totals) for name in SUMS},
            }
        )
    return found


def _closed(connection: Connection, month: str) -> Any:
    return connection.execute(
        select(schema.statements).where(_s.month == month, _s.closed_at_ms.is_not(None))
    ).one_or_none()


def _frozen(connection: Connection, closed: Any, studio: str | None, after: int = 0) -> Iterator[tuple[int, Any]]:
    query = select(schema.statement_lines).where(_l.month == closed.month, _l.attempt == closed.attempt)
    if studio is not None:
        query = query.where(_l.studio_id == studio)
    while page := connection.execute(query.where(_l.number > after).order_by(_l.number).limit(record.PAGE)).all():
        yield from ((line.number, line) for line in page)
        after = page[-1].number


def _live(
    connection: Connection, month: str, studio: str | None, payable_requires: str, after: int = 0
) -> Iterator[tuple[int, Line]]:
    done = adjustments.closed(connection)
    settled = _is_settled(month, done)
    rule = PayableRule(connection, payable_requires)
    query = select(schema.visits).where(*of_month(month))
    if studio is not None:
        query = query.where(_v.studio_id == studio)
    query = query.where(*stretch.of_visits(connection, month))
    for page in record.pages(connection, query, _v.seq, Filter(after=after)):
        pays = () if settled else rule(page)
        found = lines(connection, page, dict.fromkeys(pays, 1), Kind.VISIT)
        yield from ((row.seq, line) for row, line in zip(page, found, strict=True))
    yield from _adjustments(connection, month, studio, done, after)


def _counts(
    connection: Connection, month: str, studio: str | None, payable_requires: str, done: Closed | None
) -> Iterator[Count]:
    """What the lines of visits come to, without reading them."""
    settled = _is_settled(month, done)
    days = (*of_month(month), *stretch.of_visits(connection, month))
    if studio is not None:  # whole days all the same: of those who were there
        there = select(_v.member_id).where(*days, _v.studio_id == studio).correlate(None)
        days = (*days, _v.member_id.in_(there))
    for count in PayableRule(connection, payable_requires).counts(*days):
        if studio in (None, count.studio_id):
            yield count._replace(payable=0) if settled else count


def _is_settled(month: str, done: Closed | None) -> bool:
    """What pays of a month before the first that was closed is an adjustment of a later one."""
    return done is not None and month < done.next_month


def _adjustments(
    connection: Connection, month: str, studio: str | None, done: Closed | None, after: int = 0
) -> Iterator[tuple[int, Line]]:
    """What has become of closed months; the first that is not has it."""
    if done is not None and month == done.next_month:
        for place, line in enumerate(adjustments.pending(connection, done), start=AFTER_VISITS):
            if place > after and studio in (None, line.studio_id):
                yield place, line


def _by_studio(by_plan: list[dict[str, Any]]) -> list[dict[str, Any]]:
    totals: dict[str, dict[str, Any]] = {}
    for part in by_plan:
        total = totals.setdefault(part["studio"], {"studio": part["studio"], **dict.fromkeys(SUMS, 0)})
        for name in SUMS:
            total[name] += part[name]
    return [totals[name] for name in sorted(totals)]
