"""Sessions of the admin listener's pages: worth what their token is worth."""

from __future__ import annotations

from datetime import timedelta

import pytest
from callers import rows
from gate import Gate, wait_for

from guestgate import clock, sessions, tokens
from guestgate.fingerprints import fingerprint, sha256_of
from guestgate.tokens import Holder, Role


def begin(gate: Gate, token: str) -> str:
    """Sign in."""
    with gate.database.write() as connection:
        session = sessions.begin(connection, token)
    assert session is not None
    return session


def holder(gate: Gate, session: str) -> Holder | None:
    """Who is behind a session."""
    with gate.database.read() as connection:
        return sessions.holder(connection, session)


def test_a_session_is_its_token_s_holder_until_it_ends(home: Gate) -> None:
    """Each sign-in is a session of its own, and no secret is stored."""
    token = home.token(Role.OPERATOR, name="anna")
    one, other = begin(home, token), begin(home, token)
    assert holder(home, one) == holder(home, other) == Holder(fingerprint(sha256_of(token)), "anna", Role.OPERATOR)
    assert token not in (one, other)
    stored = str(rows(home.database, "SELECT * FROM sessions"))
    assert not any(secret in stored for secret in (token, one, other))
    with home.database.write() as connection:
        sessions.end(connection, one)
    assert holder(home, one) is None and holder(home, other) is not None


def test_a_revoked_or_expired_token_takes_its_sessions_along(home: Gate) -> None:
    """At once; and none begins with it any more."""
    token, brief = home.token(), home.token(expires_at=clock.now() + timedelta(seconds=1))
    session, short = begin(home, token), begin(home, brief)
    with home.database.write() as connection:
        tokens.revoke(connection, fingerprint(sha256_of(token)))
    assert holder(home, session) is None
    wait_for(lambda: holder(home, short) is None, "the session outlives its token")
    with home.database.write() as connection:
        assert [sessions.begin(connection, one) for one in (token, brief, "unknown")] == [None] * 3


def test_a_session_ends_by_itself(home: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves nothing, once somebody signs in again."""
    token = home.token()
    monkeypatch.setattr(sessions, "LASTS", timedelta(0))
    assert holder(home, begin(home, token)) is None
    monkeypatch.undo()
    begin(home, token)
    assert rows(home.database, "SELECT count(*) FROM sessions") == [(1,)]
