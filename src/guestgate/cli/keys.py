"""`guestgate key …`"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Connection

from guestgate import settings, studios
from guestgate.cli.common import (
    AsJson,
    Ca,
    ConfigFile,
    KeyStdin,
    OpenApiUrl,
    Tenant,
    open_database,
    read_key,
    say,
    show,
    show_list,
    who,
)
from guestgate.directory import KeyKind
from guestgate.errors import UsageError
from guestgate.instants import parse_instant

app = typer.Typer(
    help="Keys: the tokens studios are known by, kept as hashes; and those of the Open API, kept sealed.",
    no_args_is_help=True,
)


def add_key(connection: Connection, studio_id: str, token: str, kind: KeyKind, expires_at: datetime | None) -> str:
    """Add a key, with a warning where it can be guessed."""
    if studios.is_weak(token):
        print(
            "guestgate: warning: this key has less than 128 bits of entropy and can be guessed",
            file=sys.stderr,
        )
    return studios.add_key(connection, studio_id, token, kind, expires_at)


def register(main: typer.Typer) -> None:
    """Add these commands."""
    main.add_typer(app, name="key", rich_help_panel="Directory")


@app.command()
def add(
    studio: Annotated[str, typer.Argument(metavar="STUDIO", help="The studio it belongs to.")],
    key_stdin: KeyStdin = False,
    kind: Annotated[KeyKind, typer.Option("--kind", help="What it is for.")] = KeyKind.CHECKIN,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="ISO", help="When it ends, with offset from UTC.")
    ] = None,
    tenant: Tenant = None,
    url: OpenApiUrl = None,
    ca: Ca = None,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Do not ask the platform whether an Open API key is valid.")
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Give a studio one more key; the old ones stay, so that a change of key loses no check-in.

    A key of kind openapi is the other way round: we send it to the platform, so it is kept sealed (see guestgate
    secret). It needs its tenant, is tried before it is kept, and takes the place of the studio's last one.

    [dim]printf '%s' "$NEW_KEY" | guestgate key add berlin-1 --key-stdin[/dim]
    [dim]printf '%s' "$OPENAPI_KEY" | guestgate key add berlin-1 --kind openapi --tenant fitwerk --key-stdin[/dim]
    """
    if not key_stdin:
        raise UsageError("keys come from standard input only: add --key-stdin")
    if kind is not KeyKind.OPENAPI and (tenant is not None or url is not None or unchecked):
        raise UsageError("--tenant, --url and --unchecked are for keys of --kind openapi")
    expires_at = parse_instant(expires, "--expires") if expires is not None else None
    token = read_key()
    if kind is KeyKind.OPENAPI:
        fingerprint = _add_account(config, studio, token, tenant, url, expires_at, ca, unchecked)
    else:
        with open_database(config).write(who()) as connection:
            fingerprint = add_key(connection, studio, token, kind, expires_at)
    if as_json:
        show({"fingerprint": fingerprint, "studio": studio, "kind": kind.value}, as_json)
    else:
        say(f"key {fingerprint} added to studio {studio}; servers follow within 2 seconds")


def _add_account(
    config: Path | None,
    studio_id: str,
    token: str,
    tenant: str | None,
    url: str | None,
    expires_at: datetime | None,
    ca: Path | None,
    unchecked: bool,
) -> str:
    from guestgate.cli import calling
    from guestgate.platform import accounts
    from guestgate.platform.secret_keys import SecretKeys

    account = calling.account_of(studio_id, token, tenant, url)
    secret_keys = SecretKeys.of(settings.load(config))
    secret_keys.require()
    database = open_database(config)
    with database.read() as connection:
        timezone = studios.require(connection, studio_id).timezone
    if not unchecked:
        found = calling.information(account, ca)
        calling.warn_of_difference(studio_id, timezone, found)
        account = replace(account, platform_studio_id=found.studio_id)
    with database.write(who()) as connection:
        return accounts.put(connection, secret_keys, account, expires_at)


@app.command("list")
def list_(
    studio: Annotated[str | None, typer.Option("--studio", metavar="ID", help="Only this studio's.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Also those revoked or expired.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List keys by fingerprint, the first 16 digits of their SHA-256."""
    with open_database(config).read() as connection:
        rows = studios.key_list(connection, studio)
    if not all_:
        rows = [row for row in rows if row["state"] == "valid"]
    columns = ("fingerprint", "studio", "kind", "state", "created_at", "expires_at")
    show_list(rows, columns, as_json, "no keys yet; add one: guestgate key add STUDIO --key-stdin")


@app.command()
def revoke(
    fingerprint: Annotated[str, typer.Argument(metavar="FINGERPRINT", help="From guestgate key list.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """End a key, for everything it served."""
    with open_database(config).write(who()) as connection:
        studios.revoke_key(connection, fingerprint.lower())
    if as_json:
        show({"fingerprint": fingerprint, "revoked": True}, as_json)
    else:
        say(f"key {fingerprint} revoked; servers follow within 2 seconds")
