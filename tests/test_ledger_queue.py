"""The way to a ledger and back: what goes together, what has to wait, and what becomes of it when the ledger ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from backends import Files
from standing import Shared, sent, tap, unsent

from guestgate import ledger_queue
from guestgate.eligibility import Finding, Question, Reply
from guestgate.ledger import Answer, Ticket
from guestgate.ledger_process import LedgerRole
from guestgate.ledger_queue import IDLE_S, MAX_BATCH, MIN_BATCH, QUESTIONS_AT_ONCE, LedgerQueue
from guestgate.model import Outcome, Reason, Ruling
from guestgate.stand_in.rules import CopyCheck

NOON = datetime(2026, 11, 23, 11, tzinfo=UTC)
ROLE = LedgerRole("ledger", "", None, 400)


class Process:
    """What a queue has of a ledger's process; the test is the ledger."""

    def __init__(self, _role: LedgerRole, deliver: Any, checked: Any, failed: Any) -> None:
        self.deliver, self.checked, self.fail = deliver, checked, failed
        self.busy = self.lost = self.behind = False
        self.stalled_s = 0.0
        self.got: list[tuple[list[Ticket], list[Answer]] | None] = []

    def send(self, batch: list[Ticket], answers: list[Answer], questions: list[tuple[Question, float]]) -> None:
        """It is at work on this."""
        self.questions = questions
        assert not self.busy
        self.busy = True
        self.got.append((batch, answers))

    def check(self) -> None:
        """It is at work on that."""
        assert not self.busy
        self.busy = True
        self.got.append(None)

    def is_done(self, *decided: Ticket) -> None:
        """It takes the next batch."""
        self.busy = False
        self.deliver([Ruling(ticket.checkin.id, Outcome.ALLOWED, Reason.OK) for ticket in decided], 0.001)

    async def start(self) -> None:
        """At once."""

    async def stop(self, _patience_s: float) -> None:
        """The same."""


class Desk:
    """A queue, and what came out of it."""

    def __init__(self, role: LedgerRole = ROLE) -> None:
        self.rulings: list[Ruling] = []
        self.found: list[CopyCheck | None] = []
        self.lost = asyncio.Event()
        self.under_way = 0
        self.queue = LedgerQueue(
            role,
            lambda rulings, _: self.rulings.extend(rulings),
            lambda found, _: self.found.append(found),
            self.lost.set,
            lambda: self.under_way,
        )

    @property
    def process(self) -> Any:
        """The other end."""
        return self.queue._ledger

    def sizes(self) -> list[int]:
        """How many check-ins were sent each time."""
        return [len(got[0]) for got in self.process.got if got]


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ledgers are the tests'."""
    monkeypatch.setattr(ledger_queue, "LedgerProcess", Process)


@pytest.mark.usefixtures("idle")
def test_what_arrives_together_goes_together() -> None:
    """And what arrives while the ledger is at work goes next, in its order."""

    async def story() -> None:
        desk, tickets = Desk(), [tap(f"m{number}") for number in range(5)]
        for ticket in tickets[:3]:
            desk.queue.add(ticket)
        assert desk.process.got == []
        await asyncio.sleep(0)
        desk.queue.add(tickets[3])
        desk.queue.add(tickets[4])
        await asyncio.sleep(0)
        assert (desk.sizes(), len(desk.queue)) == ([3], 2)
        desk.process.is_done(*tickets[:3])
        assert desk.process.got[-1] == (tickets[3:], [])
        assert [ruling.id for ruling in desk.rulings] == [ticket.checkin.id for ticket in tickets[:3]]

    asyncio.run(story())


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    ("waiting", "under_way", "size"),
    [(5, 5, 5), (100, 10, MIN_BATCH), (100, 100, 50), (1000, 4000, MAX_BATCH)],
)
def test_how_many_go_at_once(waiting: int, under_way: int, size: int) -> None:
    """Half of all calls under way, within bounds."""

    async def story() -> None:
        desk = Desk()
        desk.under_way = under_way
        for number in range(waiting):
            desk.queue.add(tap(f"m{number}"))
        await asyncio.sleep(0)
        assert desk.sizes() == [size]

    asyncio.run(story())


