"""The town on a page: studios, doors and the last taps, and forms to play the studio's staff."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from guestgate import clock
from guestgate.errors import OperationError
from guestgate.sandbox.door import Desk, Reception
from guestgate.sandbox.open_api import ApiError, json_object
from guestgate.sandbox.platform import Enrolled, Platform, Seen, wall_time
from guestgate.sandbox.town import Studio

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
SUGGESTED = 40


class Page:
    """The routes of the page; no build step, nothing is fetched from elsewhere."""

    def __init__(self, platform: Platform) -> None:
        """Shows and drives this platform."""
        self._platform = platform

    def routes(self) -> list[Route]:
        """For a Starlette application."""
        static = [Route(path, self._file(*file)) for path, file in FILES.items()]
        actions = {
            "tap": self._tap,
            "register": self._register,
            "leave": self._leave,
            "close": self._close,
            "remove": self._remove,
        }
        doing = [Route(f"/town/{name}", self._action(do), methods=["POST"]) for name, do in actions.items()]
        return [*static, Route("/town", self._state), *doing]

    def _file(self, name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
        content = files("guestgate.sandbox").joinpath("static", name).read_bytes()

        async def answer(request: Request) -> Response:
            return Response(content, media_type=f"{kind}; charset=utf-8")

        return answer

    def _action(
        self, do: Callable[[dict[str, Any], Studio], Awaitable[dict[str, Any]]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                # A page of another origin cannot send JSON without asking first, and is not answered.
                content = await json_object(request)
                studio = self._platform.town.studio_by_id.get(str(content.get("studio")))
                if studio is None:
                    raise ApiError(400, "VALIDATION_ERROR", "studio should be one of the town's")
                return JSONResponse(await do(content, studio))
            except OperationError as error:
                return ApiError(409, "CONFLICT", str(error)).response()
            except ApiError as error:
                return error.response()

        return answer

    async def _state(self, _: Request) -> Response:
        platform = self._platform
        now = clock.now()
        inside: dict[str, int] = {}
        for studio_id, _customer_id in platform.inside:
            inside[studio_id] = inside.get(studio_id, 0) + 1
        return JSONResponse(
            {
                "url": platform.endpoints.checkin,
                "webhook_url": platform.endpoints.webhook,
                "member_validation_url": platform.endpoints.member_validation,
                "aggregator_id": platform.town.spec.aggregator_id,
                "desks": {desk.value: platform.desks[desk] for desk in Desk},
                "enrolments": {desk.value: platform.receptions[desk] for desk in Reception},
                "webhooks": dict(platform.webhooks),
                "studios": [
                    {
                        "id": studio.id,
                        "name": studio.name,
                        "tenant": studio.tenant,
                        "time": now.astimezone(studio.zone).strftime("%a %H:%M"),
                        "test": studio.test,
                        "paused": studio.paused,
                        "webhooks": studio.id in platform.activated,
                        "inside": inside.get(studio.id, 0),
                    }
                    for studio in platform.town.studios
                ],
                "members": [f"{member.id}" for member in platform.town.members[:SUGGESTED]],
                "taps": [_seen(seen) for seen in reversed(platform.latest)],
                "enrolled": [_enrolled(one) for one in reversed(platform.enrolled)],
            }
        )

    async def _tap(self, content: dict[str, Any], studio: Studio) -> dict[str, Any]:
        customer = content.get("customer_id")
        number = None if customer in (None, "") else _customer(customer)
        await self._platform.by_hand(studio, _text(content, "aggregator_id"), number)
        return _seen(self._platform.latest[-1])

    async def _register(self, content: dict[str, Any], studio: Studio) -> dict[str, Any]:
        enrolled = await self._platform.enrol_by_hand(studio, _text(content, "aggregator_id"))
        return {**_enrolled(enrolled), "member": enrolled.inquiry.member}

    async def _leave(self, content: dict[str, Any], studio: Studio) -> dict[str, Any]:
        self._platform.check_out(studio, _customer(content.get("customer_id")))
        return {"done": "checked out"}

    async def _close(self, _: dict[str, Any], studio: Studio) -> dict[str, Any]:
        return {"done": f"{self._platform.close_for_today(studio)} checked out of {studio.name}"}

    async def _remove(self, content: dict[str, Any], studio: Studio) -> dict[str, Any]:
        event = content.get("event")
        if event not in ("CUSTOMER_DELETED", "CUSTOMER_ACCESS_DISABLED"):
            raise ApiError(400, "VALIDATION_ERROR", "event should be CUSTOMER_DELETED or CUSTOMER_ACCESS_DISABLED")
        self._platform.remove(studio, _customer(content.get("customer_id")), event)
        return {"done": event}


def _seen(seen: Seen) -> dict[str, Any]:
    """A tap for the page. Numbers of customers are texts, as JavaScript would round the large ones."""
    tap = seen.tap
    return {
        "number": seen.number,
        "at": clock.iso(seen.at),
        "time": seen.local_time,
        "studio": seen.planned.studio.id,
        "aggregator_id": seen.planned.aggregator_id,
        "customer_id": str(seen.planned.customer_id),
        "desk": tap.desk.value,
        "http_status": tap.status,
        "ms": tap.ms,
        "reason": tap.reason,
        "note": tap.note,
    }


def _enrolled(enrolled: Enrolled) -> dict[str, Any]:
    """A member at a desk for the page; what is known of them only the desk sees that asked."""
    inquiry, studio = enrolled.inquiry, enrolled.planned.studio
    return {
        "number": enrolled.number,
        "at": clock.iso(enrolled.at),
        "time": wall_time(enrolled.at, studio),
        "studio": studio.id,
        "text": enrolled.text,
        "desk": inquiry.desk.value,
        "http_status": inquiry.status,
        "ms": inquiry.ms,
        "aggregator_id": inquiry.member.get("aggregatorId"),
        "customer_id": None if enrolled.customer_id is None else str(enrolled.customer_id),
        "note": inquiry.note,
    }


def _text(content: dict[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= 255:
        raise ApiError(400, "VALIDATION_ERROR", f"{name} should be a text of 1 to 255 characters")
    return value


def _customer(value: Any) -> int:
    text = str(value)
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and 1 <= int(text) < 2**63):
        raise ApiError(400, "VALIDATION_ERROR", "customer_id should be a number from 1 to 9223372036854775807")
    return int(text)
