"""A process beside the door's, and the pipe between the two. Either ends when the other does.

Never forked from the door's process, which has threads, but from a fork server that has loaded what children
need (`guestgate.preload`). Messages are plain values.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger()

multiprocessing.set_forkserver_preload(["guestgate.preload"])


def prepare() -> None:
    """Have the fork server load, beside whatever this process does until it starts a child."""
    forkserver.ensure_running()


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
        # A child that starts one of its own would get a fork server of its own; spawning costs it less.
        a_child = multiprocessing.parent_process() is not None
        context = multiprocessing.get_context("spawn" if a_child else "forkserver")
        self._pipe, self._theirs = multiprocessing.Pipe()
        self._name = name
        self._received, self._on_lost = received, lost
        self._process = context.Process(  # type: ignore[attr-defined]
            target=main, args=(self._theirs, *arguments), name=name, daemon=not has_children
        )
        self._loop = asyncio.get_running_loop()
        # Beside the event loop: a fork server that was lost has to load again first.
        self._started = self._loop.run_in_executor(None, self._start)
        self.lost = False

    def _start(self) -> None:
        with self._theirs:
            try:
                self._process.start()
            except EOFError as error:
                raise OSError("the fork server was lost; there will be another one") from error

    async def start(self) -> Any:
        """The first message, by which the process says that it is ready (or why not); None where it ended.

        Raises OSError where it could not be started.
        """
        await asyncio.shield(self._started)
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
        with suppress(Exception):  # `start` says why it did not
            await self._started
        self._loop.remove_reader(self._pipe.fileno())
        self._pipe.close()
        if self._process.pid is None:
            return
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
