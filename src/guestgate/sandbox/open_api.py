"""The platform's Open API, as an aggregator calls it: ``/TENANT/v1/…`` with a studio's key in ``x-api-key``."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import date, timedelta
from enum import StrEnum
from itertools import repeat
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from guestgate import clock
from guestgate.errors import OperationError
from guestgate.sandbox.door import object_of
from guestgate.sandbox.member_data import NAMES, OPTIONAL
from guestgate.sandbox.platform import Checkin, Platform, local_iso
from guestgate.sandbox.town import Studio

MAX_A_MINUTE = 1000
MINUTE_S = 60.0
MAX_SLICE, MAX_DAYS = 50, 365
MAX_BODY_BYTES = 64 * 1024
REQUIRED = ("aggregatorId", *NAMES)
# With troubles, so often, and what they are; a slow answer comes after so many seconds.
TROUBLED, SLOW_S = 0.2, 1.0
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

Handler = Callable[[Request, Studio], Coroutine[Any, Any, Response]]


class Trouble(StrEnum):
    """What may go wrong with a call of the Open API, whatever was asked."""

    BUSY = "busy"  # 429
    OVERLOADED = "overloaded"  # 503, to be asked again after a second
    SLOW = "slow"
    BROKEN = "broken"  # done, but the connection breaks in the middle of the answer


def troubles(seed: int) -> Iterator[Trouble | None]:
    """What goes wrong with one call after the other: None for most, and never the same twice in a row."""
    dice = random.Random(seed)
    last = None
    while True:
        trouble = dice.choice(list(Trouble)) if dice.random() < TROUBLED else None
        last = trouble if trouble is not last else None
        yield last


class ApiError(Exception):
    """An answer other than success."""

    def __init__(self, status: int, code: str, message: str) -> None:
        """As the platform words it."""
        super().__init__(message)
        self.status, self.code = status, code

    def response(self, headers: dict[str, str] | None = None) -> Response:
        """Its body has three fields, whatever went wrong."""
        trace = secrets.token_hex(8)
        content = {"errorMessage": str(self), "errorCode": self.code, "traceId": trace}
        return JSONResponse(content, self.status, headers)


class RateLimit:
    """So many requests a minute, and once there were more, none for a minute."""

    def __init__(self, now: Callable[[], float] = clock.monotonic) -> None:
        """`now` gives seconds."""
        self._now = now
        self._taken: dict[object, deque[float]] = {}
        self._shut_until: dict[object, float] = {}

    def take(self, what: object) -> bool:
        """Whether one more request is let through."""
        now = self._now()
        if now < self._shut_until.get(what, 0.0):
            return False
        taken = self._taken.setdefault(what, deque(maxlen=MAX_A_MINUTE))
        if len(taken) == MAX_A_MINUTE and now - taken[0] < MINUTE_S:
            self._shut_until[what] = now + MINUTE_S
            taken.clear()
            return False
        taken.append(now)
        return True


class OpenApi:
    """Answers for every studio of the town."""

    def __init__(
        self, platform: Platform, limit: RateLimit | None = None, troubles: Iterator[Trouble | None] | None = None
    ) -> None:
        """`limit` counts for each studio's key and endpoint; `troubles` says what goes wrong with the next call."""
        self._platform = platform
        self._limit = limit or RateLimit()
        self._troubles = troubles or repeat(None)
        self._studios = {(studio.tenant, studio.keys["openapi"]): studio for studio in platform.town.studios}

    def routes(self) -> list[Route]:
        """For a Starlette application."""
        handlers: dict[tuple[str, str], Handler] = {
            ("POST", "/aggregators/member"): self._create_member,
            ("GET", "/customers/{customer}/activities/checkins"): self._checkins,
            ("POST", "/studios/confirmActivation"): self._confirm_activation,
            ("GET", "/studios/information"): self._information,
        }
        known = [
            Route(f"/{{tenant}}/v1{path}", self._guarded(method, path, handler), methods=METHODS)
            for (method, path), handler in handlers.items()
        ]
        return [*known, Route("/{tenant}/v1/{rest:path}", self._guarded("", "", None), methods=METHODS)]

    def _guarded(self, method: str, path: str, handler: Handler | None) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                studio = self._studio(request)
                if request.method == "HEAD":  # on any path: whether the key is valid, and nothing else
                    return Response(status_code=200)
                if handler is None:
                    raise ApiError(404, "NOT_FOUND", "there is no such resource")
                if request.method != method:
                    raise ApiError(405, "METHOD_NOT_ALLOWED", f"use {method}")
                if not self._limit.take((studio.id, path)):
                    raise ApiError(429, "TOO_MANY_REQUESTS", f"more than {MAX_A_MINUTE} requests a minute")
                return await self._troubled(next(self._troubles), handler(request, studio))
            except ApiError as error:
                return error.response()

        return answer

    async def _troubled(self, trouble: Trouble | None, answering: Coroutine[Any, Any, Response]) -> Response:
        """The answer, or what becomes of it."""
        if trouble in (Trouble.BUSY, Trouble.OVERLOADED):
            answering.close()
            if trouble is Trouble.BUSY:
                return ApiError(429, "TOO_MANY_REQUESTS", "this is a rehearsal of a busy platform").response()
            error = ApiError(503, "UNAVAILABLE", "this is a rehearsal of an overloaded platform")
            return error.response({"Retry-After": "1"})
        if trouble is Trouble.SLOW:
            await asyncio.sleep(SLOW_S)
        answer = await answering
        return _Broken(answer) if trouble is Trouble.BROKEN else answer

    def _studio(self, request: Request) -> Studio:
        studio = self._studios.get((request.path_params["tenant"], request.headers.get("x-api-key", "")))
        if studio is None:
            raise ApiError(401, "UNAUTHORIZED", "the key is missing or not this tenant's")
        return studio

    async def _create_member(self, request: Request, studio: Studio) -> Response:
        content = await json_object(request)
        for name in REQUIRED:
            if not isinstance(content.get(name), str) or not content[name].strip() or len(content[name]) > 255:
                raise ApiError(400, "VALIDATION_ERROR", f"{name} should be a text of 1 to 255 characters")
        for name in OPTIONAL:
            if content.get(name) is not None and not isinstance(content[name], str):
                raise ApiError(400, "VALIDATION_ERROR", f"{name} should be a text")
        try:
            customer_id = self._platform.create_customer(studio, content["aggregatorId"])
        except OperationError as error:
            raise ApiError(503, "UNAVAILABLE", str(error)) from None
        return JSONResponse({"customerId": customer_id, "studioId": studio.number})

    async def _checkins(self, request: Request, studio: Studio) -> Response:
        query = request.query_params
        first, last = (_date(query.get(name), name) for name in ("fromDate", "toDate"))
        if last < first or last - first > timedelta(days=MAX_DAYS):
            raise ApiError(400, "VALIDATION_ERROR", f"fromDate to toDate should be 0 to {MAX_DAYS} days")
        size = _number(query.get("sliceSize", str(MAX_SLICE)), "sliceSize", 1, MAX_SLICE)
        offset = _number(query.get("offset") or "0", "offset", 0, 10**9)
        customer_id = _number(request.path_params["customer"], "customerId", 1, 2**63 - 1)
        history = self._platform.history(studio, customer_id)
        if history is None:
            raise ApiError(404, "NOT_FOUND", f"there is no customer {customer_id}")
        found = [one for one in history if first <= one.in_at.astimezone(one.studio.zone).date() <= last]
        until = offset + size
        content = {"result": [_checkin(one) for one in found[offset:until]], "hasNext": until < len(found)}
        return JSONResponse({**content, "offset": str(min(until, len(found)))})

    async def _confirm_activation(self, _: Request, studio: Studio) -> Response:
        self._platform.activated.add(studio.id)
        return Response(status_code=200)

    async def _information(self, _: Request, studio: Studio) -> Response:
        return JSONResponse(
            {
                "studioId": studio.number,
                "studioName": studio.name,
                "zoneId": studio.timezone,
                "address": {"street": "Sandbox Street", "houseNumber": "1", "city": studio.name.split()[0]},
            }
        )


