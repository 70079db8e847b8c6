"""The ledger on a database: batches, deadlines, faults, locks, and what becomes of answers."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import structlog
import uuid_utils
from backends import Backend
from callers import everything, locked, problems, rows
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from guestgate import (
    checkpoints,
    clock,
    corrections,
    directory,
    ledger,
    members,
    plans,
    plans_file,
    postgres,
    schema,
    studios,
    visits,
)
from guestgate.bulk import SIZES, BulkInsert, BulkSelect
from guestgate.database import Database, DiskFailedError
from guestgate.decide import decide
from guestgate.ledger import Answer, Ledger, Ticket
from guestgate.ledger_process import WAITING_RETRY_S
from guestgate.model import CheckIn, Decision, Facts
from guestgate.stand_in.recent import RecentVisit
from guestgate.stand_in.rules import CopyCheck

# A Monday; noon in Berlin.
NOON = datetime(2026, 11, 23, 11, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
LONG_S = 3600.0
BERLIN = ZoneInfo("Europe/Berlin")

STUDIOS = {
    "berlin": "Europe/Berlin",
    "potsdam": "Europe/Berlin",
    "kiritimati": "Pacific/Kiritimati",  # UTC+14
    "pago": "Pacific/Pago_Pago",  # UTC-11
    "demo": "Europe/Berlin",
}
PLANS = """\
[plans.free]
name = "Free"
reentry_minutes = 0

[plans.once]
name = "Once a day"
reentry_minutes = 0
limits = [{ max = 1, per = "day" }]

[plans.again]
name = "Once a day, with re-entry"
limits = [{ max = 1, per = "day" }]

[plans.monthly]
name = "Twice a month"
reentry_minutes = 0
limits = [{ max = 2, per = "month" }]

[plans.ever]
name = "Twice ever"
reentry_minutes = 0
limits = [{ max = 2, per = "total" }]
"""
MEMBERS = [(f"{plan}-{number}", plan) for plan in ("free", "once", "again", "monthly", "ever") for number in range(5)]

ROUNDS = int(os.environ.get("GUESTGATE_TEST_ROUNDS", "10"))
SEED = int(os.environ.get("GUESTGATE_TEST_SEED", "1"))


class Desk:
    """A ledger, and short words for what the tests do with it."""

    def __init__(self, url: str, own_id: str | None = None) -> None:
        self.url = url
        self.database = Database.at(self.url, door=True)
        self.ledger = Ledger(self.database, own_id)

    def tap(
        self,
        member: str,
        at: datetime = NOON,
        studio: str = "berlin",
        *,
        customer: int = 1,
        patience_s: float = LONG_S,
    ) -> Ticket:
        """A check-in; with a negative patience it is late."""
        checkin = CheckIn(str(uuid_utils.uuid7()), at, studio, member, customer, "0123456789abcdef")
        return Ticket(checkin, clock.monotonic() + patience_s)

    def process(self, *tickets: Ticket, answers: tuple[Answer, ...] = ()) -> list[tuple[str, str]]:
        """Outcome and reason for each ticket, in their order, when the last one is decided."""
        decided = self.ledger.process(list(tickets), list(answers))
        while self.ledger.waiting:
            clock.sleep(WAITING_RETRY_S)
            decided += self.ledger.process([], [])
        decisions = {decision.id: decision for decision in decided}
        assert len(decisions) == len(tickets)
        return [
            (decisions[ticket.checkin.id].outcome.value, decisions[ticket.checkin.id].reason.value)
            for ticket in tickets
        ]

    def record(self) -> list[tuple[str, str, str, str | None]]:
        """All decisions in their order: id, outcome, reason, visit."""
        found = rows(self.database, "SELECT id, outcome, reason, visit_id FROM decisions ORDER BY seq")
        return [tuple(row) for row in found]

    def visits(self, member: str) -> list[tuple[str, str, str, str | None]]:
        """A member's visits: id, local date, state, why it was reversed."""
        query = "SELECT id, local_date, state, reversed_why FROM visits WHERE member_id = :member ORDER BY seq"
        return [tuple(row) for row in rows(self.database, query, member=member)]

    def changes(self, ticket: Ticket) -> list[tuple[str, str, str]]:
        """The corrections of the visit that a ticket made: state, who, why."""
        query = "SELECT state, who, why FROM visit_changes WHERE visit_id = :id ORDER BY seq"
        return [tuple(row) for row in rows(self.database, query, id=ticket.checkin.id)]

    def state(self, ticket: Ticket) -> str:
        """The state of the visit that a ticket made."""
        ((state,),) = rows(self.database, "SELECT state FROM visits WHERE id = :id", id=ticket.checkin.id)
        return str(state)

    def change(self, make: Callable[[Any], object], who: str = "cli:test") -> None:
        """Another program's transaction."""
        with Database.at(self.url).write(who) as connection:
            make(connection)


ALLOWED, REENTRY = ("allowed", "ok"), ("allowed", "reentry")
LIMIT, UNDECIDED = ("denied", "limit_reached"), ("undecided", "unavailable")


def sent(ticket: Ticket, status: int = 200) -> Answer:
    """The answer left in time."""
    return Answer(ticket.checkin.id, status, 3.5, False)


def unsent(ticket: Ticket, status: int | None = None) -> Answer:
    """The caller was gone, or was told 503."""
    return Answer(ticket.checkin.id, status, 391.0, True)


