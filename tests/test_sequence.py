"""One order for the record on PostgreSQL: what commits late is seen late, and then nothing has been passed over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backends import Server
from callers import problems

from guestgate import changes, events, sequence
from guestgate.changes import Change
from guestgate.database import Database
from guestgate.errors import OperationError, UsageError

BESIDE = "BEGIN ISOLATION LEVEL READ COMMITTED"


@pytest.fixture
def database(tmp_path: Path, postgres: Server) -> Iterator[Database]:
    """An empty one."""
    url = postgres.new(tmp_path)
    yield Database.at(url)
    postgres.drop(url)


def subjects(database: Database, after: str | None = None) -> tuple[list[str], str]:
    """What the feed tells after a cursor, and the cursor to go on with."""
    with database.read() as connection:
        found, cursor = events.read(connection, after, 100, payable_requires="authorized")
    return [event["data"]["subject"] for event in found], cursor


def record(connection: Any, subject: str) -> None:
    """Something happens."""
    changes.record(connection, [Change("member.added", subject, None, {})])


def test_what_commits_late_is_not_passed_over(database: Database) -> None:
    """A transaction that began first and ends last: readers wait, and get both in the same order ever after."""
    with database.engine.connect() as slow, slow.execution_options(guestgate_begin=BESIDE).begin():
        record(slow, "began-first")
        with database.write() as connection:
            record(connection, "began-second")
        told, cursor = subjects(database)
        assert told == [], "what comes before it is not visible yet"
    assert subjects(database, cursor)[0] == ["began-first", "began-second"]
    assert subjects(database)[0] == ["began-first", "began-second"]


def test_numbers_within_a_transaction(database: Database) -> None:
    """They follow one another, and there are more than any transaction needs; beyond that it fails as a whole."""
    with database.write() as connection:
        first = sequence.take(connection, 3)
        second = sequence.take(connection, 2)
        assert [*first, *second] == list(range(first.start, first.start + 5))
        for number in range(300):
            record(connection, str(number))
    assert subjects(database)[0][:3] == ["0", "1", "2"]
    with pytest.raises(OperationError, match="too many rows"), database.write() as connection:
        record(connection, "never")
        sequence.take(connection, 1 << sequence.PLACES)
    assert "never" not in subjects(database)[0]
    assert problems(database) == []


def test_a_copy_begins_a_timeline_of_its_own(tmp_path: Path, database: Database, postgres: Server) -> None:
    """A dump that was put back somewhere: cursors lead nowhere, and new numbers lie above all old ones."""
    with database.write() as connection:
        record(connection, "before")
        # Numbers as of a server that had done far more than this one.
        connection.exec_driver_sql(f"UPDATE changes SET seq = {10**9 << sequence.PLACES}")
        connection.exec_driver_sql("UPDATE cluster SET base = 1000000000")
    _, cursor = subjects(database)
    url = postgres.cluster.url(postgres.cluster.create(_name_of(database)))
    copy = Database.at(url)
    try:
        with pytest.raises(UsageError, match="db upgrade"):
            copy.check_usable()
        copy.upgrade()
        copy.check_usable()
        with copy.write() as connection:
            record(connection, "after")
        assert subjects(copy)[0] == ["before", "after"]
        with pytest.raises(OperationError, match="leads nowhere"):
            subjects(copy, cursor)
        assert problems(copy) == []
    finally:
        postgres.drop(url)


def _name_of(database: Database) -> str:
    with database.read() as connection:
        return str(connection.exec_driver_sql("SELECT current_database()").scalar_one())
