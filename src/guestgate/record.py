"""Reading the record: decisions and visits as users see them, on the command line and elsewhere alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, or_, select

from guestgate import clock, schema
from guestgate.errors import OperationError
from guestgate.model import Payable, Source, VisitState

_d, _a, _v = schema.decisions.c, schema.answers.c, schema.visits.c
PAGE = 500


@dataclass(frozen=True)
class Filter:
    """Which part of the record. ``after`` is a ``seq``: only what was written later."""

    member: str | None = None
    studio: str | None = None
    since: datetime | None = None
    after: int = 0
    limit: int | None = None


def decisions(connection: Connection, chosen: Filter) -> Iterator[tuple[int, dict[str, Any]]]:
    """Decisions in the order they were recorded, each with its ``seq``; of a limit, the latest."""
    query = select(schema.decisions, _a.http_status, _a.answer_ms, _a.undelivered).join(
        schema.answers, _a.decision_id == _d.id, isouter=True
    )
    if chosen.member is not None:
        # Those that made a visit are found through it; see the index on the others.
        own_visits = select(_v.id).where(_v.member_id == chosen.member)
        query = query.where(or_(_d.id.in_(own_visits), schema.made_no_visit & (_d.member_id == chosen.member)))
    if chosen.studio is not None:
        query = query.where(_d.studio_id == chosen.studio)
    if chosen.since is not None:
        query = query.where(_d.received_at_ms >= clock.to_ms(chosen.since))
    for row in _pages(connection, query, _d.seq, chosen):
        yield row.seq, _decision_dict(row)


def _decision_dict(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "received_at": clock.iso(clock.from_ms(row.received_at_ms)),
        "studio": row.studio_id,
        "member": row.member_id,
        "aggregator_id": row.aggregator_id,
        "customer_id": row.customer_id,
        "decision": row.outcome,
        "reason": row.reason,
        "limit": json.loads(row.limit_use) if row.limit_use else None,
        "next_allowed_at": _iso(row.next_allowed_at_ms),
        "visit": row.visit_id,
        "http_status": row.http_status,
        "answer_ms": row.answer_ms,
        "undelivered": row.undelivered,
        "stand_in": row.stand_in,
        "plan": row.plan_id,
        "plan_version": row.plan_version,
    }


def visits(connection: Connection, chosen: Filter, *, payable_requires: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Visits in the order they were recorded, each with its ``seq``; of a limit, the latest."""
    query = select(schema.visits)
    if chosen.member is not None:
        query = query.where(_v.member_id == chosen.member)
    if chosen.studio is not None:
        query = query.where(_v.studio_id == chosen.studio)
    if chosen.since is not None:
        query = query.where(_v.at_ms >= clock.to_ms(chosen.since))
    payable = PayableRule(connection, payable_requires)
    for row in _pages(connection, query, _v.seq, chosen):
        yield row.seq, _visit_dict(row, payable(row))


def visit(connection: Connection, visit_id: str, *, payable_requires: str) -> dict[str, Any]:
    """One visit. Raises OperationError where there is none."""
    row = connection.execute(select(schema.visits).where(_v.id == visit_id)).one_or_none()
    if row is None:
        raise OperationError(f"there is no visit {visit_id}")
    return _visit_dict(row, PayableRule(connection, payable_requires)(row))


def _visit_dict(row: Any, payable: bool) -> dict[str, Any]:
    made_by_checkin = row.source in (Source.CHECKIN.value, Source.STAND_IN.value)
    return {
        "id": row.id,
        "member": row.member_id,
        "studio": row.studio_id,
        "at": clock.iso(clock.from_ms(row.at_ms)),
        "local_date": row.local_date,
        "state": row.state,
        "reversed_why": row.reversed_why,
        "decision": row.id if made_by_checkin else None,
        "source": row.source,
        "payable": payable,
        "plan": row.plan_id,
        "plan_version": row.plan_version,
    }


class PayableRule:
    """Whether a visit is paid for, derived when asked under the plan version it was made under.

    Not: test studios, reversed visits, visits imported from an earlier system (settled there). Under
    ``per_member_day`` the member's first unreversed visit of a local date pays, an imported one included,
    so that a day settled elsewhere is not paid twice.
    """

    def __init__(self, connection: Connection, requires: str) -> None:
        """`requires` is the setting ``payable_requires``."""
        self._connection = connection
        self._states = [VisitState.CONFIRMED.value]
        if requires == VisitState.AUTHORIZED.value:
            self._states.append(VisitState.AUTHORIZED.value)
        self._rules: dict[tuple[str, int], str] = {}

    def __call__(self, row: Any) -> bool:
        """Decide for one row of `guestgate.schema.visits`."""
        if row.test or row.state not in self._states or row.source == Source.IMPORT.value or row.plan_id is None:
            return False
        if self._rule(row.plan_id, row.plan_version) == Payable.PER_VISIT.value:
            return True
        earlier = select(_v.id).where(
            _v.member_id == row.member_id,
            _v.local_date == row.local_date,
            _v.test.is_(False),
            _v.state.in_(self._states)
            | ((_v.source == Source.IMPORT.value) & (_v.state != VisitState.REVERSED.value)),
            or_(_v.at_ms < row.at_ms, (_v.at_ms == row.at_ms) & (_v.id < row.id)),
        )
        return self._connection.execute(earlier.limit(1)).first() is None

    def _rule(self, plan_id: str, version: int) -> str:
        key = plan_id, version
        if key not in self._rules:
            columns = schema.plan_versions.c
            document = self._connection.execute(
                select(columns.document).where(columns.plan_id == plan_id, columns.version == version)
            ).scalar_one()
            self._rules[key] = json.loads(document)["payable"]
        return self._rules[key]


def _pages(connection: Connection, query: Select[Any], seq: Any, chosen: Filter) -> Iterator[Any]:
    """Rows by ascending seq. With a limit only the last ones, still in ascending order."""
    query = query.where(seq > chosen.after)
    if chosen.limit is not None:
        yield from reversed(connection.execute(query.order_by(seq.desc()).limit(chosen.limit)).all())
        return
    after = chosen.after
    while page := connection.execute(query.where(seq > after).order_by(seq).limit(PAGE)).all():
        yield from page
        after = page[-1].seq


def _iso(ms: int | None) -> str | None:
    return None if ms is None else clock.iso(clock.from_ms(ms))
