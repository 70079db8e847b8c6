"""Sessions of people who use the admin listener's pages. Every function is part of the caller's transaction.

A session is begun with a token and is worth what that token is worth at each moment: revoked or expired, it
takes its sessions along. Like tokens, sessions are stored as hashes only.
"""

from __future__ import annotations

import secrets
from datetime import timedelta

from sqlalchemy import Connection, delete, insert, select

from guestgate import clock, schema, tokens
from guestgate.fingerprints import sha256_of
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


def end(connection: Connection, session: str) -> None:
    """End a session."""
    connection.execute(delete(_sessions).where(_sessions.c.sha256 == sha256_of(session)))
