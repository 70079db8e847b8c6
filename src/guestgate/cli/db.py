"""`guestgate db …`"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from guestgate import backup, clock, settings
from guestgate.check import check as check_record
from guestgate.cli.common import AsJson, ConfigFile, open_database, progress_bar, say, show, who
from guestgate.database import Database
from guestgate.prune import Prune
from guestgate.transfer import Transfer

app = typer.Typer(help="Care of the database.", no_args_is_help=True)


def register(main: typer.Typer) -> None:
    """Add these commands."""
    main.add_typer(app, name="db", rich_help_panel="Care")


@app.command()
def upgrade(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Bring the database to this version's schema, and keep a copy of it first.

    On SQLite stop the server. On PostgreSQL servers may go on, several may upgrade at once, and partitions
    for the coming months are made.
    """
    before, after = Database.at(settings.load(config).database).upgrade()
    if as_json:
        show({"before": before, "after": after}, as_json)
    elif before == after:
        say(f"the database is up to date (schema {after})")
    else:
        say(f"the database was upgraded from {before or 'nothing'} to schema {after}")


@app.command()
def check(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """See whether the record agrees with itself; exit status 1 where it does not."""
    with open_database(config).read() as connection:
        problems = check_record(connection)
    if as_json:
        show({"ok": not problems, "problems": problems}, as_json)
    else:
        for problem in problems:
            say(problem)
        say("the record agrees with itself" if not problems else f"{len(problems)} problems found")
    if problems:
        raise typer.Exit(1)


@app.command()
def prune(
    keep: Annotated[
        str,
        typer.Option("--keep", metavar="SPAN", help="Keep so much: 25months, 400d, 2years; at least a month."),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Delete what is older: decisions with their answers, visits with their corrections, webhooks, the audit trail.

    Never a visit that a limit of the member's present plan still counts, nor one that a younger re-entry
    leaned on. The server may run meanwhile. The file does not shrink: the space is used again by what comes,
    and guestgate db compact gives it back to the system.

    [dim]guestgate db prune --keep 25months --dry-run[/dim]
    """
    pruning = Prune(open_database(config), keep, clock.now(), dry_run)
    with progress_bar("pruning", pruning.total()) as progress:
        for done in pruning.run(who()):
            progress(done)
    report = pruning.report
    if as_json:
        show({**asdict(report), "dry_run": dry_run}, as_json)
    else:
        say(
            f"{report.visits} visits, {report.decisions} decisions, {report.changes} changes, "
            f"{report.validations} member validations and {report.webhooks} webhooks "
            f"{'would be deleted' if dry_run else 'deleted'}; {report.kept_visits} old visits "
            f"{'would ' if dry_run else ''}stay because they still matter"
        )


@app.command()
def compact(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Write the database anew: gives space back, and erases the last traces of what was deleted.

    Stop the server first. For the moment it needs as much room again as the database takes.
    """
    before, after = backup.compact(backup.file_of(open_database(config)))
    if as_json:
        show({"bytes_before": before, "bytes_after": after}, as_json)
    else:
        say(f"the database took {before / 1e6:,.1f} MB and takes {after / 1e6:,.1f} MB now")


@app.command()
def copy(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="sqlite:///FILE; nobody may be using it.")],
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET", help="postgresql://…, an empty database.", show_default="the configured one"
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Move an installation to PostgreSQL with its whole record. Stop the server first.

    Both sides are checked as guestgate db check does. It is one transaction: until it is complete, TARGET
    stays empty. Who follows the event feed goes on with its cursor. SOURCE is not changed; do not serve it
    again afterwards. A password belongs into PGPASSWORD or GUESTGATE_DATABASE rather than on the command line.

    [dim]guestgate db copy sqlite:///guestgate.db postgresql://guestgate_owner@db.example.com/guestgate[/dim]
    """
    configured = settings.load(config).database
    transfer = Transfer(source, target or configured)
    with progress_bar("copying", 0) as progress:
        for done, total in transfer.run(who()):
            progress(done, total)
    if as_json:
        show({"rows": transfer.rows, "timeline": transfer.timeline, "seq": transfer.seq}, as_json)
    else:
        say(
            f"{sum(transfer.rows.values()):,} rows were copied, {transfer.rows['decisions']:,} decisions among them, "
            f"up to number {transfer.seq}; both sides agree with themselves"
        )
        say("next: have the setting database (or GUESTGATE_DATABASE) name the new one, and start the server")
