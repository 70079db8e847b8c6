"""Which visits are paid for: derived when asked, under the plan version that a visit was made under."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, bindparam, func, or_, select

from guestgate import schema
from guestgate.bulk import BulkSelect
from guestgate.model import Payable, Source, VisitState

_v = schema.visits.c


def _settles_day(least: Any) -> ColumnElement[bool]:
    """Of a visit that its day is paid for by it if it is the first such one, here or in an earlier system.

    `least` is the setting ``payable_requires``.
    """
    settled_earlier = and_(_v.source == Source.IMPORT.value, _v.state != VisitState.REVERSED.value)
    counts = or_(_v.state == VisitState.CONFIRMED.value, _v.state == least, settled_earlier)
    return and_(_v.test.is_(False), counts)


class _DayVisit(NamedTuple):
    """A visit that may settle its day."""

    member_id: str
    local_date: str
    id: str
    at_ms: int


_columns = (_v.member_id, _v.local_date, _v.id, _v.at_ms)
_settling = _settles_day(bindparam("least"))
_of_members = BulkSelect(*_columns, among=_v.member_id, where=[_v.local_date == bindparam("day"), _settling])
_of_dates = BulkSelect(*_columns, among=_v.local_date, where=[_v.member_id == bindparam("member"), _settling])


class Count(NamedTuple):
    """So many visits of a studio, a plan (None: of none) and a state, and how many of them are paid for."""

    studio_id: str
    plan_id: str | None
    state: str
    visits: int
    payable: int


class PayableRule:
    """Whether a visit is paid for.

    Not: test studios, reversed visits, visits imported from an earlier system (settled there). Under
    ``per_member_day`` the first that settles the member's local date pays, an imported one included, so that a
    day settled elsewhere is not paid twice.
    """

    def __init__(self, connection: Connection, requires: str) -> None:
        """`requires` is the setting ``payable_requires``."""
        self._connection = connection
        self._requires = requires
        self._rules: dict[tuple[str, int], str] = {}

    def __call__(self, rows: Sequence[Any]) -> set[str]:
        """The ids of those that pay, among some rows of `guestgate.schema.visits`."""
        candidates = [row for row in rows if self._may_pay(row)]
        by_day = [row for row in candidates if self._pays_by_day(row)]
        first = self._first_of_days({(row.member_id, row.local_date) for row in by_day})
        # Without one: where transactions overlap, it may have been reversed since `rows` were read.
        late = {row.id for row in by_day if first.get((row.member_id, row.local_date)) != row.id}
        return {row.id for row in candidates} - late

    def counts(self, *days: ColumnElement[bool]) -> Iterator[Count]:
        """The same for all visits of some whole days, counted where they are: conditions of `schema.visits`."""
        settles = _settles_day(self._requires)
        # Not in the order of an index, by which SQLite would read all rows there are, each from another place.
        day = (_v.local_date, _v.member_id, settles)
        place = func.row_number().over(partition_by=day, order_by=(_v.at_ms, _v.id))
        kind = (_v.studio_id, _v.plan_id, _v.plan_version, _v.state, _v.source, _v.test)
        each = select(*kind, and_(settles, place == 1).label("first")).where(*days).subquery()
        kinds = [each.c[column.name] for column in kind]
        query = select(*kinds, each.c.first, func.count().label("visits")).group_by(*kinds, each.c.first)
        for row in self._connection.execute(query).all():
            pays = self._may_pay(row) and (row.first or not self._pays_by_day(row))
            yield Count(row.studio_id, row.plan_id, row.state, row.visits, row.visits if pays else 0)

    def _may_pay(self, row: Any) -> bool:
        return (
            not row.test
            and row.state in (VisitState.CONFIRMED.value, self._requires)
            and row.source != Source.IMPORT.value
            and row.plan_id is not None
        )

    def _first_of_days(self, days: set[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Of members and dates, the id of the visit that settles the day."""
        visits = sorted(self._of_days(days), key=lambda row: (row.at_ms, row.id), reverse=True)
        # The last one that is written into the dictionary stays there.
        return {(row.member_id, row.local_date): row.id for row in visits}

    def _of_days(self, days: set[tuple[str, str]]) -> Iterator[_DayVisit]:
        """Visits of members on dates: by dates where these are few, as in a list by time, else by members."""
        by_date, by_member = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
        for member, day in days:
            by_date[day].append(member)
            by_member[member].append(day)
        least = self._requires
        if len(by_date) <= len(by_member):
            found = (_of_members(self._connection, some, day=day, least=least) for day, some in by_date.items())
        else:
            found = (_of_dates(self._connection, some, member=one, least=least) for one, some in by_member.items())
        return (_DayVisit(*row) for rows in found for row in rows)

    def _pays_by_day(self, row: Any) -> bool:
        key = row.plan_id, row.plan_version
        if key not in self._rules:
            columns = schema.plan_versions.c
            document = self._connection.execute(
                select(columns.document).where(columns.plan_id == key[0], columns.version == key[1])
            ).scalar_one()
            self._rules[key] = json.loads(document)["payable"]
        return self._rules[key] == Payable.PER_MEMBER_DAY