@pytest.mark.usefixtures("idle")
def test_a_full_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is turned away is recorded once nobody waits any more, as late; of too many the oldest are given up."""
    monkeypatch.setattr(ledger_queue, "MAX_WAITING", 10)
    monkeypatch.setattr(ledger_queue, "MAX_TURNED_AWAY", 3)

    async def story() -> None:
        desk = Desk()
        for number in range(10):
            assert not desk.queue.is_full
            desk.queue.add(tap(f"m{number}"))
        assert desk.queue.is_full
        away = [tap(f"late-{number}") for number in range(5)]
        given_up = [desk.queue.turn_away(ticket) for ticket in away]
        assert given_up == [None, None, None, away[0].checkin.id, away[1].checkin.id]
        assert len(desk.queue) == 13
        desk.queue.flush()
        desk.process.is_done()
        assert desk.sizes() == [MIN_BATCH, 10 - MIN_BATCH + 3]
        late = desk.process.got[-1][0][-3:]
        assert [(ticket.checkin, ticket.deadline) for ticket in late] == [
            (ticket.checkin, 0.0) for ticket in away[2:]
        ]
        assert len(desk.queue) == 0 and not desk.queue.is_full

    with structlog.testing.capture_logs() as logged:
        asyncio.run(story())
    assert [line["dropped"] for line in logged] == [1]


@pytest.mark.usefixtures("idle")
def test_how_answers_left_goes_along() -> None:
    """With the next batch, or by itself after a moment."""

    async def story() -> None:
        desk, ticket = Desk(), tap("m1")
        desk.queue.tell(sent(ticket))
        desk.queue.add(tap("m2"))
        await asyncio.sleep(0)
        assert [answers for _, answers in desk.process.got] == [[sent(ticket)]]
        desk.process.is_done()
        assert not desk.queue.has_answers
        desk.queue.tell(unsent(ticket))
        assert desk.queue.has_answers and len(desk.process.got) == 1
        await asyncio.sleep(2 * IDLE_S)
        assert desk.process.got[1:] == [([], [unsent(ticket)])]

    asyncio.run(story())


@pytest.mark.usefixtures("idle")
def test_a_check_goes_first() -> None:
    """Once, however often it was asked for while the ledger was at work; then what waits."""

    async def story() -> None:
        desk = Desk()
        desk.queue.add(tap("m1"))
        await asyncio.sleep(0)
        desk.queue.add(tap("m2"))
        desk.queue.check()
        desk.queue.check()
        desk.process.is_done()
        assert [got is None for got in desk.process.got] == [False, True]
        desk.process.busy = False
        desk.process.checked(CopyCheck(), 0.002)
        desk.process.deliver([], 0.0)
        assert [got is None for got in desk.process.got] == [False, True, False]
        assert desk.found == [CopyCheck()]

    asyncio.run(story())


@pytest.mark.usefixtures("idle")
def test_member_validations(monkeypatch: pytest.MonkeyPatch) -> None:
    """They go along with the next batch, few at once; each has one reply, also of too many or of no ledger."""
    monkeypatch.setattr(ledger_queue, "MAX_QUESTIONS", 20)

    async def story() -> None:
        desk, replies = Desk(), list[Reply]()
        asked = [Question(f"q{number}", NOON, "s1", "m1") for number in range(21)]
        for question in asked:
            desk.queue.ask(question, 7.5, replies.append)
        assert replies == [Reply("q20", Finding.UNAVAILABLE)] and desk.queue.has_answers
        await asyncio.sleep(0)
        assert desk.process.questions == [(question, 7.5) for question in asked[:QUESTIONS_AT_ONCE]]
        desk.process.busy = False
        found = [Reply(question.id, Finding.OK, "m1") for question in asked[:QUESTIONS_AT_ONCE]]
        desk.process.deliver([], 0.0, found)
        assert replies[1:] == found and len(desk.process.questions) == 20 - QUESTIONS_AT_ONCE
        desk.process.fail()
        assert {reply.id: reply.finding for reply in replies[1 + len(found) :]} == {
            question.id: Finding.UNAVAILABLE for question in asked[QUESTIONS_AT_ONCE:20]
        }
        desk.process.lost = True
        desk.queue.ask(asked[0], 7.5, replies.append)
        assert replies[-1] == Reply("q0", Finding.UNAVAILABLE) and not desk.queue.has_answers

    asyncio.run(story())


@pytest.fixture
def role(files: Files, tmp_path: Path) -> Iterator[LedgerRole]:
    """A ledger of a record with somebody in it."""
    shared = Shared(files.new(tmp_path))
    shared.furnish(tmp_path)
    shared.add(["m1", "m2", "m3"])
    shared.close()
    with structlog.testing.capture_logs():
        yield LedgerRole("ledger", shared.url, None, 10_000)


@asynccontextmanager
async def at_work(role: LedgerRole) -> AsyncIterator[Desk]:
    """A queue with a real process behind it."""
    desk = Desk(role)
    await desk.queue.start()
    try:
        yield desk
    finally:
        await desk.queue.stop(10.0)


def pid(desk: Desk) -> int:
    """The ledger's process."""
    return int(desk.process._child._process.pid)


