"""One call on the public listener: its body, its one answer, and the alarms that ring for it.

An answer that comes before the body was read waits for it (up to a limit), since closing a connection with
unread data can destroy the answer on its way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from guestgate.contract import Response

log = structlog.get_logger()

MAX_DRAIN_BYTES = 64 * 1024
# Each chunk costs the event loop some microseconds, however small it is.
MAX_CHUNKS = 256
# granian needs a moment to drop a body that nobody waits for any more; only then it closes the connection.
LET_GO_S = 0.02


class BodyTooLargeError(Exception):
    """More than the route takes."""


class BodyTimeoutError(Exception):
    """The deadline came before the body's end."""


class BodyBrokenOffError(Exception):
    """The body ended before its end; the caller may have hung up or half closed the connection."""


class Exchange:
    """One request and its one response. ``deadline`` is an instant of the event loop's clock."""

    def __init__(self, protocol: Any, deadline: float) -> None:
        """Nothing is read or written yet."""
        self._protocol = protocol
        self.deadline = deadline
        self.at_deadline: Callable[[], object] = self._stop_reading
        self.at_share: Callable[[], object] | None = None
        self._reader = asyncio.current_task()
        self._timed_out = False
        self.answered = False
        self._caller_gone: asyncio.Future[None] | None = None

    def expire(self) -> None:
        """The deadline has come."""
        self.at_deadline()

    def share_over(self) -> None:
        """The shared ledger has had its share of the time."""
        if self.at_share is not None:
            self.at_share()

    def _stop_reading(self) -> None:
        """A read that goes on for ever would keep its connection for ever."""
        if self._reader is not None:
            self._timed_out = True
            self._reader.cancel()

    async def _let_go(self) -> None:
        """After a cancelled read: the task goes on, and the body is gone before the answer is written."""
        if not self._timed_out or self._reader is None:
            raise asyncio.CancelledError
        self._reader.uncancel()
        await asyncio.sleep(LET_GO_S)

    def watch(self) -> None:
        """From now on notice when the caller hangs up, or that it has."""
        self._caller_gone = asyncio.ensure_future(self._protocol.client_disconnect())

    def write(self, response: Response) -> bool:
        """Answer, once; False where that was done before or the caller is known to be gone."""
        if self._caller_gone is not None:
            if self._caller_gone.done():
                return False
            self._caller_gone.cancel()
        if self.answered:
            return False
        self.answered = True
        self._protocol.response_bytes(response.status, response.headers, response.body)
        return True

    async def read(self, content_length: str | None, most_bytes: int) -> bytes:
        """The body, unless that is too large, late or broken off."""
        if content_length is not None and int(content_length) > most_bytes:
            raise BodyTooLargeError
        try:
            if content_length is not None:
                return bytes(await self._protocol())
            return await self._read_chunks(most_bytes)
        except (BodyTooLargeError, BodyBrokenOffError):
            raise
        except asyncio.CancelledError:
            await self._let_go()
            raise BodyTimeoutError from None
        except Exception as error:
            raise BodyBrokenOffError from error

    async def _read_chunks(self, most_bytes: int) -> bytes:
        """A body of unknown length. granian ends one that was broken off like a whole one, but with two empty
        chunks instead of one."""
        body, chunks, empty = bytearray(), 0, 0
        async for chunk in self._protocol:
            body += chunk
            chunks += 1
            empty += not chunk
            if len(body) > most_bytes or chunks > MAX_CHUNKS:
                raise BodyTooLargeError
        if empty > 1:
            raise BodyBrokenOffError
        return bytes(body)

    async def conclude(self, response: Response) -> None:
        """Answer a call whose body is not wanted: take it in first, as far as limits of size and time allow."""
        try:
            with suppress(Exception):  # the caller may be gone, or its body have been read before
                drained = chunks = 0
                async for chunk in self._protocol:
                    drained += len(chunk)
                    chunks += 1
                    if drained > MAX_DRAIN_BYTES or chunks > MAX_CHUNKS:
                        break
        except asyncio.CancelledError:
            await self._let_go()
        self.write(response)


class Alarms:
    """Rings for many exchanges with one timer.

    All ring the same time after they were added, so the first that came is the first that is due. An
    exchange that has been answered by then is passed over.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, after_s: float, ring: Callable[[Exchange], object]) -> None:
        """`ring` is called `after_s` seconds after an exchange was added."""
        self._loop = loop
        self.after_s = after_s
        self._ring = ring
        self._due: deque[tuple[float, Exchange]] = deque()

    def add(self, exchange: Exchange) -> None:
        """Ring for this exchange in time."""
        if not self._due:
            self._loop.call_later(self.after_s, self._look)
        self._due.append((self._loop.time() + self.after_s, exchange))

    def _look(self) -> None:
        now = self._loop.time()
        while self._due and (self._due[0][1].answered or self._due[0][0] <= now):
            _, exchange = self._due.popleft()
            if not exchange.answered:
                try:
                    self._ring(exchange)
                except Exception:  # must not silence the alarms of all others
                    log.exception("an alarm failed")
        if self._due:
            self._loop.call_at(self._due[0][0], self._look)
