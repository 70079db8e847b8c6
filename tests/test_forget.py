"""Forgetting a member: nothing personal is left anywhere, and the record still adds up."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from backends import Backend, copied
from callers import Caller, Crowd, everything, problems, rows
from gate import Gate, wait_for
from killing import kill_at, lines_of, moments, repeat
from past import Past
from terminal import Terminal

from guestgate import corrections, members
from guestgate import database as database_module
from guestgate import forget as forget_module
from guestgate import postgres as postgres_module
from guestgate import sqlite as sqlite_module
from guestgate.database import Database
from guestgate.errors import NotFoundError
from guestgate.forget import forget
from guestgate.sqlite import SqliteDatabase

ADA = "ada-7781"
CARDS = (293123213, 393123214)
OLD_CARD = 493123215
PERSONAL = (
    "Lovelace",
    "ada@example.com",
    "ada.old@example.com",
    ADA,
    *map(str, (*CARDS, OLD_CARD)),
    "tore the poster",
)
OWN = "our-company"
START = datetime(2026, 11, 2, 9, tzinfo=UTC)


@pytest.fixture(scope="module")
def known(new_gate: Callable[[], Gate]) -> Gate:
    """Ada and Bob, with visits, denials, corrections and everything else that can name Ada."""
    gate = new_gate()
    gate.plans(
        """\
