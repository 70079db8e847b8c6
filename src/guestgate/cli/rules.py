"""`guestgate explain`, `guestgate decisions`"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from threading import Event
from typing import Annotated, Any

import typer
from rich.text import Text
from sqlalchemy import Connection

from guestgate import clock, record, sequence
from guestgate.cli.common import (
    AsJson,
    ConfigFile,
    Limit,
    StudioId,
    console,
    open_database,
    print_json,
    printable,
    say,
)
from guestgate.database import Database
from guestgate.explain import explain
from guestgate.instants import parse_instant, parse_since

FOLLOW_S = 0.5
SHOWN = 50

Member = Annotated[str | None, typer.Option("--member", metavar="ID", help="Only this member's.")]
Studio = Annotated[str | None, typer.Option("--studio", metavar="ID", help="Only at this studio.")]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="T", help="Only since then: 24h, 30d or an ISO instant with offset."),
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on as new ones come, until Ctrl-C.")]

MARKS = {
    "passes": "[dim]·[/dim]",
    "allows": "[green]✔[/green]",
    "denies": "[red]✘[/red]",
    "not_evaluated": "[dim]–[/dim]",
}
COLOURS = {"allowed": "green", "denied": "red", "undecided": "yellow"}


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("explain", rich_help_panel="The record")(explain_command)
    app.command("decisions", rich_help_panel="The record")(decisions)


def explain_command(
    member: Annotated[str, typer.Argument(metavar="MEMBER", help="The member's id.")],
    studio: StudioId,
    at: Annotated[str | None, typer.Option("--at", metavar="ISO", help="At an instant other than now.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what the door would answer, and what every rule says. Records nothing.

    [dim]guestgate explain m-1042 --studio berlin-1 --at 2026-11-23T18:02:00+01:00[/dim]
    """
    instant = parse_instant(at, "--at") if at is not None else clock.now()
    with open_database(config).read() as connection:
        answer = explain(connection, member, studio, instant)
    if as_json:
        print_json(answer)
        return
    colour = COLOURS[answer["decision"]]
    console.print(f"[bold {colour}]{answer['decision']}[/] · {answer['reason']}")
    if answer["next_allowed_at"]:
        say(f"next allowed at {answer['next_allowed_at']}")
    for rule in answer["rules"]:
        console.print(f"  {MARKS[rule['verdict']]} {rule['rule']:<23}", end=" ")
        console.print(
            printable(rule["detail"]), markup=False, style="" if rule["verdict"] in ("denies", "allows") else "dim"
        )


def decisions(
    member: Member = None,
    studio: Studio = None,
    since: Since = None,
    follow: Follow = False,
    limit: Limit = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List check-ins and what they were told, oldest first; on a terminal the latest 50."""

    def read(connection: Connection, chosen: record.Filter) -> Iterator[tuple[int, dict[str, Any]]]:
        for seq, row in record.decisions(connection, chosen):
            if follow and record.awaits_answer(row, clock.now()):
                return
            yield seq, row

    list_or_follow(
        open_database(config),
        read,
        chosen_rows(since, limit, as_json, member=member, studio=studio),
        follow,
        as_json,
        _line,
    )


def chosen_rows(since: str | None, limit: int | None, as_json: bool, **more: Any) -> record.Filter:
    """The part of the record that the options ask for; on a terminal not all of it."""
    start = parse_since(since, clock.now()) if since is not None else None
    return record.Filter(since=start, limit=limit if limit or as_json else SHOWN, **more)


def list_or_follow(
    database: Database,
    read: Callable[[Connection, record.Filter], Iterator[tuple[int, dict[str, Any]]]],
    chosen: record.Filter,
    follow: bool,
    as_json: bool,
    line: Callable[[dict[str, Any]], Text],
) -> None:
    """Print what there is and, where asked, what comes."""
    seen, ended = 0, _ctrl_c() if follow else Event()
    with suppress(KeyboardInterrupt):
        while True:
            with database.read() as connection:
                if follow:
                    chosen = replace(chosen, upto=sequence.position(connection)[1])
                for seq, row in read(connection, chosen):
                    if ended.is_set():
                        return
                    seen = seq
                    if as_json:
                        print_json(row)
                    else:
                        console.print(line(row))
            if not follow or ended.wait(FOLLOW_S):
                break
            chosen = replace(chosen, after=seen, limit=None if seen else chosen.limit)
    if not seen and not as_json:
        say("nothing recorded")


def _ctrl_c() -> Event:
    """Set by Ctrl-C, which is how following ends: it must not break off whatever the database is doing."""
    ended = Event()
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: ended.set())
    return ended


def _line(row: dict[str, Any]) -> Text:
    left = "not delivered" if row["undelivered"] else row["http_status"] or "?"
    ms = "" if row["answer_ms"] is None else f"{row['answer_ms']:.1f} ms"
    member = printable(row["member"] or f"? {row['aggregator_id']}")
    return Text.assemble(
        (f"{row['received_at'][:10]} {row['received_at'][11:23]}Z  ", "dim"),
        (f"{row['decision']:<9}", COLOURS[row["decision"]]),
        f" {row['reason']:<22} {printable(row['studio']):<14} {member:<20} {left!s:>13} {ms:>9}",
    )
