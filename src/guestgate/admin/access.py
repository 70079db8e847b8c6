"""Who may do what: tokens and roles, checked before a request's body is looked at."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive

from guestgate.admin.context import Context
from guestgate.admin.problems import ProblemError
from guestgate.tokens import Holder, Role, holder

MAX_BODY_BYTES = 1024 * 1024
# A connection that is closed with unread data can lose the answer on its way.
MAX_DRAIN_BYTES = 64 * 1024

UNAUTHORIZED = ProblemError(
    401, "send a valid token: Authorization: Bearer TOKEN", {"www-authenticate": 'Bearer realm="guestgate"'}
)
TOO_LARGE = ProblemError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Guarded(APIRoute):
    """A route that only some roles may use."""

    required: Role
    max_body_bytes: int | None = MAX_BODY_BYTES

    def get_route_handler(self) -> Handler:
        """The handler behind its guard."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                request.state.holder = await self._admitted(request)
                if _length(request) > (self.max_body_bytes or float("inf")):
                    raise TOO_LARGE
            except ProblemError:
                await _drain(request)
                raise
            if self.max_body_bytes is None:
                return await handle(request)
            return await handle(Request(request.scope, _limited(request.receive, self.max_body_bytes)))

        return guarded

    async def _admitted(self, request: Request) -> Holder:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise UNAUTHORIZED
        found = await run_in_threadpool(_holder, request.app.state.context, token.strip())
        if found is None:
            raise UNAUTHORIZED
        if not found.role.includes(self.required):
            raise ProblemError(403, f"this takes a token of role {self.required}; yours is of role {found.role}")
        return found


class Streaming(Guarded):
    """A route that reads its body by and by, however long that is."""

    max_body_bytes = None


def router(required: Role, route_class: type[Guarded] = Guarded) -> APIRouter:
    """A router whose routes need this role, or one that includes it."""
    return APIRouter(route_class=type("Route", (route_class,), {"required": required}))


def _holder(context: Context, token: str) -> Holder | None:
    with context.database.read() as connection:
        return holder(connection, token)


def _length(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdecimal() else 0


def _limited(receive: Receive, most: int) -> Receive:
    """The same, until more than `most` bytes have come."""
    left = most

    async def receive_limited() -> Any:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise TOO_LARGE
        return message

    return receive_limited


async def _drain(request: Request) -> None:
    drained = 0
    async for chunk in request.stream():
        drained += len(chunk)
        if drained > MAX_DRAIN_BYTES:
            return
