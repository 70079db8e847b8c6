"""Changing plans. Every function is part of the caller's transaction."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from guestgate import changes, clock, plans_file, schema
from guestgate.changes import Change
from guestgate.directory import changed, load_plans
from guestgate.errors import ConflictError, NotFoundError, OperationError
from guestgate.model import Plan
from guestgate.suggest import did_you_mean

_plans, _versions, _members = schema.plans, schema.plan_versions, schema.members


def apply(connection: Connection, documents: dict[str, plans_file.PlanDocument]) -> dict[str, str]:
    """Make these plans the ones in force; plans that are not named stay as they are.

    Returns what became of each: ``added``, ``changed`` or ``unchanged``. A changed plan gets a new version.
    """
    outcome = {}
    trail = []
    for plan_id, content in documents.items():
        document = plans_file.document_of(content)
        row = connection.execute(
            select(_plans.c.version, _plans.c.removed_at_ms, _versions.c.document)
            .join(_versions, (_versions.c.plan_id == _plans.c.id) & (_versions.c.version == _plans.c.version))
            .where(_plans.c.id == plan_id)
        ).one_or_none()
        if row is not None and row.removed_at_ms is None and row.document == document:
            outcome[plan_id] = "unchanged"
            continue
        plan = plans_file.plan_of(plan_id, (row.version if row else 0) + 1, document)
        check_anchors(connection, plan)
        if row is None:
            connection.execute(insert(_plans).values(id=plan_id, version=plan.version))
        else:
            connection.execute(
                update(_plans).where(_plans.c.id == plan_id).values(version=plan.version, removed_at_ms=None)
            )
        connection.execute(
            insert(_versions).values(
                plan_id=plan_id, version=plan.version, document=document, applied_at_ms=clock.now_ms()
            )
        )
        before = json.loads(row.document) if row is not None and row.removed_at_ms is None else None
        outcome[plan_id] = "added" if before is None else "changed"
        trail.append(Change(f"plan.{outcome[plan_id]}", plan_id, before, json.loads(document)))
    if trail:
        changes.record(connection, trail)
        changed(connection)
    return outcome


def check_anchors(connection: Connection, plan: Plan) -> None:
    """Raise OperationError where a plan counts in cycles, and some of its members have no day to count from."""
    if not plan.has_cycle:
        return
    without = connection.execute(
        select(_members.c.id)
        .where(_members.c.plan_id == plan.id, _members.c.cycle_anchor.is_(None), _members.c.valid_from.is_(None))
        .limit(3)
    ).scalars()
    names = ", ".join(without)
    if names:
        raise OperationError(
            f"plan {plan.id} counts in cycles, but some of its members have neither cycle_anchor nor "
            f"valid_from: {names}"
        )


def remove(connection: Connection, plan_id: str) -> None:
    """Take a plan out of force. Raises ConflictError while members have it."""
    plan = require(connection, plan_id)
    members = connection.execute(
        select(func.count()).select_from(_members).where(_members.c.plan_id == plan_id)
    ).scalar_one()
    if members:
        raise ConflictError(f"plan {plan_id} has {members} members; give them another plan first")
    connection.execute(update(_plans).where(_plans.c.id == plan_id).values(removed_at_ms=clock.now_ms()))
    changes.record(connection, [Change("plan.removed", plan_id, {"name": plan.name, "version": plan.version})])
    changed(connection)


def require(connection: Connection, plan_id: str) -> Plan:
    """The plan in force. Raises NotFoundError naming similar ids."""
    plans = load_plans(connection)
    if plan_id not in plans:
        raise NotFoundError(f"there is no plan {plan_id}{did_you_mean(plan_id, plans)}")
    return plans[plan_id]


class Headcount:
    """How many members each plan has, by id; counted again where anything was changed since. Any thread may ask."""

    def __init__(self) -> None:
        """Nothing has been counted."""
        self._counts: Mapping[str, int] = {}
        self._counted_at: int | None = None
        self._lock = threading.Lock()

    def __call__(self, connection: Connection) -> Mapping[str, int]:
        """As of this transaction: whatever changes members leaves a trail in the same one."""
        last_change = connection.execute(select(func.max(schema.changes.c.seq))).scalar() or 0
        with self._lock:
            if self._counted_at != last_change:
                self._counts, self._counted_at = _headcount(connection), last_change
            return self._counts


def _headcount(connection: Connection) -> Mapping[str, int]:
    per_plan = connection.execute(select(_members.c.plan_id, func.count()).group_by(_members.c.plan_id))
    return {row[0]: row[1] for row in per_plan}


def plan_list(
    connection: Connection, headcount: Callable[[Connection], Mapping[str, int]] = _headcount
) -> list[dict[str, Any]]:
    """The plans in force as users see them, by id."""
    counts = headcount(connection)
    rows = connection.execute(
        select(_versions.c.plan_id, _versions.c.version, _versions.c.document)
        .join(_plans, (_plans.c.id == _versions.c.plan_id) & (_plans.c.version == _versions.c.version))
        .where(_plans.c.removed_at_ms.is_(None))
        .order_by(_plans.c.id)
    )
    return [
        {
            "id": row.plan_id,
            "version": row.version,
            **json.loads(row.document),
            "members": counts.get(row.plan_id, 0),
        }
        for row in rows
    ]