@pytest.fixture(scope="module")
def template(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database with studios, plans and members, to be copied."""
    folder = tmp_path_factory.mktemp("template")
    (folder / "plans.toml").write_text(PLANS, "utf-8")
    url = backend.new(folder)
    with Database.at(url).write() as connection:
        for studio_id, timezone in STUDIOS.items():
            test = studio_id == "demo"
            studios.add(connection, studio_id, name=studio_id, timezone=timezone, tags=frozenset(), test=test)
        plans.apply(connection, plans_file.read(folder / "plans.toml"))
        people = [members.MemberRow(0, member, {"plan": plan}) for member, plan in MEMBERS]
        members.Upsert()(connection, people)
    yield url
    backend.drop(url)


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    """What the ledger logs, as values; a traceback is not drawn."""
    with structlog.testing.capture_logs() as events:
        yield events


@pytest.fixture
def url(backend: Backend, template: str, tmp_path: Path) -> Iterator[str]:
    """A database of its own for this test."""
    url = backend.copy(template, tmp_path)
    yield url
    backend.drop(url)


@pytest.fixture
def desk(url: str) -> Iterator[Desk]:
    """A ledger of its own for this test."""
    desk = Desk(url)
    yield desk
    desk.ledger.close()


class FakeClock:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.time_s = 1000.0
        self.sleeps = 0
        self.on_sleep: Callable[[int], object] = lambda sleeps: None

    def monotonic(self) -> float:
        return self.time_s

    def sleep(self, seconds: float) -> None:
        self.time_s += seconds
        self.sleeps += 1
        assert self.sleeps < 100_000, "waits for ever"
        self.on_sleep(self.sleeps)


@pytest.fixture
def fake_clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Deadlines and waiting without real time."""
    fake = FakeClock()
    monkeypatch.setattr(clock, "monotonic", fake.monotonic)
    monkeypatch.setattr(clock, "sleep", fake.sleep)
    return fake


class Lock:
    """What another program has locked."""

    def __init__(self, url: str, *members: str) -> None:
        self._held = ExitStack()
        self._held.enter_context(locked(Database.at(url), *members))

    def release(self, *_: object) -> None:
        self._held.close()


@pytest.fixture
def lock(desk: Desk) -> Iterator[Lock]:
    """The member with the limit is locked."""
    lock = Lock(desk.url, "once-0")
    yield lock
    lock.release()


def fail_for(monkeypatch: pytest.MonkeyPatch, *members: str) -> None:
    """Let deciding on some members fail."""

    def faulty(checkin: CheckIn, facts: Facts) -> Decision:
        if checkin.aggregator_id in members:
            raise ZeroDivisionError("a fault in this check-in")
        return decide(checkin, facts)

    monkeypatch.setattr(ledger, "decide", faulty)


def remove_plan_free(connection: Any) -> None:
    """What no command does: take away a plan that members have."""
    connection.exec_driver_sql("UPDATE plans SET removed_at_ms = 1 WHERE id = 'free'")
    directory.changed(connection)


# Batches


def test_two_taps_in_one_batch_see_each_other(desk: Desk) -> None:
    """With a limit of one the first is let in and the second is not."""
    first, second = desk.tap("once-0"), desk.tap("once-0")
    assert desk.process(first, second) == [ALLOWED, LIMIT]
    assert [visit[0] for visit in desk.visits("once-0")] == [first.checkin.id]


def test_a_reentry_leans_on_a_visit_of_its_own_batch(desk: Desk) -> None:
    """The second tap is the first one's visit, and makes none."""
    first, second = desk.tap("again-0"), desk.tap("again-0", NOON + MINUTE)
    assert desk.process(first, second) == [ALLOWED, REENTRY]
    assert [row[3] for row in desk.record()] == [first.checkin.id] * 2
    assert len(desk.visits("again-0")) == 1


def test_taps_in_different_batches_see_each_other(desk: Desk) -> None:
    """A committed visit counts in the next batch."""
    assert desk.process(desk.tap("once-0")) == [ALLOWED]
    assert desk.process(desk.tap("once-0")) == [LIMIT]


def test_the_order_of_the_batch_is_the_order_of_the_record(desk: Desk) -> None:
    """Decisions are written in the order in which they were made."""
    tickets = [desk.tap(f"free-{number % 5}") for number in range(20)]
    desk.process(*tickets)
    assert [row[0] for row in desk.record()] == [ticket.checkin.id for ticket in tickets]


@pytest.mark.parametrize("size", [0, 1, 2, 63, 64, 65, 200])
def test_every_ticket_gets_one_decision_and_one_row(desk: Desk, size: int) -> None:
    """Whatever the batch's size, and whatever its members: known, unknown, limited, late."""
    names = ["free-0", "once-0", "again-0", "nobody", "ever-0"]
    tickets = [desk.tap(names[n % 5], patience_s=-1 if n % 7 == 6 else LONG_S) for n in range(size)]
    outcomes = desk.process(*tickets)
    recorded = {decision_id: (outcome, reason) for decision_id, outcome, reason, _ in desk.record()}
    assert len(desk.record()) == size
    assert [recorded[ticket.checkin.id] for ticket in tickets] == outcomes
    assert problems(desk.database) == []


def test_what_is_recorded_of_a_denial(desk: Desk) -> None:
    """The limit, how much of it is used, when it ends, and the plan's version."""
    desk.process(desk.tap("once-0"), desk.tap("once-0", customer=2**63 - 1))
    ((limit, until, plan, version, customer),) = rows(
        desk.database,
        "SELECT limit_use, next_allowed_at_ms, plan_id, plan_version, customer_id FROM decisions"
        " WHERE outcome = 'denied'",
    )
    assert limit == '{"max": 1, "per": "day", "scope": "network", "used": 1}'
    assert clock.from_ms(until) == datetime(2026, 11, 23, 23, tzinfo=UTC)
    assert (plan, version, customer) == ("once", 1, 2**63 - 1)


def test_odd_texts_are_recorded_as_they_came(desk: Desk) -> None:
    """Any text that a body can carry is kept character by character."""
    odd = ["'; DROP TABLE decisions; --", "Zoë 🏋️", '"quoted"', "tab\tnew\nline", "\u2028\ufeff\uffff", "x" * 255]
    assert {reason for _, reason in desk.process(*(desk.tap(text) for text in odd))} == {"unknown_member"}
    assert [row[0] for row in rows(desk.database, "SELECT aggregator_id FROM decisions ORDER BY seq")] == odd


def test_both_readings_of_the_aggregator_id(url: str) -> None:
    """Our own id names the member linked to the customer; any other is the member's own."""
    desk = Desk(url, own_id="us")
    desk.change(lambda connection: members.link(connection, "once-0", 77))
    asked = [("us", 77), ("us", 78), ("once-0", 77), ("once-1", 77), ("once-1", 79)]
    outcomes = desk.process(*(desk.tap(member, customer=customer) for member, customer in asked))
    assert outcomes == [ALLOWED, ("denied", "unknown_member"), LIMIT, ("denied", "identity_conflict"), ALLOWED]
    desk.ledger.close()


# Deadlines


def test_a_late_check_in_is_undecided_and_makes_no_visit(desk: Desk) -> None:
    """It is on record, it names no visit, and it does not take the place of one in time."""
    late, in_time = desk.tap("once-0", patience_s=-0.001), desk.tap("once-0")
    assert desk.process(late, in_time) == [UNDECIDED, ALLOWED]
    assert {row[0]: row[3] for row in desk.record()} == {
        late.checkin.id: None,
        in_time.checkin.id: in_time.checkin.id,
    }
    assert [visit[0] for visit in desk.visits("once-0")] == [in_time.checkin.id]


def test_a_deadline_that_is_now_is_over(desk: Desk, fake_clock: FakeClock) -> None:
    """The last moment to decide lies before the deadline."""
    tickets = [desk.tap("free-0", patience_s=patience) for patience in (0.0, 0.0001)]
    assert desk.process(*tickets) == [UNDECIDED, ALLOWED]


def test_a_batch_of_late_check_ins_only(desk: Desk) -> None:
    """All are on record at once."""
    assert desk.process(*(desk.tap("free-0", patience_s=-1) for _ in range(3))) == [UNDECIDED] * 3
    assert [row[1] for row in desk.record()] == ["undecided"] * 3
    assert problems(desk.database) == []


# Faults


def test_a_fault_spoils_only_its_own_check_in(desk: Desk, logged: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The others of the batch are decided as if it were not there."""
    fail_for(monkeypatch, "free-3")
    names = ["once-0", "free-3", "once-0", "again-0", "free-3", "again-0"]
    tickets = [desk.tap(name) for name in names]
    assert desk.process(*tickets) == [ALLOWED, UNDECIDED, LIMIT, ALLOWED, UNDECIDED, REENTRY]
    desk.process()
    recorded = {row[0]: row[1] for row in desk.record()}
    assert [recorded[ticket.checkin.id] for ticket in tickets].count("undecided") == 2
    faults = [event["decision"] for event in logged if event["event"] == "a check-in could not be decided"]
    assert faults == [tickets[1].checkin.id, tickets[4].checkin.id]
    assert len(desk.record()) == 6
    assert problems(desk.database) == []


def test_a_fault_alone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """One check-in that cannot be decided is undecided, on record with the next batch, and later well again."""
    fail_for(monkeypatch, "once-0")
    assert desk.process(desk.tap("once-0")) == [UNDECIDED]
    monkeypatch.undo()
    assert desk.process(desk.tap("once-0")) == [ALLOWED]
    assert [row[1] for row in desk.record()] == ["undecided", "allowed"]


def test_a_member_whose_plan_is_gone_spoils_only_its_own_check_in(desk: Desk) -> None:
    """Reading facts can fail as well as deciding."""
    desk.change(remove_plan_free)
    tickets = [desk.tap(name) for name in ("once-0", "free-0", "once-1")]
    assert desk.process(*tickets) == [ALLOWED, UNDECIDED, ALLOWED]


def test_an_answer_that_cannot_be_recorded_spoils_no_check_in(desk: Desk) -> None:
    """News that the database refuses may be lost; the check-ins of that batch and the next are decided."""
    first = desk.tap("free-0")
    desk.process(first)
    outcomes = [
        *desk.process(desk.tap("free-1"), answers=(sent(first), sent(first))),
        *desk.process(desk.tap("free-2")),
    ]
    assert outcomes == [ALLOWED, ALLOWED]


# Locks


def test_what_is_locked_is_waited_for(desk: Desk, lock: Lock, fake_clock: FakeClock) -> None:
    """Once the lock is gone the batch is decided."""
    fake_clock.on_sleep = lambda sleeps: sleeps == 20 and lock.release()
    assert desk.process(desk.tap("once-0"), desk.tap("once-0")) == [ALLOWED, LIMIT]
    assert fake_clock.sleeps == 20
    assert len(desk.record()) == 2


def test_a_lock_that_stays_makes_check_ins_undecided(desk: Desk, lock: Lock, fake_clock: FakeClock) -> None:
    """They come back at their deadline, and are on record once the lock is gone."""
    tickets = [desk.tap("once-0", patience_s=0.39), desk.tap("once-0", patience_s=0.39)]
    assert desk.process(*tickets) == [UNDECIDED, UNDECIDED]
    assert fake_clock.time_s == pytest.approx(1000.39, abs=0.01)
    assert desk.visits("once-0") == []
    lock.release()
    assert desk.process(desk.tap("once-0")) == [ALLOWED]
    assert [row[1] for row in desk.record()] == ["undecided", "undecided", "allowed"]
    assert len(desk.visits("once-0")) == 1
    assert problems(desk.database) == []


def test_each_check_in_waits_until_its_own_deadline(desk: Desk, lock: Lock, fake_clock: FakeClock) -> None:
    """The lock goes between two deadlines: one is undecided, the other is decided."""
    short, long = desk.tap("once-0", patience_s=0.1), desk.tap("once-0", patience_s=0.4)
    fake_clock.on_sleep = lambda sleeps: fake_clock.time_s > 1000.2 and lock.release()
    assert desk.process(short, long) == [UNDECIDED, ALLOWED]
    assert [row[:2] for row in desk.record()] == [
        (short.checkin.id, "undecided"),
        (long.checkin.id, "allowed"),
    ]


def test_a_deadline_that_passes_while_locks_are_taken_is_over(
    desk: Desk, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller has been told that nothing was decided, and may call again at once."""

    class SlowBook(ledger.FactBook):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            fake_clock.time_s += 0.2

    monkeypatch.setattr(ledger, "FactBook", SlowBook)
    short, long = desk.tap("once-0", patience_s=0.2), desk.tap("once-1", patience_s=0.4)
    assert desk.process(short, long) == [UNDECIDED, ALLOWED]
    assert desk.visits("once-0") == []
    assert desk.process(desk.tap("once-0")) == [ALLOWED]
    assert sorted(row[:2] for row in desk.record()[:2]) == sorted(
        [(short.checkin.id, "undecided"), (long.checkin.id, "allowed")]
    )
    assert problems(desk.database) == []


def test_news_wait_for_a_lock_without_a_check_in(desk: Desk, fake_clock: FakeClock) -> None:
    """Answers that cannot be written now are written with the next batch, once."""
    ticket = desk.tap("free-0")
    desk.process(ticket)
    lock = Lock(desk.url)
    desk.process(answers=(sent(ticket),))
    desk.process(answers=())
    assert desk.ledger.has_news
    lock.release()
    desk.process()
    assert [tuple(row) for row in rows(desk.database, "SELECT * FROM answers")] == [(ticket.checkin.id, 200, 3.5, 0)]


def test_a_ledger_waits_for_a_lock_that_is_there_from_its_start(url: str, fake_clock: FakeClock) -> None:
    """Opening needs no lock; the first batch waits like any other."""
    lock = Lock(url, "free-0")
    desk = Desk(url)
    fake_clock.on_sleep = lambda sleeps: sleeps == 3 and lock.release()
    assert desk.process(desk.tap("free-0")) == [ALLOWED]
    desk.ledger.close()


def test_what_waits_to_be_recorded_is_limited(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an endless outage the latest news are kept."""
    monkeypatch.setattr(ledger, "MAX_NEWS", 3)
    lock = Lock(desk.url)
    late = [desk.tap("free-0", patience_s=-1) for _ in range(5)]
    for ticket in late:
        desk.process(ticket)
    lock.release()
    desk.process()
    assert [row[0] for row in desk.record()] == [ticket.checkin.id for ticket in late[2:]]


# Answers


def test_how_an_answer_left_is_recorded_with_the_next_batch(desk: Desk) -> None:
    """Status, milliseconds and whether it was delivered; nothing before that."""
    first, second, third = desk.tap("once-0"), desk.tap("once-0"), desk.tap("free-0")
    desk.process(first, second)
    assert rows(desk.database, "SELECT * FROM answers") == []
    desk.process(third, answers=(sent(first), sent(second, 403)))
    answers = {row[0]: tuple(row[1:]) for row in rows(desk.database, "SELECT * FROM answers")}
    assert answers == {first.checkin.id: (200, 3.5, 0), second.checkin.id: (403, 3.5, 0)}


def test_an_undelivered_allow_is_reversed(desk: Desk) -> None:
    """The visit is kept as reversed, with who and why, and counts no more."""
    ticket = desk.tap("once-0")
    desk.process(ticket)
    desk.process(answers=(unsent(ticket),))
    assert desk.visits("once-0") == [(ticket.checkin.id, "2026-11-23", "reversed", "undelivered")]
    assert desk.changes(ticket) == [("reversed", "guestgate", "undelivered")]
    ((status, undelivered),) = rows(desk.database, "SELECT http_status, undelivered FROM answers")
    assert (status, bool(undelivered)) == (None, True)
    again = desk.tap("once-0")
    assert desk.process(again) == [ALLOWED]
    assert desk.state(again) == "authorized"
    assert problems(desk.database) == []


def test_an_undelivered_allow_does_not_count_in_the_batch_that_brings_the_news(desk: Desk) -> None:
    """The next tap may come together with the news that the first answer never left."""
    first = desk.tap("once-0")
    desk.process(first)
    assert desk.process(desk.tap("once-0"), answers=(unsent(first, 503),)) == [ALLOWED]
    assert desk.state(first) == "reversed"


def test_an_undelivered_denial_changes_nothing(desk: Desk) -> None:
    """There is nothing to reverse, least of all the visit that used up the limit."""
    first, second = desk.tap("once-0"), desk.tap("once-0")
    desk.process(first, second)
    desk.process(answers=(sent(first), unsent(second)))
    assert desk.state(first) == "authorized"
    assert rows(desk.database, "SELECT * FROM visit_changes") == []


def test_a_visit_that_a_delivered_reentry_leans_on_stays(desk: Desk) -> None:
    """Somebody walked in on it, whatever became of the first answer."""
    first, second = desk.tap("again-0"), desk.tap("again-0", NOON + MINUTE)
    desk.process(first)
    desk.process(second)
    desk.process(answers=(sent(second),))
    desk.process(answers=(unsent(first),))
    assert (desk.state(first), desk.changes(first)) == ("authorized", [])


def test_a_visit_stays_while_a_reentrys_answer_is_unknown(desk: Desk) -> None:
    """Unknown may mean delivered; once it is known not to be, the visit is reversed, and only once."""
    first, second, third = desk.tap("again-0"), desk.tap("again-0"), desk.tap("again-0")
    desk.process(first, second, third)
    desk.process(answers=(unsent(first),))
    assert desk.state(first) == "authorized"
    desk.process(answers=(unsent(second),))
    assert desk.state(first) == "authorized"
    desk.process(answers=(unsent(third),))
    assert (desk.state(first), len(desk.changes(first))) == ("reversed", 1)


def test_a_reentry_that_comes_with_the_news_keeps_the_visit_or_gets_its_own(desk: Desk) -> None:
    """A tap in the batch that says that the first answer was lost is let in, on one visit that counts."""
    first, second = desk.tap("again-0"), desk.tap("again-0", NOON + MINUTE)
    desk.process(first)
    ((outcome, _),) = desk.process(second, answers=(unsent(first),))
    desk.process(answers=(sent(second),))
    assert outcome == "allowed"
    counting = [visit for visit in desk.visits("again-0") if visit[2] != "reversed"]
    named = {row[0]: row[3] for row in desk.record()}
    assert [visit[0] for visit in counting] == [named[second.checkin.id]]
    assert problems(desk.database) == []


def test_a_visit_is_reversed_when_all_that_leaned_on_it_were_undelivered(desk: Desk) -> None:
    """Three answers, none of which left, told at once and in any order."""
    first, second, third = desk.tap("again-0"), desk.tap("again-0"), desk.tap("again-0")
    desk.process(first, second, third)
    desk.process(answers=(unsent(third), unsent(first, 503), unsent(second)))
    assert (desk.state(first), desk.changes(first)) == ("reversed", [("reversed", "guestgate", "undelivered")])


def test_a_delivered_first_answer_keeps_the_visit(desk: Desk) -> None:
    """A re-entry whose answer was lost takes nothing away."""
    first, second = desk.tap("again-0"), desk.tap("again-0")
    desk.process(first, second)
    desk.process(answers=(sent(first), unsent(second)))
    assert desk.state(first) == "authorized"


def test_a_reentry_of_another_member_keeps_nobodys_visit(desk: Desk) -> None:
    """Only what leaned on this very visit counts."""
    mine, theirs = desk.tap("again-0"), desk.tap("again-1")
    desk.process(mine, theirs)
    desk.process(answers=(unsent(mine), sent(theirs)))
    assert (desk.state(mine), desk.state(theirs)) == ("reversed", "authorized")


def test_a_manual_reversal_stays(desk: Desk) -> None:
    """News of the answer change neither state nor reason of a visit that somebody took back."""
    ticket = desk.tap("once-0")
    desk.process(ticket)
    desk.change(lambda connection: corrections.reverse(connection, ticket.checkin.id, "a mistake"), "cli:anna")
    desk.process(answers=(unsent(ticket),))
    assert desk.visits("once-0")[0][2:] == ("reversed", "a mistake")
    assert desk.changes(ticket) == [("reversed", "cli:anna", "a mistake")]


def test_a_visit_that_an_earlier_system_made_is_not_reversed(desk: Desk) -> None:
    """A re-entry may lean on an imported visit; its lost answer does not undo what was imported."""
    row = visits.VisitRow(1, "again-0", "berlin", NOON)
    desk.change(lambda connection: visits.Import()(connection, [row]))
    ticket = desk.tap("again-0", NOON + MINUTE)
    assert desk.process(ticket) == [REENTRY]
    desk.process(answers=(unsent(ticket),))
    assert [visit[2] for visit in desk.visits("again-0")] == ["authorized"]


def test_a_confirmed_visit_is_not_reversed(desk: Desk) -> None:
    """There is evidence that the member walked in."""
    ticket = desk.tap("once-0")
    desk.process(ticket)
    desk.change(lambda connection: connection.exec_driver_sql("UPDATE visits SET state = 'confirmed'"))
    desk.process(answers=(unsent(ticket),))
    assert desk.state(ticket) == "confirmed"


def test_answers_of_undecided_check_ins_are_recorded(desk: Desk) -> None:
    """A 503 that left, and one whose caller was gone."""
    late = [desk.tap("once-0", patience_s=-1), desk.tap("once-0", patience_s=-1)]
    desk.process(*late)
    desk.process(answers=(Answer(late[0].checkin.id, 503, 390.0, False), unsent(late[1])))
    assert [row[0] for row in rows(desk.database, "SELECT http_status FROM answers ORDER BY decision_id")] == [
        503,
        None,
    ]
    assert problems(desk.database) == []


# What decisions rest on


def test_a_change_of_the_directory_is_seen_by_the_next_batch(desk: Desk) -> None:
    """Studios and plans: paused, new, with other rules."""
    assert desk.process(desk.tap("once-0")) == [ALLOWED]
    desk.change(lambda connection: studios.change(connection, "berlin", active=False))
    assert desk.process(desk.tap("once-1")) == [("denied", "studio_inactive")]
    document = plans_file.PlanDocument.model_validate_json(
        '{"name": "Twice", "reentry_minutes": 0, "limits": [{"max": 2, "per": "day"}]}'
    )
    desk.change(lambda connection: plans.apply(connection, {"once": document}))
    outcomes = desk.process(*(desk.tap("once-0", studio="potsdam") for _ in range(2)))
    assert outcomes == [ALLOWED, LIMIT]
    versions = rows(desk.database, "SELECT plan_version FROM decisions GROUP BY plan_version ORDER BY min(seq)")
    assert [row[0] for row in versions] == [1, 2]
    desk.change(
        lambda connection: studios.add(
            connection, "new", name="New", timezone="Europe/Berlin", tags=frozenset(), test=False
        )
    )
    assert desk.process(desk.tap("free-0", studio="new")) == [ALLOWED]


def test_a_change_of_a_member_is_seen_by_the_next_batch(desk: Desk) -> None:
    """Members are read for every batch."""
    suspended = members.MemberRow(1, "free-0", {"status": "suspended"})
    assert desk.process(desk.tap("free-0")) == [ALLOWED]
    desk.change(lambda connection: members.Upsert()(connection, [suspended]))
    assert desk.process(desk.tap("free-0"), desk.tap("free-1")) == [("denied", "membership_suspended"), ALLOWED]


def test_limits_in_total_and_in_windows_in_one_batch(desk: Desk) -> None:
    """Each member's own window counts: everything for one, this month for another, today for a third."""
    old = [
        visits.VisitRow(line, member, "berlin", at)
        for line, (member, at) in enumerate(
            [
                ("ever-0", NOON - 2000 * DAY),
                ("ever-1", NOON - 2000 * DAY),
                ("ever-1", NOON - 1999 * DAY),
                ("once-0", NOON - 2000 * DAY),
                ("once-0", NOON - DAY),
                ("monthly-0", NOON - 30 * DAY),
                ("monthly-0", NOON - 22 * DAY),
                ("monthly-1", NOON - 22 * DAY),
                ("monthly-1", NOON - DAY),
            ]
        )
    ]
    desk.change(lambda connection: visits.Import()(connection, old))
    names = ["once-0", "ever-0", "monthly-0", "ever-1", "monthly-1", "ever-0", "once-0", "monthly-0", "free-0"]
    assert desk.process(*(desk.tap(name) for name in names)) == [
        *(ALLOWED, ALLOWED, ALLOWED, LIMIT, LIMIT),
        *(LIMIT, LIMIT, LIMIT, ALLOWED),
    ]


def test_visits_at_a_test_studio_do_not_count(desk: Desk) -> None:
    """They are let in and recorded as visits, and leave the limit as it is."""
    outcomes = desk.process(
        desk.tap("once-0", studio="demo"),
        desk.tap("once-0", studio="demo"),
        desk.tap("once-0"),
        desk.tap("once-0", studio="potsdam"),
        desk.tap("once-0", studio="demo"),
    )
    assert outcomes == [ALLOWED, ALLOWED, ALLOWED, LIMIT, LIMIT]
    query = "SELECT studio_id, test FROM visits ORDER BY seq"
    assert [tuple(row) for row in rows(desk.database, query)] == [("demo", 1), ("demo", 1), ("berlin", 0)]


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "a batch each"])
def test_visits_in_other_time_zones_count_on_their_own_date(desk: Desk, together: bool) -> None:
    """At one instant three studios have three dates; each visit counts on its own and nowhere else."""
    at = datetime(2026, 11, 23, 10, 30, tzinfo=UTC)  # Pago Pago 22nd 23:30, Berlin 23rd, Kiritimati 24th 00:30
    asked = [
        ("pago", at, ALLOWED),  # on the 22nd
        ("kiritimati", at, ALLOWED),  # on the 24th
        ("berlin", at, ALLOWED),  # on the 23rd
        ("pago", at + 29 * MINUTE, LIMIT),  # 23:59 on the 22nd
        ("pago", at + 30 * MINUTE, LIMIT),  # 00:00 on the 23rd, the date in Berlin
        ("kiritimati", at - 31 * MINUTE, LIMIT),  # 23:59 on the 23rd
        ("berlin", at + 750 * MINUTE, LIMIT),  # 00:00 on the 24th, the date in Kiritimati
        ("pago", at + 2910 * MINUTE, ALLOWED),  # 00:00 on the 25th
    ]
    tickets = [desk.tap("once-0", instant, studio) for studio, instant, _ in asked]
    if together:
        outcomes = desk.process(*tickets)
    else:
        outcomes = [outcome for ticket in tickets for outcome in desk.process(ticket)]
    assert outcomes == [outcome for *_, outcome in asked]
    assert [visit[1] for visit in desk.visits("once-0")] == ["2026-11-22", "2026-11-24", "2026-11-23", "2026-11-25"]


# The database


@pytest.mark.embedded
def test_connections_are_durable(desk: Desk) -> None:
    """Every connection, the writer's too, is in WAL mode with synchronous=FULL."""
    writer = desk.database.connect_writer()
    with desk.database.engine.connect() as reader:
        for connection in (writer, reader):
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    writer.close()
    assert desk.database.wal_path.name.endswith(".db-wal")


def test_a_writers_transaction_holds_the_lock_from_its_start(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second writer is refused at its BEGIN, before it has read anything."""
    monkeypatch.setattr(postgres, "PATIENCE_MS", 50)
    first, second = desk.database.connect_writer(), desk.database.connect_writer()
    with first.begin(), pytest.raises(Exception, match="lock"):
        second.begin()
    first.close()
    second.close()


# Tables that stay small whatever is recorded.
SMALL = {"directory_version", "feed", "cluster", "studios", "keys", "plans", "plan_versions"}


class Watch:
    """What a database is asked, and how it finds the answers: steps that read a whole table or index."""

    def __init__(self, database: Database) -> None:
        """Watches connections that are made from now on."""
        self.statements: set[str] = set()
        self._plans: list[dict[str, Any]] = []
        self._database = database
        event.listen(database.engine, "connect", self._sqlite if database.engine.name == "sqlite" else self._postgres)

    def _sqlite(self, driver: Any, _record: object) -> None:
        driver.set_trace_callback(self.statements.add)

    def _postgres(self, driver: Any, _record: object) -> None:
        """The server tells the plan of each statement, and takes a whole table only where no index helps."""
        driver.execute("LOAD 'auto_explain'")
        for setting in ("auto_explain.log_min_duration = 0", "auto_explain.log_level = 'notice'"):
            driver.execute(f"SET {setting}")
        driver.execute("SET auto_explain.log_format = 'json'")
        driver.execute("SET enable_seqscan = off")
        driver.add_notice_handler(self._note)

    def _note(self, notice: Any) -> None:
        _, found, plan = notice.message_primary.partition("plan:")
        assert found, notice.message_primary
        self._plans.append(json.loads(plan))
        self.statements.add(self._plans[-1]["Query Text"])

    def scans(self) -> set[tuple[str, str]]:
        """Steps on tables that grow, with their statements."""
        if self._database.engine.name == "sqlite":
            return self._sqlite_scans()
        # Partitions without a row show nothing: there any way is as good as another.
        empty = "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' AND reltuples <= 0"
        with self._database.read() as connection:
            passed_over = SMALL | {"pg_class"} | {name for (name,) in connection.exec_driver_sql(empty)}
        return {
            (f"{step['Node Type']} {step.get('Relation Name')}", plan["Query Text"])
            for plan in self._plans
            for step in _steps(plan["Plan"])
            if step["Node Type"] in {"Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Index Scan"}
            and step.get("Relation Name") not in passed_over
            and "Index Cond" not in step
        }

    def _sqlite_scans(self) -> set[tuple[str, str]]:
        scans = set()
        with self._database.read() as connection:
            for statement in self.statements:
                if statement.startswith(("SELECT", "UPDATE", "DELETE")):
                    plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement).all()
                    scans |= {
                        (step, statement)
                        for *_, step in plan
                        if step.startswith("SCAN") and "VIRTUAL TABLE" not in step and step.split()[1] not in SMALL
                    }
        return scans


def analyze(connection: Any) -> None:
    """Have PostgreSQL know how many rows there are."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("ANALYZE")


def _steps(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from _steps(part)


def test_no_statement_reads_a_whole_table(url: str) -> None:
    """What the door does, corrections included, takes as long in a big database as in a small one."""
    desk = Desk(url)
    desk.process(*(desk.tap(f"{plan}-{1 + number % 4}") for plan in ("free", "once") for number in range(1000)))
    desk.ledger.close()
    desk.change(analyze)
    watch = Watch(desk.database)
    first, second = desk.tap("again-0"), desk.tap("again-0")
    desk.process(first, second, desk.tap("ever-0"), desk.tap("nobody", patience_s=-1))
    lost = desk.tap("once-0")
    desk.process(lost, answers=(sent(second), unsent(first)))
    desk.process(answers=(unsent(lost),))
    desk.ledger.close()
    for verb in ("INSERT INTO decisions", "UPDATE visits"):
        assert any(statement.startswith(verb) for statement in watch.statements), f"no {verb} was traced"
    assert watch.scans() == set()
    assert desk.state(lost) == "reversed"


def test_a_read_of_a_whole_table_would_be_seen(url: str) -> None:
    """What the test above relies on."""
    desk = Desk(url)
    desk.process(desk.tap("free-0"))
    desk.ledger.close()
    desk.change(analyze)
    watch = Watch(desk.database)
    for condition, seen in (("id = 'x'", False), ("aggregator_id = 'x'", True)):
        rows(desk.database, f"SELECT outcome FROM decisions WHERE {condition}")
        assert bool(watch.scans()) is seen, condition


CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXTS, SHORT = st.text(CHARACTERS, max_size=40), st.text(CHARACTERS, max_size=10)
NUMBERS, VERSIONS = st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1)
VISIT_ROWS = st.tuples(
    TEXTS,  # member
    TEXTS,  # studio
    NUMBERS,  # at_ms
    SHORT,  # local_date
    TEXTS,  # tags
    st.booleans(),
    SHORT,  # state
    st.none() | TEXTS,  # reversed_why
    SHORT,  # source
    st.none() | TEXTS,  # plan
    st.none() | VERSIONS,  # plan_version
)
insert_visits = BulkInsert(schema.visits)
_v = schema.visits.c
COLUMNS = list(schema.visits.columns)


@pytest.fixture(scope="module")
def scratch(template: str) -> Database:
    """A database that no test commits to."""
    return Database.at(template)


@settings(max_examples=100)
@given(st.lists(VISIT_ROWS, max_size=70))
def test_bulk_values_come_back_as_they_went_in(scratch: Database, given_rows: list[tuple[object, ...]]) -> None:
    """Texts in any script, quotes, None, the largest numbers: written in bulk and found by an odd text."""
    written = [(number, str(number), *row) for number, row in enumerate(given_rows)]
    connection = scratch.connect_writer()
    with connection.begin() as transaction:
        insert_visits(connection, written)
        by_member = BulkSelect(*COLUMNS, among=_v.member_id)
        found = by_member(connection, {row[0] for row in given_rows})
        assert sorted(tuple(row) for row in found) == sorted(written)
        for row in written:
            same = [other for other in written if other[2] == row[2]]
            assert len(by_member(connection, [row[2]])) == len(same)
        by_number = BulkSelect(_v.id, among=_v.at_ms)
        found_ids = [row[0] for row in by_number(connection, {row[2] for row in given_rows})]
        assert sorted(found_ids) == sorted(row[1] for row in written)
        transaction.rollback()
    connection.close()


@pytest.mark.parametrize(
    "member", ["O'Brien", 'say "hi"', "Zoë", "🏋️‍♀️", "42", "1e5", "null", "[]", "a\\b", "%s ?", "ß"]
)
def test_a_member_is_found_by_exactly_its_id(scratch: Database, member: str) -> None:
    """Ids that look like something else to a database, to JSON or to a driver."""
    row = (member, "s", 2**63 - 1, "2026-11-23", "[]", False, "authorized", None, "checkin", None, None)
    others = [member.upper() + "x", member + " ", " " + member]
    connection = scratch.connect_writer()
    with connection.begin() as transaction:
        insert_visits(
            connection, [(0, "1", *row), *((n, f"2{other}", other, *row[1:]) for n, other in enumerate(others, 1))]
        )
        select = BulkSelect(_v.id, _v.member_id, _v.at_ms, _v.reversed_why, among=_v.member_id)
        assert [tuple(found) for found in select(connection, [member, member])] == [("1", member, 2**63 - 1, None)]
        assert list(select(connection, ["nobody"])) == []
        assert list(select(connection, [])) == []
        transaction.rollback()
    connection.close()


@pytest.mark.parametrize("number", [0, *sorted(SIZES), 3, 63, 65, 127, 1000])
def test_bulk_inserts_of_any_size_keep_their_order(scratch: Database, number: int) -> None:
    """No row is lost, doubled or out of turn where statements of several sizes are used."""
    row = ("m", "s", 0, "2026-11-23", "[]", False, "authorized", None, "checkin", None, None)
    connection = scratch.connect_writer()
    with connection.begin() as transaction:
        insert_visits(connection, [(n, str(n), *row) for n in range(number)])
        found = connection.exec_driver_sql("SELECT id FROM visits ORDER BY seq").all()
        assert [row[0] for row in found] == [str(n) for n in range(number)]
        transaction.rollback()
    connection.close()


@pytest.mark.embedded
def test_the_log_is_kept_short_while_the_ledger_works(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints, full ones included, go on between batches; they lose nothing and hold nobody up for ever."""
    for name, value in (("CHECKPOINT_S", 0.001), ("MIN_WAL_BYTES", 1), ("MAX_WAL_BYTES", 1)):
        monkeypatch.setattr(checkpoints, name, value)
    care = checkpoints.Checkpoints(desk.database)
    care.start()
    longest = 0
    for _ in range(300):
        care.let_through()
        assert desk.process(desk.tap("free-0")) == [ALLOWED]
        longest = max(longest, desk.database.wal_path.stat().st_size)
    desk.ledger.close()
    care.stop()
    assert len(desk.record()) == 300
    assert longest < 1024 * 1024
    assert not desk.database.wal_path.exists() or desk.database.wal_path.stat().st_size == 0
    assert problems(desk.database) == []


# Everything together


class Model:
    """What the plans promise, in the plainest words; a visit is its member, studio and instant."""

    def __init__(self) -> None:
        self.visits: dict[str, tuple[str, str, datetime]] = {}
        self.named: dict[str, set[str]] = {}  # the decisions that let somebody in on a visit
        self.lost: set[str] = set()

    def counting(self, member: str) -> list[tuple[str, str, datetime]]:
        """The member's visits that count: those with an answer that was delivered, or may have been."""
        return [
            (visit_id, studio, at)
            for visit_id, (owner, studio, at) in self.visits.items()
            if owner == member and not self.named[visit_id] <= self.lost
        ]

    def expect(self, ticket: Ticket) -> tuple[str, str]:
        """Outcome and reason."""
        checkin_id, at, studio, member, *_ = ticket.checkin
        plan = member.partition("-")[0]
        if plan == "nobody":
            return ("denied", "unknown_member")
        visits_ = self.counting(member)
        if plan == "again":
            for visit_id, where, when in visits_:
                if where == studio and at - when < 10 * MINUTE:
                    self.named[visit_id].add(checkin_id)
                    return REENTRY
        today = at.astimezone(BERLIN).date()
        dates = [when.astimezone(BERLIN).date() for _, _, when in visits_]
        used, most = {
            "free": (0, 1),
            "once": (dates.count(today), 1),
            "again": (dates.count(today), 1),
            "monthly": (sum((date.year, date.month) == (today.year, today.month) for date in dates), 2),
            "ever": (len(dates), 2),
        }[plan]
        if used >= most:
            return LIMIT
        self.visits[checkin_id] = (member, studio, at)
        self.named[checkin_id] = {checkin_id}
        return ALLOWED


@pytest.mark.parametrize("seed", range(SEED, SEED + ROUNDS))
def test_random_days_add_up(url: str, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Random batches, faults, late check-ins and lost answers: all is decided and recorded as a model expects."""
    repeat = (
        f"GUESTGATE_TEST_SEED={seed} GUESTGATE_TEST_ROUNDS=1 python -m pytest tests/test_ledger.py -k random_days"
    )
    dice = random.Random(seed)
    desk, model = Desk(url), Model()
    names = ["once-0", "once-1", "again-0", "again-1", "ever-0", "monthly-0", "free-0", "nobody"]
    told: dict[str, tuple[str, str]] = {}
    pending: list[Ticket] = []
    at = NOON
    for _ in range(40):
        at += dice.choice([MINUTE, 7 * MINUTE, 400 * MINUTE])
        faulty = dice.sample(names, dice.choice([0, 0, 1]))
        fail_for(monkeypatch, *faulty)
        batch = [
            desk.tap(
                dice.choice(names),
                at,
                dice.choice(["berlin", "potsdam"]),
                patience_s=dice.choice([LONG_S] * 5 + [-1]),
            )
            for _ in range(dice.choice([0, 1, 2, 5, 12]))
        ]
        dice.shuffle(pending)
        known, pending = pending[: len(pending) // 2], pending[len(pending) // 2 :]
        answers = tuple(sent(ticket) if dice.random() < 0.5 else unsent(ticket) for ticket in known)
        model.lost |= {answer.decision_id for answer in answers if answer.undelivered}
        in_time = [t for t in batch if t.deadline > clock.monotonic()]
        expected = [
            model.expect(ticket) if ticket in in_time and ticket.checkin.aggregator_id not in faulty else UNDECIDED
            for ticket in batch
        ]
        assert desk.process(*batch, answers=answers) == expected, repeat
        told |= dict(zip((ticket.checkin.id for ticket in batch), expected, strict=True))
        pending += batch
    desk.process()
    desk.ledger.close()
    recorded = {row[0]: row[1:3] for row in desk.record()}
    assert (recorded, len(desk.record())) == (told, len(told)), repeat
    states = {row[0]: row[1] for row in rows(desk.database, "SELECT id, state FROM visits")}
    reversed_ = {visit_id for visit_id, named in model.named.items() if named <= model.lost}
    assert states == {v: "reversed" if v in reversed_ else "authorized" for v in model.visits}, repeat
    assert problems(desk.database) == [], repeat
    assert {*told.values()} >= {ALLOWED, LIMIT}, "a dull day"


def test_a_check_leaves_nothing(desk: Desk) -> None:
    """It finds that check-ins could be decided, and is none itself."""
    desk.process(desk.tap("once-0"))
    before = everything(desk.database)
    assert desk.ledger.check() == CopyCheck()
    assert everything(desk.database) == before


def test_a_check_of_an_empty_record(backend: Backend, tmp_path: Path) -> None:
    """Where there is no studio yet, there is nothing to decide, and nothing wrong."""
    url = backend.new(tmp_path)
    ledger = Ledger(Database.at(url, door=True), None)
    assert ledger.check() == CopyCheck()
    ledger.close()
    backend.drop(url)


def test_a_check_finds_what_would_fail_check_ins(desk: Desk, logged: list[Any]) -> None:
    """It says so, goes on asking, and notices when it is over."""
    desk.change(lambda connection: connection.exec_driver_sql("ALTER TABLE members RENAME TO elsewhere"))
    assert (desk.ledger.check(), desk.ledger.check()) == (None, None)
    assert [line["event"] for line in logged] == ["a check found that nothing could be decided"]
    desk.change(lambda connection: connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO members"))
    assert desk.ledger.check() == CopyCheck()
    assert desk.process(desk.tap("once-0")) == [ALLOWED]


@pytest.mark.embedded
def test_a_check_waits_for_a_lock_and_not_for_ever(desk: Desk, fake_clock: FakeClock) -> None:
    """As long as a check-in might."""
    with locked(Database.at(desk.url)):
        started = fake_clock.time_s
        assert desk.ledger.check() is None
        assert fake_clock.time_s - started == pytest.approx(ledger.DEFAULT_BUDGET_MS / 1000, abs=0.01)
    lock = Lock(desk.url)
    fake_clock.on_sleep = lock.release
    assert desk.ledger.check() == CopyCheck()


@pytest.mark.embedded
def test_a_check_of_a_disk_that_failed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends the ledger, as a check-in does."""

    def fails(*_: object) -> None:
        raise DiskFailedError("the disk did not make a commit durable")

    monkeypatch.setattr(desk.ledger._database, "commit", fails)
    with pytest.raises(DiskFailedError):
        desk.ledger.check()


def test_what_is_undecided_may_be_somebody_elses_to_record(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Late check-ins and faulty ones leave no row then, also at the end; all others do."""
    desk = Desk(url)
    desk.ledger = Ledger(desk.database, None, keep_undecided=False)
    fail_for(monkeypatch, "free-1")
    late, good, faulty = desk.tap("free-0", patience_s=-1.0), desk.tap("free-0"), desk.tap("free-1")
    assert desk.process(late, good, faulty) == [UNDECIDED, ALLOWED, UNDECIDED]
    assert not desk.ledger.has_news
    desk.ledger.flush()
    assert [row[0] for row in desk.record()] == [good.checkin.id]
    assert desk.process(desk.tap("nobody")) == [("denied", "unknown_member")]
    assert len(desk.record()) == 2
    assert problems(desk.database) == []
    desk.ledger.close()


def test_who_is_locked_too_long_is_somebody_elses_to_record(url: str, fake_clock: FakeClock) -> None:
    """Nor does a check-in leave a row that waited for its member, or for the record, until it was late."""
    desk = Desk(url)
    desk.ledger = Ledger(desk.database, None, keep_undecided=False)
    lock = Lock(url, "once-0")
    decided = desk.ledger.process([desk.tap("once-0", patience_s=0.2)], [])
    while desk.ledger.waiting:
        clock.sleep(WAITING_RETRY_S)
        decided += desk.ledger.process([], [])
    assert [decision.outcome.value for decision in decided] == ["undecided"]
    lock.release()
    desk.ledger.flush()
    assert desk.record() == []
    assert desk.process(desk.tap("once-0")) == [ALLOWED]
    desk.ledger.close()


def test_visits_that_are_remembered_are_not_for_the_record_itself(desk: Desk) -> None:
    """It has what it has committed, and asks nobody else."""
    tap = desk.tap("once-0")
    ticket = tap._replace(recent=(RecentVisit(desk.tap("once-0").checkin.id, "berlin", clock.to_ms(NOON)),))
    assert desk.process(ticket) == [ALLOWED]
