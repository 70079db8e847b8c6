"""One decision as a case: the call it answers, what was known, how the answer left, and what became of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from guestgate import clock, plans_file, record, schema, words
from guestgate.attendance.attendances import stay_of
from guestgate.directory import KeyKind
from guestgate.fingerprints import fingerprint, state
from guestgate.record import Filter, Order

_d, _w, _k = schema.decisions.c, schema.visit_changes.c, schema.keys.c

NEXT = 5


def case(connection: Connection, decision_id: str, *, payable_requires: str) -> dict[str, Any]:
    """All that belongs to a decision. Raises NotFoundError where there is none.

    ``decision`` and ``visit`` are as users see them everywhere, the latter None where there is none; ``key`` is
    what the call came with; ``plan`` the rules of that day, a sentence each; ``stay`` when somebody came in on the
    visit and left; ``corrections`` what was done to the visit; ``next`` the member's next decisions.
    """
    decision = record.decision(connection, decision_id)
    used = connection.execute(select(_d.key_fingerprint).where(_d.id == decision_id)).scalar_one()
    visit = decision["visit"]
    return {
        "decision": decision,
        "key": {"fingerprint": used, "state": _key_state(connection, decision["studio"], used)},
        "plan": _rules(connection, decision["plan"], decision["plan_version"]),
        "visit": None if visit is None else record.visit(connection, visit, payable_requires=payable_requires),
        "stay": None if visit is None else stay_of(connection, visit),
        "corrections": [] if visit is None else _corrections(connection, visit),
        "next": [] if decision["member"] is None else _next(connection, decision),
    }


def _key_state(connection: Connection, studio: str, used: str) -> str | None:
    """As of now; None where the key is not known any more."""
    these = (_k.studio_id == studio, _k.kind == KeyKind.CHECKIN.value, _k.sha256.startswith(used))
    rows = connection.execute(select(schema.keys).where(*these)).all()
    return next((state(row, clock.now_ms()) for row in rows if fingerprint(row.sha256) == used), None)


def _rules(connection: Connection, plan: str | None, version: int | None) -> list[str]:
    columns = schema.plan_versions.c
    document = connection.execute(
        select(columns.document).where(columns.plan_id == plan, columns.version == version)
    ).scalar_one_or_none()
    if plan is None or version is None or document is None:
        return []
    return words.plan(plans_file.plan_of(plan, version, document))


def _corrections(connection: Connection, visit: str) -> list[dict[str, Any]]:
    """What was done to a visit, in order."""
    return [
        {"at": clock.iso_of(row.changed_at_ms), "state": row.state, "who": row.who, "why": row.why}
        for row in connection.execute(select(schema.visit_changes).where(_w.visit_id == visit).order_by(_w.seq))
    ]


def _next(connection: Connection, decision: dict[str, Any]) -> list[dict[str, Any]]:
    """The member's next decisions after this one."""
    since = datetime.fromisoformat(decision["received_at"])
    chosen = Filter(member=decision["member"], since=since, limit=NEXT + 1, order=Order.ASCENDING)
    return [one for _, one in record.decisions(connection, chosen) if one["id"] != decision["id"]][:NEXT]
