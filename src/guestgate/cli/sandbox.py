"""`guestgate sandbox …`: the platform's side."""

from __future__ import annotations

import asyncio
import secrets
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from guestgate import clock, members, settings, studios
from guestgate.cli import town
from guestgate.cli.common import (
    AsJson,
    ConfigFile,
    KeyStdin,
    StudioId,
    console,
    open_database,
    own_url,
    print_json,
    printable,
    read_key,
    say,
    who,
)
from guestgate.contract import VALIDATION_PATH
from guestgate.database import Database
from guestgate.directory import KeyKind
from guestgate.errors import OperationError
from guestgate.registration import check_url
from guestgate.sandbox.door import Desk, Door, Inquiry, Reception, Tap

app = typer.Typer(help="Play the platform: call the door as a studio does.", no_args_is_help=True)

# A temporary key is known to the server after this long, at the latest.
KEY_PATIENCE_S = 2.5
KEY_LIFE = timedelta(minutes=1)
Seen = TypeVar("Seen", Tap, Inquiry)


def register(main: typer.Typer) -> None:
    """Add these commands."""
    main.add_typer(app, name="sandbox", rich_help_panel="Going live")


@app.callback()
def group() -> None:
    """Play the platform: call the door as a studio does."""


@app.command()
def tap(
    member: Annotated[str, typer.Argument(metavar="MEMBER", help="What the card says: the aggregatorId.")],
    studio: StudioId,
    customer: Annotated[
        int | None,
        typer.Option("--customer", metavar="N", min=1, help="The customerId; else the member's, or one made up."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="The endpoint; else this configuration's server."),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="FILE", help="A certificate to trust besides the system's.")
    ] = None,
    key_stdin: KeyStdin = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Hold a card to a studio's reader: one real call, cancelled after 750 ms, and what the desk would see.

    Without a key a temporary one is made, and revoked afterwards.

    [dim]guestgate sandbox tap m-1042 --studio berlin-1[/dim]
    """
    loaded = settings.load(config)
    database = open_database(config)
    customer_id = customer or _customer_of(database, member)
    url = own_url(loaded) if url is None else url
    check_url(url)
    ca = ca or loaded.tls_cert
    if key_stdin:
        token = read_key()
        outcome = asyncio.run(one_tap(url, token, ca, member, customer_id, patience_s=0))
    else:
        with temporary_key(database, studio) as token:
            outcome = asyncio.run(one_tap(url, token, ca, member, customer_id, patience_s=KEY_PATIENCE_S))
    if as_json:
        print_json(
            {
                "desk": outcome.desk.value,
                "http_status": outcome.status,
                "ms": outcome.ms,
                "reason": outcome.reason,
                "note": outcome.note,
            }
        )
        return
    colour = "green" if outcome.desk is Desk.OPEN else "yellow" if outcome.desk is Desk.ERROR else "red"
    console.print(f"The desk sees: [bold {colour}]{outcome.desk.value}[/]")
    facts = [f"status {outcome.status}" if outcome.status else None, f"{outcome.ms} ms"]
    say(printable(", ".join(fact for fact in (*facts, outcome.reason, outcome.note) if fact)))


@app.command()
def enrol(
    member: Annotated[str, typer.Argument(metavar="CODE_OR_ID", help="What staff type: a code, or a member's id.")],
    studio: StudioId,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="Where to ask; else this configuration's server."),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="FILE", help="A certificate to trust besides the system's.")
    ] = None,
    key_stdin: KeyStdin = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Register a member at a studio's desk: one real member validation, and what staff would see.

    Whoever may register becomes a customer with a medium; its number is the one that sandbox tap then sends.
    Without a key a temporary one is made, and revoked afterwards.

    [dim]guestgate sandbox enrol K7XW-2M9P --studio berlin-1[/dim]
    """
    loaded = settings.load(config)
    database = open_database(config)
    url = own_url(loaded, VALIDATION_PATH) if url is None else url
    check_url(url)
    ca = ca or loaded.tls_cert
    if key_stdin:
        inquiry = asyncio.run(one_inquiry(url, read_key(), ca, member, patience_s=0))
    else:
        with temporary_key(database, studio) as token:
            inquiry = asyncio.run(one_inquiry(url, token, ca, member, patience_s=KEY_PATIENCE_S))
    permanent = inquiry.member.get("aggregatorId")
    customer_id = None if permanent is None else _customer_of(database, permanent)
    if as_json:
        print_json(
            {
                "desk": inquiry.desk.value,
                "http_status": inquiry.status,
                "ms": inquiry.ms,
                "member": inquiry.member,
                "customer_id": customer_id,
                "note": inquiry.note,
            }
        )
        return
    colour = {Reception.REGISTERED: "green", Reception.ERROR: "yellow"}.get(inquiry.desk, "red")
    console.print(f"The desk sees: [bold {colour}]{inquiry.desk.value}[/]")
    facts = [f"status {inquiry.status}" if inquiry.status else None, f"{inquiry.ms} ms", inquiry.note]
    say(printable(", ".join(fact for fact in facts if fact)))
    for name, value in inquiry.member.items():
        say(printable(f"  {name}: {value}"))
    if customer_id is not None:
        say(printable(f"{permanent} is customer {customer_id} now, and is handed a medium"))


async def one_tap(url: str, token: str, ca: Path | None, member: str, customer: int, patience_s: float) -> Tap:
    """One tap; with patience, tries again while the server does not know the key yet."""
    return await _patiently(Door(url, token, ca), lambda door: door.tap(member, customer), patience_s)


async def one_inquiry(url: str, token: str, ca: Path | None, text: str, patience_s: float) -> Inquiry:
    """One question at a desk; with patience as for `one_tap`."""
    return await _patiently(Door(url, token, ca), lambda door: door.ask(text), patience_s)


async def _patiently(door: Door, call: Callable[[Door], Awaitable[Seen]], patience_s: float) -> Seen:
    give_up_at = clock.monotonic() + patience_s
    async with door:
        while True:
            seen = await call(door)
            if seen.status != 401 or clock.monotonic() >= give_up_at:
                return seen
            await asyncio.sleep(0.2)


@contextmanager
def temporary_key(database: Database, studio: str) -> Iterator[str]:
    """A key of the studio that is revoked at the end, and expires by itself should we not get that far."""
    token = secrets.token_urlsafe(32)
    with database.write(who()) as connection:
        fingerprint = studios.add_key(connection, studio, token, KeyKind.CHECKIN, clock.now() + KEY_LIFE)
    try:
        yield token
    finally:
        with database.write(who()) as connection, suppress(OperationError):  # somebody has done so already
            studios.revoke_key(connection, fingerprint)


def _customer_of(database: Database, member: str) -> int:
    """The member's first customer, or a number made from the id that is always the same."""
    with database.read() as connection:
        try:
            linked: list[int] = members.member_dict(connection, member)["customers"]
        except OperationError:
            linked = []
    return linked[0] if linked else 1_000_000_000 + zlib.crc32(member.encode())


town.register(app)
