"""`guestgate key …`"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Annotated

import typer
from sqlalchemy import Connection

from guestgate import studios
from guestgate.cli.common import AsJson, ConfigFile, KeyStdin, open_database, read_key, say, show, show_list, who
from guestgate.directory import KeyKind
from guestgate.errors import UsageError
from guestgate.instants import parse_instant

app = typer.Typer(help="Keys: the tokens studios are known by. Stored as hashes only.", no_args_is_help=True)


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
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Give a studio one more key; the old ones stay, so that a change of key loses no check-in.

    [dim]printf '%s' "$NEW_KEY" | guestgate key add berlin-1 --key-stdin[/dim]
    """
    if not key_stdin:
        raise UsageError("keys come from standard input only: add --key-stdin")
    expires_at = parse_instant(expires, "--expires") if expires is not None else None
    token = read_key()
    with open_database(config).write(who()) as connection:
        fingerprint = add_key(connection, studio, token, kind, expires_at)
    if as_json:
        show({"fingerprint": fingerprint, "studio": studio, "kind": kind.value}, as_json)
    else:
        say(f"key {fingerprint} added to studio {studio}; servers follow within 2 seconds")


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
