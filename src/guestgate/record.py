"""Reading the record: decisions, visits and member validations as users see them, everywhere alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    ScalarSelect,
    Select,
    func,
    select,
    true,
    union_all,
)

from guestgate import clock, partitions, schema, stretch
from guestgate.errors import NotFoundError
from guestgate.model import BY_CHECKIN
from guestgate.payable import PayableRule

_d, _a, _v, _n = schema.decisions.c, schema.answers.c, schema.visits.c, schema.validations.c
PAGE = 500
# Above every `seq`, and more check-ins than are ever decided at once.
BEYOND, TOGETHER = 2**62, 1000
# An answer is recorded with the next batch, or a quarter of a second later. If it takes longer than this,
# the ledger cannot write or the server was stopped, and nobody knows how the answer left.
ANSWER_PATIENCE = timedelta(seconds=2)
# Whose ids are gone through by their index where a list begins; further back it finds enough without.
LATEST_DAYS = timedelta(days=8)


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
    local dates of visits; without ``tests`` visits at test studios are left out. ``until`` goes with ``since``; like
    ``outcome`` and ``reason`` it chooses among decisions only.
    """

    member: str | None = None
    studio: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    outcome: str | None = None
    reason: str | None = None
    after: int = 0
    upto: int | None = None
    limit: int | None = None
    order: Order = Order.LATEST
    subject: str | None = None
    month: str | None = None
    tests: bool = True


def _with_answers(connection: Connection, answered: FromClause) -> Select[Any]:
    answers = select(_a.http_status, _a.answer_ms, _a.undelivered).where(_a.decision_id == answered.c.id)
    if connection.dialect.name == "sqlite":
        columns = answers.selected_columns
        return select(answered, *columns).join(schema.answers, _a.decision_id == answered.c.id, isouter=True)
    answer = one_by_one(answers)
    return select(answered, *answer.c).join(answer, true(), isouter=True)


def one_by_one(query: Select[Any]) -> FromClause:
    """On PostgreSQL, rows found by a key for each row of something else: in the partition that the key names.

    That is what its planner cannot foresee, and so it would rather read a table of any middling size as a whole.
    OFFSET leaves it no choice.
    """
    return query.offset(0).lateral()


def decisions(connection: Connection, chosen: Filter) -> Iterator[tuple[int, dict[str, Any]]]:
    """Decisions in the order they were recorded, each with its ``seq``; of a limit, the latest."""
    source: FromClause = schema.decisions if chosen.member is None else _of_member(connection, chosen)
    d, query = source.c, _with_answers(connection, source)
    if chosen.studio is not None:
        query = query.where(d.studio_id == chosen.studio)
    if chosen.since is not None:
        query = query.where(d.received_at_ms >= clock.to_ms(chosen.since))
        if chosen.member is None:
            query = query.where(*_where_to_look(connection, chosen.since, chosen.until))
    if chosen.until is not None:
        query = query.where(d.received_at_ms < clock.to_ms(chosen.until))
    if chosen.outcome is not None:
        query = query.where(d.outcome == chosen.outcome)
    if chosen.reason is not None:
        query = query.where(d.reason == chosen.reason)
    for row in rows(connection, query, d.seq, chosen):
        yield row.seq, decision_dict(row)


def _where_to_look(connection: Connection, since: datetime, until: datetime | None) -> Sequence[ColumnElement[bool]]:
    """Bounds that leave nothing out, whatever a clock once said: months, or a place among the latest days' rows."""
    if until is not None:
        return received(connection, since, until)
    first = partitions.first_id(since)
    if connection.dialect.name != "sqlite":
        return [_d.id >= first]
    return [_d.seq >= _lowest_seq(first, BEYOND)] if clock.now() - since <= LATEST_DAYS else []


def received(connection: Connection, since: datetime, until: datetime | None = None) -> Sequence[ColumnElement[bool]]:
    """Between which places those decisions lie that were received within some hours or days.

    It is a bound and no condition, for it is up to an hour wider. On PostgreSQL it says in which months to look; on
    SQLite rows lie in the order of ``seq``, and those that another index leads to cost ten times as much.
    """
    first = partitions.first_id(since)
    beyond = None if until is None else partitions.first_id(until + 2 * partitions.CLOCK_STEP)
    if connection.dialect.name != "sqlite":
        return [_d.id >= first, *([] if beyond is None else [_d.id < beyond])]
    after = [] if beyond is None else [_d.seq < func.coalesce(_lowest_seq(beyond), BEYOND)]
    return [_d.seq >= _lowest_seq(first), *after]


def _lowest_seq(first_id: str, among: int = TOGETHER) -> ScalarSelect[int]:
    """Of so many decisions from an id on. Those that were received together may be recorded in another order."""
    together = select(_d.seq).where(_d.id >= first_id).order_by(_d.id).limit(among).subquery()
    return select(func.min(together.c.seq)).scalar_subquery()


