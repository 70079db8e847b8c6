"""Several doors on one machine, each in a process of its own: all take connections on the same port.

A worker that ends is started again. What it had counted stays in the figures, since Prometheus takes a
counter that falls for one that began anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe

import structlog
import uvloop
from prometheus_client import Metric

from guestgate.child_process import settle_in
from guestgate.database import Database
from guestgate.door import Door, DoorState, can_renew
from guestgate.errors import GuestgateError
from guestgate.kept_process import KeptProcess
from guestgate.listener import first
from guestgate.log import configure as configure_log
from guestgate.metrics import counters, merged
from guestgate.settings import Settings

log = structlog.get_logger()

# A door has five seconds to record what is left, and as many to end its ledger.
STOP_S = 15.0
ANSWER_S = 0.5
RENEW, STATE, WARN = "renew", "state", "warn"


class Workers:
    """As many doors as the settings say; to whoever serves they are one."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is started before `start`."""
        self._settings = settings
        self._workers = [_Worker(settings, number, self._keep) for number in range(1, settings.workers + 1)]
        self._past: list[Metric] = []

    async def start(self) -> None:
        """Return once all take check-ins. Raises OperationError where one cannot."""
        await asyncio.gather(*(worker.start() for worker in self._workers))

    async def renew(self) -> bool:
        """Have each serve with the certificate as it is on disk now; False where it stays as it is."""
        if not can_renew(self._settings):
            return False
        for worker in self._workers:
            worker.tell(RENEW)
        return True

    async def state(self, all_figures: bool) -> DoorState:
        """The worst of each one's delays, and the sum of all figures, of workers that have ended, too."""
        states = await asyncio.gather(*(worker.state(all_figures) for worker in self._workers))
        return DoorState(
            max(state.stalled_s for state in states),
            merged([self._past, *(state.metrics for state in states)]),
            max(state.standing_in_s for state in states),
            all(state.can_stand_in for state in states),
        )

    async def ended(self) -> None:
        """Never: those that end are started again."""
        await asyncio.get_running_loop().create_future()

    async def drain(self) -> None:
        """Take no new calls, and answer those that are here."""
        await asyncio.gather(*(worker.stop() for worker in self._workers))

    async def stop(self) -> None:
        """End those that are left."""
        await self.drain()

    def warn_of_ends(self) -> None:
        """Have one of them say which keys and certificates end soon."""
        self._workers[0].tell(WARN)

    def _keep(self, figures: list[Metric]) -> None:
        self._past = merged([self._past, counters(figures)])


class _Worker:
    """One door's process, and the one that takes its place."""

    def __init__(self, settings: Settings, number: int, keep: Callable[[list[Metric]], None]) -> None:
        self._number = number
        self._keep = keep
        self._process = KeptProcess(
            _main,
            (settings, number),
            name=f"door-{number}",
            what="a door",
            patience_s=STOP_S,
            received=self._received,
            started=self._hear,
            ended=self._forget,
            has_children=True,
            door=number,
        )
        self._figures: dict[str, Metric] = {}
        self._asked = self._heard = 0
        self._answers: dict[int, asyncio.Future[DoorState]] = {}
        self._answered_at = 0.0

    async def start(self) -> None:
        await self._process.start()

    def tell(self, what: str) -> None:
        if self._process.child is not None:
            self._process.child.send((what, 0, False))

    async def state(self, all_figures: bool) -> DoorState:
        """What it says of itself; where it says nothing, how long it has said nothing.

        While one question is unanswered there is no other: who does not read must not fill the pipe, whose
        writer is the server's event loop.
        """
        loop = asyncio.get_running_loop()
        child = self._process.child
        if child is not None and self._asked == self._heard:
            self._asked += 1
            number = self._asked
            answer = self._answers[number] = loop.create_future()
            child.send((STATE, number, all_figures))
            try:
                return await asyncio.wait_for(answer, ANSWER_S)
            except TimeoutError:
                log.warning("a door does not say how it is", door=self._number)
            finally:
                self._answers.pop(number, None)
        return DoorState(loop.time() - self._answered_at, list(self._figures.values()))

    def _received(self, message: tuple[int, DoorState]) -> None:
        number, state = message
        self._heard = number
        self._hear()
        self._figures |= {metric.name: metric for metric in state.metrics}
        answer = self._answers.get(number)
        if answer is not None and not answer.done():
            answer.set_result(state)

    def _hear(self) -> None:
        self._answered_at = asyncio.get_running_loop().time()

    def _forget(self) -> None:
        self._keep(list(self._figures.values()))
        self._figures = {}
        self._heard = self._asked  # the next one is asked anew

    async def stop(self) -> None:
        await self._process.stop()


def _main(pipe: Pipe, settings: Settings, number: int) -> None:
    """The process: serves until the server closes the pipe or ends."""
    configure_log(level=settings.log_level)
    settle_in(f"door-{number}")
    uvloop.run(_work(pipe, settings))


async def _work(pipe: Pipe, settings: Settings) -> None:
    loop, ending, renew = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    door: Door | None = None
    try:
        door = Door(
            settings, Database.at(settings.database, door=True, pooled=True, fence=settings.fence), ending.set
        )
        await door.start()
    except GuestgateError as error:
        with suppress(OSError):
            pipe.send(str(error))
        if door is not None:
            await door.stop()
        return
    answering: set[asyncio.Task[None]] = set()

    async def answer(number: int, all_figures: bool) -> None:
        with suppress(OSError):
            pipe.send((number, await door.state(all_figures)))

    def receive() -> None:
        try:
            what, number, all_figures = pipe.recv()
        except (EOFError, OSError):  # the server has closed the pipe, or ended
            loop.remove_reader(pipe.fileno())
            ending.set()
            return
        if what == RENEW:
            renew.set()
        elif what == STATE:
            task = asyncio.create_task(answer(number, all_figures))
            answering.add(task)
            task.add_done_callback(answering.discard)
        else:
            door.warn_of_ends()

    with suppress(OSError):  # the server ends already: `receive` learns of it
        pipe.send("")
    loop.add_reader(pipe.fileno(), receive)
    while not ending.is_set():
        await first(ending.wait(), renew.wait(), door.ended())
        if renew.is_set():
            renew.clear()
            await door.renew()
        else:
            break
    await door.drain()
    await door.stop()
