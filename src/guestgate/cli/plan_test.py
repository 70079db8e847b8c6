"""`guestgate plan test`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from guestgate import clock, plans_file, settings, studios
from guestgate.cli.common import AsJson, ConfigFile, console, open_database, print_json, printable, progress_bar, say
from guestgate.instants import parse_since

MOST_MEMBERS = 10
# A table of all studios would be longer than anybody reads; --json has them.
MOST_STUDIOS = 20


def test(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A TOML file of plans.", show_default="the plans as they were"),
    ] = None,
    since: Annotated[
        str, typer.Option("--since", metavar="T", help="From then on: 24h, 30d or an ISO instant with offset.")
    ] = "30d",
    studio: Annotated[str | None, typer.Option("--studio", metavar="ID", help="Only tell of this studio.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=0, help="Name at most so many members, the most affected.")
    ] = MOST_MEMBERS,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Decide recorded check-ins again under the plans of a file: whose answers would change, and at what cost.

    Nothing is written. What the new rules deny makes no visit, so later check-ins may be allowed, and the other way
    round. Plans that the file leaves out stay as they were. Without a file all stay, and the record is checked: every
    answer should be the recorded one.

    [dim]guestgate plan test new-plans.toml --since 30d[/dim]
    """
    from guestgate.replay import Replay
    from guestgate.tally import Tally

    start = parse_since(since, clock.now())
    documents = {} if file is None else plans_file.read(file)
    tally = Tally(studio, limit)
    requires = settings.load(config).payable_requires
    with open_database(config).read() as connection:
        if studio is not None:
            studios.require(connection, studio)
        replay = Replay(connection, start, documents, tally, payable_requires=requires)
        with progress_bar("replaying", replay.total()) as progress:
            for done in replay.run():
                progress(done)
    report = {"since": clock.iso(start), "studio": studio, **tally.report()}
    if as_json:
        print_json(report)
    else:
        _show(report)


def _show(report: dict[str, Any]) -> None:
    if not report["checkins"]:
        say(f"no check-ins since {report['since']}")
        return
    rows = [*report["plans"], *([{**report, "plan": "all"}] if len(report["plans"]) > 1 else [])]
    console.print(_table("plan", rows))
    affected = [row for row in report["studios"] if _differs(row)]
    if affected and report["studio"] is None:
        say("")
        affected.sort(key=lambda row: -row["changed"])
        console.print(_table("studio", affected[:MOST_STUDIOS]))
        if len(affected) > MOST_STUDIOS:
            say(f"… and {len(affected) - MOST_STUDIOS} more studios; --json has them all")
    if report["changed"]:
        say("")
        say(f"{_count(report['changed'], 'answer')} of {_count(report['members_changed'], 'member')} would change")
        for row in report["changes"]:
            console.print(Text.assemble(f"{row['checkins']:>9,}  ", *_reasons(row)))
    for member in report["members"]:
        say("")
        say(f"{printable(member['member'])}: {_count(member['changed'], 'answer')}")
        for row in member["examples"]:
            at, where = f"{row['at'][:10]} {row['at'][11:19]}Z", printable(row["studio"])
            console.print(Text.assemble((f"  {at}  ", "dim"), f"{where:<14} ", *_reasons(row)))
    if report["unexplained"]:
        say("")
        say(
            f"{_count(report['unexplained'], 'answer')} cannot be explained by what is on record and "
            f"{'stays' if report['unexplained'] == 1 else 'stay'} as recorded"
        )


def _table(noun: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column(noun, overflow="fold")
    for name in ("check-ins", "changed", "allowed", "would be", "", "payable", "would be", ""):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            Text(printable(row[noun] or "–")),
            f"{row['checkins']:,}",
            f"{row['changed']:,}",
            *_before_and_after(row, "allowed"),
            *_before_and_after(row, "payable"),
        )
    return table


def _before_and_after(row: dict[str, Any], what: str) -> tuple[str, str, Text]:
    before, after = row[f"{what}_before"], row[f"{what}_after"]
    sign = Text("=", "dim") if before == after else Text(f"{after - before:+,}", "green" if after > before else "red")
    return f"{before:,}", f"{after:,}", sign


def _differs(row: dict[str, Any]) -> bool:
    return bool(row["changed"]) or row["payable_before"] != row["payable_after"]


def _reasons(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    colours = {"ok": "green", "reentry": "green"}
    before, after = row["before"], row["after"]
    return (before, colours.get(before, "red")), (" → ", "dim"), (after, colours.get(after, "red"))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
