"""What has become of months that are closed: the difference between what they said and what pays now.

A closed month says for each visit whether it pays, and an adjustment in a later month says what changed. So what
is still to be adjusted is what pays now, less all that closed months say of the visit. Only days of members are
looked at of which something was written since the last closing; a visit that is pruned stays settled as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select, true, union_all

from guestgate import schema
from guestgate.bulk import BulkSelect
from guestgate.database import SYSTEM
from guestgate.days import day_of, visits_of
from guestgate.model import Source
from guestgate.payable import PayableRule
from guestgate.record import PAGE, one_by_one
from guestgate.statement_lines import Kind, Line, lines

LATE = "recorded after the month was closed"
OF_DAY = "another visit of that day"

_v, _w, _c, _s, _l = (
    schema.visits.c,
    schema.visit_changes.c,
    schema.changes.c,
    schema.statements.c,
    schema.statement_lines.c,
)
_corrections = BulkSelect(_w.visit_id, _w.seq, _w.changed_at_ms, _w.who, _w.why, among=_w.visit_id)
_additions = BulkSelect(_c.subject, _c.at_ms, _c.who, among=_c.subject, where=[_c.action == "visit.added"])


class Cause(NamedTuple):
    """What made the difference; ``seq`` puts causes in order."""

    seq: int
    at_ms: int
    who: str
    why: str


@dataclass(frozen=True)
class Closed:
    """The months that are closed."""

    requires: dict[str, str]  # by month, what a visit needed to be paid for, in the order of months
    position: int  # what has a higher `seq` was written since

    @property
    def next_month(self) -> str:
        """The first that is not closed: all before it is settled."""
        return following(max(self.requires))

    def required(self, month: str) -> str:
        """What a visit of that month needs; of one before the first that was closed, what it needed in that."""
        return self.requires.get(month, self.requires[min(self.requires)])


def following(text: str) -> str:
    """The month after one."""
    year, month = map(int, text.split("-"))
    return f"{year + month // 12:04d}-{month % 12 + 1:02d}"


def closed(connection: Connection) -> Closed | None:
    """None where no month has been closed yet."""
    rows = connection.execute(
        select(_s.month, _s.payable_requires, _s.position).where(_s.closed_at_ms.is_not(None)).order_by(_s.month)
    ).all()
    if not rows:
        return None
    return Closed({row.month: row.payable_requires for row in rows}, rows[-1].position)


def changed_days(connection: Connection, done: Closed) -> list[str]:
    """Days of closed months of which something was written since the last closing: one visit of each.

    A visit keeps its id when the member is forgotten.
    """
    settled = (_v.local_date < f"{done.next_month}-01", _v.test.is_(False))
    visit = select(_v.member_id, _v.local_date, _v.id)
    added = visit.where(_v.seq > done.position, *settled)
    if connection.dialect.name == "sqlite":
        corrected = visit.join(schema.visit_changes, _w.visit_id == _v.id).where(_w.seq > done.position, *settled)
    else:
        # Most of them confirm later visits, and only the visit can say so: ids may come from a wrong clock.
        ids = select(_w.visit_id).where(_w.seq > done.position).subquery()
        found = one_by_one(visit.where(_v.id == ids.c.visit_id, *settled))
        corrected = select(*found.c).select_from(ids.join(found, true()))
    changed = union_all(added, corrected).subquery()
    one = func.min(changed.c.id)
    query = select(one).group_by(changed.c.member_id, changed.c.local_date).order_by(one)
    return list(connection.execute(query).scalars())


def pending(connection: Connection, done: Closed) -> Iterator[Line]:
    """The adjustments that the next month will have, as things stand."""
    days = iter(changed_days(connection, done))
    while chunk := list(islice(days, PAGE)):
        yield from differences(connection, done, chunk)


def differences(connection: Connection, done: Closed, days: Collection[str]) -> list[Line]:
    """What pays now and is not settled so, a line of 1 or -1 each: of the days of these visits, one of each day."""
    visits = [visit for visit in visits_of(connection, days) if not visit.test]
    pays = _paying(connection, done, visits)
    settled = _settled(connection, [visit.id for visit in visits])
    amounts = {visit.id: (visit.id in pays) - settled.get(visit.id, 0) for visit in visits}
    changed = [visit for visit in visits if amounts[visit.id]]
    causes = _causes(connection, done, visits) if changed else {}
    adjusted = []
    for visit, line in zip(changed, lines(connection, changed, amounts, Kind.ADJUSTMENT), strict=True):
        cause = causes.get(visit.id) or _of_day(causes, visits, visit)
        adjusted.append(
            line._replace(
                adjusts=visit.local_date[:7] if visit.id in settled else None,
                changed_at_ms=cause.at_ms if cause else None,
                changed_by=cause.who if cause else None,
                why=cause.why if cause else None,
            )
        )
    return adjusted


def _paying(connection: Connection, done: Closed, visits: Sequence[Any]) -> set[str]:
    """The ids of those that pay now, by what their months required."""
    groups: dict[str, list[Any]] = {}
    for visit in visits:
        groups.setdefault(done.required(visit.local_date[:7]), []).append(visit)
    return {one for requires, rows in groups.items() for one in PayableRule(connection, requires)(rows)}


def _settled(connection: Connection, ids: list[str]) -> dict[str, int]:
    """What closed months say of these visits, where they say anything."""
    rows = connection.execute(
        select(_l.visit_id, func.sum(_l.payable))
        .join(schema.statements, (_s.month == _l.month) & (_s.attempt == _l.attempt))
        .where(_l.visit_id.in_(ids), _s.closed_at_ms.is_not(None))
        .group_by(_l.visit_id)
    )
    return {visit_id: int(payable) for visit_id, payable in rows}


def _causes(connection: Connection, done: Closed, visits: Sequence[Any]) -> dict[str, Cause]:
    """What was written about these visits last, since the last closing: a correction, or the visit itself."""
    ids = [visit.id for visit in visits]
    causes: dict[str, Cause] = {}
    added = {visit_id: (at_ms, who) for visit_id, at_ms, who in _additions(connection, ids)}
    for visit in visits:
        if visit.seq > done.position:
            at_ms, who = added.get(visit.id, (visit.at_ms, SYSTEM))
            why = f"{LATE} ({Source(visit.source).value})"
            causes[visit.id] = Cause(visit.seq, at_ms, who, why)
    for visit_id, *correction in _corrections(connection, ids):
        cause = Cause(*correction)
        if cause.seq > done.position and (visit_id not in causes or cause.seq > causes[visit_id].seq):
            causes[visit_id] = cause
    return causes


def _of_day(causes: dict[str, Cause], visits: Sequence[Any], visit: Any) -> Cause | None:
    """A visit that nobody touched pays, or pays no more, since another one of its day changed."""
    others = [causes[other.id] for other in visits if day_of(other) == day_of(visit) and other.id in causes]
    if not others:
        return None
    last = max(others)
    return last._replace(why=f"{OF_DAY}: {last.why}")
