"""Check-ins at a steady rate, whether the door is quick or slow, and how long their answers took."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field

from gate import PATH, Gate

CONNECTIONS = 32


@dataclass
class Answers:
    """What came back: milliseconds each, from the moment the call was due, and calls without an answer."""

    ms: list[float] = field(default_factory=list)
    failed: int = 0

    def percentile(self, share: float) -> float:
        """Milliseconds within which this share of the answers came."""
        return sorted(self.ms)[min(len(self.ms) - 1, int(share * len(self.ms)))]

    def add(self, other: Answers) -> None:
        """Take another round's along."""
        self.ms += other.ms
        self.failed += other.failed

    def __str__(self) -> str:
        """The figures that count."""
        late = sum(ms > 750 for ms in self.ms)
        return (
            f"{len(self.ms)} answers, p50 {self.percentile(0.5):.1f} ms, p99 {self.percentile(0.99):.1f} ms, "
            f"worst {max(self.ms):.1f} ms, {late} over 750 ms, {self.failed} failed"
        )


class Door:
    """One connection, kept alive. Plain streams, so that the caller itself takes next to no time."""

    def __init__(self, gate: Gate, key: str | None = None) -> None:
        self._gate = gate
        self._key = key or gate.keys["s1"]
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, member: str) -> int:
        """A check-in; returns the status."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("localhost", self._gate.port, ssl=self._gate.tls())
        reader, writer = self._streams
        body = json.dumps({"aggregatorId": member, "customerId": 1})
        writer.write(
            f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
        except (OSError, asyncio.IncompleteReadError):
            self._streams = None
            raise
        return int(head[9:12])

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()


async def check_in(gate: Gate, per_s: float, until: asyncio.Event, members: list[str]) -> Answers:
    """Open loop: one call every 1/per_s seconds, until told to stop."""
    answers, running = Answers(), set[asyncio.Task[None]]()
    free: asyncio.Queue[Door] = asyncio.Queue()
    doors = [Door(gate) for _ in range(CONNECTIONS)]
    for door in doors:
        await door.ask("nobody")
        free.put_nowait(door)

    async def one(number: int, due: float) -> None:
        door = await free.get()
        try:
            answers.failed += await door.ask(members[number % len(members)]) not in (200, 403)
        except (OSError, asyncio.IncompleteReadError):
            answers.failed += 1
        answers.ms.append((time.monotonic() - due) * 1000)
        free.put_nowait(door)

    started, number = time.monotonic(), 0
    while not until.is_set():
        due = started + number / per_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        task = asyncio.create_task(one(number, due))
        running.add(task)
        task.add_done_callback(running.discard)
        number += 1
    await asyncio.gather(*running)
    for door in doors:
        door.close()
    return answers


async def for_seconds(gate: Gate, per_s: float, seconds: float, members: list[str]) -> Answers:
    """The same for so long."""
    until = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, until.set)
    return await check_in(gate, per_s, until, members)
