"""How far the record has been read, and who is reconciling. Every function is part of the caller's transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, exists, func, insert, select, update

from guestgate import clock, schema
from guestgate.errors import ConflictError

# Whoever reconciles keeps others from it for so long, from each step on; one that was killed not for longer. Who is
# overtaken, since a step took longer than that, gives way.
LEASE_MS = 60_000

_p, _w = schema.attendance_progress.c, schema.webhooks.c
_NOTHING = {"id": 1, "seq": 0, "reconciling_until_ms": 0, "reconciled_at_ms": 0}


def note(connection: Connection, **values: int) -> None:
    """Change the row of `schema.attendance_progress`, or make it."""
    if not connection.execute(update(schema.attendance_progress).values(**values)).rowcount:
        connection.execute(insert(schema.attendance_progress).values(**_NOTHING | values))


def read_up_to(connection: Connection) -> int:
    """The last number of the record that has been read."""
    return int(connection.execute(select(_p.seq)).scalar_one_or_none() or 0)


def reconciled_at_ms(connection: Connection) -> int:
    """When the last reconciliation that came to its end began; 0 where there was none."""
    return int(connection.execute(select(_p.reconciled_at_ms)).scalar_one_or_none() or 0)


def somebody_tells(connection: Connection) -> bool:
    """Whether anybody may tell who came in: a webhook did, or there is a history to ask, now or once before."""
    tells = exists(select(_w.seq)) | exists(select(schema.accounts.c.studio_id))
    return bool(connection.execute(select(tells)).scalar_one() or reconciled_at_ms(connection))


def begin_reconciling(connection: Connection) -> int:
    """Keep others from it for a while; returns until when. Raises ConflictError where somebody is reconciling."""
    until_ms = _reconciling_until_ms(connection)
    if until_ms > clock.now_ms():
        raise ConflictError(
            f"somebody is reconciling just now; one that was killed is waited for until {clock.iso_of(until_ms)}"
        )
    return go_on_reconciling(connection, until_ms)


def go_on_reconciling(connection: Connection, until_ms: int) -> int:
    """Keep others from it for a while longer than what was said last; returns until when.

    Raises ConflictError where somebody else has begun since: what was said last tells who is reconciling.
    """
    if _reconciling_until_ms(connection) != until_ms:
        raise ConflictError("somebody else began to reconcile meanwhile; this one gave way")
    until_ms = max(clock.now_ms() + LEASE_MS, until_ms)
    note(connection, reconciling_until_ms=until_ms)
    return until_ms


def end_reconciling(connection: Connection, until_ms: int) -> None:
    """Let others, unless one of them has begun already."""
    if _reconciling_until_ms(connection) == until_ms:
        note(connection, reconciling_until_ms=0)


def _reconciling_until_ms(connection: Connection) -> int:
    return int(connection.execute(select(_p.reconciling_until_ms)).scalar_one_or_none() or 0)


def waiting(connection: Connection) -> Any:
    """How many webhooks have not been read yet (``count``), and when the first of them came (``oldest_ms``)."""
    count, oldest_ms = func.count().label("count"), func.min(_w.received_at_ms).label("oldest_ms")
    return connection.execute(select(count, oldest_ms).where(_w.seq > read_up_to(connection))).one()
