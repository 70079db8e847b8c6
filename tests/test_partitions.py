"""Months of the record on PostgreSQL: made ahead, dropped when they are over and empty, and in nobody's way."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from backends import Server
from callers import problems, rows
from cluster import Cluster
from gate import Gate, wait_for
from past import Past, uuid7

from guestgate import clock, partitions
from guestgate.database import BusyError, Database
from guestgate.prune import Prune

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.fixture
def gate(cluster: Cluster, tmp_path: Path) -> Iterator[Gate]:
    """An installation on PostgreSQL with a studio and a member, not yet serving."""
    server = Server(cluster)
    url = server.new(tmp_path)
    gate = Gate(tmp_path, database_url=url, furnished=True)
    gate.studio()
    gate.plans()
    gate.members("m1,free")
    yield gate
    gate.close()
    server.drop(url)


def months(database: Database) -> set[date]:
    """Those that have a partition."""
    with database.read() as connection:
        return set(partitions.months(connection))


def decide(database: Database, *instants: datetime) -> list[str]:
    """Check-ins whose ids were made when they came; returns the ids."""
    past = Past(database)
    ids = [past.checkin("m1", at, decision_id=uuid7(at, number)).id for number, at in enumerate(instants)]
    past.close()
    return ids


def places(database: Database, decision_id: str) -> list[str]:
    """In which partitions a decision and its answer are."""
    query = """
        SELECT tableoid::regclass::text FROM decisions WHERE id = :id
        UNION ALL SELECT tableoid::regclass::text FROM answers WHERE decision_id = :id"""
    return [place for (place,) in rows(database, query, id=decision_id)]


def test_what_a_wrong_clock_left_in_the_rest_moves_when_its_month_is_made(gate: Gate) -> None:
    """With its answer; and it is found before as after."""
    at = datetime(2031, 5, 31, 23, 59, 59, 999000, tzinfo=UTC)
    inside, outside = decide(gate.database, at, at + timedelta(milliseconds=1))
    assert places(gate.database, inside) == places(gate.database, outside) == ["decisions_rest", "answers_rest"]
    with gate.database.write() as connection:
        assert partitions.add_month(connection, 2031, 5)
        assert not partitions.add_month(connection, 2030, 17)
    assert places(gate.database, inside) == ["decisions_2031_05", "answers_2031_05"]
    assert places(gate.database, outside) == ["decisions_rest", "answers_rest"]
    assert problems(gate.database) == []


def test_ids_without_a_time_are_in_the_rest(gate: Gate) -> None:
    """Of whatever version they are."""
    past = Past(gate.database)
    decision = past.checkin("m1", NOW, decision_id=f"f{str(uuid4())[1:]}")
    past.close()
    assert places(gate.database, decision.id) == ["decisions_rest", "answers_rest"]


def test_pruning_drops_the_months_that_are_over_and_empty(gate: Gate) -> None:
    """A month with anything left stays, and so do this one and the coming ones."""
    with gate.database.write() as connection:
        for month in range(1, 11):
            partitions.add_month(connection, 2026, month)
    present = months(gate.database)
    kept, *_ = decide(
        gate.database, datetime(2026, 10, 30, tzinfo=UTC), *(NOW - timedelta(days=30 * n) for n in range(2, 9))
    )
    list(Prune(gate.database, "1month", NOW, dry_run=True).run("cli:test"))
    assert months(gate.database) == present
    list(Prune(gate.database, "1month", NOW).run("cli:test"))
    assert {month for month in months(gate.database) if month < date(2026, 11, 1)} == {date(2026, 10, 1)}
    assert {date(2026, 11, 1), date(2026, 12, 1), date(2027, 1, 1)} <= months(gate.database)
    assert [row.id for row in rows(gate.database, "SELECT id FROM decisions")] == [kept]
    assert problems(gate.database) == []


def test_a_table_in_use_is_left_for_the_next_time(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long query, such as a dump, is not waited for while check-ins queue behind; what it uses stays."""
    monkeypatch.setattr(partitions, "TRIES", 2)
    later = datetime(2030, 1, 1, tzinfo=UTC)
    with gate.database.write() as connection:
        partitions.add_month(connection, 2029, 1)
    present = months(gate.database)
    with gate.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM decisions").scalar_one() == 0
        assert partitions.drop_empty(gate.database, later) == 0
        with pytest.raises(BusyError, match="in use by a long query"):
            partitions.make_ahead(gate.database, later)
        assert months(gate.database) == present
        decide(gate.database, NOW)
    assert partitions.make_ahead(gate.database, later) == 3
    assert partitions.drop_empty(gate.database, later) > 0
    assert date(2029, 1, 1) not in months(gate.database)


def test_a_decision_that_is_just_being_written_keeps_its_month(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a month is empty is asked where nobody else can write any more."""
    monkeypatch.setattr(partitions, "TRIES", 1)
    with gate.database.write() as connection:
        partitions.add_month(connection, 2029, 1)
    writing = gate.database.connect_ledger(400)
    at = datetime(2029, 1, 15, tzinfo=UTC)
    with writing.begin():
        writing.exec_driver_sql("INSERT INTO answers VALUES (%s, 200, 1.5, false)", (uuid7(at, 1),))
        assert partitions.drop_empty(gate.database, at + timedelta(days=40)) == 0
    writing.close()
    partitions.drop_empty(gate.database, at + timedelta(days=40))
    assert date(2029, 1, 1) in months(gate.database)


def test_a_server_keeps_months_ahead_by_itself(gate: Gate) -> None:
    """Though nobody ran db upgrade for long; and one that cannot says so and opens doors all the same."""

    def forget_months() -> None:
        with gate.database.write() as connection:
            for month in partitions.months(connection):
                connection.exec_driver_sql(f"DROP TABLE decisions_{month:%Y_%m}, answers_{month:%Y_%m}")

    forget_months()
    gate.start()
    wait_for(lambda: len(months(gate.database)) == partitions.AHEAD, "no months were made", gate)
    assert clock.now().date().replace(day=1) in months(gate.database)
    assert gate.stop() == 0
    forget_months()
    with gate.database.write() as connection:
        connection.exec_driver_sql("DROP FUNCTION guestgate_add_month")
    gate.start()
    told = "partitions for the coming months could not be made"
    wait_for(lambda: told in gate.log.read_text("utf-8"), "nothing was said", gate)
    checkin = gate.checkin("m1")
    assert checkin.status_code == 200
    assert gate.stop() == 0
    assert places(gate.database, checkin.json()["decisionId"]) == ["decisions_rest", "answers_rest"]