[plans.once]
name = "Once a day"
reentry_minutes = 30
limits = [{ max = 1, per = "day" }]
"""
    )
    gate.studio()
    past = Past(gate.database, OWN)
    past.checkin(ADA, START - timedelta(days=1))  # before she was a member here
    past.checkin(OWN, START - timedelta(days=1), customer=CARDS[1])  # and before her card was linked
    gate.members(
        f"{ADA},once,,ada.old@example.com,{OLD_CARD}",
        "bob,once,Bob,,17",
        header="member_id,plan,first_name,email,customer_id",
    )
    gate.cli("member", "unlink", ADA, str(OLD_CARD))
    cards = ";".join(map(str, CARDS))
    gate.members(f"{ADA},once,Lovelace,ada@example.com,{cards}", header="member_id,plan,last_name,email,customer_id")
    for day in range(4):
        at = START + timedelta(days=day)
        past.checkin(ADA, at, customer=CARDS[0])
        past.checkin(ADA, at + timedelta(minutes=5), customer=CARDS[0])  # a re-entry
        past.checkin(OWN, at + timedelta(hours=2), customer=CARDS[1])  # denied, found by her card
        past.checkin("bob", at, customer=17)
        past.checkin("bob", at + timedelta(hours=3), customer=CARDS[0])  # Bob with Ada's card
    past.checkin(ADA, START + timedelta(days=5), customer=CARDS[0], undelivered=True)
    codes = [gate.json("member", "code", ADA)[0]["code"] for _ in range(2)]
    for text in (codes[0], ADA, "bob", "nobody"):
        past.validate(text, START)
    past.close()
    visits = f"member_id,studio_id,at\n{ADA},s1,2026-10-01T10:00:00Z\nbob,s1,2026-10-01T10:00:00Z\n"
    gate.cli("visit", "import", "-", input=visits)
    (visit, *_) = rows(gate.database, f"SELECT id FROM visits WHERE member_id = '{ADA}'")
    with gate.database.write("cli:staff") as connection:
        corrections.reverse(connection, visit.id, f"{ADA} tore the poster")
    return gate


@pytest.fixture
def desk(terminal_at: Callable[[Gate], Terminal], known: Gate) -> Terminal:
    """That, for this test alone."""
    return terminal_at(known)


def traces(database: Database, words: tuple[str, ...] = PERSONAL) -> list[tuple[str, str]]:
    """Which words are still somewhere: in the file and its log byte by byte, elsewhere in any row of any table."""
    found = []
    if not isinstance(database, SqliteDatabase):
        for name, lines in everything(database).items():
            found += [(name, word) for word in words if word in repr(lines)]
        return found
    for path in database.path.parent.glob(f"{database.path.name}*"):
        data = path.read_bytes()
        found += [(path.name, word) for word in words if word.encode() in data]
        for number in map(int, filter(str.isdecimal, words)):
            found += [(path.name, f"{number} as a number")] if number.to_bytes(6, "big")[1:] in data else []
    return found


def tally(database: Database) -> list[Any]:
    """What the record counts, whoever it was."""
    queries = (
        "SELECT outcome, reason, studio_id, count(*) FROM decisions GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        "SELECT local_date, state, source, count(*) FROM visits GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        "SELECT member_id IS NULL, count(*) FROM decisions GROUP BY 1 ORDER BY 1",
        "SELECT count(*), count(DISTINCT member_id) FROM visits",
        "SELECT state, who, count(*) FROM visit_changes GROUP BY 1, 2 ORDER BY 1, 2",
    )
    return [tuple(row) for query in queries for row in rows(database, query)]


def test_nothing_personal_is_left(desk: Terminal) -> None:
    """Name, id, email and cards are in no page, no log and no row, and everything still adds up."""
    assert {word for _, word in traces(desk.database)} >= set(PERSONAL) - {"ada.old@example.com"}
    before = tally(desk.database)
    (said,) = desk.json("member", "forget", ADA, "--yes")
    assert traces(desk.database) == []
    assert tally(desk.database) == before
    assert problems(desk.database) == []
    (change,) = rows(desk.database, "SELECT * FROM changes WHERE action = 'member.forgotten'")
    assert (change.subject, change.before, change.after) == (said["pseudonym"], None, None)
    assert change.who.startswith("cli:")
    assert rows(desk.database, "SELECT id FROM members") == [("bob",)]
    assert rows(desk.database, "SELECT customer_id FROM customers") == [(17,)]


def test_the_pseudonym_stands_everywhere(desk: Terminal) -> None:
    """Decisions and visits can still be followed, and Bob's are as they were."""

    def bobs() -> list[Any]:
        found = rows(
            desk.database, "SELECT * FROM decisions WHERE member_id = 'bob' AND customer_id = 17 ORDER BY seq"
        )
        return found + rows(desk.database, "SELECT * FROM visits WHERE member_id = 'bob' ORDER BY seq")

    before = bobs()
    pseudonym = forget(desk.database, "api:test", ADA)
    assert bobs() == before
    mine = rows(
        desk.database, f"SELECT reason, aggregator_id, customer_id FROM decisions WHERE member_id = '{pseudonym}'"
    )
    assert {row.reason for row in mine} == {"ok", "reentry", "limit_reached"}
    assert {row.aggregator_id for row in mine} == {pseudonym, OWN}
    assert {row.customer_id for row in mine} == {0}
    assert len(rows(desk.database, f"SELECT 1 FROM visits WHERE member_id = '{pseudonym}'")) == 6
    conflicts = rows(desk.database, "SELECT member_id, customer_id FROM decisions WHERE reason = 'identity_conflict'")
    assert {tuple(row) for row in conflicts} == {("bob", 0)}
    texts = rows(desk.database, "SELECT who, why FROM visit_changes ORDER BY seq")
    assert [tuple(row) for row in texts] == [("guestgate", "undelivered"), ("cli:staff", "erased")]
    trail = rows(
        desk.database, f"SELECT action, before, after FROM changes WHERE subject = '{pseudonym}' ORDER BY seq"
    )
    assert [row.action for row in trail] == [
        "member.added",
        "customer.unlinked",
        "member.changed",
        "customer.linked",
        "customer.linked",
        "code.issued",
        "code.issued",
        "member.forgotten",
    ]
    assert json.loads(trail[0].after) == {"plan": "once", "status": "active"}
    (visit,) = rows(
        desk.database, "SELECT after FROM changes WHERE action = 'visit.added' AND after NOT LIKE '%bob%'"
    )
    assert json.loads(visit.after)["member"] == pseudonym


def test_a_card_that_is_now_somebody_elses_stays_theirs(desk: Terminal) -> None:
    """Only what names the forgotten person goes."""
    desk.run("member", "link", "bob", str(OLD_CARD))
    past = Past(desk.database)
    past.checkin("bob", START + timedelta(days=9), customer=OLD_CARD)
    past.close()
    forget(desk.database, "cli:test", ADA)
    assert rows(desk.database, "SELECT count(*) FROM decisions WHERE customer_id = 493123215") == [(1,)]
    assert len(rows(desk.database, "SELECT 1 FROM changes WHERE subject = 'bob' AND after LIKE '%493123215%'")) == 1


@pytest.mark.embedded
def test_many_people_forgotten_leave_nothing(terminal: Terminal) -> None:
    """Pages that ordinary use has split, merged and moved can hold leftovers; a compact database has none."""
    terminal.plans('[plans.free]\nname = "Free"\nreentry_minutes = 0\n')
    terminal.studio()
    people = [f"person{number:04d}" for number in range(600)]
    for city in ("Here", "Elsewhere in a much longer place " * 4, "There"):
        terminal.members(
            *({"member_id": name, "plan": "free", "city": city, "email": f"{name}@mail.example"} for name in people)
        )
    past = Past(terminal.database)
    for number in range(600):
        past.checkin(people[number * 7 % 600], START + timedelta(minutes=number))
    past.close()
    forgotten = people[::20]
    for name in forgotten:
        forget(terminal.database, "cli:test", name)
    before = tally(terminal.database)
    terminal.run("db", "compact")
    assert traces(terminal.database, tuple(forgotten)) == []
    assert tally(terminal.database) == before
    assert problems(terminal.database) == []


