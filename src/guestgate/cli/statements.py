"""`guestgate statement`"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, Any

import typer

from guestgate import settings, statements
from guestgate.cli.common import AsJson, ConfigFile, open_database, say, show, show_list
from guestgate.errors import UsageError

COLUMNS = (
    "id",
    "member",
    "studio",
    "at",
    "local_date",
    "state",
    "reversed_why",
    "source",
    "payable",
    "plan",
    "plan_version",
)


def register(main: typer.Typer) -> None:
    """Add this command."""
    main.command("statement", rich_help_panel="The record")(statement)


def statement(
    month: Annotated[str, typer.Argument(metavar="MONTH", help="Such as 2026-11.")],
    studio: Annotated[str | None, typer.Option("--studio", metavar="S", help="Only this studio's.")] = None,
    file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Also write every visit, a row each.")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what a month's visits come to: by studio, with every correction. The open month too.

    [dim]guestgate statement 2026-11 --csv november.csv[/dim]
    """
    requires = settings.load(config).payable_requires
    with open_database(config).read() as connection:
        content = statements.statement(connection, month, studio, payable_requires=requires)
        if file is not None:
            _write(file, statements.visits(connection, month, studio, payable_requires=requires))
    if as_json:
        show(content, as_json)
        return
    show_list(content["totals"], ("studio", "visits", "payable", "reversed"), False, f"no visits in {month}")
    for made in content["corrections"]:
        say(f"{made['at'][:10]}  visit {made['visit']} {made['state']} by {made['who']}: {made['why']}")
    if content["open"]:
        say(f"{month} is not over; this is what stands so far")


def _write(file: Path, visits: Any) -> None:
    try:
        with file.open("x", encoding="utf-8", newline="") as output:
            writer = csv.writer(output)
            writer.writerow(COLUMNS)
            for visit in visits:
                writer.writerow([_cell(visit[name]) for name in COLUMNS])
    except OSError as error:
        raise UsageError(f"--csv: {file}: {error.strerror}") from None


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula gets an apostrophe in front, which it then hides."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
