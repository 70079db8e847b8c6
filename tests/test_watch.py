"""What a door asks of its two ledgers while it watches them, and that one that ended is started again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from guestgate.errors import OperationError
from guestgate.stand_in import watch
from guestgate.stand_in.rules import CopyCheck
from guestgate.stand_in.watch import Watch

SHARE_S = 0.2


class Queue:
    """A ledger that answers each check with what the test says."""

    def __init__(self) -> None:
        self.checks = self.starts = 0
        self.lost = False
        self.fails_to_start = 0
        self.checked: Callable[[CopyCheck | None, float], None] = lambda *_: None
        self.finds: tuple[CopyCheck | None, float] = CopyCheck(), 0.001

    def check(self) -> None:
        """At once."""
        self.checks += 1
        self.checked(*self.finds)

    async def start_again(self) -> None:
        """Perhaps not the first time."""
        self.starts += 1
        if self.starts <= self.fails_to_start:
            raise OperationError("the ledger did not start")
        self.lost = False


class Door:
    """A watch over two of them."""

    def __init__(self) -> None:
        self.shared, self.own = Queue(), Queue()
        self.watch = Watch(self.shared, self.own, SHARE_S)  # type: ignore[arg-type]
        self.shared.checked, self.own.checked = self.watch.shared_checked, self.watch.stand_in_checked

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let time pass."""
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.001)

    def open(self) -> None:
        """Nothing but misses."""
        with pytest.MonkeyPatch.context() as patch:
            now = asyncio.get_running_loop().time()
            for late_s in (-1.0, 0.0):
                patch.setattr(self.watch._loop, "time", lambda at=now + late_s: at)
                self.watch.missed()
        assert self.watch.stands_in


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Time goes faster; what is logged."""
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(watch, "RESTART_S", 0.001)
    with structlog.testing.capture_logs() as events:
        yield events


def test_who_is_checked() -> None:
    """The copy always, so that it is warm; the shared ledger only while nobody else asks it, until it is quick."""

    async def story() -> None:
        door = Door()
        door.watch.start()
        await door.until(lambda: door.own.checks == 1 and door.watch.ready)
        await asyncio.sleep(0.05)
        assert (door.own.checks, door.shared.checks) == (1, 0), "that is for the next two seconds"
        door.shared.finds = CopyCheck(), SHARE_S
        door.open()
        await door.until(lambda: door.own.checks > 1 and door.shared.checks > 3)
        assert door.watch.stands_in and door.watch.standing_in_s > 0
        door.shared.finds = CopyCheck(), 0.001
        await door.until(lambda: not door.watch.stands_in)
        assert door.watch.standing_in_s == 0.0
        await door.watch.stop()

    asyncio.run(story())


def test_what_waits_keeps_the_shared_ledger_waiting() -> None:
    """It would decide without what was decided here."""

    async def story() -> None:
        door = Door()
        door.own.finds = CopyCheck(oldest_waiting_s=60.0), 0.001
        door.open()
        door.watch.start()
        await door.until(lambda: door.shared.checks > 5)
        assert door.watch.stands_in
        door.own.finds = CopyCheck(), 0.001
        door.own.check()
        await door.until(lambda: not door.watch.stands_in)
        await door.watch.stop()

    asyncio.run(story())


def test_a_ledger_that_ended(hurried: list[Any]) -> None:
    """Is started until it starts, and is not ready before it was asked."""

    async def story() -> None:
        door = Door()
        door.own.finds = None, 0.001
        door.own.fails_to_start = 2
        door.watch.stand_in_checked(CopyCheck(), 0.0)
        door.own.lost = True
        door.watch.lost()
        assert not door.watch.ready
        door.watch.start()
        await door.until(lambda: door.own.checks > 0 and not door.own.lost)
        assert door.own.starts == 3 and not door.watch.ready
        door.own.finds = CopyCheck(), 0.001
        door.own.check()
        assert door.watch.ready
        await door.watch.stop()

    asyncio.run(story())
    said = [line["event"] for line in hurried]
    assert said.count("the ledger that stands in could not be started and will be tried again") == 2


def test_people_are_told_once(hurried: list[Any]) -> None:
    """When the copy begins and ceases to be of use, and when the door begins and ceases to stand in."""

    async def story() -> None:
        door = Door()
        for found in (CopyCheck(), CopyCheck(), None, None, CopyCheck()):
            door.watch.stand_in_checked(found, 0.001)
        door.open()
        door.watch.missed()
        for _ in range(3):
            door.watch.shared_checked(CopyCheck(), 0.001)

    asyncio.run(story())
    assert [line["log_level"] for line in hurried] == ["info", "error", "info", "error", "warning"]
