"""Sessions of people who use the admin listener's pages. Every function is part of the caller's transaction.

A session is begun with a token and is worth what that token is worth at each moment: revoked or expired, it
takes its sessions along. Like tokens, sessions are stored as hashes only.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import Connection, delete, insert, select

from guestgate import clock, schema, tokens
from guestgate.fingerprints import sha256_of, state
from guestgate.tokens import Holder

_sessions = schema.sessions

# A working day; whoever stays longer shows the token again.
LASTS = timedelta(hours=12)


def begin(connection: Connection, token: str) -> str | None:
    """A new session for whoever holds this token; None where it is unknown, revoked or expired."""
    if tokens.holder(connection, token) is None:
        return None
    now_ms = clock.now_ms()
    connection.execute(delete(_sessions).where(_sessions.c.expires_at_ms <= now_ms))
    session = secrets.token_urlsafe(32)
    connection.execute(
        insert(_sessions).values(
            sha256=sha256_of(session),
            token_sha256=sha256_of(token),
            expires_at_ms=clock.to_ms(clock.from_ms(now_ms) + LASTS),
        )
    )
    return session


def holder(connection: Connection, session: str) -> Holder | None:
    """Who is behind a session; None where it is unknown or over, or its token is not valid any more."""
    token_sha256 = connection.execute(
        select(_sessions.c.token_sha256).where(
            _sessions.c.sha256 == sha256_of(session), _sessions.c.expires_at_ms > clock.now_ms()
        )
    ).scalar_one_or_none()
    return None if token_sha256 is None else tokens.holder_of(connection, token_sha256)


def good(connection: Connection, several: Collection[str]) -> set[str]:
    """Those of several sessions that have a `holder`."""
    by_hash = {sha256_of(session): session for session in several}
    now_ms = clock.now_ms()
    query = (
        select(_sessions.c.sha256, schema.tokens)
        .join(schema.tokens, schema.tokens.c.sha256 == _sessions.c.token_sha256)
        .where(_sessions.c.sha256.in_(by_hash), _sessions.c.expires_at_ms > now_ms)
    )
    return {by_hash[row[0]] for row in connection.execute(query) if state(row, now_ms) == "valid"}


def end(connection: Connection, session: str) -> None:
    """End a session."""
    connection.execute(delete(_sessions).where(_sessions.c.sha256 == sha256_of(session)))
