"""Changing what a visit counts for: what was entered stays on record, with who changed it, when and why."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, bindparam, exists, insert, select, update

from guestgate import clock, locks, schema, sequence, stretch
from guestgate.bulk import BulkSelect
from guestgate.database import PAGE, author
from guestgate.model import BY_CHECKIN, VisitState

UNDELIVERED = "undelivered"
NO_ENTRY = "no entry in the platform's history"

_d, _a, _v, _w = schema.decisions.c, schema.answers.c, schema.visits.c, schema.visit_changes.c
_corrections = select(schema.visit_changes, _v.member_id, _v.studio_id, _v.local_date).join(
    schema.visits, _v.id == _w.visit_id
)
_dated = BulkSelect(
    _v.id,
    among=_v.id,
    where=[_v.local_date.between(bindparam("first"), bindparam("last")), _v.test.is_(False)],
)
_allowed = BulkSelect(_d.id, _d.visit_id, _d.member_id, among=_d.id, where=[_d.visit_id.is_not(None)])


def reverse(connection: Connection, visit_id: str, why: str) -> bool:
    """Reverse a visit; False where it is reversed already or does not exist.

    Waits for whoever has the member locked; the ledger has done that before.
    """
    return _change(connection, visit_id, VisitState.REVERSED, why)


def confirm(connection: Connection, visit_id: str, why: str) -> bool:
    """Note that the member came in, also where the visit was reversed; False where it is confirmed or not there."""
    return _change(connection, visit_id, VisitState.CONFIRMED, why)


def authorize(connection: Connection, visit_id: str, why: str) -> bool:
    """Note that nothing confirms a visit any more; False where that is so already or there is no such visit."""
    return _change(connection, visit_id, VisitState.AUTHORIZED, why)


def _change(connection: Connection, visit_id: str, state: VisitState, why: str) -> bool:
    member_id = connection.execute(select(_v.member_id).where(_v.id == visit_id)).scalar_one_or_none()
    if member_id is None:
        return False
    locks.lock(connection, member_id)
    changed = connection.execute(
        update(schema.visits)
        .where(_v.id == visit_id, _v.state != state.value)
        .values(state=state.value, reversed_why=why if state is VisitState.REVERSED else None)
    )
    if not changed.rowcount:
        return False
    (seq,) = sequence.take(connection, 1)
    connection.execute(
        insert(schema.visit_changes).values(
            seq=seq,
            visit_id=visit_id,
            changed_at_ms=clock.now_ms(),
            state=state.value,
            who=author(connection),
            why=why,
        )
    )
    return True


def reverse_undelivered(connection: Connection, decision_ids: Collection[str]) -> list[str]:
    """Reverse the visits behind answers that never left, unless another answer let the member in on them.

    A re-entry leans on an earlier visit: as long as one answer that named the visit was delivered, or may
    have been, somebody walked in and the visit stands. Returns the decisions whose members somebody else has
    locked; they are for the next transaction.
    """
    if not decision_ids:
        return []
    allowed = _allowed(connection, decision_ids)
    busy = locks.try_lock(connection, {member_id for _, _, member_id in allowed})
    for _, visit_id, member_id in allowed:
        if member_id in busy:
            continue
        delivered = connection.execute(
            select(_d.id)
            .join(schema.answers, _a.decision_id == _d.id, isouter=True)
            .where(
                # The decision that made the visit, and the re-entries, by their indexes.
                (_d.id == visit_id)
                | (schema.made_no_visit & (_d.member_id == member_id) & (_d.visit_id == visit_id)),
                _a.undelivered.is_not(True),
            )
            .limit(1)
        ).first()
        if delivered is None and _made_by_checkin(connection, visit_id):
            reverse(connection, visit_id, UNDELIVERED)
    return [decision_id for decision_id, _, member_id in allowed if member_id in busy]


def _made_by_checkin(connection: Connection, visit_id: str) -> bool:
    """Whether a check-in made the visit, whose decision is here, and nothing has confirmed or reversed it since.

    On the copy of a stand-in there are visits whose decisions are elsewhere, and so are answers that leaned on them.
    """
    visit = connection.execute(
        select(_v.id).where(
            _v.id == visit_id,
            _v.source.in_(BY_CHECKIN),
            _v.state == VisitState.AUTHORIZED.value,
            exists(select(_d.id).where(_d.id == visit_id)),
        )
    ).first()
    return visit is not None


def correction_list(connection: Connection, *, after: int, limit: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """All corrections in their order, each with its ``seq``, confirmations among them."""
    for row in connection.execute(_corrections.where(_w.seq > after).order_by(_w.seq).limit(limit)):
        yield row.seq, _dict(row)


def of_statement(connection: Connection, month: str, studio: str | None, upto: int | None) -> list[dict[str, Any]]:
    """Those of a month's visits that were made up to a number, as its statement has them.

    Without visits at test studios, and without plain confirmations, of which nearly every visit has one.
    """
    before = schema.visit_changes.alias().c
    earlier = exists().where(before.visit_id == _w.visit_id, before.seq < _w.seq)
    # A visit with two changes has one that is no confirmation, and those have an index.
    corrected = select(_w.visit_id).where(schema.no_confirmation, *stretch.of_corrections(connection, month))
    made = _corrections.where(schema.no_confirmation | earlier)
    if studio is not None:
        made = made.where(_v.studio_id == studio)
    if upto is not None:
        # Without the sum SQLite would read all changes by their numbers, as it would by their visits with DISTINCT.
        corrected, made = corrected.where(_w.seq + 0 <= upto), made.where(_w.seq <= upto)
    ids = iter(set(connection.execute(corrected).scalars()))
    found: list[Any] = []
    # Step by step: a planner would rather read all visits there are.
    while chunk := list(islice(ids, PAGE)):
        dated = [visit_id for (visit_id,) in _dated(connection, chunk, first=f"{month}-01", last=f"{month}-31")]
        found += connection.execute(made.where(_w.visit_id.in_(dated))).all() if dated else []
    return [_dict(row) for row in sorted(found, key=attrgetter("seq"))]


def _dict(row: Any) -> dict[str, Any]:
    return {
        "visit": row.visit_id,
        "member": row.member_id,
        "studio": row.studio_id,
        "local_date": row.local_date,
        "state": row.state,
        "at": clock.iso_of(row.changed_at_ms),
        "who": row.who,
        "why": row.why,
    }
