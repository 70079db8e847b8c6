"""What happens at the doors, as it happens: one reader of the record for all pages that are open.

It reads while somebody looks, renders each part of the page once, and everybody gets the same bytes. It also asks
whether those who look may still do so: if each page did, all of them would at once, each on a connection of its own.
So ten pages cost hardly more than one.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import structlog
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from guestgate import clock, nodes, record, sequence, sessions, studios
from guestgate.admin import monitoring
from guestgate.admin.context import Context
from guestgate.admin.pages.admission import OVER
from guestgate.admin.pages.view import part
from guestgate.errors import GuestgateError
from guestgate.nodes import Node
from guestgate.pulse import MINUTE_MS, MINUTES, Minute, Pulse
from guestgate.record import Filter, Order

log = structlog.get_logger()

# An answer is on record a quarter of a second after its decision, at the latest; so a decision is shown a beat later.
BEAT_S = 0.5
SHOWN = 15
AT_ONCE = 2000
THIS_SERVER_S = 2.0
ADMITTED_S = 1.0
# Proxies take a silent connection for a dead one.
SIGN_OF_LIFE_S = 15.0
SIGN_OF_LIFE = b": still here\n\n"


class Live:
    """The present state of what the page shows. Lives in the event loop; the reading is a thread's work."""

    def __init__(self, context: Context) -> None:
        """Nothing is read before somebody looks."""
        self._context = context
        self._pulse = Pulse()
        self._timeline = ""
        self._shown_upto = self._recorded_upto = 0
        self._own: Node | None = None
        self._asked_at = float("-inf")
        self._parts: dict[str, str] = {}
        # By the session of whoever looks.
        self._watching = Counter[str]()
        self._over: set[str] = set()
        self._admitted_at = float("-inf")
        self._beat = asyncio.Condition()
        self._reading: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._showing = threading.Lock()

    @property
    def watching(self) -> int:
        """How many pages are open."""
        return self._watching.total()

    async def parts(self) -> dict[str, str]:
        """The parts of the page by name, as they are now. Raises OperationError where the record cannot be read."""
        if not self._is_reading():
            self._timeline = ""  # nobody has followed since the last page was closed
        if not (self._timeline and self._parts):
            await self._look()
        return self._parts

    async def messages(self, session: str) -> AsyncIterator[bytes]:
        """Server-sent events, each part of the page that has changed; as long as the session is good."""
        self._watching[session] += 1
        sent: dict[str, str] = {}
        alive_at = clock.monotonic()
        try:
            while True:
                if not self._is_reading():
                    self._reading = asyncio.create_task(self._read())
                if self._looking is None or self._looking.done():
                    self._looking = asyncio.create_task(self._look_after_this_server())
                if session in self._over:
                    yield OVER
                    return
                now = clock.monotonic()
                changed = {name: text for name, text in self._parts.items() if sent.get(name) != text}
                if changed:
                    yield b"".join(_message(name, text) for name, text in changed.items())
                    sent |= changed
                    alive_at = now
                elif now - alive_at >= SIGN_OF_LIFE_S:
                    yield SIGN_OF_LIFE
                    alive_at = now
                with suppress(TimeoutError):
                    async with asyncio.timeout(SIGN_OF_LIFE_S), self._beat:
                        await self._beat.wait()
        finally:
            self._watching[session] -= 1
            if not self._watching[session]:
                del self._watching[session]

    def _is_reading(self) -> bool:
        return self._reading is not None and not self._reading.done()

    async def _read(self) -> None:
        """Follow the record as long as somebody looks."""
        self._timeline, can_read = "", True
        while self._watching:
            has_more = False
            try:
                has_more = await self._look()
                can_read = True
            except GuestgateError as error:
                if can_read:
                    log.warning("live pages cannot read the record", error=str(error))
                can_read = False
            await self._tell()
            await asyncio.sleep(0 if has_more else BEAT_S)

    async def _look_after_this_server(self) -> None:
        """Beside the reading, which a database that falls silent may hold up for long."""
        while self._watching:
            await asyncio.sleep(THIS_SERVER_S)
            await run_in_threadpool(self._ask_this_server)
            await self._tell()

    async def _tell(self) -> None:
        async with self._beat:
            self._beat.notify_all()

    async def _look(self) -> bool:
        """Read once, and render; True where there is more to read at once."""
        async with self._turn:
            return await run_in_threadpool(self._look_in_thread)

    def _look_in_thread(self) -> bool:
        self._context.check_database()
        if clock.monotonic() - self._asked_at >= 2 * THIS_SERVER_S:  # nobody has been looking
            self._ask_this_server()
        with self._context.database.read() as connection:
            self._admit(connection)
            has_more = self._follow(connection)
            latest = Filter(limit=SHOWN, upto=self._shown_upto, order=Order.DESCENDING)
            decisions = [decision for _, decision in record.decisions(connection, latest)]
            self._render(decisions, studios.places(connection))
            self._show_servers(nodes.node_list(connection, self._own))
        return has_more

    def _admit(self, connection: Connection) -> None:
        """Find out whose session is over; as long as nobody can be asked, there is nothing new to see either."""
        now = clock.monotonic()
        if now - self._admitted_at >= ADMITTED_S:
            self._admitted_at = now
            watching = set(self._watching)
            self._over = watching - sessions.good(connection, watching)

    def _ask_this_server(self) -> None:
        """How it is, which takes no database; while that is away it is the only server that is known."""
        door = self._context.ask_door(False)
        self._own, self._asked_at = None if door is None else door.node, clock.monotonic()
        parts, _ = monitoring.parts(self._context)
        told = parts.get("stand_in", "ok")
        self._show(
            health=part("health.html", parts=parts),
            banner=part("banner.html", sentence=None if told == "ok" else told),
        )
        if parts["database"] != "ok":
            self._show_servers([] if self._own is None else [nodes.own_dict(self._own)], alone=True)

    def _show_servers(self, servers: list[dict[str, Any]], *, alone: bool = False) -> None:
        self._show(nodes=part("nodes.html", nodes=servers, own=self._own, alone=alone))

    def _follow(self, connection: Connection) -> bool:
        """Count what is new; True where that is not all."""
        timeline, position = sequence.position(connection)
        if timeline != self._timeline:  # the first look, or another database was put in this one's place
            self._pulse.read(connection)
            self._timeline, self._shown_upto, self._recorded_upto = timeline, position, position
            return False
        chosen = Filter(after=self._shown_upto, upto=self._recorded_upto, limit=AT_ONCE, order=Order.ASCENDING)
        found = list(record.decisions(connection, chosen))
        for _, decision in found:
            self._pulse.add(decision)
        if len(found) == AT_ONCE:
            self._shown_upto = found[-1][0]
            return True
        self._shown_upto, self._recorded_upto = self._recorded_upto, position
        return False

    def _render(self, decisions: list[dict[str, Any]], places: dict[str, dict[str, str]]) -> None:
        minutes = self._pulse.minutes()
        self._show(
            figures=part("figures.html", **figures(minutes)),
            checkins=part("checkins.html", decisions=decisions, places=places),
            charts=part("charts.html", **charts(minutes)),
        )

    def _show(self, **parts: str) -> None:
        # Another one each time: pages go through it while a thread writes.
        with self._showing:
            self._parts = {**self._parts, **parts}


