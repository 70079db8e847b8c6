"""The record since an instant, member by member: what each one's check-ins were told, and what they were decided on.

One query gives all of it, in the order of members and for each in that of recording, so that whoever goes through it
needs no more memory than one member takes. Rows are as narrow as can be: the database sorts millions of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Select,
    Text,
    case,
    cast,
    func,
    literal_column,
    null,
    or_,
    select,
    union_all,
)

from guestgate import clock, partitions, record, schema
from guestgate.model import BY_CHECKIN, Reason, VisitState

# What a row tells of.
MEMBER, VISIT, CHANGE, CHECKIN, UNDELIVERED = range(5)
COLUMNS = {"at_ms": BigInteger, "studio": Text, "plan": Text, "version": Integer, "text": Text}
PAGE = 2000
# Where a member itself stands: before all that happened.
FIRST = "-1"

_d, _a, _v, _w, _m = (
    schema.decisions.c,
    schema.answers.c,
    schema.visits.c,
    schema.visit_changes.c,
    schema.members.c,
)


class History:
    """What was received since an instant, with all that it was decided on, as of one moment."""

    def __init__(self, connection: Connection, since: datetime) -> None:
        """To be used within the connection's transaction."""
        self._connection = connection
        self._since = since
        self._received = [_d.received_at_ms >= clock.to_ms(since), *record.received(connection, since)]

    def checkins(self) -> int:
        """How many there are, those included that could not be decided."""
        query = select(func.count()).select_from(schema.decisions).where(*self._received)
        return int(self._connection.execute(query).scalar_one())

    def rows(
        self, reach_days: int, *, endless: Collection[str], cycles: Collection[str], confirmations: bool
    ) -> Iterator[Any]:
        """Tuples ``(member, number, what, at_ms, studio, plan, version, text)`` by member and number.

        - MEMBER: only of plans with `cycles`; the text is the day that these are counted from.
        - VISIT: one that no check-in of this part of the record made, as far back as `reach_days` before it, but any
          of members with `endless` plans. The text is its local date, a blank, and the studio's tags, as they were.
        - CHANGE: of the visit that the check-in or visit of the number ``at_ms`` made; the text is its state from
          then on. Without `confirmations` only of visits that were taken back at some time.
        - CHECKIN: the text is the reason. UNDELIVERED is one that made no visit, and its answer did not arrive.
        """
        relevant = _v.local_date >= (self._since.date() - timedelta(days=reach_days)).isoformat()
        if endless:
            relevant = or_(relevant, _v.member_id.in_(self._members_of(endless)))
        parts = [self._visits(relevant), self._changes(relevant, confirmations), self._checkins()]
        if cycles:
            parts.append(self._anchors(cycles))
        # Put together and then sorted: SQLite would rather sort each part, by way of an index, and merge them.
        everything = union_all(*parts).subquery()
        query = select(everything).order_by(everything.c.member, everything.c.number)
        return self._streamed(query)

    def _streamed(self, query: Select[Any]) -> Iterator[Any]:
        """As the driver gives them: what SQLAlchemy makes of rows costs as much as what is done with them."""
        compiled = query.compile(dialect=self._connection.dialect, compile_kwargs={"render_postcompile": True})
        driver: Any = self._connection.connection.driver_connection
        if self._connection.dialect.name == "sqlite":
            cursor, parameters = driver.cursor(), [compiled.params[name] for name in compiled.positiontup or ()]
        else:
            cursor, parameters = driver.cursor(name="history", binary=True), compiled.params
            cursor.itersize = PAGE
        with closing(cursor):
            cursor.execute(str(compiled), parameters)
            yield from cursor

    def _members_of(self, plan_ids: Collection[str]) -> Select[Any]:
        return select(_d.member_id).where(*self._received, _d.plan_id.in_(plan_ids))

    def _anchors(self, plan_ids: Collection[str]) -> Select[Any]:
        anchor = func.coalesce(_m.cycle_anchor, _m.valid_from)
        members = _row(_m.id, literal_column(FIRST), MEMBER, text=anchor)
        return members.where(_m.id.in_(self._members_of(plan_ids)))

    def _visits(self, relevant: ColumnElement[bool]) -> Select[Any]:
        text = _v.local_date + " " + _v.tags
        visits = _row(_v.member_id, _v.seq, VISIT, _v.at_ms, _v.studio_id, _v.plan_id, _v.plan_version, text)
        return visits.where(relevant, or_(_v.at_ms < clock.to_ms(self._since), _v.source.not_in(BY_CHECKIN)))

    def _changes(self, relevant: ColumnElement[bool], confirmations: bool) -> Select[Any]:
        checkin = select(_d.seq).where(_d.id == _v.id, *self._received).scalar_subquery()
        changes = _row(_v.member_id, _w.seq, CHANGE, func.coalesce(checkin, _v.seq), text=_w.state)
        changes = changes.join_from(schema.visit_changes, schema.visits, _v.id == _w.visit_id).where(relevant)
        if confirmations:
            return changes
        other = schema.visit_changes.alias().c
        taken_back = select(other.visit_id).where(other.state == VisitState.REVERSED.value)
        return changes.where(_w.visit_id.in_(taken_back))

    def _checkins(self) -> Select[Any]:
        lost = select(_a.decision_id).where(
            _a.undelivered.is_(True), _a.decision_id >= partitions.first_id(self._since)
        )
        what = case((_d.reason == Reason.OK.value, CHECKIN), (_d.id.in_(lost), UNDELIVERED), else_=CHECKIN)
        columns = (_d.received_at_ms, _d.studio_id, _d.plan_id, _d.plan_version, _d.reason)
        return _row(_d.member_id, _d.seq, what, *columns).where(*self._received)


def _row(
    member: ColumnElement[str],
    number: ColumnElement[int],
    what: ColumnElement[int] | int,
    *columns: ColumnElement[Any],
    text: ColumnElement[str] | None = None,
) -> Select[Any]:
    """One part of the union; what it does not have is null."""
    if text is not None:
        columns = (*columns, *(cast(null(), kind) for kind in list(COLUMNS.values())[len(columns) : -1]), text)
    if isinstance(what, int):
        what = literal_column(str(what))
    return select(
        member.label("member"),
        number.label("number"),
        what.label("what"),
        *(column.label(name) for name, column in zip(COLUMNS, columns, strict=True)),
    )
