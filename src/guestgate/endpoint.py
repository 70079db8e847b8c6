"""The public listener: HTTP in, a status out. One handler, one clock.

Speaks RSGI, granian's own interface, because it tells at once when a caller hangs up. The order of the
checks is part of the contract: path, method, key, content type, size, body. An answer that comes before the
body was read waits for it (up to a limit), since closing a connection with unread data can destroy the
answer on its way.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import structlog
import uuid_utils

from guestgate import clock
from guestgate.attendance import mailbox, webhook
from guestgate.attendance.mailbox import Letter, Mailbox
from guestgate.authorizer import Authorizer
from guestgate.contract import (
    MAX_BODY_BYTES,
    BadBodyError,
    Response,
    answer,
    healthy,
    kept,
    parse_checkin,
    problem,
)
from guestgate.directory import DirectoryFollower, Key, KeyKind
from guestgate.metrics import DoorMetrics
from guestgate.model import CheckIn, Outcome, Reason

log = structlog.get_logger()

MAX_DRAIN_BYTES = 64 * 1024
# Each chunk costs the event loop some microseconds, however small it is.
MAX_CHUNKS = 256
# The timer has to ring, a stalled body to be let go, and the answer to be written before the budget is over.
ANSWER_MARGIN_MS = 30
# granian needs a moment to drop a body that nobody waits for any more; only then it closes the connection.
LET_GO_S = 0.02
# Watching for a hang-up costs a tenth of the throughput; calls that are answered at once need none.
WATCH_AFTER_S = 0.03

NOT_FOUND = problem(404, "there is nothing here")
GET_ONLY = problem(405, "use GET", ("allow", "GET, HEAD"))
POST_ONLY = problem(405, "use POST", ("allow", "POST"))
UNAUTHORIZED = problem(
    401,
    "send a valid studio key in the header X-API-Key",
    ("www-authenticate", 'ApiKey realm="guestgate", header="X-API-Key"'),
)
UNSUPPORTED_MEDIA_TYPE = problem(415, "send Content-Type: application/json; charset=utf-8")
TOO_LARGE = problem(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
LETTER_TOO_LARGE = problem(413, f"the body is larger than {webhook.MAX_BODY_BYTES} bytes")
NOT_KEPT = problem(503, "the webhook could not be kept; send it again")
BROKEN_OFF = problem(400, "the body was broken off")
REQUEST_TIMEOUT = problem(408, "the body did not arrive in time")

STATUS = {Outcome.ALLOWED: 200, Outcome.DENIED: 403, Outcome.UNDECIDED: 503}


class BodyTooLargeError(Exception):
    """More than the path takes."""


class BodyTimeoutError(Exception):
    """The deadline came before the body's end."""


class BodyBrokenOffError(Exception):
    """The body ended before its end; the caller may have hung up or half closed the connection."""