def _of_member(connection: Connection, chosen: Filter) -> FromClause:
    """A member's decisions that a list is chosen from. Those that made a visit are found through it.

    They are few, but whoever comes every day has hundreds, and each of them lies elsewhere. So a list of some is
    chosen by what indexes and visits know: the visit has its decision's instant and studio, and comes in its place.
    """
    made = select(_v.id, _v.seq).where(_v.member_id == chosen.member, _v.source.in_(BY_CHECKIN))
    others = select(_d.id, _d.seq).where(schema.made_no_visit, _d.member_id == chosen.member)
    if chosen.studio is not None:
        made, others = made.where(_v.studio_id == chosen.studio), others.where(_d.studio_id == chosen.studio)
    if chosen.since is not None:
        since_ms = clock.to_ms(chosen.since)
        made, others = made.where(_v.at_ms >= since_ms), others.where(_d.received_at_ms >= since_ms)
    narrowed = chosen.after or (chosen.upto, chosen.until, chosen.outcome, chosen.reason) != (None, None, None, None)
    if chosen.limit is not None and not narrowed:
        made, others = (_at_one_end(query, chosen) for query in (made, others))
    parts = made.subquery(), others.subquery()
    ids = union_all(*(select(part.c.id) for part in parts)).subquery()
    if connection.dialect.name == "sqlite":
        return select(schema.decisions).where(_d.id.in_(select(ids.c.id))).subquery()
    found = one_by_one(select(schema.decisions).where(_d.id == ids.c.id))
    return select(*found.c).select_from(ids.join(found, true())).subquery()


def _at_one_end(query: Select[Any], chosen: Filter) -> Select[Any]:
    """As many as a list may have, from the end where it begins."""
    seq = query.selected_columns.seq
    return query.order_by(seq if chosen.order is Order.ASCENDING else seq.desc()).limit(chosen.limit)


def decision(connection: Connection, decision_id: str) -> dict[str, Any]:
    """One decision. Raises NotFoundError where there is none."""
    row = connection.execute(_with_answers(connection, schema.decisions).where(_d.id == decision_id)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no decision {decision_id}")
    return decision_dict(row)


def has_decision(connection: Connection, decision_id: str) -> bool:
    """Whether there is one of this id."""
    return connection.execute(select(_d.id).where(_d.id == decision_id)).one_or_none() is not None


def decision_dict(row: Any) -> dict[str, Any]:
    """A row of `guestgate.schema.decisions`, with its answer, as users see it."""
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
    if chosen.member is None:  # whose visits are few
        query = query.where(*stretch.of_visits(connection, chosen.month, chosen.since))
    payable = PayableRule(connection, payable_requires)
    for page in pages(connection, query, _v.seq, chosen):
        paid = payable(page)
        for row in page:
            yield row.seq, visit_dict(row, row.id in paid)


def visit(connection: Connection, visit_id: str, *, payable_requires: str) -> dict[str, Any]:
    """One visit. Raises NotFoundError where there is none."""
    row = connection.execute(select(schema.visits).where(_v.id == visit_id)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no visit {visit_id}")
    return visit_dict(row, bool(PayableRule(connection, payable_requires)([row])))


def visit_dict(row: Any, payable: bool) -> dict[str, Any]:
    """A row of `guestgate.schema.visits` as users see it."""
    made_by_checkin = row.source in BY_CHECKIN
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


def validations(connection: Connection, chosen: Filter) -> Iterator[tuple[int, dict[str, Any]]]:
    """Member validations in the order they were recorded, each with its ``seq``; of a limit, the latest."""
    query = _with_answers(connection, schema.validations)
    if chosen.member is not None:
        query = query.where(_n.member_id == chosen.member)
    if chosen.studio is not None:
        query = query.where(_n.studio_id == chosen.studio)
    if chosen.since is not None:
        query = query.where(_n.received_at_ms >= clock.to_ms(chosen.since))
    for row in rows(connection, query, _n.seq, chosen):
        yield row.seq, validation_dict(row)


def validation_dict(row: Any) -> dict[str, Any]:
    """A row of `guestgate.schema.validations`, with its answer, as users see it."""
    return {
        "id": row.id,
        "received_at": clock.iso_of(row.received_at_ms),
        "studio": row.studio_id,
        "member": row.member_id,
        "code": row.code,
        "outcome": row.outcome,
        "reason": row.reason,
        "http_status": row.http_status,
        "answer_ms": row.answer_ms,
        "undelivered": row.undelivered,
    }


def pages(connection: Connection, query: Select[Any], seq: Any, chosen: Filter) -> Iterator[Sequence[Any]]:
    """The rows of a query in the order asked for, some at a time; `seq` is its column of that name."""
    if chosen.upto is not None:
        query = query.where(seq <= chosen.upto)
    if chosen.order is Order.LATEST and chosen.limit is not None:
        latest = connection.execute(query.where(seq > chosen.after).order_by(seq.desc()).limit(chosen.limit))
        yield latest.all()[::-1]
        return
    after, left = chosen.after, chosen.limit
    while left is None or left > 0:
        size = PAGE if left is None else min(PAGE, left)
        if chosen.order is Order.DESCENDING:
            part = (query.where(seq < after) if after else query).order_by(seq.desc())
        else:
            part = query.where(seq > after).order_by(seq)
        page = connection.execute(part.limit(size)).all()
        yield page
        if len(page) < size:
            return
        after, left = page[-1].seq, None if left is None else left - size


def rows(connection: Connection, query: Select[Any], seq: Any, chosen: Filter) -> Iterator[Any]:
    """The same, one by one."""
    for page in pages(connection, query, seq, chosen):
        yield from page