def figures(minutes: list[Minute]) -> dict[str, Any]:
    """What stands above the charts: the minute that has just ended, and the hour's answers."""
    answered = sum(minute.answered for minute in minutes)
    return {
        "last": minutes[-2],
        "hour": sum(minute.allowed + minute.denied + minute.undecided for minute in minutes),
        "in_time": sum(minute.in_time for minute in minutes) / answered if answered else None,
        "mean_ms": sum(minute.total_ms for minute in minutes) / answered if answered else None,
        "slowest_ms": max(minute.slowest_ms for minute in minutes) if answered else None,
    }


def charts(minutes: list[Minute]) -> dict[str, str]:
    """The values of both charts as JSON; a minute without an answer has no latency."""
    first = clock.now_ms() // MINUTE_MS - MINUTES + 1
    at = [(first + number) * MINUTE_MS // 1000 for number in range(MINUTES)]
    calls = {
        "at": at,
        "allowed": [minute.allowed for minute in minutes],
        "denied": [minute.denied for minute in minutes],
        "undecided": [minute.undecided for minute in minutes],
    }
    latency = {
        "at": at,
        "slowest": [round(minute.slowest_ms, 1) if minute.answered else None for minute in minutes],
        "mean": [None if minute.mean_ms is None else round(minute.mean_ms, 1) for minute in minutes],
    }
    return {"calls": json.dumps(calls), "latency": json.dumps(latency)}


def _message(name: str, text: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in text.splitlines() or [""])
    return f"event: {name}\n{lines}\n".encode()
