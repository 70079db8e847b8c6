"""Keys and tokens are stored as SHA-256 only; people know them by the first digits of it."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from sqlalchemy import Connection, Table, select

from guestgate.errors import ConflictError, NotFoundError, UsageError


def sha256_of(token: str) -> str:
    """What is stored of a token, in hexadecimal digits."""
    return hashlib.sha256(token.encode()).hexdigest()


def fingerprint(sha256_hex: str) -> str:
    """What a key or token is called where people see it: the first 16 digits of its SHA-256."""
    return sha256_hex[:16]


def in_force(connection: Connection, table: Table, beginning: str, what: str) -> list[Any]:
    """The rows of the one key or token that begins like this and is not revoked.

    `what` is its noun on the command line. Raises UsageError for what is no fingerprint, NotFoundError and
    ConflictError where there is none or more than one.
    """
    if not re.fullmatch(r"[0-9a-f]{8,64}", beginning):
        raise UsageError(f"{beginning!r} is not a fingerprint; guestgate {what} list shows them")
    columns = table.c
    rows = connection.execute(
        select(table).where(columns.sha256.startswith(beginning, autoescape=True), columns.revoked_at_ms.is_(None))
    ).all()
    if not rows:
        raise NotFoundError(f"there is no {what} {beginning} in force; guestgate {what} list shows them")
    if len({row.sha256 for row in rows}) > 1:
        raise ConflictError(f"{beginning} fits several {what}s; give more digits")
    return list(rows)


def state(row: Any, now_ms: int) -> str:
    """``valid``, ``expired`` or ``revoked``."""
    if row.revoked_at_ms is not None:
        return "revoked"
    if row.expires_at_ms is not None and row.expires_at_ms <= now_ms:
        return "expired"
    return "valid"
