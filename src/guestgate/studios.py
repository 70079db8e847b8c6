"""Changing studios and their keys. Every function is part of the caller's transaction."""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime
from typing import Any
from zoneinfo import available_timezones

from sqlalchemy import Connection, delete, insert, select, update

from guestgate import changes, clock, schema
from guestgate.changes import Change
from guestgate.directory import KeyKind, changed, tags_of, tags_text
from guestgate.errors import ConflictError, NotFoundError, UsageError
from guestgate.fingerprints import fingerprint, in_force, sha256_of, state
from guestgate.suggest import did_you_mean

_ID = re.compile(r"[^\x00-\x1f\x7f]{1,255}")
_NO_TEXT = re.compile("[\ud800-\udfff\ufffd]")
_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")
MIN_ENTROPY_BITS = 128

_studios, _keys = schema.studios, schema.keys


def add(
    connection: Connection, studio_id: str, *, name: str, timezone: str, tags: frozenset[str], test: bool
) -> None:
    """Add a studio. Raises ConflictError where one of this id exists."""
    check_id(studio_id, "a studio's id")
    _check(name, timezone, tags)
    require_none(connection, studio_id)
    connection.execute(
        insert(_studios).values(
            id=studio_id,
            name=name,
            timezone=timezone,
            tags=tags_text(tags),
            active=True,
            test=test,
            created_at_ms=clock.now_ms(),
        )
    )
    changes.record(connection, [Change("studio.added", studio_id, None, _visible(require(connection, studio_id)))])
    changed(connection)


def change(
    connection: Connection,
    studio_id: str,
    *,
    name: str | None = None,
    timezone: str | None = None,
    tags: frozenset[str] | None = None,
    active: bool | None = None,
) -> None:
    """Change what is given. Visits keep the local date and the tags that they were made with."""
    row = require(connection, studio_id)
    _check(row.name if name is None else name, row.timezone if timezone is None else timezone, tags or frozenset())
    values = {"name": name, "timezone": timezone, "active": active}
    values["tags"] = None if tags is None else tags_text(tags)
    values = {column: value for column, value in values.items() if value is not None}
    if values:
        connection.execute(update(_studios).where(_studios.c.id == studio_id).values(values))
    before, after = _visible(row), _visible(require(connection, studio_id))
    if before != after:
        changes.record(connection, [Change("studio.changed", studio_id, before, after)])
        changed(connection)


def _visible(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "timezone": row.timezone,
        "tags": sorted(tags_of(row.tags)),
        "active": row.active,
        "test": row.test,
    }


def studio_list(connection: Connection, *, after: str = "", limit: int | None = None) -> list[dict[str, Any]]:
    """Studios as users see them, by id, those after a certain one, with the number of keys in force."""
    valid = Counter(key["studio"] for key in key_list(connection) if key["state"] == "valid")
    query = select(_studios).where(_studios.c.id > after).order_by(_studios.c.id).limit(limit)
    return [{**_visible(row), "keys": valid[row.id]} for row in connection.execute(query)]


def places(connection: Connection) -> dict[str, dict[str, str]]:
    """What people call each studio, and where it is, by id: ``id``, ``name``, ``timezone``."""
    query = select(_studios.c.id, _studios.c.name, _studios.c.timezone).order_by(_studios.c.id)
    return {row.id: dict(row._mapping) for row in connection.execute(query)}


def studio_dict(connection: Connection, studio_id: str) -> dict[str, Any]:
    """One studio as users see it. Raises NotFoundError naming similar ids."""
    row = require(connection, studio_id)
    keys = key_list(connection, studio_id)
    return {**_visible(row), "keys": sum(key["state"] == "valid" for key in keys)}


def require(connection: Connection, studio_id: str) -> Any:
    """The studio's row. Raises NotFoundError naming similar ids."""
    row = _row(connection, studio_id)
    if row is None:
        known = connection.execute(select(_studios.c.id)).scalars()
        raise NotFoundError(f"there is no studio {studio_id}{did_you_mean(studio_id, known)}")
    return row


def require_none(connection: Connection, studio_id: str) -> None:
    """Raise ConflictError where there is a studio of this id."""
    if _row(connection, studio_id) is not None:
        raise ConflictError(f"studio {studio_id} exists already; change it with guestgate studio set")


def _row(connection: Connection, studio_id: str) -> Any:
    return connection.execute(select(_studios).where(_studios.c.id == studio_id)).one_or_none()


def _check(name: str, timezone: str, tags: frozenset[str]) -> None:
    if not name.strip() or len(name) > 255 or not _encodable(name):
        raise UsageError("--name: should have 1 to 255 characters, in UTF-8")
    for tag in tags:
        check_id(tag, "--tag")
    if timezone not in available_timezones():
        similar = did_you_mean(timezone, available_timezones())
        raise UsageError(f"--timezone: there is no time zone {timezone[:64]!r}{similar}; write Europe/Berlin")


