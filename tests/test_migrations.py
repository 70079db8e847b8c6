"""A database of an earlier version is brought up to date with all that is in it."""

from __future__ import annotations

from pathlib import Path

from alembic.script import ScriptDirectory
from callers import problems, rows

from guestgate import database as database_module
from guestgate import events
from guestgate.database import Database

OLD = """
INSERT INTO plans VALUES ('free', 1, NULL);
INSERT INTO plan_versions VALUES ('free', 1, '{"name": "Free", "payable": "per_visit"}', 0);
INSERT INTO studios VALUES ('s1', 'One', 'UTC', '[]', 1, 0, 0);
INSERT INTO members VALUES ('m1', 'free', 'active', NULL, NULL, NULL, '{}', 0);
INSERT INTO customers VALUES (7, 'm1', 0);
INSERT INTO keys VALUES ('aa', 'checkin', 's1', 0, NULL, NULL);
"""
DECISION = (
    "INSERT INTO decisions VALUES (?, ?, 5, 's1', 'm1', 'm1', 1, 'allowed', 'ok', NULL, NULL, ?, 'free', 1, 0, 'aa')"
)
VISIT = "INSERT INTO visits VALUES (?, ?, 'm1', 's1', 5, '2026-01-01', '[]', 0, ?, ?, 'checkin', 'free', 1)"
CORRECTION = "INSERT INTO visit_changes VALUES (?, ?, 6, 'reversed', 'cli:anna', 'a mistake')"


def test_revisions_are_known_by_the_names_of_their_files() -> None:
    """The same ones, in the same order, as following them from one to the next gives."""
    revisions = ScriptDirectory(database_module.MIGRATIONS).walk_revisions()
    assert database_module.schema_versions() == [revision.revision for revision in revisions][::-1]


def test_numbers_of_the_first_schema_are_put_into_one_order(tmp_path: Path) -> None:
    """Tables that counted by themselves: decisions, then visits, then corrections, each in its own order."""
    database = Database.at(f"sqlite:///{tmp_path / 'old.db'}")
    database.path.touch()
    with database.engine.connect() as connection:
        writer = connection.execution_options(guestgate_begin="BEGIN IMMEDIATE")
        database_module.migrate(writer, "0001")
    with database.connect_writer() as connection, connection.begin():
        for statement in OLD.strip().splitlines():
            connection.exec_driver_sql(statement)
        for number in range(1, 6):
            connection.exec_driver_sql(DECISION, (number, f"d{number}", f"d{number}"))
            taken_back = number in (2, 4)
            state = ("reversed", "a mistake") if taken_back else ("authorized", None)
            connection.exec_driver_sql(VISIT, (number, f"d{number}", *state))
        connection.exec_driver_sql(CORRECTION, (1, "d2"))
        connection.exec_driver_sql(CORRECTION, (2, "d4"))
    assert database.upgrade() == ("0001", "0008")
    assert problems(database) == []
    assert rows(database, "SELECT * FROM customers") == [(7, "m1", 0, True)]
    with database.read() as connection:
        found, following = events.read(connection, None, 100, payable_requires="authorized")
    names = [f"d{number}" for number in range(1, 6)]
    wanted = [*(f"decision-{name}" for name in names), *(f"visit-{name}" for name in names)]
    assert [event["id"] for event in found] == [*wanted, "reversal-11", "reversal-12"]
    assert following.endswith(".12") and rows(database, "SELECT seq FROM feed") == [(12,)]
    assert database.upgrade() == ("0008", "0008")
