"""`guestgate db check`: does the record agree with itself?

Each check is a question whose answer should be nothing; what it finds is named by id.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations, pairwise

from sqlalchemy import Connection, case, func, select

from guestgate import schema, sequence
from guestgate.adjustments import following
from guestgate.directory import KeyKind
from guestgate.model import Outcome, Reason, Source, VisitState
from guestgate.statement_lines import Kind

_d, _a, _v, _w = schema.decisions.c, schema.answers.c, schema.visits.c, schema.visit_changes.c
_n, _s, _l, _e = schema.validations.c, schema.statements.c, schema.statement_lines.c, schema.sightings.c
MOST = 20


def check(connection: Connection) -> list[str]:
    """What is wrong, a sentence each; empty where all is well."""
    return [
        *_integrity(connection),
        *_numbers(connection),
        *_decisions(connection),
        *_visits(connection),
        *_validations(connection),
        *_statements(connection),
        *_sightings(connection),
        *_links(connection),
    ]


def _integrity(connection: Connection) -> Iterator[str]:
    if connection.dialect.name == "sqlite":
        for (problem,) in connection.exec_driver_sql("PRAGMA integrity_check"):
            if problem != "ok":
                yield f"the database file is damaged: {problem}"


def _numbers(connection: Connection) -> Iterator[str]:
    """One order over all tables: no number beyond the last that was given out, none given to two rows."""
    rows = connection.execute(select(func.count()).select_from(schema.feed)).scalar_one()
    if rows != 1:
        yield f"there should be one last number of the record, and there are {rows}"
    given_out = sequence.given_out(connection)
    for table in sequence.NUMBERED:
        last = connection.execute(select(func.max(table.c.seq))).scalar()
        if last is not None and given_out is not None and last > given_out:
            yield f"number {last} in {table.name} lies beyond the last that was given out, {given_out}"
    position = connection.execute(select(func.max(_s.position))).scalar()
    if position is not None and given_out is not None and position > given_out:
        yield f"a month was closed at number {position}, beyond the last that was given out, {given_out}"
    for small, large in combinations(reversed(sequence.NUMBERED), 2):
        both = select(small.c.seq).join(large, large.c.seq == small.c.seq)
        for seq in connection.execute(both.limit(MOST)).scalars():
            yield f"number {seq} stands both in {small.name} and in {large.name}"


def _decisions(connection: Connection) -> Iterator[str]:
    """Every allowed check-in has its visit, every visit of a check-in its decision; answers have what they answer."""
    allowed = _d.outcome == Outcome.ALLOWED.value
    for decision_id in connection.execute(
        select(_d.id)
        .join(schema.visits, _v.id == _d.visit_id, isouter=True)
        .where(allowed, _v.id.is_(None))
        .limit(MOST)
    ).scalars():
        yield f"decision {decision_id} was allowed, but its visit is missing"
    for decision_id in connection.execute(
        select(_d.id).where(~allowed, _d.visit_id.is_not(None)).limit(MOST)
    ).scalars():
        yield f"decision {decision_id} was not allowed, but names a visit"
    for decision_id in connection.execute(
        select(_d.id).where(_d.reason == Reason.OK.value, _d.visit_id != _d.id).limit(MOST)
    ).scalars():
        yield f"decision {decision_id} let a member in on another decision's visit"
    made_it = (_d.visit_id == _v.id) & (_d.outcome == Outcome.ALLOWED.value)
    # Where a stand-in denied what the ledger allowed too late, the denial was sent and is recorded.
    overruled = _d.stand_in & (_v.state == VisitState.REVERSED.value)
    for visit_id, member_id in connection.execute(
        select(_v.id, _v.member_id)
        .join(
            schema.decisions,
            (_d.id == _v.id) & (_d.member_id == _v.member_id) & (made_it | overruled),
            isouter=True,
        )
        .where(_v.source.in_((Source.CHECKIN.value, Source.STAND_IN.value)), _d.id.is_(None))
        .limit(MOST)
    ):
        if _leaned_on(connection, visit_id, member_id):
            continue
        yield f"visit {visit_id} came from a check-in, but its decision is missing or did not allow it"
    for decision_id in connection.execute(
        select(_a.decision_id)
        .join(schema.decisions, _d.id == _a.decision_id, isouter=True)
        .join(schema.validations, _n.id == _a.decision_id, isouter=True)
        .where(_d.id.is_(None), _n.id.is_(None))
        .limit(MOST)
    ).scalars():
        yield f"an answer is recorded for decision {decision_id}, which is missing"


def _leaned_on(connection: Connection, visit_id: str, member_id: str) -> bool:
    """Whether a stand-in overruled the decision behind a visit that stands, since a re-entry leaned on it."""
    overruled = select(_d.id).where(_d.id == visit_id, _d.stand_in)
    leaning = select(_d.id).where(schema.made_no_visit, _d.member_id == member_id, _d.visit_id == visit_id)
    return all(connection.execute(query.limit(1)).first() is not None for query in (overruled, leaning))


def _visits(connection: Connection) -> Iterator[str]:
    """A visit's state is what its last correction says."""
    last = select(_w.visit_id, func.max(_w.seq).label("seq")).group_by(_w.visit_id).subquery()
    changes = select(_w.visit_id, _w.state, _w.why).join(last, last.c.seq == _w.seq).subquery()
    reversed_why = case((changes.c.state == VisitState.REVERSED.value, changes.c.why))
    rows = connection.execute(
        select(_v.id, _v.state, _v.reversed_why, changes.c.state.label("last"), changes.c.why)
        .join(changes, changes.c.visit_id == _v.id, isouter=True)
        .where(
            (func.coalesce(changes.c.state, VisitState.AUTHORIZED.value) != _v.state)
            | (func.coalesce(reversed_why, "") != func.coalesce(_v.reversed_why, ""))
        )
        .limit(MOST)
    )
    for row in rows:
        yield (
            f"visit {row.id} is {row.state} ({row.reversed_why or 'no reason'}), but its corrections say "
            f"{row.last or 'authorized'} ({row.why or 'no reason'})"
        )
    for visit_id in connection.execute(
        select(_w.visit_id).join(schema.visits, _v.id == _w.visit_id, isouter=True).where(_v.id.is_(None)).limit(MOST)
    ).scalars():
        yield f"a correction is recorded for visit {visit_id}, which is missing"


