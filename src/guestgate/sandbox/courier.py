"""Webhooks: events that the platform tells an aggregator, and what may happen to them on their way.

Each is a POST with the studio's key that has to be answered within five seconds. Nobody may count on a second
attempt, so there is none. From a seed, events are lost, doubled, delayed or overtaken by the next one.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Self

from guestgate import clock
from guestgate.sandbox.door import Door
from guestgate.sandbox.journal import Journal
from guestgate.sandbox.town import Studio

ANSWER_WITHIN_S = 5.0
MAX_UNDER_WAY = 1024
FATES = {"lost": 0.05, "doubled": 0.05, "delayed": 0.08, "overtaken": 0.05}
DELAY_S = (0.5, 5.0)
OVERTAKEN_S = 0.75


@dataclass(frozen=True)
class Event:
    """Something that happened at a studio; ``entity_id`` is a customer, for automatic check-outs a studio."""

    studio: Studio
    entity_id: int
    type: str
    content: dict[str, Any] = field(default_factory=dict)

    def body(self, at_ms: int, uuid_: str) -> dict[str, Any]:
        """As it is sent; `at_ms` counts from the Unix epoch."""
        happened = {"timestamp": at_ms, "type": self.type, "content": self.content}
        return {"entityId": self.entity_id, "uuid": uuid_, "payload": [happened]}


class Courier:
    """Delivers events in the background, so many at a time. Use as an asynchronous context manager."""

    def __init__(
        self, doors: dict[str, Door], journal: Journal, counts: Counter[str], seed: int, *, faulty: bool
    ) -> None:
        """`doors` calls each studio's registered address; `counts` learns what became of the events."""
        self._doors = doors
        self._journal = journal
        self._counts = counts
        self._faulty = faulty
        self._dice = random.Random(f"{seed}/webhooks")
        self._under_way: set[asyncio.Task[None]] = set()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Open no connection yet."""
        for door in self._doors.values():
            await self._stack.enter_async_context(door)
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Deliver what is under way; where we break off, it is lost."""
        if exception[0] is not None:
            for task in self._under_way:
                task.cancel()
        while self._under_way:
            await asyncio.wait(self._under_way)
        await self._stack.aclose()

    def send(self, event: Event) -> None:
        """Something happened just now."""
        at_ms, uuid_ = clock.now_ms(), str(uuid.UUID(int=self._dice.getrandbits(128), version=4))
        fate = self._fate()
        if len(self._under_way) >= MAX_UNDER_WAY:
            fate = "lost"
        self._journal.write(
            "webhook",
            at=clock.iso(clock.from_ms(at_ms)),
            studio=event.studio.id,
            entity_id=event.entity_id,
            type=event.type,
            uuid=uuid_,
            fate=fate,
        )
        late_s = self._dice.uniform(*DELAY_S)
        delays = {"lost": [], "delayed": [late_s], "overtaken": [OVERTAKEN_S], "doubled": [0.0, 0.0]}
        for delay_s in delays.get(fate, [0.0]):
            task = asyncio.get_running_loop().create_task(self._deliver(event, event.body(at_ms, uuid_), delay_s))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        if fate != "on time":
            self._counts[fate] += 1

    def _fate(self) -> str:
        chance = self._dice.random()
        for fate, share in FATES.items():
            if chance < share:
                return fate if self._faulty else "on time"
            chance -= share
        return "on time"

    async def _deliver(self, event: Event, body: dict[str, Any], delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        answer = await self._doors[event.studio.id].call(body)
        what = "no answer" if answer.status is None else f"refused with {answer.status}"
        if answer.status is not None and 200 <= answer.status < 300:
            what = "delivered"
        self._counts[what] += 1
