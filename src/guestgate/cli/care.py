"""`guestgate backup`, `guestgate restore`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guestgate import backup, settings
from guestgate.cli.common import AsJson, ConfigFile, open_database, progress_bar, say, show, who
from guestgate.database import Database


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("backup", rich_help_panel="Care")(backup_command)
    app.command("restore", rich_help_panel="Care")(restore_command)


def backup_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The copy; must not exist yet.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Copy the database to FILE, also while the server runs: one state of it, checked and on disk.

    It holds personal data and the hashes of keys; FILE is readable for you alone.

    [dim]guestgate backup /backups/guestgate-$(date +%F).db[/dim]
    """
    database = backup.file_of(open_database(config))
    with progress_bar("copying", 0) as progress:
        copy = backup.backup(database, file, progress)
    if as_json:
        show({"file": str(file), "bytes": copy.bytes, "timeline": copy.timeline, "seq": copy.seq}, as_json)
    else:
        say(f"{file}: {copy.bytes / 1e6:,.1f} MB, the record up to number {copy.seq}")


def restore_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Made by guestgate backup.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Put a backup in the database's place. Stop the server first.

    What is there now is kept beside it under another name. A backup of an older guestgate is upgraded on
    the way. What was recorded after the backup is not in it: members forgotten since then have to be
    forgotten again, and keys and tokens revoked since then are valid again.

    [dim]guestgate restore /backups/guestgate-2026-11-23.db && guestgate db check[/dim]
    """
    database = backup.file_of(Database.at(settings.load(config).database))
    with progress_bar("copying", 0) as progress:
        done = backup.restore(database, file, who(), progress)
    kept = str(done.kept) if done.kept else None
    if as_json:
        facts = {"file": str(file), "kept": kept, "schema_before": done.before, "schema_after": done.after}
        show({**facts, "seq": done.seq}, as_json)
        return
    say(f"{database.path} is now what {file} holds, the record up to number {done.seq}")
    if done.before != done.after:
        say(f"it was upgraded from schema {done.before} to {done.after}")
    if kept:
        say(f"the database that was there is {kept}; delete it when you need it no more")
