"""`guestgate token …`"""

from __future__ import annotations

from typing import Annotated

import typer

from guestgate import tokens
from guestgate.cli.common import AsJson, ConfigFile, open_database, say, show, show_list, who
from guestgate.instants import parse_instant
from guestgate.tokens import Role

app = typer.Typer(help="Tokens: who may use the admin listener.", no_args_is_help=True)


@app.command()
def create(
    role: Annotated[
        Role,
        typer.Option("--role", help="viewer reads; operator also writes members and visits; admin everything."),
    ],
    name: Annotated[str, typer.Option("--name", metavar="TEXT", help="Whose it is, for the audit trail.")] = "",
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="ISO", help="When it ends, with offset from UTC.")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it, once: only its hash is stored.

    [dim]guestgate token create --role operator --name back-office[/dim]
    """
    expires_at = parse_instant(expires, "--expires") if expires is not None else None
    with open_database(config).write(who()) as connection:
        token = tokens.create(connection, role, name=name, expires_at=expires_at)
    if as_json:
        show({"token": token}, as_json)
    else:
        say(token)


def register(main: typer.Typer) -> None:
    """Add these commands."""
    main.add_typer(app, name="token", rich_help_panel="Care")


@app.command("list")
def list_(
    all_: Annotated[bool, typer.Option("--all", help="Also those revoked or expired.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List tokens by fingerprint, the first 16 digits of their SHA-256."""
    with open_database(config).read() as connection:
        rows = tokens.token_list(connection)
    if not all_:
        rows = [row for row in rows if row["state"] == "valid"]
    columns = ("fingerprint", "name", "role", "state", "created_at", "expires_at")
    show_list(rows, columns, as_json, "no tokens yet; make one: guestgate token create --role viewer")


@app.command()
def revoke(
    fingerprint: Annotated[str, typer.Argument(metavar="FINGERPRINT", help="From guestgate token list.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """End a token, at once."""
    with open_database(config).write(who()) as connection:
        tokens.revoke(connection, fingerprint.lower())
    if as_json:
        show({"fingerprint": fingerprint, "revoked": True}, as_json)
    else:
        say(f"token {fingerprint} revoked")
