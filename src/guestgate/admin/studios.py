"""`/api/v1/studios`, `/api/v1/keys`, `/api/v1/plans`: who may call the door, and the rules."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path

from guestgate import plans, studios
from guestgate.admin import shapes
from guestgate.admin.access import router
from guestgate.admin.context import In
from guestgate.admin.instants import aware
from guestgate.admin.paging import After, Size, page
from guestgate.directory import KeyKind
from guestgate.platform import accounts
from guestgate.platform.accounts import Account
from guestgate.platform.secret_keys import SecretKeys
from guestgate.tokens import Role

reading, writing = router(Role.VIEWER), router(Role.ADMIN)

Id = Annotated[str, Path(description="The studio's id.", max_length=255)]


@reading.get("/studios", response_model=shapes.Page[shapes.Studio], summary="List studios")
def studio_list(office: In, after: After = None, limit: Size = 100) -> dict[str, Any]:
    """Studios by id."""
    with office.read() as connection:
        found = studios.studio_list(connection, after=after or "", limit=limit + 1)
    return page([(studio["id"], studio) for studio in found], limit)


@writing.post("/studios", response_model=shapes.Studio, status_code=201, summary="Add a studio")
def studio_add(office: In, body: shapes.StudioBody) -> dict[str, Any]:
    """Give it a key afterwards."""
    with office.write() as connection:
        studios.add(
            connection, body.id, name=body.name, timezone=body.timezone, tags=frozenset(body.tags), test=body.test
        )
        return studios.studio_dict(connection, body.id)


@writing.patch("/studios/{studio_id:path}", response_model=shapes.Studio, summary="Change a studio")
def studio_change(office: In, studio_id: Id, body: shapes.StudioPatch) -> dict[str, Any]:
    """Past visits keep their local date and tags. Servers follow within two seconds."""
    with office.write() as connection:
        studios.change(
            connection,
            studio_id,
            name=body.name,
            timezone=body.timezone,
            tags=None if body.tags is None else frozenset(body.tags),
            active=body.active,
        )
        return studios.studio_dict(connection, studio_id)


@reading.get("/studios/{studio_id:path}/keys", response_model=shapes.Page[shapes.Key], summary="List a studio's keys")
def key_list(office: In, studio_id: Id) -> dict[str, Any]:
    """All that there ever were, by fingerprint."""
    with office.read() as connection:
        return {"items": studios.key_list(connection, studio_id), "next": None}


@writing.post(
    "/studios/{studio_id:path}/keys", response_model=shapes.Key, status_code=201, summary="Give a studio a key"
)
def key_add(office: In, studio_id: Id, body: shapes.KeyBody) -> dict[str, Any]:
    """The others stay in force, so that a change of key loses no check-in.

    One of kind ``openapi`` needs its ``tenant`` or ``url``, is kept sealed, and takes the place of the last one.
    """
    expires_at = None if body.expires_at is None else aware(body.expires_at, "expires_at")
    with office.write() as connection:
        if body.kind is KeyKind.OPENAPI:
            account = Account(studio_id, accounts.base_url(body.tenant, body.url), body.key)
            secret_keys = SecretKeys.of(office.context.settings)
            fingerprint = accounts.put(connection, secret_keys, account, expires_at)
        else:
            fingerprint = studios.add_key(connection, studio_id, body.key, body.kind, expires_at)
        return next(
            key
            for key in studios.key_list(connection, studio_id)
            if (key["fingerprint"], key["kind"]) == (fingerprint, body.kind)
        )


@writing.delete("/keys/{fingerprint}", status_code=204, summary="Revoke a key")
def key_revoke(office: In, fingerprint: Annotated[str, Path(pattern="^[0-9a-f]{8,64}$")]) -> None:
    """For everything it served, within two seconds."""
    with office.write() as connection:
        studios.revoke_key(connection, fingerprint)


@reading.get("/studios/{studio_id:path}", response_model=shapes.Studio, summary="Show a studio")
def studio_show(office: In, studio_id: Id) -> dict[str, Any]:
    """One studio."""
    with office.read() as connection:
        return studios.studio_dict(connection, studio_id)


@reading.get("/plans", response_model=shapes.Page[dict[str, Any]], summary="List the plans in force")
def plan_list(office: In) -> dict[str, Any]:
    """Each with its rules as in the plans file, its version, and how many members have it."""
    with office.read() as connection:
        return {"items": plans.plan_list(connection), "next": None}
