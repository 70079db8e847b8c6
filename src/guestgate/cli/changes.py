"""`guestgate changes`"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from guestgate.changes import change_list
from guestgate.cli.common import AsJson, ConfigFile, Limit, open_database, printable, text_of
from guestgate.cli.rules import Follow, Since, chosen_rows, list_or_follow


def register(main: typer.Typer) -> None:
    """Add this command."""
    main.command("changes", rich_help_panel="The record")(changes)


def changes(
    subject: Annotated[
        str | None, typer.Option("--subject", metavar="ID", help="Only of this member, studio, plan, key or token.")
    ] = None,
    since: Since = None,
    follow: Follow = False,
    limit: Limit = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List who changed what, oldest first; on a terminal the latest 50."""
    chosen = chosen_rows(since, limit, as_json, subject=subject)
    list_or_follow(open_database(config), change_list, chosen, follow, as_json, _line)


def _line(row: dict[str, Any]) -> Text:
    before, after = row["before"] or {}, row["after"] or {}
    parts = []
    for name in {**before, **after}:
        old, new = text_of(before.get(name)), text_of(after.get(name))
        parts.append(f"{name} {old} → {new}" if before and after else f"{name} {new if after else old}")
    return Text.assemble(
        (f"{row['at'][:10]} {row['at'][11:19]}Z  ", "dim"),
        f"{row['action']:<18} {printable(row['subject']):<20} ",
        (f"{printable(row['who']):<20} ", "dim"),
        ", ".join(parts),
    )
