"""`guestgate standin …`"""

from __future__ import annotations

from typing import Any

import typer
from sqlalchemy import func, select

from guestgate import clock, record, schema, settings
from guestgate.cli.common import AsJson, ConfigFile, Limit, say, show, show_list, who
from guestgate.database import Database
from guestgate.errors import UsageError
from guestgate.record import Filter
from guestgate.settings import Settings
from guestgate.stand_in.copy import StandInCopy
from guestgate.stand_in.reconciliation import Reconciliation

app = typer.Typer(
    help="This machine's copy, on which it answers while the shared database cannot.", no_args_is_help=True
)
COLUMNS = ("received_at", "studio", "member", "decision", "reason", "http_status", "undelivered", "id")


def register(main: typer.Typer) -> None:
    """Add these commands."""
    main.add_typer(app, name="standin", rich_help_panel="Care")


@app.command()
def status(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """How the copy is, and how many decisions wait to be carried over to the shared database.

    It asks nobody but the copy, so it works while the shared database does not.
    """
    loaded = settings.load(config)
    state, people, visits = _read(_copy(loaded), loaded.stand_in_max_age_s)
    shown = {
        "file": str(loaded.stand_in_file),
        "ready": state.problem is None,
        "problem": state.problem,
        "copied_at": clock.iso_of(state.copied_at_ms),
        "age_s": None if state.age_s is None else round(state.age_s, 1),
        "checked_at": clock.iso_of(state.checked_at_ms),
        "members": people,
        "visits": visits,
        "waiting": state.waiting,
        "oldest_waiting": clock.iso_of(state.oldest_waiting_ms),
        "carried_over": state.carried_over,
        "over_limit": state.over_limit,
    }
    show(shown, as_json)


def _read(own: StandInCopy, max_age_s: int) -> tuple[Any, int, int]:
    state = own.read_state(max_age_s)
    with own.database.read() as connection:
        people, visits = (
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (schema.members, schema.visits)
        )
    return state, people, visits


@app.command("list")
def list_waiting(config: ConfigFile = None, limit: Limit = None, as_json: AsJson = False) -> None:
    """The decisions that wait to be carried over, oldest first.

    Those that have been are in the record like all others: guestgate decisions.
    """
    with _copy(settings.load(config)).database.read() as connection:
        waiting = record.decisions(connection, Filter(limit=limit))
        show_list((row for _, row in waiting), COLUMNS, as_json, "no decisions wait to be carried over")


@app.command()
def reconcile(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Carry over now what waits. A server does that by itself; this is for one that does not come back.

    It may run beside the server, and may be repeated: each decision is recorded once. A decision of the last few
    seconds whose answer is not recorded yet is left for the next time.

    [dim]GUESTGATE_STAND_IN_FILE=/mnt/lost-machine/guestgate-standin.db guestgate standin reconcile[/dim]
    """
    loaded = settings.load(config)
    own, shared = _copy(loaded), Database.open(loaded.database, fence=loaded.fence)
    report = Reconciliation(shared, own, loaded.aggregator_id).run(who())
    waiting = own.read_state(loaded.stand_in_max_age_s).waiting
    if as_json:
        over = len(report.over_limit)
        show({"carried_over": report.carried_over, "over_limit": over, "waiting": waiting}, as_json)
        return
    say(f"{report.carried_over} decisions carried over; {waiting} still wait")
    for visit in report.over_limit:
        say(f"visit {visit} went beyond a limit")


def _copy(loaded: Settings) -> StandInCopy:
    if not loaded.stands_in:
        raise UsageError('this installation does not stand in: that needs PostgreSQL and stand_in = "snapshot"')
    if not loaded.stand_in_file.exists():
        raise UsageError(
            f"there is no copy at {loaded.stand_in_file} yet: guestgate serve makes it; its place is stand_in_file"
        )
    return StandInCopy(loaded.stand_in_file)
