"""Backups under load, and putting them back: one state, nothing lost, no mixture of two."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from callers import Crowd, problems, rows
from gate import Gate, environment, wait_for
from killing import kill_at, lines_of, moments, repeat
from past import Past
from terminal import Terminal

from guestgate import backup as backup_module
from guestgate import database as database_module
from guestgate import occupancy, schema, sequence
from guestgate import sqlite as sqlite_module
from guestgate.backup import backup, restore
from guestgate.database import Database
from guestgate.errors import ConflictError
from guestgate.sqlite import safe_sqlite

# Copies of files; PostgreSQL has its own tools.
pytestmark = pytest.mark.embedded

NUMBERED = ("decisions", "visits", "visit_changes", "changes", "validations", "webhooks", "sightings")


def quiet(_done: int, _total: int) -> None:
    """Nobody watches the progress."""


def content(database: Database, until: int | None = None) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table; of the numbered tables, those up to a number."""
    found = {}
    for table in schema.metadata.sorted_tables:
        condition = f" WHERE seq <= {until}" if until is not None and table.name in NUMBERED else ""
        found[table.name] = sorted(map(tuple, rows(database, f"SELECT * FROM {table.name}{condition}")), key=repr)
    return found


@pytest.fixture
def desk(terminal: Terminal) -> Terminal:
    """An installation with a studio, a member and some visits."""
    terminal.plans('[plans.free]\nname = "Free"\nreentry_minutes = 0\n')
    terminal.studio()
    terminal.members({"member_id": "m1", "plan": "free", "email": "ada@example.com"})
    past = Past(terminal.database)
    for hour in range(5):
        past.checkin("m1", datetime(2026, 11, 1, hour, tzinfo=UTC))
    past.close()
    return terminal


def test_a_backup_under_load_is_one_state(home: Gate, tmp_path: Path) -> None:
    """Taken while doors are busy, restored elsewhere: all up to its number is there, column by column."""
    home.studio()
    home.plans()
    names = [f"{plan}-{number}" for plan in ("free", "once") for number in range(300)]
    home.members(*(f"{name},{name.partition('-')[0]}" for name in names))
    home.start()
    file = tmp_path / "copy.db"
    with Crowd(home, names, 1) as crowd:
        wait_for(lambda: len(crowd.replies) > 500, "no answers", home)
        before = len(crowd.replies)
        (said,) = home.json("backup", str(file))
        wait_for(lambda: len(crowd.replies) > before + 200, "the door stood still", home)
    assert not crowd.broken
    assert {reply.status for reply in crowd.replies} <= {200, 403, 503}  # a slow machine may miss a deadline
    assert home.stop() == 0

    (tmp_path / "elsewhere").mkdir()
    elsewhere = Gate(tmp_path / "elsewhere")
    (restored,) = elsewhere.json("restore", str(file))
    assert restored["seq"] == said["seq"]
    assert elsewhere.json("db", "check")[0] == {"ok": True, "problems": []}
    original, copy = content(home.database, said["seq"]), content(elsewhere.database, said["seq"])
    later = {row[0] for row in rows(home.database, f"SELECT visit_id FROM visit_changes WHERE seq > {said['seq']}")}
    for record in (original, copy):  # a visit that was taken back after the copy differs, and rightly
        record["visits"] = [row for row in record["visits"] if row[1] not in later]
    assert len(copy["decisions"]) > before
    for table in (*NUMBERED, "members", "customers", "studios", "plans", "plan_versions"):
        assert copy[table] == original[table], table
    assert set(copy["answers"]) <= set(original["answers"])
    decided = {row[1] for row in copy["decisions"]}
    assert {row[0] for row in copy["answers"]} <= decided
    # What an answer was is written with a later batch; no more than the calls under way can be missing.
    assert len(decided) - len(copy["answers"]) <= 64


