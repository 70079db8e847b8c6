"""`guestgate db …`"""

from __future__ import annotations

import typer

from guestgate import settings
from guestgate.check import check as check_record
from guestgate.cli.common import AsJson, ConfigFile, open_database, say, show
from guestgate.database import Database

app = typer.Typer(help="Care of the database.", no_args_is_help=True)


@app.command()
def upgrade(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Bring the database to this version's schema. Stop the server first, and keep a copy."""
    before, after = Database(settings.load(config).database).upgrade()
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
