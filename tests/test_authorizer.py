"""Who answers a check-in where a ledger stands in for the shared one, and what both are told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import structlog

from guestgate import authorizer, clock
from guestgate.authorizer import Authorizer, CheckInCall
from guestgate.ledger import Answer, Ticket
from guestgate.ledger_process import LedgerRole
from guestgate.metrics import DoorMetrics
from guestgate.model import CheckIn, Outcome, Reason, Ruling
from guestgate.stand_in.rules import CopyCheck

OK = (Outcome.ALLOWED, Reason.OK)
REENTRY = (Outcome.ALLOWED, Reason.REENTRY)
DENIED = (Outcome.DENIED, Reason.LIMIT_REACHED)
UNDECIDED = (Outcome.UNDECIDED, Reason.UNAVAILABLE)
STATUS = {Outcome.ALLOWED: 200, Outcome.DENIED: 403, Outcome.UNDECIDED: 503}
BUDGET_S = 60.0


class Queue:
    """What an authorizer has of a ledger; the test is the ledger."""

    def __init__(self, role: LedgerRole, deliver: Any, *_: object) -> None:
        self.name = role.name
        self._deliver = deliver
        self.tickets: list[Ticket] = []
        self.turned_away: list[Ticket] = []
        self.answers: list[Answer] = []
        self.is_full = self.behind = self.lost = False

    def __len__(self) -> int:
        return len(self.tickets)

    def add(self, ticket: Ticket) -> None:
        """To be decided."""
        self.tickets.append(ticket)

    def turn_away(self, ticket: Ticket) -> None:
        """To be recorded some time."""
        self.turned_away.append(ticket)

    def tell(self, answer: Answer) -> None:
        """How one left."""
        self.answers.append(answer)

    def rules(self, call: CheckInCall, what: tuple[Outcome, Reason]) -> None:
        """The ledger has committed this."""
        self._deliver([Ruling(call.asked.id, *what)], 0.001)

    @property
    def told(self) -> list[tuple[int | None, bool]]:
        """Status and whether undelivered, of each answer."""
        return [(answer.http_status, answer.undelivered) for answer in self.answers]


class Door:
    """An authorizer between two such ledgers."""

    def __init__(self) -> None:
        self.shared, self.own = LedgerRole("shared", "", None, 400), LedgerRole("own", "", None, 400)
        self.authorizer = Authorizer(self.shared, self.own, lambda: None, DoorMetrics())
        self.one: Queue = self.authorizer._shared  # type: ignore[assignment]
        self.other: Queue = self.authorizer._stand_in  # type: ignore[assignment]
        self.asked = 0

    async def arrives(self, *, since_s: float = 0.0, member: str = "m1") -> tuple[CheckInCall, asyncio.Task[Ruling]]:
        """A check-in that came so long ago."""
        self.asked += 1
        checkin = CheckIn(f"id-{self.asked}", clock.now(), "s1", member, 1)
        started = asyncio.get_running_loop().time() - since_s
        call = self.authorizer.call(checkin, started, started + BUDGET_S)
        task = asyncio.create_task(self.authorizer.authorize(call))
        await asyncio.sleep(0)
        return call, task

    async def leaves(
        self, call: CheckInCall, task: asyncio.Task[Ruling], *, gone: bool = False
    ) -> tuple[Outcome, Reason]:
        """The answer is written, unless the caller is gone."""
        ruling = await task
        self.authorizer.left(call, ruling, None if gone else STATUS[ruling.outcome])
        return ruling.outcome, ruling.reason

    def waiting(self) -> int:
        """Calls of which not everything is known yet."""
        return self.authorizer._under_way()


@pytest.fixture
def at_the_door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[Door], Awaitable[None]]], None]]:
    """Runs a story there."""
    monkeypatch.setattr(authorizer, "LedgerQueue", Queue)

    async def run(story: Callable[[Door], Awaitable[None]]) -> None:
        await story(Door())

    with structlog.testing.capture_logs():
        yield lambda story: asyncio.run(run(story))


Stage = Callable[[Callable[[Door], Awaitable[None]]], None]


@pytest.mark.parametrize("what", [OK, REENTRY, DENIED])
def test_the_shared_ledger_decides_in_time(at_the_door: Stage, what: tuple[Outcome, Reason]) -> None:
    """And nobody else is asked; until its share of the time is over, and not until the deadline, it has time."""

    async def story(door: Door) -> None:
        call, task = await door.arrives()
        assert [ticket.deadline for ticket in door.one.tickets] == [call.started + door.authorizer._share_s]
        door.one.rules(call, what)
        assert await door.leaves(call, task) == what
        door.authorizer.share_over(call)
        assert (door.one.told, door.other.tickets, door.waiting()) == ([(STATUS[what[0]], False)], [], 0)

    at_the_door(story)


@pytest.mark.parametrize(
    ("first", "theirs", "ours", "sent", "told_theirs", "told_ours"),
    [
        ("shared", OK, OK, OK, [(200, False)], [(200, False)]),
        ("own", OK, REENTRY, REENTRY, [(200, False)], [(200, False)]),
        ("own", OK, DENIED, DENIED, [(403, True)], [(403, False)]),
        ("shared", OK, DENIED, OK, [(200, False)], [(200, True)]),
        ("own", DENIED, OK, OK, [(200, True)], [(200, False)]),
        ("shared", DENIED, OK, DENIED, [(403, False)], [(403, True)]),
        ("own", OK, UNDECIDED, OK, [(200, False)], [(200, True)]),
        ("shared", UNDECIDED, OK, OK, [], [(200, False)]),
        ("own", UNDECIDED, OK, OK, [], [(200, False)]),
        ("shared", UNDECIDED, UNDECIDED, UNDECIDED, [], [(503, False)]),
        ("own", UNDECIDED, UNDECIDED, UNDECIDED, [], [(503, False)]),
    ],
)
@pytest.mark.parametrize("early", [True, False])
def test_both_ledgers_decide(
    at_the_door: Stage,
    first: str,
    theirs: tuple[Outcome, Reason],
    ours: tuple[Outcome, Reason],
    sent: tuple[Outcome, Reason],
    told_theirs: list[tuple[int, bool]],
    told_ours: list[tuple[int, bool]],
    early: bool,
) -> None:
    """The first decision is sent, and each ledger learns what became of its own, before or after both are known."""

    async def story(door: Door) -> None:
        call, task = await door.arrives()
        door.authorizer.share_over(call)
        door.authorizer.share_over(call)
        assert len(door.other.tickets) == 1
        assert door.other.tickets[0].deadline == call.deadline
        rulings = [(door.one, theirs), (door.other, ours)]
        for number, (queue, what) in enumerate(rulings if first == "shared" else reversed(rulings)):
            queue.rules(call, what)
            await asyncio.sleep(0)
            if number == 0 and early and call.claim.done():
                assert await door.leaves(call, task) == sent
        if call.answered is None:
            assert await door.leaves(call, task) == sent
        assert (door.one.told, door.other.told, door.waiting()) == (told_theirs, told_ours, 0)

    at_the_door(story)


def test_a_ledger_that_cannot_decide_is_not_waited_for(at_the_door: Stage) -> None:
    """The other one is asked at once; and not once more when the time is over."""

    async def story(door: Door) -> None:
        call, task = await door.arrives()
        door.one.rules(call, UNDECIDED)
        door.authorizer.share_over(call)
        assert len(door.other.tickets) == 1
        door.other.rules(call, DENIED)
        assert await door.leaves(call, task) == DENIED
        assert (door.one.told, door.other.told, door.waiting()) == ([], [(403, False)], 0)

    at_the_door(story)


def test_the_deadline_comes_first(at_the_door: Stage) -> None:
    """Nobody was told what the ledgers say later, and both learn that."""

    async def story(door: Door) -> None:
        call, task = await door.arrives()
        door.authorizer.share_over(call)
        call.expire()
        assert await door.leaves(call, task) == UNDECIDED
        door.one.rules(call, OK)
        door.other.rules(call, DENIED)
        assert (door.one.told, door.other.told, door.waiting()) == ([(503, True)], [(503, True)], 0)

    at_the_door(story)


def test_a_caller_who_is_gone(at_the_door: Stage) -> None:
    """Was told nothing by either."""

    async def story(door: Door) -> None:
        call, task = await door.arrives()
        door.authorizer.share_over(call)
        door.other.rules(call, OK)
        assert await door.leaves(call, task, gone=True) == OK
        door.one.rules(call, OK)
        assert (door.one.told, door.other.told) == ([(None, True)], [(None, True)])

    at_the_door(story)


def test_too_many_calls(at_the_door: Stage) -> None:
    """A full queue is passed by; where both are, nobody can decide, and the node's own ledger records it."""

    async def story(door: Door) -> None:
        door.one.is_full = True
        await door.arrives()
        assert (len(door.one.tickets), len(door.other.tickets)) == (0, 1)
        door.other.is_full = True
        call, task = await door.arrives()
        assert await door.leaves(call, task) == UNDECIDED
        assert (len(door.one.turned_away), len(door.other.turned_away)) == (0, 1)
        door.other.rules(call, UNDECIDED)
        assert door.other.told == [(503, False)]

    at_the_door(story)