def test_other_writers_do_not_start_a_copy_again(desk: Terminal, tmp_path: Path) -> None:
    """The copy stays the state it began with, whatever is committed while it is made."""
    with desk.database.write() as connection:
        for number in range(3000):
            connection.exec_driver_sql(
                "INSERT INTO changes VALUES (?, 0, 'w', 'a.b', 's', NULL, ?)", (10_000 + number, "x" * 1000)
            )
        connection.exec_driver_sql("UPDATE feed SET seq = 20000")
    steps = []

    def write_meanwhile(done: int, total: int) -> None:
        steps.append((done, total))
        with desk.database.write() as connection:
            connection.exec_driver_sql(f"UPDATE feed SET seq = {20_001 + len(steps)}")

    copy = backup(desk.database, tmp_path / "copy.db", write_meanwhile)
    assert len(steps) > 2
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert len({total for _, total in steps}) == 1
    assert copy.seq == 20_000
    assert rows(desk.database, "SELECT seq FROM feed") == [(20_001 + len(steps),)]
    with sqlite3.connect(tmp_path / "copy.db") as plain:
        assert plain.execute("SELECT seq FROM feed").fetchone() == (20_000,)
    plain.close()


def test_a_copy_is_a_plain_file(desk: Terminal, tmp_path: Path) -> None:
    """Nothing beside it, readable for its owner alone, and it opens where nothing can be written."""
    folder = tmp_path / "backups"
    folder.mkdir()
    (said,) = desk.json("backup", str(folder / "copy.db"))
    assert [path.name for path in folder.iterdir()] == ["copy.db"]
    assert stat.S_IMODE((folder / "copy.db").stat().st_mode) == 0o600
    assert said["bytes"] == (folder / "copy.db").stat().st_size
    header = (folder / "copy.db").read_bytes()[18:20]
    assert header == b"\1\1", "the file still says that it has a log"


