"""Commits whose outcome is not told, slow statements and locked members on PostgreSQL: the record stays exact."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import uuid_utils
from backends import Server
from callers import problems, rows
from cluster import Cluster
from gate import wait_for
from relay import Relay
from sqlalchemy import Connection

from guestgate import clock, corrections, members, plans, plans_file, postgres, studios
from guestgate.database import Database
from guestgate.directory import FOLLOW_S, DirectoryFollower
from guestgate.ledger import Answer, Ledger, Ticket
from guestgate.model import CheckIn, Decision
from guestgate.postgres import LEDGER_IDLE_MS

PLANS = '[plans.once]\nname = "Once"\nreentry_minutes = 0\nlimits = [{ max = 1, per = "day" }]\n'
ALLOWED, DENIED, UNDECIDED = "allowed", "denied", "undecided"
LONG_S = 30.0
BUDGET_MS = 400


class Desk:
    """A ledger on PostgreSQL behind a relay, and a look at the database beside it."""

    def __init__(self, cluster: Cluster, url: str) -> None:
        self.database = Database.at(url)
        self.relay = Relay("127.0.0.1", cluster.port)
        self.url = url.replace(f":{cluster.port}/", f":{self.relay.port}/")
        self._ledgers: list[Ledger] = []
        self.ledger = self.another()

    def another(self) -> Ledger:
        """A ledger as another server has it."""
        self._ledgers.append(Ledger(Database.at(self.url, door=True), None, BUDGET_MS))
        return self._ledgers[-1]

    def tap(self, member: str, *, patience_s: float = LONG_S) -> Ticket:
        """A check-in."""
        checkin = CheckIn(str(uuid_utils.uuid7()), clock.now(), "s1", member, 1, "0123456789abcdef")
        return Ticket(checkin, clock.monotonic() + patience_s)

    def decide(self, *tickets: Ticket, answers: tuple[Answer, ...] = ()) -> list[str]:
        """The outcome for each, in their order; waits for those whose members somebody else has locked."""
        decided = {decision.id: decision for decision in self.ledger.process(list(tickets), list(answers))}
        while self.ledger.waiting:
            decided |= {decision.id: decision for decision in self.ledger.process([], [])}
        return [decided[ticket.checkin.id].outcome.value for ticket in tickets]

    def on(self, word: bytes, action: str, times: int = 1) -> None:
        """What becomes of the next statements with this word in them."""
        left = [times]

        def before(data: bytes) -> str:
            if word in data and left[0]:
                left[0] -= 1
                return action
            return ""

        self.relay.before = before

    def record(self) -> list[tuple[str, str]]:
        """All decisions: id and outcome."""
        return [tuple(row) for row in rows(self.database, "SELECT id, outcome FROM decisions ORDER BY seq")]

    def visits(self) -> list[tuple[str, str, str | None]]:
        """All visits: id, state, why it was reversed."""
        return [tuple(row) for row in rows(self.database, "SELECT id, state, reversed_why FROM visits ORDER BY seq")]

    def close(self) -> None:
        """Let go of everything."""
        for ledger in self._ledgers:
            ledger.close()
        self.relay.close()


@pytest.fixture
def desk(tmp_path: Path, postgres: Server) -> Iterator[Desk]:
    """Ten members who may come once a day, and one studio."""
    url = postgres.new(tmp_path)
    (tmp_path / "plans.toml").write_text(PLANS, "utf-8")
    with Database.at(url).write() as connection:
        studios.add(connection, "s1", name="s1", timezone="Etc/UTC", tags=frozenset(), test=False)
        plans.apply(connection, plans_file.read(tmp_path / "plans.toml"))
        people = [members.MemberRow(0, f"m{number}", {"plan": "once"}) for number in range(10)]
        members.Upsert()(connection, people)
    desk = Desk(postgres.cluster, url)
    with structlog.testing.capture_logs():
        yield desk
    desk.close()
    postgres.drop(url)


def test_a_reply_to_commit_that_got_lost(desk: Desk) -> None:
    """The decision is found on record by its id, and answered; nothing is recorded twice."""
    desk.decide(desk.tap("m9"))
    desk.on(b"COMMIT", "deafen")
    first, second, stranger = desk.tap("m1"), desk.tap("m1"), desk.tap("nobody")
    answers = (Answer(desk.record()[0][0], 200, 3.0, False),)
    assert desk.decide(first, second, stranger, answers=answers) == [ALLOWED, DENIED, DENIED]
    assert [decision_id for decision_id, _ in desk.record()][1:] == [
        ticket.checkin.id for ticket in (first, second, stranger)
    ]
    assert len(rows(desk.database, "SELECT 1 FROM answers")) == 1
    assert desk.decide(desk.tap("m1")) == [DENIED]
    assert problems(desk.database) == []


def test_a_commit_that_never_arrived(desk: Desk) -> None:
    """It did not take place, and the same check-ins are decided again on another connection."""
    desk.decide(desk.tap("m9"))
    desk.on(b"COMMIT", "cut")
    first, second = desk.tap("m1"), desk.tap("m1")
    assert desk.decide(first, second) == [ALLOWED, DENIED]
    assert len(desk.record()) == 3 and len(desk.visits()) == 2
    assert problems(desk.database) == []


@pytest.mark.parametrize("word", [b"BEGIN", b"SKIP LOCKED", b"INSERT INTO decisions"])
def test_a_connection_that_breaks_before(word: bytes, desk: Desk) -> None:
    """Nothing was written; another connection is tried at once."""
    desk.decide(desk.tap("m9"))
    desk.on(word, "cut")
    assert desk.decide(desk.tap("m1"), desk.tap("m2")) == [ALLOWED, ALLOWED]
    assert len(desk.record()) == 3
    assert problems(desk.database) == []


@pytest.mark.parametrize("word", [b"INSERT INTO answers", b"COMMIT"])
def test_a_connection_that_breaks_without_a_check_in(word: bytes, desk: Desk) -> None:
    """What is known of earlier answers is written on another one: a visit that nobody made is taken back."""
    ticket = desk.tap("m1")
    assert desk.decide(ticket) == [ALLOWED]
    desk.on(word, "cut")
    assert desk.decide(answers=(Answer(ticket.checkin.id, None, 3.0, True),)) == []
    assert not desk.ledger.has_news
    assert desk.visits() == [(ticket.checkin.id, "reversed", "undelivered")]
    assert problems(desk.database) == []


def test_a_session_that_the_server_ended(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was stopped in the middle of a transaction has lost it, but nothing that there was to write."""
    ticket = desk.tap("m1")
    assert desk.decide(ticket) == [ALLOWED]
    reverse, late = corrections.reverse_undelivered, [LEDGER_IDLE_MS / 1000 + 0.5]

    def stopped(connection: Connection, decision_ids: Collection[str]) -> list[str]:
        if late:
            time.sleep(late.pop())
        return reverse(connection, decision_ids)

    monkeypatch.setattr(corrections, "reverse_undelivered", stopped)
    assert desk.decide(answers=(Answer(ticket.checkin.id, None, 3.0, True),)) == []
    assert not late and not desk.ledger.has_news
    assert desk.visits() == [(ticket.checkin.id, "reversed", "undelivered")]


