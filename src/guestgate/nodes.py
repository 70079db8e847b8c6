"""Servers that share one record: each says from time to time how it is, and so knows of the others.

Every function is part of the caller's transaction. Who says nothing for a while is silent, for whatever reason: it
may have ended, or be cut off from the database and stand in for it. By the database's clock, since theirs may differ.
"""

from __future__ import annotations

import socket
import uuid
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, cast, delete, func, insert, select, update

from guestgate import __version__, clock, schema
from guestgate.settings import Settings

_nodes = schema.nodes
_n = _nodes.c

TELL_EVERY_S = 5.0
SILENT_MS = 20_000
FORGOTTEN_MS = 24 * 3600 * 1000


class NodeState(StrEnum):
    """What a server does with check-ins."""

    SERVING = "serving"
    STANDING_IN = "standing_in"
    NOT_READY = "not_ready"
    SILENT = "silent"


class Node(NamedTuple):
    """What a server says of itself. ``checkins``, the share ``in_time`` and ``p99_ms`` are the last minute's.

    The latter two are None where nobody came; ``copy_age_s`` where there is no copy to stand in with.
    """

    id: str
    name: str
    version: str
    started_at_ms: int
    state: NodeState = NodeState.SERVING
    checkins: int = 0
    in_time: float | None = None
    p99_ms: float | None = None
    copy_age_s: float | None = None


def this_server(settings: Settings) -> Node:
    """A server that has just started: a new id, and the name by which people know it."""
    place = settings.host if settings.host.startswith("unix:") else settings.port
    return Node(str(uuid.uuid4()), f"{socket.gethostname()}:{place}", __version__, clock.now_ms())


def arrive(connection: Connection, node: Node) -> None:
    """Tell for the first time; whoever had this name before is gone."""
    connection.execute(delete(_nodes).where(_n.name == node.name))
    tell(connection, node)


def tell(connection: Connection, node: Node) -> None:
    """Have the others know how this server is, and forget those that have been silent for a day."""
    now_ms = _now_ms(connection)
    values = {**node._asdict(), "state": node.state.value, "seen_at_ms": now_ms}
    if not connection.execute(update(_nodes).where(_n.id == node.id).values(values)).rowcount:
        connection.execute(insert(_nodes).values(values))
    connection.execute(delete(_nodes).where(_n.seen_at_ms < now_ms - FORGOTTEN_MS))


def leave(connection: Connection, node: Node) -> None:
    """This server ends, and is not missed."""
    connection.execute(delete(_nodes).where(_n.id == node.id))


def node_list(connection: Connection, own: Node | None) -> list[dict[str, Any]]:
    """All servers as users see them, by name; `own` as it says itself, told or not."""
    now_ms = _now_ms(connection)
    rows = connection.execute(select(_nodes)).all()
    found = [_dict(row, row.seen_at_ms, now_ms) for row in rows if own is None or row.id != own.id]
    if own is not None:
        found.append(own_dict(own))
    return sorted(found, key=lambda node: (node["name"], node["started_at"]))


def own_dict(own: Node) -> dict[str, Any]:
    """This server as users see it, which does not take the database."""
    now_ms = clock.now_ms()
    return _dict(own, now_ms, now_ms)


def _dict(node: Any, seen_at_ms: int, now_ms: int) -> dict[str, Any]:
    is_silent = now_ms - seen_at_ms > SILENT_MS
    return {
        "id": node.id,
        "name": node.name,
        "version": node.version,
        "state": NodeState.SILENT.value if is_silent else NodeState(node.state).value,
        "started_at": clock.iso_of(node.started_at_ms),
        "seen_at": clock.iso_of(seen_at_ms),
        "checkins": node.checkins,
        "in_time": node.in_time,
        "p99_ms": node.p99_ms,
        "copy_age_s": node.copy_age_s,
    }


def _now_ms(connection: Connection) -> int:
    if connection.dialect.name == "sqlite":  # the same machine's
        return clock.now_ms()
    now = cast(func.extract("epoch", func.statement_timestamp()) * 1000, BigInteger)
    return int(connection.execute(select(now)).scalar_one())
