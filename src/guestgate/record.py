"""Reading the record: decisions and visits as users see them, on the command line and elsewhere alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Select, or_, select

from guestgate import clock, schema
from guestgate.errors import NotFoundError
from guestgate.model import Payable, Source, VisitState

_d, _a, _v = schema.decisions.c, schema.answers.c, schema.visits.c
PAGE = 500
# An answer is recorded with the next batch, or a quarter of a second later. If it takes longer than this,
# the ledger cannot write or the server was stopped, and nobody knows how the answer left.
ANSWER_PATIENCE = timedelta(seconds=2)


class Order(StrEnum):
    """In which order rows are read, and which of them a limit keeps."""

    LATEST = "latest"  # oldest first, of a limit the latest
    ASCENDING = "asc"  # oldest first, of a limit the oldest
    DESCENDING = "desc"  # newest first, and ``after`` is where older ones begin


@dataclass(frozen=True)
class Filter:
    """Which part of the record. ``after`` is a ``seq``: only what was written later.

    ``upto`` is one as well: where whoever follows goes on later, nothing may appear before it any more.
    ``subject`` is the id of what was changed, for `guestgate.changes`; ``month`` (``2026-11``) goes by the
    local dates of visits; without ``tests`` visits at test studios are left out.
    """

    member: str | None = None
    studio: str | None = None
    since: datetime | None = None
    after: int = 0
    upto: int | None = None
    limit: int | None = None
    order: Order = Order.LATEST
    subject: str | None = None
    month: str | None = None
    tests: bool = True


with_answers = select(schema.decisions, _a.http_status, _a.answer_ms, _a.undelivered).join(
    schema.answers, _a.decision_id == _d.id, isouter=True
)


def decisions(connection: Connection, chosen: Filter) -> Iterator[tuple[int, dict[str, Any]]]:
    """Decisions in the order they were recorded, each with its ``seq``; of a limit, the latest."""
    query = with_answers
    if chosen.member is not None:
        # Those that made a visit are found through it; see the index on the others.
        own_visits = select(_v.id).where(_v.member_id == chosen.member)
        query = query.where(or_(_d.id.in_(own_visits), schema.made_no_visit & (_d.member_id == chosen.member)))
    if chosen.studio is not None:
        query = query.where(_d.studio_id == chosen.studio)
    if chosen.since is not None:
        query = query.where(_d.received_at_ms >= clock.to_ms(chosen.since))
    for row in pages(connection, query, _d.seq, chosen):
        yield row.seq, decision_dict(row)


def decision(connection: Connection, decision_id: str) -> dict[str, Any]:
    """One decision. Raises NotFoundError where there is none."""
    row = connection.execute(with_answers.where(_d.id == decision_id)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no decision {decision_id}")
    return decision_dict(row)


def decision_dict(row: Any) -> dict[str, Any]:
    """A row of `with_answers` as users see it."""
    return {
        "id": row.id,
        "received_at": clock.iso_of(row.received_at_ms),
        "studio": row.studio_id,
        "member": row.member_id,
        "aggregator_id": row.aggregator_id,
        "customer_id": row.customer_id,
        "decision": row.outcome,
        "reason": row.reason,
        "limit": json.loads(row.limit_use) if row.limit_use else None,
        "next_allowed_at": clock.iso_of(row.next_allowed_at_ms),
        "visit": row.visit_id,
        "http_status": row.http_status,
        "answer_ms": row.answer_ms,
        "undelivered": row.undelivered,
        "stand_in": row.stand_in,
        "plan": row.plan_id,
        "plan_version": row.plan_version,
    }


def awaits_answer(decision: dict[str, Any], now: datetime) -> bool:
    """Whether it will soon be known how this decision's answer left; see `ANSWER_PATIENCE`."""
    age = now - datetime.fromisoformat(decision["received_at"])
    return decision["answer_ms"] is None and timedelta(0) <= age < ANSWER_PATIENCE


def visits(connection: Connection, chosen: Filter, *, payable_requires: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Visits in the order they were recorded, each with its ``seq``; of a limit, the latest."""
    query = select(schema.visits)
    if chosen.member is not None:
        query = query.where(_v.member_id == chosen.member)
    if chosen.studio is not None:
        query = query.where(_v.studio_id == chosen.studio)
    if chosen.since is not None:
        query = query.where(_v.at_ms >= clock.to_ms(chosen.since))
    if chosen.month is not None:
        query = query.where(_v.local_date.between(f"{chosen.month}-01", f"{chosen.month}-31"))
    if not chosen.tests:
        query = query.where(_v.test.is_(False))
    payable = PayableRule(connection, payable_requires)
    for row in pages(connection, query, _v.seq, chosen):
        yield row.seq, visit_dict(row, payable(row))


def visit(connection: Connection, visit_id: str, *, payable_requires: str) -> dict[str, Any]:
    """One visit. Raises NotFoundError where there is none."""
    row = connection.execute(select(schema.visits).where(_v.id == visit_id)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no visit {visit_id}")
    return visit_dict(row, PayableRule(connection, payable_requires)(row))


def visit_dict(row: Any, payable: bool) -> dict[str, Any]:
    """A row of `guestgate.schema.visits` as users see it."""
    made_by_checkin = row.source in (Source.CHECKIN.value, Source.STAND_IN.value)
    return {
        "id": row.id,
        "member": row.member_id,
        "studio": row.studio_id,
        "at": clock.iso_of(row.at_ms),
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


def pages(connection: Connection, query: Select[Any], seq: Any, chosen: Filter) -> Iterator[Any]:
    """The rows of a query in the order asked for; `seq` is its column of that name. Read in pages."""
    if chosen.upto is not None:
        query = query.where(seq <= chosen.upto)
    if chosen.order is Order.LATEST and chosen.limit is not None:
        rows = connection.execute(query.where(seq > chosen.after).order_by(seq.desc()).limit(chosen.limit))
        yield from reversed(rows.all())
        return
    after, left = chosen.after, chosen.limit
    while left is None or left > 0:
        size = PAGE if left is None else min(PAGE, left)
        if chosen.order is Order.DESCENDING:
            part = (query.where(seq < after) if after else query).order_by(seq.desc())
        else:
            part = query.where(seq > after).order_by(seq)
        page = connection.execute(part.limit(size)).all()
        yield from page
        if len(page) < size:
            return
        after, left = page[-1].seq, None if left is None else left - size