def check_id(value: str, what: str) -> None:
    """Raise UsageError unless this can be an id."""
    if not _ID.fullmatch(value) or not _encodable(value):
        raise UsageError(f"{what} has 1 to 255 characters and no control characters")


def _encodable(value: str) -> bool:
    # U+FFFD stands for bytes that were no text.
    return not _NO_TEXT.search(value)


def add_key(
    connection: Connection,
    studio_id: str,
    token: str,
    kind: KeyKind,
    expires_at: datetime | None = None,
    *,
    url: str | None = None,
) -> str:
    """Give a studio a token; returns its fingerprint. The token itself is not stored.

    Given again it is renewed. `url` is for the audit trail: where the token is sent, if it is we who send it
    (`guestgate.platform.accounts`). Raises ConflictError where another studio holds it.
    """
    require(connection, studio_id)
    if not _TOKEN.fullmatch(token):
        raise UsageError("the key should be 1 to 512 printable ASCII characters without spaces")
    if expires_at is not None and expires_at <= clock.now():
        raise UsageError("--expires: lies in the past")
    sha256 = sha256_of(token)
    now_ms = clock.now_ms()
    for row in connection.execute(select(_keys).where(_keys.c.sha256 == sha256)):
        if row.studio_id != studio_id and state(row, now_ms) == "valid":
            raise ConflictError(f"the key {fingerprint(sha256)} is held by studio {row.studio_id}")
    known = connection.execute(
        select(_keys.c.kind).where(_keys.c.sha256 == sha256, _keys.c.kind == kind.value)
    ).one_or_none()
    values = {
        "studio_id": studio_id,
        "created_at_ms": now_ms,
        "expires_at_ms": clock.to_ms(expires_at) if expires_at else None,
        "revoked_at_ms": None,
    }
    if known is None:
        connection.execute(insert(_keys).values(sha256=sha256, kind=kind.value, **values))
    else:
        connection.execute(update(_keys).where(_keys.c.sha256 == sha256, _keys.c.kind == kind.value).values(values))
    after = {"studio": studio_id, "kind": kind.value, "expires_at": clock.iso(expires_at) if expires_at else None}
    after |= {} if url is None else {"url": url}
    changes.record(connection, [Change("key.added", fingerprint(sha256), None, after)])
    changed(connection)
    return fingerprint(sha256)


def revoke_key(connection: Connection, fingerprint_: str) -> int:
    """End every use of a token; returns how many kinds it served. Raises NotFoundError where there is none."""
    rows = in_force(connection, _keys, fingerprint_, "key")
    sha256 = rows[0].sha256
    connection.execute(
        update(_keys)
        .where(_keys.c.sha256 == sha256, _keys.c.revoked_at_ms.is_(None))
        .values(revoked_at_ms=clock.now_ms())
    )
    connection.execute(delete(schema.accounts).where(schema.accounts.c.key_sha256 == sha256))
    before = {"studio": rows[0].studio_id, "kinds": sorted(row.kind for row in rows)}
    changes.record(connection, [Change("key.revoked", fingerprint(sha256), before)])
    changed(connection)
    return len(rows)


def key_list(connection: Connection, studio_id: str | None = None) -> list[dict[str, Any]]:
    """All keys as users see them: fingerprints, never tokens."""
    now_ms = clock.now_ms()
    query = select(_keys).order_by(_keys.c.studio_id, _keys.c.created_at_ms)
    if studio_id is not None:
        require(connection, studio_id)
        query = query.where(_keys.c.studio_id == studio_id)
    return [
        {
            "fingerprint": fingerprint(row.sha256),
            "studio": row.studio_id,
            "kind": row.kind,
            "state": state(row, now_ms),
            "created_at": clock.iso_of(row.created_at_ms),
            "expires_at": clock.iso_of(row.expires_at_ms),
            "last_used_at": clock.iso_of(row.last_used_at_ms),
        }
        for row in connection.execute(query)
    ]


def is_weak(token: str) -> bool:
    """Whether a token surely has less than 128 bits of entropy, judged by its length and kinds of characters."""
    alphabet = sum(
        size
        for pattern, size in (
            (r"[0-9]", 10),
            (r"[a-f]", 6),
            (r"[g-z]", 20),
            (r"[A-Z]", 26),
            (r"[^0-9a-zA-Z]", 32),
        )
        if re.search(pattern, token)
    )
    distinct = len(set(token))
    if distinct < 8:
        return True
    return len(token) * (alphabet - 1).bit_length() < MIN_ENTROPY_BITS