class _Broken(Response):
    """An answer that says how long it is, and ends before that."""

    def __init__(self, whole: Response) -> None:
        """Half of it."""
        super().__init__(bytes(whole.body[: len(whole.body) // 2]), whole.status_code)
        self.headers["content-length"] = str(len(whole.body) + 1)
        self.headers["connection"] = "close"


def _checkin(checkin: Checkin) -> dict[str, Any]:
    return {
        "checkinId": checkin.id,
        "checkInDateTime": local_iso(checkin.in_at, checkin.studio),
        "checkOutDateTime": local_iso(checkin.out_at, checkin.studio) if checkin.out_at else None,
        "studioId": checkin.studio.number,
        "studioName": checkin.studio.name,
    }


async def json_object(request: Request) -> dict[str, Any]:
    """A request's body. Raises ApiError unless that is a JSON object of reasonable size."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "UNSUPPORTED_MEDIA_TYPE", "send Content-Type: application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(413, "TOO_LARGE", f"the body is larger than {MAX_BODY_BYTES} bytes")
    content = object_of(bytes(body))
    if content is None:
        raise ApiError(400, "VALIDATION_ERROR", "the body should be a JSON object")
    return content


def _date(text: str | None, name: str) -> date:
    try:
        return date.fromisoformat(text or "")
    except ValueError:
        raise ApiError(400, "VALIDATION_ERROR", f"{name} should be a date such as 2026-11-23") from None


def _number(text: str, name: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and least <= int(text) <= most):
        raise ApiError(400, "VALIDATION_ERROR", f"{name} should be a number from {least} to {most}")
    return int(text)
