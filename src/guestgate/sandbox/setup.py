"""What the exported ``setup.sh`` does, in this process: a command for each studio and key takes its time."""

from __future__ import annotations

from pathlib import Path

from guestgate import members, plans, plans_file, studios
from guestgate.database import Database
from guestgate.errors import OperationError
from guestgate.rows import RowFile, parsed
from guestgate.sandbox import export
from guestgate.sandbox.town import Town


def put(town: Town, folder: Path, database: Database) -> None:
    """Export the town into `folder`, and take plans, studios, keys and members into an installation.

    Raises OperationError where that does not take all of it.
    """
    files = export.write(town, folder)
    with database.write() as connection:
        plans.apply(connection, plans_file.read(files["plans"]))
        for studio in town.studios:
            facts = {"name": studio.name, "timezone": studio.timezone}
            studios.add(connection, studio.id, **facts, tags=frozenset(studio.tags), test=studio.test)
            for kind, key in export.kept_keys(studio).items():
                studios.add_key(connection, studio.id, key, kind)
            if studio.paused:
                studios.change(connection, studio.id, active=False)
    upsert = members.Upsert()
    with RowFile(str(files["members"]), members.FIELDS, ("member_id",)) as source:
        for _ in database.write_many(parsed(source, members.parse_row), upsert):
            pass
    for line, why in upsert.report.bad:
        raise OperationError(f"{files['members']}:{line}: {why}")