class Endpoint:
    """An RSGI application that answers the platform."""

    def __init__(
        self,
        authorizer: Authorizer,
        letters: Mailbox,
        studios: DirectoryFollower,
        metrics: DoorMetrics,
        *,
        checkin_path: str,
        answer_budget_ms: int,
        unknown_member_status: int,
    ) -> None:
        """Answers check-ins on `checkin_path` within `answer_budget_ms` of their headers; webhooks have longer."""
        self._authorizer, self._letters = authorizer, letters
        self._studios = studios
        self._loop = asyncio.get_running_loop()
        self._checkin_path = checkin_path.rstrip("/")
        self._budget_s = (answer_budget_ms - ANSWER_MARGIN_MS) / 1000
        self._unknown_member_status = unknown_member_status
        self._deadlines = Alarms(self._loop, self._budget_s, Exchange.expire)
        self._slow = Alarms(self._loop, WATCH_AFTER_S, Exchange.watch)
        self._letter_deadlines = Alarms(self._loop, mailbox.ANSWER_WITHIN_S, Exchange.expire)
        share_s = authorizer.share_s
        self._shares = None if share_s is None else Alarms(self._loop, share_s, Exchange.share_over)
        # Calls that were no check-ins, by status; check-ins are on record.
        self.counts: Counter[int] = Counter()
        self._metrics = metrics

    async def __call__(self, scope: Any, protocol: Any) -> None:
        """One call. Anything unforeseen is a 503 for this caller and changes nothing for others."""
        if scope.proto != "http":
            protocol.close(403)
            return
        started = self._loop.time()
        if scope.path.rstrip("/") == webhook.PATH:
            exchange = Exchange(protocol, started + mailbox.ANSWER_WITHIN_S)
            self._letter_deadlines.add(exchange)
        else:
            exchange = Exchange(protocol, started + self._budget_s)
            self._deadlines.add(exchange)
            if self._shares is not None:
                self._shares.add(exchange)
        try:
            response = await self._respond(scope, exchange, started)
            if response is not None:
                self._count(response.status)
                await exchange.conclude(response)
        except Exception:
            log.exception("a call failed")
            exchange.write(problem(503, "the call could not be answered; try again"))

    async def _respond(self, scope: Any, exchange: Exchange, started: float) -> Response | None:
        """Handles a check-in; returns the response for every other call."""
        path = scope.path.rstrip("/")
        if path == "/healthz":
            return healthy() if scope.method in ("GET", "HEAD") else GET_ONLY
        is_letter = path == webhook.PATH
        if path != self._checkin_path and not is_letter:
            return NOT_FOUND
        if scope.method != "POST":
            return POST_ONLY
        received_at = clock.now()
        headers = scope.headers
        token = _single(headers, "x-api-key").encode()
        kind = KeyKind.WEBHOOK if is_letter else KeyKind.CHECKIN
        key = self._studios.directory.key(token, kind, clock.to_ms(received_at))
        if key is None:
            return UNAUTHORIZED
        if not _is_json(headers):
            return UNSUPPORTED_MEDIA_TYPE
        try:
            most_bytes = webhook.MAX_BODY_BYTES if is_letter else MAX_BODY_BYTES
            body = await exchange.read(headers.get("content-length"), most_bytes)
            if is_letter:
                await self._keep(body, key, received_at, exchange)
                return None
            aggregator_id, customer_id = parse_checkin(body)
        except BodyTooLargeError:
            return LETTER_TOO_LARGE if is_letter else TOO_LARGE
        except BodyTimeoutError:
            self._count(REQUEST_TIMEOUT.status)
            exchange.write(REQUEST_TIMEOUT)
            return None
        except BadBodyError as error:
            return problem(400, str(error))
        except BodyBrokenOffError:
            exchange.write(BROKEN_OFF)
            return None
        checkin = CheckIn(
            str(uuid_utils.uuid7()), received_at, key.studio_id, aggregator_id, customer_id, key.fingerprint
        )
        await self._answer(checkin, exchange, started)
        return None

    def _count(self, status: int) -> None:
        self.counts[status] += 1
        self._metrics.other_calls.labels(status).inc()

    async def _keep(self, body: bytes, key: Key, received_at: datetime, exchange: Exchange) -> None:
        """Answer a webhook once it is on disk; who sends it reads nothing but the status."""
        letter = Letter(webhook.parse(body), key.studio_id, clock.to_ms(received_at), body.decode(), key.fingerprint)
        exchange.at_deadline = partial(exchange.write, NOT_KEPT)
        is_kept = await self._letters.keep(letter)
        exchange.write(kept() if is_kept else NOT_KEPT)
        self._metrics.webhooks.labels("kept" if is_kept else "not_kept").inc()

    async def _answer(self, checkin: CheckIn, exchange: Exchange, started: float) -> None:
        call = self._authorizer.call(checkin, started, exchange.deadline)
        exchange.at_deadline = call.expire
        if self._shares is not None:
            exchange.at_share = partial(self._authorizer.share_over, call)
        self._slow.add(exchange)
        ruling = await self._authorizer.authorize(call)
        status = STATUS[ruling.outcome]
        if ruling.reason is Reason.UNKNOWN_MEMBER:
            status = self._unknown_member_status
        written = exchange.write(answer(ruling, status))
        self._authorizer.left(call, ruling, status if written else None)


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
        self._after_s = after_s
        self._ring = ring
        self._due: deque[tuple[float, Exchange]] = deque()

    def add(self, exchange: Exchange) -> None:
        """Ring for this exchange in time."""
        if not self._due:
            self._loop.call_later(self._after_s, self._look)
        self._due.append((self._loop.time() + self._after_s, exchange))

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


def _single(headers: Any, name: str) -> str:
    """A header's only value; empty where it is missing, sent twice or not text."""
    values = headers.get_all(name)
    return values[0] if len(values) == 1 else ""


def _is_json(headers: Any) -> bool:
    if "content-type" not in headers:
        return True
    return _single(headers, "content-type").partition(";")[0].strip().lower() == "application/json"