def test_answers_that_take_too_long_to_write(desk: Desk) -> None:
    """A database that is slow for a while makes nobody forget which answers never left."""
    ticket = desk.tap("m1")
    assert desk.decide(ticket) == [ALLOWED]
    slow = (
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NEW; END'; "
        "CREATE TRIGGER slow BEFORE INSERT ON answers FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    with desk.database.write() as connection:
        connection.exec_driver_sql(slow)
    assert desk.decide(answers=(Answer(ticket.checkin.id, None, 3.0, True),)) == []
    assert desk.ledger.has_news and desk.visits()[0][1] == "authorized"
    assert desk.decide(desk.tap("m2", patience_s=0.5)) == [UNDECIDED]
    with desk.database.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER slow ON answers")
    assert desk.decide(desk.tap("m1")) == [ALLOWED], "the visit was not taken back first"
    assert desk.visits()[0] == (ticket.checkin.id, "reversed", "undelivered")
    assert [outcome for _, outcome in desk.record()] == [ALLOWED, UNDECIDED, ALLOWED]
    assert problems(desk.database) == []


def test_a_commit_that_goes_on_without_us(desk: Desk, own: Cluster) -> None:
    """It waits for a standby when the connection breaks; the caller is told 503, and then it takes place.

    What it recorded was never sent, so its visit is taken back and the member can come again.
    """
    desk.decide(desk.tap("m9"))
    own.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    own.execute("SELECT pg_reload_conf()")
    wait_for(lambda: own.execute("SHOW synchronous_standby_names") == [("nobody",)], "the setting is not in force")
    ticket = desk.tap("m1", patience_s=1.0)
    breaking = threading.Timer(0.4, desk.relay.cut)
    breaking.start()
    assert desk.decide(ticket) == [UNDECIDED]
    breaking.join()
    assert len(desk.record()) == 1, "a commit that waits for its standby is seen by nobody"
    own.execute("ALTER SYSTEM RESET synchronous_standby_names")
    own.execute("SELECT pg_reload_conf()")
    wait_for(lambda: len(desk.record()) == 2, "the commit did not take place")
    assert desk.visits()[1][1] == "authorized"
    assert desk.decide(answers=(Answer(ticket.checkin.id, 503, 398.0, False),)) == []
    assert desk.record()[1] == (ticket.checkin.id, ALLOWED), "what was recorded is not changed"
    assert desk.visits()[1] == (ticket.checkin.id, "reversed", "undelivered")
    ((status, undelivered),) = rows(desk.database, "SELECT http_status, undelivered FROM answers")
    assert (status, undelivered) == (503, True)
    assert desk.decide(desk.tap("m1")) == [ALLOWED]
    assert problems(desk.database) == []


def test_nothing_cancels_a_commit(desk: Desk, own: Cluster) -> None:
    """However long it waits for its standby, it is not cut short by the time-out of statements."""
    desk.decide(desk.tap("m9"))
    own.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    own.execute("SELECT pg_reload_conf()")
    wait_for(lambda: own.execute("SHOW synchronous_standby_names") == [("nobody",)], "the setting is not in force")
    before = own.log.count("canceling")
    outcomes: list[str] = []
    deciding = threading.Thread(target=lambda: outcomes.extend(desk.decide(desk.tap("m1"))))
    deciding.start()
    time.sleep(4 * BUDGET_MS / 1000)  # several times what any statement may take
    assert outcomes == [] and deciding.is_alive()
    own.execute("ALTER SYSTEM RESET synchronous_standby_names")
    own.execute("SELECT pg_reload_conf()")
    deciding.join(timeout=30)
    assert outcomes == [ALLOWED]
    assert own.log.count("canceling") == before, own.log
    assert problems(desk.database) == []


def test_a_commit_that_waits_for_too_long(desk: Desk, own: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is given up, not the commit: nothing is written past it, and its visit is taken back later."""
    monkeypatch.setattr(postgres, "DOOR_SILENCE_S", 1)
    desk.ledger = desk.another()
    desk.decide(desk.tap("m9"))
    own.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    own.execute("SELECT pg_reload_conf()")
    wait_for(lambda: own.execute("SHOW synchronous_standby_names") == [("nobody",)], "the setting is not in force")
    ticket = desk.tap("m1", patience_s=0.5)
    assert desk.decide(ticket) == [UNDECIDED]
    assert own.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == [(1,)]
    assert desk.decide(desk.tap("m2", patience_s=0.5)) == [UNDECIDED]
    own.execute("ALTER SYSTEM RESET synchronous_standby_names")
    own.execute("SELECT pg_reload_conf()")
    wait_for(lambda: len(desk.record()) == 2, "the commit did not take place")
    desk.decide(answers=(Answer(ticket.checkin.id, 503, 398.0, False),))
    assert [outcome for _, outcome in desk.record()] == [ALLOWED, ALLOWED, UNDECIDED]
    assert desk.visits()[1] == (ticket.checkin.id, "reversed", "undelivered")
    assert problems(desk.database) == []


def test_a_locked_member_holds_nobody_else_up(desk: Desk) -> None:
    """Whoever has one member's row locked delays that member only, until the deadline."""
    with (
        desk.database.engine.connect() as connection,
        connection.execution_options(guestgate_begin="BEGIN").begin() as transaction,
    ):
        connection.exec_driver_sql("SELECT 1 FROM members WHERE id = 'm1' FOR UPDATE")
        locked, free = desk.tap("m1", patience_s=0.5), desk.tap("m2")
        (decision,) = desk.ledger.process([locked, free], [])
        assert (decision.id, decision.outcome.value) == (free.checkin.id, ALLOWED)
        assert desk.ledger.waiting
        late: list[Decision] = []
        wait_for(lambda: late.extend(desk.ledger.process([], [])) or late, "it waits beyond its deadline")
        assert [(ruling.id, ruling.outcome.value) for ruling in late] == [(locked.checkin.id, UNDECIDED)]
        assert not desk.ledger.waiting
        transaction.rollback()
    assert desk.decide(desk.tap("m1")) == [ALLOWED]
    assert problems(desk.database) == []


def test_whoever_waits_when_the_door_is_gone(desk: Desk) -> None:
    """Is not let in, but has called: the record says so."""
    with (
        desk.database.engine.connect() as connection,
        connection.execution_options(guestgate_begin="BEGIN").begin() as transaction,
    ):
        connection.exec_driver_sql("SELECT 1 FROM members WHERE id = 'm1' FOR UPDATE")
        ticket = desk.tap("m1")
        assert desk.ledger.process([ticket], []) == [] and desk.ledger.waiting
        desk.ledger.flush()
        transaction.rollback()
    assert desk.record() == [(ticket.checkin.id, UNDECIDED)]
    assert not desk.ledger.waiting and desk.visits() == []


def test_a_reversal_waits_for_the_member(desk: Desk) -> None:
    """An answer that never left is taken back once the member is free, and not forgotten."""
    ticket = desk.tap("m1")
    assert desk.decide(ticket) == [ALLOWED]
    with (
        desk.database.engine.connect() as connection,
        connection.execution_options(guestgate_begin="BEGIN").begin() as transaction,
    ):
        connection.exec_driver_sql("SELECT 1 FROM members WHERE id = 'm1' FOR UPDATE")
        desk.decide(answers=(Answer(ticket.checkin.id, None, 1.0, True),))
        assert desk.visits()[0][1] == "authorized" and desk.ledger.has_news
        transaction.rollback()
    desk.decide()
    assert desk.visits()[0][1] == "reversed" and not desk.ledger.has_news


def test_a_table_that_is_locked(desk: Desk) -> None:
    """A statement that waits gives up in a part of the budget; the check-in is undecided at its deadline."""
    with (
        desk.database.engine.connect() as connection,
        connection.execution_options(guestgate_begin="BEGIN").begin() as transaction,
    ):
        connection.exec_driver_sql("LOCK TABLE visits IN ACCESS EXCLUSIVE MODE")
        assert desk.decide(desk.tap("m1", patience_s=0.6), desk.tap("m2", patience_s=0.6)) == [UNDECIDED] * 2
        transaction.rollback()
    assert desk.decide(desk.tap("m1")) == [ALLOWED]
    assert [outcome for _, outcome in desk.record()] == [UNDECIDED, UNDECIDED, ALLOWED]
    assert problems(desk.database) == []


def test_a_silent_server_keeps_nobody_from_ending(desk: Desk) -> None:
    """Whoever follows studios, keys and plans may wait for it for ever, but the process can stop."""
    follower = DirectoryFollower(Database.at(desk.url, door=True, pooled=True))
    follower.start()
    desk.relay.black_out()
    stopping = threading.Thread(target=follower.stop, daemon=True)
    time.sleep(2 * FOLLOW_S)
    stopping.start()
    stopping.join(timeout=20)
    ended = not stopping.is_alive()
    desk.relay.clear()
    assert ended


def test_two_ledgers_and_one_member(desk: Desk) -> None:
    """Decided by whoever has the member first, and by the other one after it: one visit."""
    other = desk.another()
    outcomes: list[str] = []

    def decide(ledger: Ledger) -> None:
        for _ in range(50):
            found = ledger.process([desk.tap("m3") for _ in range(5)], [])
            while ledger.waiting:
                found += ledger.process([], [])
            outcomes.extend(decision.outcome.value for decision in found)

    threads = [threading.Thread(target=decide, args=(ledger,)) for ledger in (desk.ledger, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [ALLOWED] + [DENIED] * 499
    assert len(desk.visits()) == 1
    assert problems(desk.database) == []


def test_a_server_whose_default_is_not_to_wait(desk: Desk, own: Cluster) -> None:
    """`synchronous_commit = off` would have answers on the way that no disk has, and events in the feed."""
    seen: list[Any] = []
    show = "SHOW synchronous_commit"
    own.execute("ALTER SYSTEM SET synchronous_commit = off")
    own.execute("SELECT pg_reload_conf()")
    try:
        wait_for(lambda: own.execute(show) == [("off",)], "the setting is not in force")
        with desk.database.connect_ledger(BUDGET_MS) as connection, connection.begin():
            seen.append(connection.exec_driver_sql(show).scalar_one())
        with desk.database.write() as connection:
            seen.append(connection.exec_driver_sql(show).scalar_one())
    finally:
        own.execute("ALTER SYSTEM RESET synchronous_commit")
        own.execute("SELECT pg_reload_conf()")
    assert seen == ["on", "on"]


@pytest.fixture
def own(postgres: Server) -> Iterator[Cluster]:
    """The server, whose settings a test changes; nothing is left of that."""
    yield postgres.cluster
    postgres.cluster.execute("ALTER SYSTEM RESET ALL")
    postgres.cluster.execute("SELECT pg_reload_conf()")
    wait_for(
        lambda: postgres.cluster.execute("SHOW synchronous_standby_names") == [("",)], "the setting is still in force"
    )


def test_a_young_database_is_read_by_its_indexes(desk: Desk) -> None:
    """Plans are kept from when the tables were empty; a visit is still found under its member, however many come."""
    for _ in range(40):
        desk.decide(*(desk.tap(f"m{number}") for number in range(10)))
    desk.close()

    def scans() -> dict[str, int]:
        by_index = "SELECT indexrelname, idx_scan FROM pg_stat_user_indexes WHERE relname = 'visits'"
        as_a_whole = "SELECT 'whole', seq_scan FROM pg_stat_user_tables WHERE relname = 'visits'"
        return {str(name): int(count) for name, count in rows(desk.database, f"{by_index} UNION ALL {as_a_whole}")}

    wait_for(lambda: scans()["ix_visits_member_id_local_date"] >= 400, f"by other ways: {scans()}")
    used = {name for name, count in scans().items() if count}
    assert used <= {"ix_visits_member_id_local_date", "uq_visits_id", "pk_visits"}, scans()