@pytest.mark.parametrize(
    "name, says",
    [
        ("there.db", "exists already"),
        ("no/such/folder/copy.db", "No such file or directory"),
        (".", "exists already"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_bad_path_leaves_nothing_behind(name: str, says: str, desk: Terminal) -> None:
    """One sentence, and the folder is as before."""
    Path("there.db").write_text("mine")
    before = sorted(Path().iterdir())
    assert says in desk.complaint("backup", name, status=1)
    assert sorted(Path().iterdir()) == before
    assert Path("there.db").read_text() == "mine"


def test_a_full_disk_leaves_nothing_behind(desk: Terminal, tmp_path: Path, small_disk: Path) -> None:
    """The copy does not fit: one sentence, the partial file is gone, and the database is as before."""
    with desk.writing() as connection:
        connection.exec_driver_sql("UPDATE members SET profile = '{\"city\": \"' || hex(zeroblob(3000000)) || '\"}'")
    assert "full" in desk.complaint("backup", str(small_disk / "copy.db"), status=1)
    assert list(small_disk.iterdir()) == []
    assert problems(desk.database) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    os_run("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk))
    yield disk
    os_run("umount", str(disk))


def os_run(*command: str) -> None:
    """A program of the system's."""
    subprocess.run(command, check=True, env=environment())


def test_a_restore_keeps_what_was_there(desk: Terminal, tmp_path: Path) -> None:
    """The present database gets another name, and the record begins a new timeline that says who did it."""
    file = tmp_path / "copy.db"
    (made,) = desk.json("backup", str(file))
    past = Past(desk.database)
    past.checkin("m1", datetime(2026, 11, 2, tzinfo=UTC))
    past.close()
    old = content(desk.database)
    (done,) = desk.json("restore", str(file))
    kept = Database.at(f"sqlite:///{done['kept']}")
    assert content(kept) == old
    with desk.reading() as connection:
        timeline, seq = sequence.position(connection)
    assert timeline != made["timeline"]
    assert seq > old["feed"][0][2]
    (row,) = rows(desk.database, "SELECT who, action, after FROM changes ORDER BY seq DESC LIMIT 1")
    assert row.who.startswith("cli:")
    assert row.action == "record.restored"
    assert content(desk.database, made["seq"])["decisions"] == content(kept, made["seq"])["decisions"]
    assert len(rows(desk.database, "SELECT 1 FROM decisions")) == 5
    assert desk.json("db", "check")[0]["ok"]
    names = {path.name for path in desk.home.iterdir() if path.name.startswith("guestgate.db")}
    assert names - {Path(done["kept"]).name, f"{Path(done['kept']).name}.lock"} <= {
        "guestgate.db",
        "guestgate.db.lock",
    }


def test_a_restore_where_nothing_is(desk: Terminal, tmp_path: Path) -> None:
    """A new machine has no database yet."""
    desk.run("backup", str(tmp_path / "copy.db"))
    config = tmp_path / "new" / "guestgate.toml"
    config.parent.mkdir()
    config.write_text("")
    (done,) = desk.json("restore", str(tmp_path / "copy.db"), "--config", str(config))
    assert done["kept"] is None
    assert stat.S_IMODE((config.parent / "guestgate.db").stat().st_mode) == 0o600
    assert desk.json("member", "show", "m1", "--config", str(config))[0]["email"] == "ada@example.com"


def test_a_log_of_a_killed_server_is_kept_too(desk: Terminal, tmp_path: Path) -> None:
    """What only the log holds is in the kept file, and does not leak into the restored one."""
    desk.run("backup", str(tmp_path / "copy.db"))

    def write_and_die() -> None:
        connection = desk.database.connect_writer()
        with connection.begin():
            connection.exec_driver_sql("UPDATE members SET profile = ?", ('{"city": "Paris"}',))
        os.kill(os.getpid(), signal.SIGKILL)

    kill_at(0, write_and_die)
    assert desk.database.wal_path.stat().st_size
    (done,) = desk.json("restore", str(tmp_path / "copy.db"))
    assert rows(Database.at(f"sqlite:///{done['kept']}"), "SELECT profile FROM members") == [('{"city": "Paris"}',)]
    assert "ada@example.com" in rows(desk.database, "SELECT profile FROM members")[0][0]


def test_a_damaged_database_is_set_aside_whole(desk: Terminal, tmp_path: Path) -> None:
    """It may be the very reason for the restore: nothing of it is read, nothing is thrown away."""
    desk.run("backup", str(tmp_path / "copy.db"))
    desk.database.path.write_bytes(b"not a database any more" * 1000)
    (done,) = desk.json("restore", str(tmp_path / "copy.db"))
    assert Path(done["kept"]).read_bytes() == b"not a database any more" * 1000
    assert desk.json("db", "check")[0]["ok"]


@pytest.mark.parametrize(
    "spoil, says, status",
    [
        (lambda file: file.write_bytes(b"what is this" * 500), "is not a backup of guestgate's", 2),
        (lambda file: file.write_bytes(b""), "is not a backup of guestgate's", 2),
        (lambda file: file.unlink(), "there is no such file", 2),
        (lambda file: execute(file, "UPDATE alembic_version SET version_num = '9999'"), "a newer guestgate", 2),
        (lambda file: execute(file, "DROP TABLE alembic_version"), "is not a backup of guestgate's", 2),
        (lambda file: overwrite(file), "is damaged", 1),
    ],
)
def test_what_is_no_backup_is_refused(spoil: Any, says: str, status: int, desk: Terminal, tmp_path: Path) -> None:
    """One sentence that names the file, and the database is as before."""
    file = tmp_path / "copy.db"
    desk.run("backup", str(file))
    spoil(file)
    old = content(desk.database)
    complaint = desk.complaint("restore", str(file), status=status)
    assert says in complaint
    assert str(file) in complaint
    assert content(desk.database) == old
    assert {path.name for path in desk.home.glob("guestgate.db*")} == {"guestgate.db", "guestgate.db.lock"}


def execute(file: Path, statement: str) -> None:
    """Change a backup."""
    connection = safe_sqlite().connect(file)
    connection.execute(statement)
    connection.commit()
    connection.close()


def overwrite(file: Path) -> None:
    """A bad block in the middle of a file."""
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 4096 // 2 * 4096)
        stream.write(b"\xff" * 64)


def test_the_database_itself_is_no_backup(desk: Terminal) -> None:
    """Restoring it from itself would lose it."""
    assert "is the database itself" in desk.complaint("restore", "guestgate.db")


def test_an_older_schema_is_upgraded_on_the_way(desk: Terminal, tmp_path: Path) -> None:
    """A backup made before an upgrade of guestgate can be put back after it."""
    old = Database.at(f"sqlite:///{tmp_path / 'old.db'}")
    old.path.touch()
    with old.engine.connect() as connection:
        writer = connection.execution_options(guestgate_begin="BEGIN IMMEDIATE")
        database_module.migrate(writer, "0001")
    (done,) = desk.json("restore", str(old.path))
    assert done["schema_before"] == "0001"
    assert done["schema_after"] == database_module.schema_versions()[-1]
    assert desk.json("db", "check")[0]["ok"]


def test_a_running_server_keeps_its_database(served: Gate, tmp_path: Path) -> None:
    """Restore refuses in one sentence, and the door goes on; so does any other command that is at work."""
    file = tmp_path / "copy.db"
    served.cli("backup", str(file))
    failed = served.cli("restore", str(file), status=1)
    assert failed.stderr.count("\n") == 1
    assert "stop the server" in failed.stderr
    assert served.checkin("free-1").status_code == 200


def test_nobody_opens_a_database_that_is_being_replaced(desk: Terminal) -> None:
    """And nobody replaces one that is open; the lock goes with its holder."""
    with occupancy.alone(desk.database.path):
        assert "is being restored" in desk.complaint("member", "list", status=1)
        with pytest.raises(ConflictError), desk.database.in_use():
            pass
    with desk.reading(), pytest.raises(ConflictError), occupancy.alone(desk.database.path):
        pass
    with desk.database.in_use(), pytest.raises(ConflictError), occupancy.alone(desk.database.path):
        pass
    with occupancy.alone(desk.database.path):
        pass


def test_a_restore_that_is_killed_leaves_the_old_or_the_new(desk: Terminal, tmp_path: Path) -> None:
    """At any line: the database is the one or the other, whole, and another try succeeds."""
    file = tmp_path / "copy.db"
    backup(desk.database, file, quiet)
    past = Past(desk.database)
    past.checkin("m1", datetime(2026, 11, 2, tzinfo=UTC))
    past.close()
    old = tmp_path / "old"
    shutil.copytree(desk.home, old)
    before = content(desk.database)

    def again() -> None:
        shutil.rmtree(desk.home)
        shutil.copytree(old, desk.home)

    def work() -> None:
        restore(desk.database, file, "cli:test", quiet)

    modules = (backup_module, database_module, sqlite_module, occupancy)
    lines = lines_of(work, *modules)
    seen = set()
    for line in [*moments("restore", lines), lines]:  # the last one lies after the rename
        again()
        kill_at(line, work, *modules)
        after = content(desk.database)
        is_new = len(after["decisions"]) == 5
        seen.add(is_new)
        assert is_new or after == before, repeat(__file__, line)
        actions = {change[3] for change in after["changes"]}
        assert is_new == ("record.restored" in actions), repeat(__file__, line)
        assert problems(desk.database) == [], repeat(__file__, line)
        work()
        assert len(rows(desk.database, "SELECT 1 FROM decisions")) == 5
        left = {path.name for path in desk.home.glob("guestgate.db*") if ".before-" not in path.name}
        assert left == {"guestgate.db", "guestgate.db.lock"}, repeat(__file__, line)
        for kept in desk.home.glob("*.before-*Z"):
            assert kept.stat().st_nlink == 1, repeat(__file__, line)
    assert seen == {False, True}, "no kill came before, or none after the rename"
