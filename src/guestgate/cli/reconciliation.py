"""`guestgate reconcile`"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer

from guestgate import clock, settings
from guestgate.attendance.reconciliation import Reconciliation
from guestgate.cli.common import AsJson, Ca, ConfigFile, open_database, printable, say, show
from guestgate.cli.rules import Since
from guestgate.instants import parse_since

# Longer than one that was killed keeps others from it.
PATIENCE_S = 75.0


def register(main: typer.Typer) -> None:
    """Add this command."""
    main.command("reconcile", rich_help_panel="The record")(reconcile)


def reconcile(since: Since = None, ca: Ca = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Hold visits against what the platform tells of entries. A server does that by itself, every hour.

    Visits are confirmed by webhooks and the platform's history. One of which nobody knows whether its answer reached
    the door is reversed where the history, asked after the grace period, shows no entry. Told are visits without an
    entry and entries without a visit, of the last 31 days or since an instant. Doing it again changes nothing more.

    [dim]guestgate reconcile --since 7d[/dim]
    """
    from guestgate.platform.history import PlatformHistory  # an HTTP client takes its time to import
    from guestgate.platform.secret_keys import SecretKeys

    loaded = settings.load(config)
    start = None if since is None else parse_since(since, clock.now())
    database = open_database(config)
    with PlatformHistory(database, SecretKeys.of(loaded), ca=ca) as history:
        report = Reconciliation(database, history, loaded.grace).run(start, patience_s=PATIENCE_S)
    if as_json:
        show(asdict(report), as_json)
    else:
        _say(asdict(report))
    if report.problems:
        raise typer.Exit(1)


def _say(report: dict[str, Any]) -> None:
    for problem in report["problems"]:
        say(problem)
    for one in report["visits_without_entry"]:
        say(f"visit without entry  {_place(one)}  {one['visit']}")
    for one in report["entries_without_visit"]:
        say(f"entry without visit  {_place(one)}  customer {one['customer']}  {one['source']} {one['reference']}")
    for what, visits in (
        ("confirmed", report["confirmed"]),
        ("confirmed no more", report["not_confirmed"]),
        ("reversed", report["reversed"]),
    ):
        for visit in visits:
            say(f"{what}  {visit}")
    say(
        f"{report['since']} to {report['until']}: {len(report['confirmed'])} visits confirmed, "
        f"{len(report['reversed'])} reversed; {len(report['visits_without_entry'])} without an entry, "
        f"{len(report['entries_without_visit'])} entries without a visit; {report['asked']} customers asked about, "
        f"{report['others_dropped']} events of others dropped"
    )


def _place(one: dict[str, Any]) -> str:
    return f"{one['at']}  {printable(one['studio'])}  {printable(one['member'] or '–')}"