def test_what_staff_write_meanwhile_goes_too(desk: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A visit is taken back, with a name in the reason, after it has already got the pseudonym."""
    visit = rows(desk.database, f"SELECT id FROM visits WHERE member_id = '{ADA}' AND state = 'authorized'")[0].id
    erase, rounds = forget_module._erase, []

    def and_then_somebody_writes(*arguments: Any) -> int:
        position = erase(*arguments)
        rounds.append(position)
        if len(rounds) == 2:  # the last look without the lock is over
            with desk.database.write("cli:anna") as connection:
                assert corrections.reverse(connection, visit, "Ms Lovelace complained")
        return position

    monkeypatch.setattr(forget_module, "_erase", and_then_somebody_writes)
    forget(desk.database, "test", ADA)
    assert len(rounds) == 2
    assert rows(desk.database, "SELECT why FROM visit_changes WHERE visit_id = :id", id=visit) == [("erased",)]
    assert rows(desk.database, "SELECT reversed_why FROM visits WHERE id = :id", id=visit) == [("erased",)]
    assert problems(desk.database) == []


def test_who_is_not_there_cannot_be_forgotten(desk: Terminal) -> None:
    """Neither an unknown id nor somebody who is forgotten already."""
    assert "there is no member nobody" in desk.complaint("member", "forget", "nobody", "--yes", status=1)
    desk.run("member", "forget", ADA, "--yes")
    with pytest.raises(NotFoundError):
        forget(desk.database, "cli:test", ADA)


def test_without_a_terminal_it_has_to_be_meant(desk: Terminal) -> None:
    """There is no way back, so a script has to say --yes."""
    assert "--yes" in desk.complaint("member", "forget", ADA)
    assert len(rows(desk.database, f"SELECT 1 FROM members WHERE id = '{ADA}'")) == 1


def test_killed_anywhere_it_can_be_finished(desk: Terminal, backend: Backend, tmp_path: Path) -> None:
    """At any line: the record agrees with itself, and asking again forgets the rest."""
    before = tally(desk.database)
    desk.close()

    def erase(database: Database) -> None:
        forget(database, "cli:test", ADA)

    modules = (forget_module, database_module, sqlite_module, postgres_module, members)
    with copied(backend, desk.database_url, tmp_path) as database:
        lines = lines_of(lambda: erase(database), *modules)
    for line in moments("forget", lines, backend.name):
        with copied(backend, desk.database_url, tmp_path) as database:
            kill_at(line, lambda: erase(database), *modules)
            assert problems(database) == [], repeat(__file__, line)
            if rows(database, f"SELECT 1 FROM members WHERE id = '{ADA}'"):
                erase(database)
            else:
                assert database.erase_traces(1)
            assert traces(database) == [], repeat(__file__, line)
            assert tally(database) == before, repeat(__file__, line)
            assert len(rows(database, "SELECT DISTINCT member_id FROM visits")) == 2, repeat(__file__, line)


def test_a_member_is_forgotten_at_a_busy_door(home: Gate) -> None:
    """Doors go on, the member becomes unknown, and a card that comes later is recorded as any unknown one's."""
    home.studio()
    home.plans()
    names = [f"free-{number}" for number in range(20)]
    home.members(*(f"{name},free" for name in names))
    home.start()
    with Crowd(home, names, 1) as crowd:
        wait_for(lambda: len(crowd.replies) > 300, "no answers", home)
        (said,) = home.json("member", "forget", "free-3", "--yes")
        caller = Caller(home)
        reply = caller.call("free-3")
        caller.close()
    assert not crowd.broken
    assert reply is not None and (reply.status, reply.reason) == (403, "unknown_member")
    assert {reply.status for reply in crowd.replies if reply.member != "free-3"} == {200}
    assert home.stop(signal.SIGTERM) == 0
    assert problems(home.database) == []
    assert rows(home.database, "SELECT 1 FROM visits WHERE member_id = 'free-3'") == []
    left = rows(home.database, "SELECT DISTINCT reason FROM decisions WHERE aggregator_id = 'free-3'")
    assert left == [("unknown_member",)]
    assert rows(home.database, f"SELECT 1 FROM visits WHERE member_id = '{said['pseudonym']}' LIMIT 1")
