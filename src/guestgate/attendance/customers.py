"""Which of the platform's customers are ours, and whose. Every function is part of the caller's transaction.

A customer is ours when linked to a member, or named by a check-in of that studio. All others are the gym's own.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import structlog
from sqlalchemy import Connection, func, select, update

from guestgate import members, schema
from guestgate.attendance.links import BY_HAND, LIFECYCLE, Step, link_of
from guestgate.attendance.matching import Unit
from guestgate.attendance.webhook import Kind
from guestgate.bulk import BulkInsert, BulkSelect

log = structlog.get_logger()

DAY_MS = 86_400_000

_s, _k, _n = schema.sightings.c, schema.customers.c, schema.named_customers.c
_note = BulkInsert(schema.named_customers, renewed=["last_at_ms"])
_named = BulkSelect(_n.customer_id, _n.studio_id, _n.member_id, _n.last_at_ms, among=_n.customer_id)
_linked = BulkSelect(_k.customer_id, _k.member_id, among=_k.customer_id)


def name(connection: Connection, decisions: Collection[Any]) -> None:
    """Remember whom check-ins named, and when last, to the day."""
    asked = {row.customer_id for row in decisions}
    found: dict[tuple[int, str, str], int] = {(*key,): at_ms for *key, at_ms in _named(connection, asked)}
    latest: dict[tuple[int, str, str], int] = {}
    for row in decisions:
        key = row.customer_id, row.studio_id, row.member_id or ""
        latest[key] = max(latest.get(key, 0), row.received_at_ms)
    new = {key: at_ms for key, at_ms in latest.items() if key not in found or at_ms - found[key] >= DAY_MS}
    _note(connection, [(*key, at_ms) for key, at_ms in new.items()])


def known(connection: Connection, pairs: Collection[tuple[str, int]]) -> set[tuple[str, int]]:
    """Those of some studios' customers that are ours."""
    asked = {customer_id for _, customer_id in pairs}
    linked = {customer_id for customer_id, _ in _linked(connection, asked)}
    named = {(studio_id, customer_id) for customer_id, studio_id, _, _ in _named(connection, asked)}
    return {pair for pair in pairs if pair[1] in linked or pair in named}


def make_ours(connection: Connection, customers: Collection[int]) -> list[Unit]:
    """What was told of these before it was known that they are ours is of ours; returns what that may change."""
    if not customers:
        return []
    rows = connection.execute(
        select(_s.seq, _s.studio_id, _s.customer_id, _s.at_ms).where(
            _s.customer_id.in_(customers), _s.ours.is_(False)
        )
    ).all()
    ours = known(connection, {(row.studio_id, row.customer_id) for row in rows})
    rows = [row for row in rows if (row.studio_id, row.customer_id) in ours]
    if rows:
        seqs = [row.seq for row in rows]
        connection.execute(update(schema.sightings).where(_s.seq.in_(seqs)).values(ours=True))
    return [Unit(row.studio_id, row.customer_id, row.at_ms, row.at_ms) for row in rows]


def relink(connection: Connection, customer_id: int) -> list[Unit]:
    """Have the link of a customer follow from all that happened to it; returns what that may change."""
    present = connection.execute(
        select(_k.member_id, _k.linked_at_ms, _k.by_hand).where(_k.customer_id == customer_id)
    ).one_or_none()
    told = connection.execute(
        select(_s.at_ms, _s.kind, _s.source, _s.member_id, _s.reference).where(
            _s.customer_id == customer_id, _s.kind.in_(LIFECYCLE)
        )
    ).all()
    named = _members(connection, {row.member_id for row in told if row.kind == Kind.CREATED.value})
    # What the platform told of somebody who is being forgotten counts no more; the link goes with the member.
    by_hand = present is not None and (present.by_hand or present.member_id not in named)
    steps = [
        Step(row.at_ms, Kind(row.kind), row.member_id, by_hand=row.source == BY_HAND, reference=row.reference)
        for row in told
        if row.kind != Kind.CREATED.value or row.member_id in named
    ]
    if present is not None and by_hand:
        # It came after all that was ended by hand, whatever our clock did meanwhile.
        steps = [step for step in steps if not step.by_hand]
        steps.append(Step(present.linked_at_ms, Kind.CREATED, present.member_id, by_hand=True))
    link = link_of(steps)
    if link.disputed:
        log.warning("the platform names another member than the one that a customer was linked to by hand")
    linked = None if present is None else present.member_id
    if (link.member_id, link.by_hand) == (linked, by_hand):
        return []
    if linked is not None:
        members.unlink(connection, linked, customer_id, by_hand=False)
    if link.member_id is None:
        return []
    members.link(connection, link.member_id, customer_id, by_hand=False)
    connection.execute(update(schema.sightings).where(_s.customer_id == customer_id).values(ours=True))
    return moved(connection, customer_id)


def _members(connection: Connection, ids: Collection[str]) -> set[str]:
    """Those that there are, and that nobody is forgetting."""
    found = select(schema.members.c.id).where(schema.members.c.id.in_(ids), schema.members.c.pseudonym.is_(None))
    return set(connection.execute(found).scalars())


def moved(connection: Connection, customer_id: int) -> list[Unit]:
    """All that a customer did anywhere."""
    rows = connection.execute(
        select(_s.studio_id, func.min(_s.at_ms), func.max(_s.at_ms))
        .where(_s.customer_id == customer_id, _s.kind.in_([Kind.ENTRY.value, Kind.EXIT.value]))
        .group_by(_s.studio_id)
    )
    return [Unit(studio_id, customer_id, since_ms, until_ms) for studio_id, since_ms, until_ms in rows]
