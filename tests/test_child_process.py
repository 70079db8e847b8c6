"""The door's children: what they do or leave undone never holds up its event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from multiprocessing.connection import Connection as Pipe

from guestgate.child_process import ChildProcess, prepare

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


def tells_its_parent(pipe: Pipe) -> None:
    """A process that ends with the pipe."""
    pipe.send(os.getppid())
    pipe.poll(None)


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


def test_the_fork_server_may_be_lost() -> None:
    """Killed: a child goes on as if nothing had happened, and the next one is started all the same."""

    async def start() -> tuple[ChildProcess, int]:
        while True:
            child = ChildProcess(tells_its_parent, (), name="test", received=lambda _: None, lost=lambda: None)
            try:
                return child, await child.start()
            except OSError:  # it was lost just now; whoever keeps a child tries again
                await child.stop(5)

    async def run() -> None:
        prepare()
        before, fork_server = await start()
        os.kill(fork_server, signal.SIGKILL)
        after, another = await start()
        lost = [child.lost for child in (before, after)]
        for child in (before, after):
            await child.stop(5)
        assert lost == [False, False] and another not in (fork_server, os.getpid())

    asyncio.run(run())