async def until(desk: Desk, *tickets: Ticket) -> list[Outcome]:
    """The rulings of these, once they are there."""
    async with asyncio.timeout(20):
        while not {ticket.checkin.id for ticket in tickets} <= {ruling.id for ruling in desk.rulings}:
            await asyncio.sleep(0.01)
    found = {ruling.id: ruling.outcome for ruling in desk.rulings}
    return [found[ticket.checkin.id] for ticket in tickets]


def test_a_ledger_that_ends_at_work(role: LedgerRole) -> None:
    """What it was at is undecided, what waits goes to its successor, and each has one ruling."""

    async def story() -> None:
        async with at_work(role) as desk:
            first, second, third = (tap(f"m{number}") for number in (1, 2, 3))
            desk.queue.add(first)
            assert await until(desk, first) == [Outcome.ALLOWED]
            os.kill(pid(desk), signal.SIGSTOP)
            desk.queue.add(second)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            desk.queue.add(third)
            os.kill(pid(desk), signal.SIGKILL)
            await desk.lost.wait()
            assert desk.queue.lost
            assert await until(desk, second) == [Outcome.UNDECIDED]
            await desk.queue.start_again()
            assert not desk.queue.lost
            assert await until(desk, third) == [Outcome.ALLOWED]
            assert set(Counter(ruling.id for ruling in desk.rulings).values()) == {1}

    asyncio.run(story())


def test_a_ledger_that_ends_while_nobody_checks_in(role: LedgerRole) -> None:
    """What was decided before stays decided."""

    async def story() -> None:
        async with at_work(role) as desk:
            ticket = tap("m1")
            desk.queue.add(ticket)
            assert await until(desk, ticket) == [Outcome.ALLOWED]
            os.kill(pid(desk), signal.SIGKILL)
            await desk.lost.wait()
            await asyncio.sleep(0)
            assert desk.rulings == [Ruling(ticket.checkin.id, Outcome.ALLOWED, Reason.OK)]
            await desk.queue.start_again()

    asyncio.run(story())


def test_a_check_in_before_the_next_ledger_is_there(role: LedgerRole) -> None:
    """It has a ruling, of the old ledger's end or of the new one; and how an answer left is recorded."""

    async def story() -> None:
        async with at_work(role) as desk:
            before, ticket = tap("m1"), tap("m2")
            desk.queue.add(before)
            await until(desk, before)
            os.kill(pid(desk), signal.SIGKILL)
            await desk.lost.wait()
            desk.queue.tell(unsent(before))
            desk.queue.add(ticket)
            await asyncio.sleep(0.05)
            await desk.queue.start_again()
            assert await until(desk, ticket) == [Outcome.ALLOWED]

    asyncio.run(story())
    shared = Shared(role.url)
    assert shared.rows("SELECT undelivered FROM answers") == [(1,)]
    shared.close()
