"""A process beside the door's, and the pipe between the two. Either ends when the other does.

Spawned, not forked: the door's process has threads. Messages are plain values.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger()

_context = multiprocessing.get_context("spawn")


class ChildProcess:
    """The parent's end. Lives in the event loop."""

    def __init__(
        self,
        main: Callable[..., None],
        arguments: tuple[Any, ...],
        *,
        name: str,
        received: Callable[[Any], None],
        lost: Callable[[], None],
        has_children: bool = False,
    ) -> None:
        """Start `main(pipe, *arguments)` in a process of its own.

        `received` gets every message but the first, which `start` returns; `lost` is called once if the
        process ends by itself. A process that `has_children` of its own is not killed with this one, but ends
        when it sees the pipe closed, as every one should.
        """
        self._pipe, theirs = _context.Pipe()
        self._name = name
        self._received, self._on_lost = received, lost
        self._process = _context.Process(target=main, args=(theirs, *arguments), name=name, daemon=not has_children)
        self._process.start()
        theirs.close()
        self._loop = asyncio.get_running_loop()
        self.lost = False

    async def start(self) -> Any:
        """The first message, by which the process says that it is ready (or why not); None where it ended."""
        ready = self._loop.create_future()
        self._loop.add_reader(self._pipe.fileno(), ready.set_result, None)
        await ready
        self._loop.remove_reader(self._pipe.fileno())
        try:
            first = self._pipe.recv()
        except (EOFError, OSError):
            self.lost = True
            return None
        self._loop.add_reader(self._pipe.fileno(), self._receive)
        return first

    def send(self, message: Any) -> None:
        """Say something to the process."""
        try:
            self._pipe.send(message)
        except OSError:
            self._lose()

    async def send_beside(self, message: Any) -> None:
        """The same from a thread, for what may be larger than the pipe holds while the process does not read."""
        try:
            await asyncio.to_thread(self._pipe.send, message)
        except (OSError, TypeError):  # the process has ended, or the pipe was closed meanwhile
            log.debug("a message was not sent", name=self._name)

    def _receive(self) -> None:
        try:
            message = self._pipe.recv()
        except (EOFError, OSError):
            self._lose()
            return
        self._received(message)

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            self._loop.remove_reader(self._pipe.fileno())
            self._on_lost()

    async def stop(self, patience_s: float) -> None:
        """Let the process finish and end; kill it where it does not."""
        self._loop.remove_reader(self._pipe.fileno())
        self._pipe.close()
        await asyncio.to_thread(self._process.join, patience_s)
        if self._process.is_alive():
            self._process.kill()
            await asyncio.to_thread(self._process.join)
            log.error("a process did not end by itself", name=self._name)


def settle_in(name: str) -> None:
    """For the child: what ends or reloads the server reaches the parent, which tells its children.

    Where the system knows names of processes, ``ps`` and ``top`` tell them apart.
    """
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    with suppress(OSError):
        Path("/proc/self/comm").write_text(f"guestgate-{name}"[:15], "utf-8")
