"""What this server says of itself, to its own pages and to the servers that share the record with it.

Where a database is one server's own, nobody has to be told, and nothing is written.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import structlog

from guestgate import clock, nodes
from guestgate.database import Database, is_postgres
from guestgate.door import STALLED_S, DoorState
from guestgate.errors import GuestgateError
from guestgate.last_minute import LastMinute
from guestgate.nodes import Node, NodeState
from guestgate.settings import Settings
from guestgate.stand_in.copy import StandInCopy

log = structlog.get_logger()

# At the end; a database that says nothing is not waited for.
LEAVE_S = 2.0


class Presence:
    """Lives in the event loop, from `start` to `stop`. Telling is a thread's work, which nobody waits for."""

    def __init__(
        self, settings: Settings, database: Database, ask_door: Callable[[bool], Awaitable[DoorState]]
    ) -> None:
        """Nothing is said yet. `ask_door` is asked for how the door is, with all its figures or not."""
        self._ask_door = ask_door
        self._database = database
        self._copy = StandInCopy(settings.stand_in_file) if settings.stands_in else None
        self._max_age_s = settings.stand_in_max_age_s
        self._minute = LastMinute()
        self._node = nodes.this_server(settings)
        self._looking: asyncio.Task[None] | None = None
        self._to_tell: queue.Queue[Node | None] = queue.Queue()
        self._telling = threading.Thread(target=self._tell, name="presence", daemon=True)
        self._is_shared = is_postgres(settings.database)

    def start(self) -> None:
        """Say how it is from now on."""
        self._looking = asyncio.create_task(self._look())
        if self._is_shared:
            self._telling.start()

    async def stop(self, *, in_order: bool) -> None:
        """Say no more. A server that ends `in_order` leaves, and is not missed."""
        if self._looking is None:
            return
        self._looking.cancel()
        if in_order and self._is_shared:
            self._to_tell.put(None)
            await asyncio.to_thread(self._telling.join, LEAVE_S)

    async def state(self, all_figures: bool) -> DoorState:
        """How the door is, and with it how this server was when it looked last."""
        return replace(await self._ask_door(all_figures), node=self._node)

    async def _look(self) -> None:
        while True:
            door = await self._ask_door(False)
            self._minute.look(door.metrics, clock.monotonic())
            copy_age_s = await asyncio.to_thread(self._copy_age_s)
            self._node = self._node._replace(
                state=_state(door),
                checkins=self._minute.checkins,
                in_time=self._minute.in_time,
                p99_ms=self._minute.p99_ms,
                copy_age_s=copy_age_s,
            )
            if self._to_tell.empty():  # else the database is slow; what is told next is younger
                self._to_tell.put(self._node)
            await asyncio.sleep(nodes.TELL_EVERY_S)

    def _tell(self) -> None:
        """The thread: until it is told to leave."""
        say, could = nodes.arrive, True
        while (node := self._to_tell.get()) is not None:
            try:
                with self._database.write() as connection:
                    say(connection, node)
                say, could = nodes.tell, True
            except GuestgateError as error:
                if could:
                    log.warning("other servers cannot be told how this one is", error=str(error))
                could = False
        if could:
            with suppress(GuestgateError), self._database.write() as connection:
                nodes.leave(connection, self._node)

    def _copy_age_s(self) -> float | None:
        if self._copy is None:
            return None
        try:
            return self._copy.read_state(self._max_age_s).age_s
        except GuestgateError:
            return None


def _state(door: DoorState) -> NodeState:
    if door.standing_in_s and door.can_stand_in:
        return NodeState.STANDING_IN
    return NodeState.NOT_READY if door.standing_in_s or door.stalled_s >= STALLED_S else NodeState.SERVING
