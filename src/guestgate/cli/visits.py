"""`guestgate visits`, `guestgate visit …`"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.text import Text
from sqlalchemy import Connection

from guestgate import corrections, record, settings, visits
from guestgate.cli.common import AsJson, ConfigFile, Limit, open_database, printable, progress_bar, say, show, who
from guestgate.cli.members import finish
from guestgate.cli.rules import Follow, Member, Since, Studio, chosen_rows, list_or_follow
from guestgate.errors import OperationError, UsageError
from guestgate.rows import RowFile, parsed

app = typer.Typer(help="Correct visits, or bring them along from an earlier system.", no_args_is_help=True)

STATES = {"authorized": "green", "confirmed": "bold green", "reversed": "yellow"}


def register(main: typer.Typer) -> None:
    """Add these commands."""
    main.command("visits", rich_help_panel="The record")(visits_)
    main.add_typer(app, name="visit", rich_help_panel="The record")


def visits_(
    member: Member = None,
    studio: Studio = None,
    since: Since = None,
    follow: Follow = False,
    limit: Limit = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List the entries that count against limits, oldest first; on a terminal the latest 50."""
    requires = settings.load(config).payable_requires

    def read(connection: Connection, chosen: record.Filter) -> Iterator[tuple[int, dict[str, Any]]]:
        return record.visits(connection, chosen, payable_requires=requires)

    list_or_follow(
        open_database(config),
        read,
        chosen_rows(since, limit, as_json, member=member, studio=studio),
        follow,
        as_json,
        _line,
    )


def _line(row: dict[str, Any]) -> Text:
    pays = "payable" if row["payable"] else ""
    return Text.assemble(
        (f"{row['at'][:10]} {row['at'][11:19]}Z  ", "dim"),
        f"{row['id']}  {printable(row['member']):<20} {printable(row['studio']):<14} ",
        (f"{row['state']:<10}", STATES[row["state"]]),
        f" {row['source']:<8} {pays:<7} {printable(row['reversed_why'] or '')}".rstrip(),
    )


@app.command()
def reverse(
    visit_id: Annotated[str, typer.Argument(metavar="ID", help="From guestgate visits.")],
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason, for the record.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Take a visit back: it counts no more. The record keeps it, with who and why."""
    if not why.strip():
        raise UsageError("--why: say why, for the record")
    loaded = settings.load(config)
    with open_database(config).write(who()) as connection:
        before = record.visit(connection, visit_id, payable_requires=loaded.payable_requires)
        if not corrections.reverse(connection, visit_id, why.strip()):
            raise OperationError(f"visit {visit_id} is reversed already: {before['reversed_why']}")
        after = record.visit(connection, visit_id, payable_requires=loaded.payable_requires)
    if as_json:
        show(after, as_json)
    else:
        say(f"visit {visit_id} of member {before['member']} reversed")


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="CSV: member_id,studio_id,at; - for standard input.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Bring visits along from an earlier system, so that limits carry on. Importing twice adds nothing.

    Imported visits count against limits and do not pay.
    """
    database = open_database(config)
    source = RowFile(file, visits.FIELDS, visits.FIELDS)
    importer = visits.Import()
    rows = parsed(source, visits.parse_row)
    with source, progress_bar("importing", source.size) as progress:
        for _ in database.write_many(rows, importer, who()):
            progress(source.done)
    finish(file, importer.report, as_json)
