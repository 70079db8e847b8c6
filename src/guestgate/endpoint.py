"""The public listener: HTTP in, a status out. One handler, one clock.

Speaks RSGI, granian's own interface, because it tells at once when a caller hangs up. The order of the
checks is part of the contract and the same on every route: path, method, key, content type, size, body. A route
only makes a question of the body, and a response of the answer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import structlog
import uuid_utils

from guestgate import clock
from guestgate.attendance import mailbox, webhook
from guestgate.attendance.mailbox import Letter, Mailbox
from guestgate.authorizer import Authorizer
from guestgate.contract import (
    MAX_BODY_BYTES,
    VALIDATION_PATH,
    WEBHOOK_PATH,
    BadBodyError,
    Response,
    answer,
    healthy,
    kept,
    member_data,
    parse_checkin,
    parse_validation,
    problem,
)
from guestgate.directory import DirectoryFollower, Key, KeyKind
from guestgate.eligibility import Question
from guestgate.exchange import Alarms, BodyBrokenOffError, BodyTimeoutError, BodyTooLargeError, Exchange
from guestgate.metrics import DoorMetrics
from guestgate.model import CheckIn, Outcome, Reason
from guestgate.validator import Validator

log = structlog.get_logger()

# The timer has to ring, a stalled body to be let go, and the answer to be written before the budget is over.
ANSWER_MARGIN_MS = 30
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
BROKEN_OFF = problem(400, "the body was broken off")
REQUEST_TIMEOUT = problem(408, "the body did not arrive in time")
# One and the same for whatever stands in the way, so that guessing teaches nothing.
MAY_NOT_REGISTER = problem(404, "this member may not register here")
NOT_VALIDATED = problem(503, "the member could not be validated in time; try again")
NOT_KEPT = problem(503, "the webhook could not be kept; send it again")

STATUS = {Outcome.ALLOWED: 200, Outcome.DENIED: 403, Outcome.UNDECIDED: 503}


class Asked(NamedTuple):
    """A call that has passed all checks but its body's. ``started`` is an instant of the event loop's clock."""

    key: Key
    received_at: datetime
    exchange: Exchange
    started: float


class Route(NamedTuple):
    """What is asked on a path: which keys may, who answers, by when, and what a body may have.

    `answer` gets the body. Before it has answered anything it may raise BadBodyError.
    """

    kind: KeyKind
    answer: Callable[[bytes, Asked], Awaitable[None]]
    deadlines: Alarms
    most_bytes: int = MAX_BODY_BYTES


class Endpoint:
    """An RSGI application that answers the platform."""

    def __init__(
        self,
        authorizer: Authorizer,
        validator: Validator,
        letters: Mailbox,
        studios: DirectoryFollower,
        metrics: DoorMetrics,
        *,
        checkin_path: str,
        answer_budget_ms: int,
        unknown_member_status: int,
    ) -> None:
        """Answers check-ins on `checkin_path`; all but webhooks within `answer_budget_ms` of the headers."""
        self._authorizer, self._validator, self._letters = authorizer, validator, letters
        self._studios = studios
        self._loop = asyncio.get_running_loop()
        self._deadlines = Alarms(self._loop, (answer_budget_ms - ANSWER_MARGIN_MS) / 1000, Exchange.expire)
        letter_deadlines = Alarms(self._loop, mailbox.ANSWER_WITHIN_S, Exchange.expire)
        self._routes = {
            VALIDATION_PATH: Route(KeyKind.CHECKIN, self._validate, self._deadlines),
            WEBHOOK_PATH: Route(KeyKind.WEBHOOK, self._keep, letter_deadlines, webhook.MAX_BODY_BYTES),
            checkin_path.rstrip("/"): Route(KeyKind.CHECKIN, self._check_in, self._deadlines),
        }
        self._unknown_member_status = unknown_member_status
        self._slow = Alarms(self._loop, WATCH_AFTER_S, Exchange.watch)
        share_s = authorizer.share_s
        self._shares = None if share_s is None else Alarms(self._loop, share_s, Exchange.share_over)
        # Calls that asked and told nothing, by status; the others are on record.
        self.counts: Counter[int] = Counter()
        self._metrics = metrics

    async def __call__(self, scope: Any, protocol: Any) -> None:
        """One call. Anything unforeseen is a 503 for this caller and changes nothing for others."""
        if scope.proto != "http":
            protocol.close(403)
            return
        started = self._loop.time()
        route = self._routes.get(scope.path.rstrip("/"))
        deadlines = self._deadlines if route is None else route.deadlines
        exchange = Exchange(protocol, started + deadlines.after_s)
        deadlines.add(exchange)
        if self._shares is not None:
            self._shares.add(exchange)
        try:
            response = await self._respond(scope, route, exchange, started)
            if response is not None:
                self._count(response.status)
                await exchange.conclude(response)
        except Exception:
            log.exception("a call failed")
            exchange.write(problem(503, "the call could not be answered; try again"))

    async def _respond(self, scope: Any, route: Route | None, exchange: Exchange, started: float) -> Response | None:
        """Has a question answered; returns the response for every other call."""
        if route is None:
            if scope.path.rstrip("/") != "/healthz":
                return NOT_FOUND
            return healthy() if scope.method in ("GET", "HEAD") else GET_ONLY
        if scope.method != "POST":
            return POST_ONLY
        received_at = clock.now()
        headers = scope.headers
        token = _single(headers, "x-api-key").encode()
        key = self._studios.directory.key(token, route.kind, clock.to_ms(received_at))
        if key is None:
            return UNAUTHORIZED
        if not _is_json(headers):
            return UNSUPPORTED_MEDIA_TYPE
        try:
            body = await exchange.read(headers.get("content-length"), route.most_bytes)
            await route.answer(body, Asked(key, received_at, exchange, started))
        except BodyTooLargeError:
            return problem(413, f"the body is larger than {route.most_bytes} bytes")
        except BodyTimeoutError:
            self._count(REQUEST_TIMEOUT.status)
            exchange.write(REQUEST_TIMEOUT)
            return None
        except BadBodyError as error:
            return problem(400, str(error))
        except BodyBrokenOffError:
            exchange.write(BROKEN_OFF)
            return None
        return None

    def _count(self, status: int) -> None:
        self.counts[status] += 1
        self._metrics.other_calls.labels(status).inc()

    async def _check_in(self, body: bytes, asked: Asked) -> None:
        aggregator_id, customer_id = parse_checkin(body)
        key, received_at, exchange, started = asked
        checkin = CheckIn(
            _id_of(received_at), received_at, key.studio_id, aggregator_id, customer_id, key.fingerprint
        )
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

    async def _validate(self, body: bytes, asked: Asked) -> None:
        aggregator_id = parse_validation(body)
        key, received_at, exchange, started = asked
        question = Question(_id_of(received_at), received_at, key.studio_id, aggregator_id, key.fingerprint)
        call = self._validator.call(question, started, exchange.deadline)
        exchange.at_deadline = call.expire
        self._slow.add(exchange)
        reply = await self._validator.validate(call)
        if reply.member_id is not None:
            response = member_data(reply.member_id, reply.profile)
        else:
            response = MAY_NOT_REGISTER if reply.outcome is Outcome.DENIED else NOT_VALIDATED
        written = exchange.write(response)
        self._validator.left(call, reply, response.status if written else None)

    async def _keep(self, body: bytes, asked: Asked) -> None:
        """Answer a webhook once it is on disk; who sends it reads nothing but the status."""
        key, received_at, exchange, _ = asked
        letter = Letter(webhook.parse(body), key.studio_id, clock.to_ms(received_at), body.decode(), key.fingerprint)
        exchange.at_deadline = partial(exchange.write, NOT_KEPT)
        is_kept = await self._letters.keep(letter)
        exchange.write(kept() if is_kept else NOT_KEPT)
        self._metrics.webhooks.labels("kept" if is_kept else "not_kept").inc()


def _id_of(received_at: datetime) -> str:
    """A new id that says when, a UUIDv7: partitions and lists by day go by it.

    By itself the library counts on from the latest time that it has ever seen, wherever a clock was put back.
    """
    return str(uuid_utils.uuid7(nanoseconds=clock.to_ms(received_at) * 10**6))


def _single(headers: Any, name: str) -> str:
    """A header's only value; empty where it is missing, sent twice or not text."""
    values = headers.get_all(name)
    return values[0] if len(values) == 1 else ""


def _is_json(headers: Any) -> bool:
    if "content-type" not in headers:
        return True
    return _single(headers, "content-type").partition(";")[0].strip().lower() == "application/json"
