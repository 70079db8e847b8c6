"""Studios' accounts at the platform's Open API. Every function is part of the caller's transaction.

A studio has one: an address, which all studios of a gym chain share, and a key of kind ``openapi``. The key is
sealed together with studio and address, so it is sent to no other address than the one it was given for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address

from sqlalchemy import Connection, delete, insert, select, update

from guestgate import changes, clock, schema, studios
from guestgate.changes import Change
from guestgate.directory import KeyKind, changed
from guestgate.errors import NotFoundError, OperationError, UsageError
from guestgate.fingerprints import fingerprint, sha256_of
from guestgate.platform.secret_keys import SecretKeys
from guestgate.registration import check_url

PLATFORM = "https://{tenant}.open-api.perfectgym.com/v1"
_TENANT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
_a, _k = schema.accounts.c, schema.keys.c
_in_force = (_k.sha256 == _a.key_sha256) & (_k.kind == KeyKind.OPENAPI.value) & _k.revoked_at_ms.is_(None)


@dataclass(frozen=True)
class Account:
    """What a studio's calls of the Open API need. ``platform_studio_id`` is None until the platform has told it."""

    studio_id: str
    base_url: str
    key: str = field(repr=False)
    platform_studio_id: int | None = None


def base_url(tenant: str | None, url: str | None) -> str:
    """The address of a tenant, or one that is given in full. Raises UsageError unless it is exactly one, and safe."""
    if (tenant is None) == (url is None):
        raise UsageError("--tenant: an Open API key needs the tenant it came with, or --url with the whole address")
    if tenant is not None:
        if not _TENANT.fullmatch(tenant):
            raise UsageError(
                f"--tenant: {tenant[:80]!r} is not the name of a tenant; it stands in the activation email"
            )
        return PLATFORM.format(tenant=tenant.lower())
    assert url is not None
    parts = check_url(url)
    if parts.userinfo or parts.query or parts.fragment or "?" in url or "#" in url:
        raise UsageError("--url: give https://HOST/v1 without anything before or after it")
    if parts.scheme != "https" and not is_loopback(parts.host):
        raise UsageError("--url: should be https; a key goes unencrypted to this machine only")
    return str(parts).rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def put(
    connection: Connection,
    secret_keys: SecretKeys,
    account: Account,
    expires_at: datetime | None = None,
) -> str:
    """Give a studio this account in the place of any other; returns the key's fingerprint.

    Raises what `studios.add_key` does, and UsageError where there is nothing to seal the key with.
    """
    sealed = secret_keys.seal(account.key, to=(account.studio_id, account.base_url))
    added = studios.add_key(
        connection, account.studio_id, account.key, KeyKind.OPENAPI, expires_at, url=account.base_url
    )
    key_sha256 = sha256_of(account.key)
    _end_others(connection, account.studio_id, key_sha256)
    connection.execute(delete(schema.accounts).where(_a.studio_id == account.studio_id))
    connection.execute(
        insert(schema.accounts).values(
            studio_id=account.studio_id,
            base_url=account.base_url,
            platform_studio_id=account.platform_studio_id,
            key_sha256=key_sha256,
            sealed_key=sealed,
        )
    )
    return added


def _end_others(connection: Connection, studio_id: str, key_sha256: str) -> None:
    """We send one key only, so the one before ends with the next."""
    others = (
        (_k.studio_id == studio_id)
        & (_k.kind == KeyKind.OPENAPI.value)
        & (_k.sha256 != key_sha256)
        & _k.revoked_at_ms.is_(None)
    )
    ended = connection.execute(select(_k.sha256).where(others)).scalars().all()
    if ended:
        connection.execute(update(schema.keys).where(others).values(revoked_at_ms=clock.now_ms()))
        before = {"studio": studio_id, "kinds": [KeyKind.OPENAPI.value]}
        changes.record(connection, [Change("key.revoked", fingerprint(sha256), before) for sha256 in ended])
        changed(connection)


def load(connection: Connection, secret_keys: SecretKeys, studio_id: str) -> Account:
    """A studio's account, with its key.

    Raises NotFoundError where there is no such studio or no key in force, UsageError without a secret key, and
    OperationError where none opens it.
    """
    row = connection.execute(
        select(schema.accounts, _k.expires_at_ms).join(schema.keys, _in_force).where(_a.studio_id == studio_id)
    ).one_or_none()
    if row is None or (row.expires_at_ms is not None and row.expires_at_ms <= clock.now_ms()):
        studios.require(connection, studio_id)
        state = "has no Open API key" if row is None else "has an Open API key that is expired"
        raise NotFoundError(
            f"studio {studio_id} {state}; add one: "
            f"guestgate key add {studio_id} --kind openapi --tenant T --key-stdin"
        )
    key = secret_keys.unseal(row.sealed_key, to=(row.studio_id, row.base_url))
    return Account(row.studio_id, row.base_url, key, row.platform_studio_id)


def studios_with_account(connection: Connection) -> Sequence[str]:
    """The ids of studios with an Open API key in force, in order."""
    now_ms = clock.now_ms()
    valid = _k.expires_at_ms.is_(None) | (_k.expires_at_ms > now_ms)
    query = select(_a.studio_id).join(schema.keys, _in_force).where(valid).order_by(_a.studio_id)
    return connection.execute(query).scalars().all()


def platform_studios(connection: Connection, base_url: str) -> dict[str, int | None]:
    """The studios with an account at a chain, and what the platform calls them; None where it has not told it yet."""
    query = select(_a.studio_id, _a.platform_studio_id).where(_a.base_url == base_url)
    return {row.studio_id: row.platform_studio_id for row in connection.execute(query)}


def problems(connection: Connection, secret_keys: SecretKeys) -> list[str]:
    """Why Open API keys cannot be used, a sentence each; one for all where there is no secret key."""
    found = studios_with_account(connection)
    try:
        if found:
            secret_keys.require()
    except UsageError as error:
        return [str(error)]
    sentences = []
    for studio_id in found:
        try:
            load(connection, secret_keys, studio_id)
        except OperationError as error:
            sentences.append(str(error))
    return sentences


def note_platform_studio(connection: Connection, studio_id: str, platform_studio_id: int) -> None:
    """Remember what the platform calls a studio."""
    connection.execute(
        update(schema.accounts).where(_a.studio_id == studio_id).values(platform_studio_id=platform_studio_id)
    )


def note_activation(connection: Connection, studio_id: str) -> None:
    """Remember who had the platform send webhooks for a studio."""
    changes.record(connection, [Change("studio.activated", studio_id)])


def seal_again(connection: Connection, secret_keys: SecretKeys) -> int:
    """Seal every key with the first secret key; returns how many there are. Raises what `load` does."""
    rows = connection.execute(select(schema.accounts).order_by(_a.studio_id)).all()
    for row in rows:
        to = (row.studio_id, row.base_url)
        sealed = secret_keys.seal(secret_keys.unseal(row.sealed_key, to=to), to=to)
        connection.execute(update(schema.accounts).where(_a.studio_id == row.studio_id).values(sealed_key=sealed))
    if rows:
        changes.record(connection, [Change("secret_key.changed", "accounts", None, {"accounts": len(rows)})])
    return len(rows)
