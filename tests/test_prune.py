"""Retention: what is old goes, what still matters stays, whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from backends import Backend, copied
from callers import everything, problems, rows
from gate import Gate
from killing import kill_at, lines_of, moments, repeat
from past import Past
from terminal import Terminal

from guestgate import clock, sequence
from guestgate import database as database_module
from guestgate import postgres as postgres_module
from guestgate import prune as prune_module
from guestgate import sqlite as sqlite_module
from guestgate.database import Database
from guestgate.errors import UsageError
from guestgate.explain import explain
from guestgate.prune import Prune, parse_keep

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
PLANS = """\
[plans.free]
name = "Free"
reentry_minutes = 60

[plans.total]
name = "A hundred in all"
reentry_minutes = 0
limits = [{ max = 100, per = "total" }]

[plans.cycle]
name = "A hundred in a hundred days"
reentry_minutes = 0
cycle_days = 100
limits = [{ max = 100, per = "cycle" }]
"""
MEMBERS = ("free", "total", "cycle")


@pytest.fixture(scope="module")
def grown(new_gate: Callable[[], Gate]) -> Gate:
    """A member of each plan, here every ten days for 400 days, refused once in a while; and a member who left."""
    gate = new_gate()
    gate.plans(PLANS)
    gate.studio()
    gate.members(*(f"{plan},{plan},2026-01-01" for plan in MEMBERS), header="member_id,plan,cycle_anchor")
    past = Past(gate.database)
    for days in range(400, 0, -10):
        for plan in MEMBERS:
            past.checkin(plan, NOW - timedelta(days=days))
        past.checkin("free", NOW - timedelta(days=days) + timedelta(minutes=30))
        past.checkin("nobody", NOW - timedelta(days=days))
    past.checkin("free", NOW - timedelta(days=395), undelivered=True)
    for days in (400, 62, 58, 1):
        past.validate("free", NOW - timedelta(days=days))
        past.validate("nobody", NOW - timedelta(days=days))
    past.close()
    with gate.database.write() as connection:
        old = clock.to_ms(NOW - timedelta(days=200))
        connection.exec_driver_sql(f"UPDATE changes SET at_ms = {old} WHERE action = 'plan.added'")
    return gate


@pytest.fixture
def desk(terminal_at: Callable[[Gate], Terminal], grown: Gate) -> Terminal:
    """That, for this test alone."""
    terminal = terminal_at(grown)
    terminal.monkeypatch.setattr(clock, "now", lambda: NOW)
    return terminal


def days(database: Database, member: str) -> list[int]:
    """How many days ago the member's visits were."""
    found = rows(database, "SELECT at_ms FROM visits WHERE member_id = :member ORDER BY at_ms", member=member)
    return [round((clock.to_ms(NOW) - at_ms) / 86_400_000) for (at_ms,) in found]


def test_what_is_old_goes_and_what_matters_stays(desk: Terminal) -> None:
    """Each plan's limit keeps what it counts; decisions, answers and corrections go with their visits."""
    before = {member: days(desk.database, member) for member in MEMBERS}
    (report,) = desk.json("db", "prune", "--keep", "2months")
    assert days(desk.database, "free") == [60, 50, 40, 30, 20, 10]
    assert days(desk.database, "total") == before["total"]
    assert days(desk.database, "cycle") == [day for day in before["cycle"] if day <= 102]
    assert problems(desk.database) == []
    assert rows(desk.database, "SELECT count(*) FROM visit_changes") == [(0,)]
    assert rows(desk.database, "SELECT count(*) FROM decisions WHERE reason = 'unknown_member'") == [(6,)]
    assert rows(desk.database, "SELECT count(*) FROM validations") == [(4,)]
    answered = "SELECT id FROM decisions UNION SELECT id FROM validations"
    orphans = f"SELECT count(*) FROM answers WHERE decision_id NOT IN ({answered})"
    assert rows(desk.database, orphans) == [(0,)]
    assert report["kept_visits"] == 38
    assert report["changes"] == 3
    assert report["validations"] == 4
    (change,) = rows(desk.database, "SELECT who, after FROM changes WHERE action = 'record.pruned'")
    assert change.who.startswith("cli:")
    assert "2months" in change.after


def test_the_answer_at_the_door_is_the_same_before_and_after(desk: Terminal) -> None:
    """Whatever is deleted, no limit sees a difference."""

    def answers() -> list[Any]:
        with desk.reading() as connection:
            return [explain(connection, member, "s1", NOW) for member in MEMBERS]

    before = answers()
    desk.run("db", "prune", "--keep", "1month")
    assert answers() == before


