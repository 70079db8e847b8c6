"""Tokens of the admin listener: who may use it, and for what. Every function is part of the caller's transaction."""

from __future__ import annotations

import secrets
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select, update

from guestgate import changes, clock, schema
from guestgate.changes import Change
from guestgate.errors import UsageError
from guestgate.fingerprints import fingerprint, in_force, sha256_of, state

_tokens = schema.tokens

# Secret scanners find what has a name of its own.
PREFIX = "ggt_"


class Role(StrEnum):
    """What a token is good for; each may do what the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        """Whether this role may do what the other may."""
        roles = list(Role)
        return roles.index(self) >= roles.index(other)


class Holder(NamedTuple):
    """Whoever holds a token."""

    fingerprint: str
    name: str
    role: Role

    @property
    def who(self) -> str:
        """As the audit trail names it."""
        return f"token:{self.name or self.fingerprint}"


def create(connection: Connection, role: Role, *, name: str = "", expires_at: datetime | None = None) -> str:
    """A new token. It is not stored and cannot be shown again."""
    if len(name) > 200 or not name.isprintable():
        raise UsageError("--name: should have at most 200 printable characters")
    if expires_at is not None and expires_at <= clock.now():
        raise UsageError("--expires: lies in the past")
    token = PREFIX + secrets.token_urlsafe(32)
    sha256 = sha256_of(token)
    connection.execute(
        insert(_tokens).values(
            sha256=sha256,
            name=name,
            role=role.value,
            created_at_ms=clock.now_ms(),
            expires_at_ms=clock.to_ms(expires_at) if expires_at else None,
        )
    )
    after = {"name": name, "role": role.value, "expires_at": clock.iso(expires_at) if expires_at else None}
    changes.record(connection, [Change("token.created", fingerprint(sha256), None, after)])
    return token


def holder(connection: Connection, token: str) -> Holder | None:
    """Who holds this token; None where it is unknown, revoked or expired."""
    return holder_of(connection, sha256_of(token))


def holder_of(connection: Connection, sha256: str) -> Holder | None:
    """The same for a token that is known by its hash."""
    row = connection.execute(select(_tokens).where(_tokens.c.sha256 == sha256)).one_or_none()
    if row is None or state(row, clock.now_ms()) != "valid":
        return None
    return Holder(fingerprint(row.sha256), row.name, Role(row.role))


def revoke(connection: Connection, beginning: str) -> None:
    """End a token, named by its fingerprint. Raises NotFoundError where there is none."""
    (row,) = in_force(connection, _tokens, beginning, "token")
    connection.execute(update(_tokens).where(_tokens.c.sha256 == row.sha256).values(revoked_at_ms=clock.now_ms()))
    changes.record(
        connection, [Change("token.revoked", fingerprint(row.sha256), {"name": row.name, "role": row.role})]
    )


def token_list(connection: Connection) -> list[dict[str, Any]]:
    """All tokens as users see them, the oldest first."""
    now_ms = clock.now_ms()
    return [
        {
            "fingerprint": fingerprint(row.sha256),
            "name": row.name,
            "role": row.role,
            "state": state(row, now_ms),
            "created_at": clock.iso_of(row.created_at_ms),
            "expires_at": clock.iso_of(row.expires_at_ms),
        }
        for row in connection.execute(select(_tokens).order_by(_tokens.c.created_at_ms, _tokens.c.sha256))
    ]
