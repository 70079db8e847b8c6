"""A member's day at the studios: its visits decide together which of them pays.

So whoever settles, renames or deletes visits does it by whole days.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from guestgate import schema

_v = schema.visits.c


class Day(NamedTuple):
    """Of one member, by the date at the studio."""

    member_id: str
    local_date: str


def day_of(visit: Any) -> Day:
    """Of a row of `guestgate.schema.visits`."""
    return Day(visit.member_id, visit.local_date)


def visits_of(connection: Connection, ids: Collection[str]) -> list[Any]:
    """All visits of the days that some visits are of, in the order of dates and instants."""
    days = {Day(*row) for row in connection.execute(select(_v.member_id, _v.local_date).where(_v.id.in_(ids)))}
    found = connection.execute(
        select(schema.visits)
        .where(
            _v.member_id.in_({day.member_id for day in days}),
            _v.local_date.in_({day.local_date for day in days}),
        )
        .order_by(_v.local_date, _v.at_ms, _v.id)
    )
    return [row for row in found if day_of(row) in days]