def test_numbers_never_go_down(desk: Terminal) -> None:
    """A reader of the record that comes back later finds that nothing is numbered anew."""

    def last() -> int:
        with desk.reading() as connection:
            return sequence.position(connection)[1]

    before = last()
    desk.run("db", "prune", "--keep", "1month")
    assert last() > before


def test_a_dry_run_says_the_same_and_deletes_nothing(desk: Terminal) -> None:
    """The numbers are those of the real run, and nothing is recorded."""
    before = everything(desk.database)
    (dry,) = desk.json("db", "prune", "--keep", "2months", "--dry-run")
    assert everything(desk.database) == before
    (real,) = desk.json("db", "prune", "--keep", "2months")
    assert {**dry, "dry_run": False} == real
    assert real["visits"] > 0 and real["decisions"] > real["visits"]


def test_a_visit_stays_while_a_younger_reentry_leans_on_it(desk: Terminal) -> None:
    """A re-entry that is kept names its visit, so that visit and its decision stay, and with them that day."""
    limit = parse_keep("2months", NOW)
    noon = datetime.combine(limit.day, datetime.min.time(), UTC) - timedelta(hours=12)
    past = Past(desk.database)
    early = past.checkin("free", noon - timedelta(hours=3))
    visit = past.checkin("free", noon)
    again = past.checkin("free", noon + timedelta(minutes=30))
    past.close()
    assert again.visit_id == visit.id
    with desk.writing() as connection:  # a clock that was set forward
        at = clock.to_ms(limit.at) + 1
        connection.exec_driver_sql(f"UPDATE decisions SET received_at_ms = {at} WHERE id = '{again.id}'")
    desk.run("db", "prune", "--keep", "2months")
    kept = {row.id for row in rows(desk.database, "SELECT id FROM decisions")}
    assert {early.id, visit.id, again.id} <= kept
    assert problems(desk.database) == []


def test_a_forgotten_members_visits_go_when_they_are_old(desk: Terminal) -> None:
    """No plan counts them any more."""
    (said,) = desk.json("member", "forget", "total", "--yes")
    desk.run("db", "prune", "--keep", "2months")
    assert days(desk.database, said["pseudonym"]) == [60, 50, 40, 30, 20, 10]
    assert problems(desk.database) == []


@pytest.mark.parametrize(
    "text, instant",
    [
        ("25months", "2024-10-25T12:00:00.000Z"),
        ("1month", "2026-10-25T12:00:00.000Z"),
        ("2years", "2024-11-25T12:00:00.000Z"),
        ("1 year", "2025-11-25T12:00:00.000Z"),
        ("400d", "2025-10-21T12:00:00.000Z"),
        ("99999months", "1970-01-01T12:00:00.000Z"),
        ("99999years", "1970-01-01T12:00:00.000Z"),
    ],
)
def test_spans(text: str, instant: str) -> None:
    """Months and years are the calendar's."""
    assert clock.iso(parse_keep(text, NOW).at) == instant


def test_a_month_before_the_31st_is_the_last_of_a_shorter_one() -> None:
    """There is no 31st of February."""
    assert parse_keep("1month", datetime(2027, 3, 31, tzinfo=UTC)).at == datetime(2027, 2, 28, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "25", "months", "0months", "30d", "-3months", "1h", "3weeks", "1.5years"])
def test_what_is_no_span_is_refused(text: str) -> None:
    """Nor is less than a month."""
    with pytest.raises(UsageError, match="--keep"):
        parse_keep(text, NOW)


def test_killed_anywhere_the_record_agrees_with_itself(desk: Terminal, backend: Backend, tmp_path: Path) -> None:
    """At any line: `db check` is clean, and another run ends where one that was not killed does."""

    def prune(database: Database) -> None:
        list(Prune(database, "2months", NOW).run("cli:test"))

    def record(database: Database) -> list[Any]:
        tables = ("decisions", "answers", "visits", "visit_changes")
        changes = rows(database, "SELECT * FROM changes WHERE action != 'record.pruned' ORDER BY seq")
        return [*(rows(database, f"SELECT * FROM {table} ORDER BY 1") for table in tables), changes]

    modules = (prune_module, database_module, sqlite_module, postgres_module)
    desk.close()
    with copied(backend, desk.database_url, tmp_path) as database:
        lines = lines_of(lambda: prune(database), *modules)
        done = record(database)
    for line in moments("prune", lines, backend.name):
        with copied(backend, desk.database_url, tmp_path) as database:
            kill_at(line, lambda: prune(database), *modules)
            assert problems(database) == [], repeat(__file__, line)
            prune(database)
            assert record(database) == done, repeat(__file__, line)
