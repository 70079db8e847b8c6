"""The door's children: what they do or leave undone never holds up its event loop."""

from __future__ import annotations

import asyncio
import time
from multiprocessing.connection import Connection as Pipe

from guestgate.child_process import ChildProcess

MUCH = b"x" * 8_000_000  # many times what a pipe holds


def says_ready_and_never_reads(pipe: Pipe) -> None:
    """A process that is starved, or stopped."""
    pipe.send("ready")
    time.sleep(600)


def echoes(pipe: Pipe) -> None:
    """A process that answers."""
    pipe.send("ready")
    while True:
        pipe.send(len(pipe.recv()))


def test_a_child_that_does_not_read_holds_nobody_up() -> None:
    """A message larger than the pipe waits beside the event loop, and ends with the child."""

    async def run() -> None:
        child = ChildProcess(says_ready_and_never_reads, (), name="test", received=lambda _: None, lost=lambda: None)
        assert await child.start() == "ready"
        sending = asyncio.create_task(child.send_beside(MUCH))
        for _ in range(20):
            await asyncio.sleep(0.01)  # the loop goes on
        assert not sending.done()
        await child.stop(0.1)
        await sending

    asyncio.run(run())


def test_a_large_message_arrives_whole() -> None:
    """Where the child reads."""

    async def run() -> int:
        arrived: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        child = ChildProcess(echoes, (), name="test", received=arrived.set_result, lost=lambda: None)
        await child.start()
        await child.send_beside(MUCH)
        length = await arrived
        await child.stop(5)
        return length

    assert asyncio.run(run()) == len(MUCH)
