"""`guestgate statement`"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import typer

from guestgate import settings, statements
from guestgate.cli.common import AsJson, ConfigFile, open_database, progress_bar, say, show, show_list, who
from guestgate.closing import Closing
from guestgate.errors import UsageError
from guestgate.statement_csv import csv_text

TOTALS = ("studio", "plan", "visits", "payable", "reversed", "adjustments")


def register(main: typer.Typer) -> None:
    """Add this command."""
    main.command("statement", rich_help_panel="The record")(statement)


def statement(
    month: Annotated[str, typer.Argument(metavar="MONTH", help="Such as 2026-11.")],
    studio: Annotated[str | None, typer.Option("--studio", metavar="S", help="Only this studio's.")] = None,
    file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Also write every line, a row each.")
    ] = None,
    close: Annotated[
        bool, typer.Option("--close", help="Close the month first: its lines never change afterwards.")
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what a month's visits come to: by studio and plan, with every correction. The open month too.

    Months are closed in order, each some hours (`reconcile_grace_s`) after it is over in every time zone. What is
    corrected, imported or carried over later is an adjustment of the next month.

    [dim]guestgate statement 2026-11 --csv november.csv[/dim]
    """
    loaded = settings.load(config)
    requires = loaded.payable_requires
    database = open_database(config)
    with _new_file(file) as output:
        if close:
            with progress_bar(f"closing {month}", 0) as report:
                for done in Closing(database, month, requires, loaded.grace).run(who()):
                    report(done)
        with database.read() as connection:
            content = statements.statement(connection, month, studio, payable_requires=requires)
            if output is not None:
                lines = statements.statement_lines(connection, month, studio, payable_requires=requires)
                output.writelines(csv_text(line for _, line in lines))
    if as_json:
        show(content, as_json)
        return
    show_list(content["plan_totals"], TOTALS, False, f"no visits in {month}")
    for line in content["adjustments"]:
        say(
            f"{line['payable']:+d}  visit {line['visit']} of {line['local_date']} at {line['studio']}: "
            f"{line['why']} (by {line['changed_by']}, {(line['changed_at'] or '')[:10]})"
        )
    for made in content["corrections"]:
        say(f"{made['at'][:10]}  visit {made['visit']} {made['state']} by {made['who']}: {made['why']}")
    if content["closed_at"]:
        say(f"closed on {content['closed_at'][:10]} by {content['closed_by']}")
    elif content["open"]:
        say(f"{month} is not over; this is what stands so far")
    else:
        say(f"{month} is not closed; this is what stands so far")


@contextmanager
def _new_file(file: Path | None) -> Iterator[TextIO | None]:
    """A new file, which is there only once it is whole: nobody takes half a month for one.

    That it can be made is known before a month is closed, which cannot be undone.
    """
    if file is None:
        yield None
        return
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        if file.exists():
            raise UsageError(f"--csv: {file} is there already")
        with part.open("x", encoding="utf-8", newline="") as output:
            yield output
        part.rename(file)
    except OSError as error:
        raise UsageError(f"--csv: {file}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
