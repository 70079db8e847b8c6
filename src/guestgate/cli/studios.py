"""`guestgate studio …`"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

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
from guestgate.cli.keys import add_key
from guestgate.directory import KeyKind
from guestgate.errors import UsageError

app = typer.Typer(help="Studios: who may call the door.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="Your own short name for the studio.")]
Name = Annotated[str | None, typer.Option("--name", metavar="N", help="What people call it.")]
Timezone = Annotated[
    str | None,
    typer.Option("--timezone", metavar="TZ", help="Its time zone, such as Europe/Berlin; days and hours follow it."),
]
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="T", help="A tag that plans can name; repeatable.")]


def register(main: typer.Typer) -> None:
    """Add these commands."""
    main.add_typer(app, name="studio", rich_help_panel="Directory")


@app.command()
def add(
    studio_id: Id,
    name: Name = None,
    timezone: Timezone = None,
    tag: Tags = None,
    test: Annotated[bool, typer.Option("--test", help="Its visits never count and never pay.")] = False,
    key_stdin: KeyStdin = False,
    from_platform: Annotated[
        bool,
        typer.Option(
            "--from-platform", help="Ask the platform for name and time zone; the key is the Open API's then."
        ),
    ] = False,
    tenant: Tenant = None,
    url: OpenApiUrl = None,
    ca: Ca = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Add a studio, with the key that the platform sends for it.

    [dim]printf '%s' "$KEY" | guestgate studio add berlin-1 --name "Berlin Mitte" --timezone Europe/Berlin
    --tag classic --key-stdin[/dim]

    With its Open API key the platform fills in the rest; the key for check-ins comes with guestgate key add.

    [dim]printf '%s' "$OPENAPI_KEY" | guestgate studio add berlin-1 --from-platform --tenant fitwerk --tag classic
    --key-stdin[/dim]
    """
    token = read_key() if key_stdin else None
    fingerprint: str | None
    if from_platform:
        fingerprint = _add_from_platform(config, studio_id, name, timezone, tag, test, token, tenant, url, ca)
    else:
        if tenant is not None or url is not None:
            raise UsageError("--tenant and --url go with --from-platform")
        if name is None or timezone is None:
            raise UsageError(f"{'--name' if name is None else '--timezone'}: is missing; or ask --from-platform")
        with open_database(config).write(who()) as connection:
            studios.add(connection, studio_id, name=name, timezone=timezone, tags=frozenset(tag or ()), test=test)
            fingerprint = add_key(connection, studio_id, token, KeyKind.CHECKIN, None) if token else None
    if as_json:
        show({"id": studio_id, "fingerprint": fingerprint}, as_json)
    elif fingerprint:
        say(f"studio {studio_id} added with key {fingerprint}")
    else:
        say(f"studio {studio_id} added; give it a key: guestgate key add {studio_id} --key-stdin")


def _add_from_platform(
    config: Path | None,
    studio_id: str,
    name: str | None,
    timezone: str | None,
    tag: list[str] | None,
    test: bool,
    token: str | None,
    tenant: str | None,
    url: str | None,
    ca: Path | None,
) -> str:
    from guestgate.cli import calling
    from guestgate.platform import accounts
    from guestgate.platform.secret_keys import SecretKeys

    if token is None:
        raise UsageError("--from-platform: needs the studio's Open API key: add --key-stdin")
    account = calling.account_of(studio_id, token, tenant, url)
    secret_keys = SecretKeys.of(settings.load(config))
    secret_keys.require()
    database = open_database(config)
    with database.read() as connection:
        studios.require_none(connection, studio_id)
    found = calling.information(account, ca)
    account = replace(account, platform_studio_id=found.studio_id)
    with database.write(who()) as connection:
        studios.add(
            connection,
            studio_id,
            name=name or found.name,
            timezone=timezone or found.timezone,
            tags=frozenset(tag or ()),
            test=test,
        )
        return accounts.put(connection, secret_keys, account)


@app.command()
def activate(studio_id: Id, ca: Ca = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Confirm to the platform that the studio's integration is active: from then on it sends webhooks.

    Needs the studio's Open API key. Once more does no harm.
    """
    from guestgate.cli import calling
    from guestgate.platform import accounts

    database = open_database(config)
    with calling.calls_for(config, database, studio_id, ca) as client:
        client.confirm_activation()
    with database.write(who()) as connection:
        accounts.note_activation(connection, studio_id)
    if as_json:
        show({"id": studio_id, "activated": True}, as_json)
    else:
        say(f"studio {studio_id} is active at the platform, which sends webhooks from now on")


@app.command("set")
def set_(
    studio_id: Id,
    name: Annotated[str | None, typer.Option("--name", metavar="N", help="A new name.")] = None,
    timezone: Annotated[str | None, typer.Option("--timezone", metavar="TZ", help="A new time zone.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="T", help="All its tags from now on.")] = None,
    no_tags: Annotated[bool, typer.Option("--no-tags", help="Take its tags away.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Change a studio. Past visits keep their local date and tags."""
    tags = frozenset(tag) if tag else frozenset() if no_tags else None
    if name is None and timezone is None and tags is None:
        raise UsageError("nothing to set; give --name, --timezone, --tag or --no-tags")
    with open_database(config).write(who()) as connection:
        studios.change(connection, studio_id, name=name, timezone=timezone, tags=tags)
    _done(studio_id, "changed", as_json)


@app.command("list")
def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List all studios."""
    with open_database(config).read() as connection:
        rows = studios.studio_list(connection)
    columns = ("id", "name", "timezone", "tags", "active", "test", "keys")
    show_list(rows, columns, as_json, "no studios yet; add one: guestgate studio add --help")


@app.command()
def pause(studio_id: Id, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Deny every check-in at a studio, with the reason studio_inactive."""
    with open_database(config).write(who()) as connection:
        studios.change(connection, studio_id, active=False)
    _done(studio_id, "paused", as_json)


@app.command()
def resume(studio_id: Id, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Take check-ins of a paused studio again."""
    with open_database(config).write(who()) as connection:
        studios.change(connection, studio_id, active=True)
    _done(studio_id, "resumed", as_json)


def _done(studio_id: str, what: str, as_json: bool) -> None:
    if as_json:
        show({"id": studio_id, what: True}, as_json)
    else:
        say(f"studio {studio_id} {what}; servers follow within 2 seconds")
