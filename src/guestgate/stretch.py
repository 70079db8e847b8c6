"""Where in the record's order some days lie, so that a list of theirs does not walk through all the others.

The order is that of writing, and the database cannot know that it is nearly that of time. A visit of an earlier
system is written long after its day. So each day is asked for its first and last number, which an index on
PostgreSQL answers at once; between them a list reads on in its order. It is a bound and no condition: what is
asked for still has to be said.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, false

from guestgate import clock, schema, sequence

DAY = timedelta(days=1)
DAY_MS = 86_400_000
DAY_OF_CHANGE = f"at_ms / {DAY_MS}"
# Not the column itself: the door asks for some members' visits since a date, and a planner that does not know yet
# how many there are would take everybody's visits since that date from such an index.
DAY_OF_VISIT = "local_date || ''"
# A list that reaches further back begins at its table's beginning; it finds enough soon.
MOST_DAYS = 1000
# More transactions than ever overlap one another.
OVERLAPPING = 1000
END_OF_TIME = "9999-12-31"

# What lies after the last day asked for comes from machines whose clocks are wrong: few, and read as they are.
_EDGES = """
    WITH edge AS (
        SELECT (SELECT seq FROM {table} WHERE {day} = asked.day ORDER BY seq LIMIT 1) AS first,
            (SELECT seq FROM {table} WHERE {day} = asked.day ORDER BY seq DESC LIMIT 1) AS last
        FROM unnest(%(days)s::{kind}[]) AS asked(day)
        UNION ALL
        SELECT min(seq), max(seq) FROM (SELECT seq FROM {table} WHERE {day} > %(later)s::{kind} OFFSET 0) AS later
    ) SELECT min(first), max(last) FROM edge"""
_of_visits = _EDGES.format(kind="text", table="visits", day=f"({DAY_OF_VISIT})")
_of_changes = _EDGES.format(kind="bigint", table="changes", day=DAY_OF_CHANGE)


def of_visits(
    connection: Connection, month: str | None, since: datetime | None = None
) -> Sequence[ColumnElement[bool]]:
    """Between which numbers the visits of a month lie (``2026-11``, by their local dates), or those since then."""
    if month is not None:
        return _between(connection, _of_visits, _days_of(month), END_OF_TIME, schema.visits.c.seq)
    if since is None:
        return ()
    # Dates are a day behind or ahead somewhere.
    numbers = range(_day(clock.to_ms(since)) - 1, _day(clock.now_ms()) + 2)
    if len(numbers) > MOST_DAYS:
        return ()
    days = [(clock.EPOCH + number * DAY).date().isoformat() for number in numbers]
    later = (clock.now() + DAY).date().isoformat()
    return _between(connection, _of_visits, days, later, schema.visits.c.seq)


def of_corrections(connection: Connection, month: str) -> Sequence[ColumnElement[bool]]:
    """Where those of a month's visits begin; any may come much later.

    A transaction that corrects a visit may have its number from shortly before the visit was made.
    """
    found = _edges(connection, _of_visits, _days_of(month), END_OF_TIME)
    if found is None:
        return ()
    first, _ = found
    return (false(),) if first is None else (schema.visit_changes.c.seq >= first - (OVERLAPPING << sequence.PLACES),)


def of_changes(connection: Connection, since: datetime) -> Sequence[ColumnElement[bool]]:
    """The same for changes since an instant."""
    today = _day(clock.now_ms())
    days = range(_day(clock.to_ms(since)), today + 1)
    return _between(connection, _of_changes, days, today, schema.changes.c.seq)


def _days_of(month: str) -> list[str]:
    return [f"{month}-{day:02d}" for day in range(1, 32)]


def _day(ms: int) -> int:
    return ms // DAY_MS


def _between(
    connection: Connection, edges: str, days: Sequence[object], later: object, seq: ColumnElement[int]
) -> Sequence[ColumnElement[bool]]:
    found = _edges(connection, edges, days, later)
    if found is None:
        return ()
    first, last = found
    return (false(),) if first is None else (seq >= first, seq <= last)


def _edges(
    connection: Connection, edges: str, days: Sequence[object], later: object
) -> tuple[int | None, int | None] | None:
    """The first and the last number of some days' rows, None where there are no rows; None where nobody says."""
    if connection.dialect.name == "sqlite" or len(days) > MOST_DAYS:
        return None
    first, last = connection.exec_driver_sql(edges, {"days": list(days), "later": later}).one()
    return first, last
