"""The admin listener in a process of its own, so that imports and reports cannot slow the door down.

It asks the door for its figures through a pipe, ends with the door, and is started again where it ends by
itself: doors stay open meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe

import structlog
import uvloop
from granian.constants import Interfaces

from guestgate.child_process import settle_in
from guestgate.database import Database
from guestgate.door import DoorState
from guestgate.errors import GuestgateError, UsageError
from guestgate.kept_process import KeptProcess
from guestgate.listener import LOOPBACK, Address, Listener, first
from guestgate.log import configure as configure_log
from guestgate.settings import Settings

log = structlog.get_logger()

MAX_CONNECTIONS = 256
STOP_S = 3.0
# The door answers within its event loop's next turn; if it takes this long, something is wrong with it.
DOOR_PATIENCE_S = 1.0
# Where the processor is scarce, the door comes first.
NICENESS = 5


def admin_address(settings: Settings) -> Address | None:
    """Where the admin listener serves; None where there is none. Raises UsageError for what would not be safe."""
    if settings.admin_port == 0:
        return None
    if settings.admin_host in LOOPBACK:
        return Address(settings.admin_host, settings.admin_port, "--admin-host")
    if settings.tls_cert is None or settings.tls_key is None:
        raise UsageError(
            f"admin_host: the admin listener speaks plain HTTP on loopback only; to serve on {settings.admin_host} "
            "give tls_cert and tls_key, or leave it on 127.0.0.1 behind a proxy"
        )
    return Address(settings.admin_host, settings.admin_port, "--admin-host", settings.tls_cert, settings.tls_key)


class AdminProcess:
    """The door's end. Lives in the event loop."""

    def __init__(self, settings: Settings, state: Callable[[bool], Awaitable[DoorState]]) -> None:
        """`state` is asked whenever the admin listener wants to know how the door is, with all its figures or not."""
        self._state = state
        self._address = admin_address(settings)
        self._process = KeptProcess(
            _main,
            (settings,),
            name="admin",
            what="the admin listener",
            patience_s=STOP_S,
            received=self._answer,
            started=lambda: log.info("the admin listener serves", address=str(self._address)),
        )
        self._question: tuple[int, bool] | None = None
        self._answering: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return once it serves. Raises OperationError where it cannot."""
        if self._address is not None:
            await self._process.start()

    def _answer(self, question: tuple[int, bool]) -> None:
        """Beside the event loop, and one at a time: who does not read its answer gets no other.

        The next question may come before this end knows that its answer has left; so the last one is kept.
        """
        self._question = question
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        while self._question is not None and self._process.child is not None:
            (number, all_figures), self._question = self._question, None
            await self._process.child.send_beside((number, await self._state(all_figures)))

    async def renew(self) -> None:
        """Serve with the certificate as it is on disk now."""
        if self._address is not None and self._address.tls_cert is not None:
            self._process.start_again()

    async def stop(self) -> None:
        """End it, and start it no more."""
        await self._process.stop()


class DoorLine:
    """The admin process's end of the pipe. Any thread may ask."""

    def __init__(self, pipe: Pipe, hung_up: Callable[[], object]) -> None:
        """`hung_up` is called from another thread once the door has closed the pipe or ended."""
        self._pipe = pipe
        self._hung_up = hung_up
        self._lock = threading.Lock()
        self._replies: queue.SimpleQueue[tuple[int, DoorState]] = queue.SimpleQueue()
        self._asked = 0
        self._opened = threading.Event()
        threading.Thread(target=self._listen, name="door", daemon=True).start()

    def _listen(self) -> None:
        try:
            while True:
                self._replies.put(self._pipe.recv())
        except (EOFError, OSError):
            self._hung_up()

    def open(self) -> None:
        """Say that we serve; that comes before any question."""
        self._pipe.send("")
        self._opened.set()

    def ask(self, all_figures: bool) -> DoorState | None:
        """How the door is; None where it does not say so in time."""
        if not self._opened.wait(DOOR_PATIENCE_S):
            return None
        with self._lock:
            self._asked += 1
            try:
                self._pipe.send((self._asked, all_figures))
                while True:  # a reply that came too late for an earlier question is passed over
                    number, state = self._replies.get(timeout=DOOR_PATIENCE_S)
                    if number == self._asked:
                        return state
            except (queue.Empty, OSError):
                return None


def _main(pipe: Pipe, settings: Settings) -> None:
    """The process: serves until the door closes the pipe or ends."""
    configure_log(level=settings.log_level)
    settle_in("admin")
    os.nice(NICENESS)
    with suppress(BrokenPipeError):  # the door ended while we started
        uvloop.run(_serve(pipe, settings))


async def _serve(pipe: Pipe, settings: Settings) -> None:
    # Only here: the door's process has no use for a web framework.
    from guestgate.admin.app import create_app

    address = admin_address(settings)
    assert address is not None
    loop, ending = asyncio.get_running_loop(), asyncio.Event()
    try:
        address.check_free()
        database = Database.at(settings.database, pooled=True, fence=settings.fence)
        line = DoorLine(pipe, lambda: loop.call_soon_threadsafe(ending.set))
        listener = Listener(create_app(database, settings, line.ask), Interfaces.ASGINL, address, MAX_CONNECTIONS)
        await listener.start()
    except GuestgateError as error:
        pipe.send(str(error))
        return
    line.open()
    await first(ending.wait(), listener.ended())
    if ending.is_set():
        await listener.stop()