def test_a_call_that_was_held_up_on_its_way(at_the_door: Stage) -> None:
    """Whoever has used up the shared ledger's share already goes to the node's own."""

    async def story(door: Door) -> None:
        await door.arrives(since_s=door.authorizer._share_s)
        assert (len(door.one.tickets), len(door.other.tickets)) == (0, 1)

    at_the_door(story)


def test_the_circuit_opens_and_closes(at_the_door: Stage) -> None:
    """Misses for half a second, and the shared ledger is passed by until checks of it are quick."""

    async def story(door: Door) -> None:
        watch = door.authorizer.watch
        assert watch is not None and not watch.stands_in and watch.standing_in_s == 0.0
        now = asyncio.get_running_loop().time()
        for late_s in (0.0, 0.6):
            call, _ = await door.arrives()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(watch._loop, "time", lambda at=now + late_s: at)
                door.authorizer.share_over(call)
        assert watch.stands_in
        await door.arrives()
        assert (len(door.one.tickets), len(door.other.tickets)) == (2, 3)
        watch.stand_in_checked(CopyCheck(), 0.001)
        for found, seconds in ((None, 0.001), (CopyCheck(), 9.0), (CopyCheck(), 0.001), (CopyCheck(), 0.001)):
            assert watch.stands_in
            watch.shared_checked(found, seconds)
        assert not watch.stands_in
        await door.arrives()
        assert len(door.one.tickets) == 3

    at_the_door(story)


def test_a_person_is_known_across_the_two(at_the_door: Stage) -> None:
    """A visit that only one ledger knows of goes along to the other one, or keeps the person with the first."""

    async def story(door: Door) -> None:
        watch = door.authorizer.watch
        assert watch is not None
        call, task = await door.arrives()
        door.one.rules(call, OK)
        await door.leaves(call, task)
        call, _ = await door.arrives()
        door.authorizer.share_over(call)
        assert [visit.id for visit in door.other.tickets[-1].recent] == ["id-1"]
        door.other.rules(call, OK)
        await door.arrives()
        await door.arrives(member="m2")
        assert [ticket.checkin.id for ticket in door.one.tickets] == ["id-1", "id-2", "id-4"]
        assert [visit.id for visit in door.other.tickets[-1].recent] == ["id-1"]
        later = clock.now_ms() + 60_000
        watch.stand_in_checked(CopyCheck(copied_at_ms=later, carried_over_ms=later), 0.001)
        call, _ = await door.arrives()
        assert door.one.tickets[-1].checkin.id == "id-5"
        door.authorizer.share_over(call)
        assert door.other.tickets[-1].recent == ()

    at_the_door(story)
