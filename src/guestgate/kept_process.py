"""A child process that is started again whenever it ends by itself. Doors go on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from guestgate.child_process import ChildProcess
from guestgate.errors import OperationError

log = structlog.get_logger()

RESTART_S = 1.0


class KeptProcess:
    """The parent's end. Lives in the event loop."""

    def __init__(
        self,
        main: Callable[..., None],
        arguments: tuple[Any, ...],
        *,
        name: str,
        what: str,
        patience_s: float,
        received: Callable[[Any], None] = lambda _: None,
        started: Callable[[], None] = lambda: None,
        ended: Callable[[], None] = lambda: None,
        has_children: bool = False,
        **about: object,
    ) -> None:
        """Nothing is started before `start`. The first message of `main(pipe, *arguments)` is a text: what keeps it
        from starting, empty where it is ready.

        `name` is the system's for the process; the log calls it `what`, and tells more `about` it. `received` gets
        every other message; `started` is called whenever one is ready, and `ended` when one has ended by itself.
        At the end it has `patience_s` seconds.
        """
        self._main, self._arguments = main, arguments
        self._name, self._what, self._about = name, what, about
        self._received, self._started, self._ended = received, started, ended
        self._has_children, self._patience_s = has_children, patience_s
        self._child: ChildProcess | None = None
        self._ready = False
        self._starting: asyncio.Task[None] | None = None

    @property
    def child(self) -> ChildProcess | None:
        """The present process; None while there is none that is ready."""
        return self._child if self._ready else None

    async def start(self) -> None:
        """Return once it is ready. Raises OperationError where it cannot start."""
        try:
            self._child = ChildProcess(
                self._main,
                self._arguments,
                name=self._name,
                received=self._received,
                lost=self._lost,
                has_children=self._has_children,
            )
            problem = await self._child.start()
        except OSError as error:
            problem = f"{self._what} did not start: {error}"
        self._ready = problem == ""
        if not self._ready:
            await self._end()
            raise OperationError(problem or f"{self._what} did not start, see the lines above")
        self._started()

    def _lost(self) -> None:
        log.error(f"{self._what} ended; it is started again", **self._about)
        self._ended()
        self.start_again()

    def start_again(self) -> None:
        """End what there is and start anew; a start that is under way gives way."""
        self._ready = False
        if self._starting is not None:
            self._starting.cancel()
        self._starting = asyncio.create_task(self._start_until_it_does())

    async def _start_until_it_does(self) -> None:
        await self._end()
        while True:
            await asyncio.sleep(RESTART_S)
            try:
                await self.start()
            except OperationError as error:
                log.error(
                    f"{self._what} could not be started and will be tried again", error=str(error), **self._about
                )
            else:
                return

    async def stop(self) -> None:
        """Let it finish and end, and start it no more."""
        if self._starting is not None:
            self._starting.cancel()
        await self._end()

    async def _end(self) -> None:
        self._ready = False
        child, self._child = self._child, None
        if child is not None:
            await child.stop(self._patience_s)