def _validations(connection: Connection) -> Iterator[str]:
    """Whoever may register is named."""
    for validation_id in connection.execute(
        select(_n.id).where(_n.outcome == Outcome.ALLOWED.value, _n.member_id.is_(None)).limit(MOST)
    ).scalars():
        yield f"member validation {validation_id} was allowed, but names no member"


def _statements(connection: Connection) -> Iterator[str]:
    """A closed month has all its lines, and they come to what it says; no visit is settled twice."""
    closed = connection.execute(
        select(schema.statements).where(_s.closed_at_ms.is_not(None)).order_by(_s.month)
    ).all()
    for month, row in pairwise(closed):
        if row.month != following(month.month):
            yield f"{month.month} and {row.month} are closed, and the months between them are not"
    for row in closed:
        lines, payable = connection.execute(
            select(func.count(), func.coalesce(func.sum(_l.payable), 0)).where(
                _l.month == row.month, _l.attempt == row.attempt
            )
        ).one()
        if lines != row.line_count:
            yield f"the statement of {row.month} has {lines} lines and should have {row.line_count}"
        said = sum(total["payable"] + total["adjustments"] for total in json.loads(row.totals))
        if payable != said:
            yield f"the statement of {row.month} says that {said} visits pay, and its lines come to {payable}"
    pays, visits = func.sum(_l.payable), func.sum(case((_l.kind == Kind.VISIT.value, 1), else_=0))
    for visit_id in connection.execute(
        select(_l.visit_id)
        .join(schema.statements, (_s.month == _l.month) & (_s.attempt == _l.attempt))
        .where(_s.closed_at_ms.is_not(None))
        .group_by(_l.visit_id)
        .having(pays.not_in((0, 1)) | (visits > 1))
        .limit(MOST)
    ).scalars():
        yield f"visit {visit_id} has lines in statements that do not come to one visit, paid for once or not at all"


def _sightings(connection: Connection) -> Iterator[str]:
    """What was seen at the door belongs to visits that there are."""
    for reference, visit_id in connection.execute(
        select(_e.reference, _e.visit_id)
        .join(schema.visits, _v.id == _e.visit_id, isouter=True)
        .where(_e.visit_id.is_not(None), _v.id.is_(None))
        .limit(MOST)
    ):
        yield f"what {reference} tells belongs to visit {visit_id}, which is missing"


def _links(connection: Connection) -> Iterator[str]:
    """References that hold."""
    plans, versions = schema.plans.c, schema.plan_versions.c
    for plan_id in connection.execute(
        select(plans.id)
        .join(
            schema.plan_versions, (versions.plan_id == plans.id) & (versions.version == plans.version), isouter=True
        )
        .where(versions.plan_id.is_(None))
        .limit(MOST)
    ).scalars():
        yield f"plan {plan_id} has no rules in its present version"
    keys, accounts = schema.keys.c, schema.accounts.c
    both = (accounts.studio_id == keys.studio_id) & (accounts.key_sha256 == keys.sha256)
    in_force = (keys.kind == KeyKind.OPENAPI.value) & keys.revoked_at_ms.is_(None)
    for studio_id in connection.execute(
        select(keys.studio_id)
        .join(schema.accounts, both, isouter=True)
        .where(in_force, accounts.studio_id.is_(None))
        .limit(MOST)
    ).scalars():
        yield f"studio {studio_id} has an Open API key in force that is not kept"
    for studio_id in connection.execute(
        select(accounts.studio_id)
        .join(schema.keys, both & in_force, isouter=True)
        .where(keys.studio_id.is_(None))
        .limit(MOST)
    ).scalars():
        yield f"an Open API key is kept for studio {studio_id} that is not in force"
    if connection.dialect.name == "sqlite":
        for table, _, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(MOST):
            yield f"a row of {table} names a missing row of {parent}"
