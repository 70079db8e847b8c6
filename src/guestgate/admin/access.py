"""Who may do what: tokens and roles, checked before a request's body is looked at."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
import structlog
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from guestgate import strict_json
from guestgate.admin.context import Context
from guestgate.admin.problems import ProblemError
from guestgate.database import Database
from guestgate.errors import OperationError
from guestgate.strict_json import NotJsonError
from guestgate.tokens import Holder, Role, holder

log = structlog.get_logger()

MAX_BODY_BYTES = 1024 * 1024
MAX_BODY_S = 30
# A connection that is closed with unread data can lose the answer on its way.
MAX_DRAIN_BYTES = 4 * MAX_BODY_BYTES
MAX_DRAIN_S = 1

UNAUTHORIZED = ProblemError(
    401, "send a valid token: Authorization: Bearer TOKEN", {"www-authenticate": 'Bearer realm="guestgate"'}
)
TOO_LARGE = ProblemError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
ENCODED = ProblemError(415, "send the body as it is, without Content-Encoding")
TOO_LATE = ProblemError(408, "the body did not arrive in time")
UNAVAILABLE = ProblemError(503, "the database cannot be used")
BROKEN_OFF = ProblemError(400, "the body was broken off")

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class _JsonRequest(Request):
    """A request whose body is read strictly."""

    async def json(self) -> Any:
        """The body's value."""
        try:
            return strict_json.loads(await self.body())
        except NotJsonError as error:
            raise ProblemError(400, f"the body {error}") from None


class Guarded(APIRoute):
    """A route that only some roles may use. The OpenAPI document says which."""

    required: Role
    media_types: tuple[str, ...] = ("application/json", "application/merge-patch+json")
    max_body_bytes: int | None = MAX_BODY_BYTES
    # Others say at once that there is none, and let nobody wait for one that says nothing.
    works_without_database = False

    def __init__(self, *arguments: Any, openapi_extra: dict[str, Any] | None = None, **options: Any) -> None:
        """As FastAPI makes a route."""
        extra = {"security": [{"token": []}], "x-role": self.required.value, **(openapi_extra or {})}
        super().__init__(*arguments, openapi_extra=extra, **options)

    def get_route_handler(self) -> Handler:
        """The handler behind its guard."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            whole = request
            try:
                request.state.holder = await admitted(request, self.required, self.works_without_database)
                self._check_headers(request)
                check_address(request)
                if self.max_body_bytes is not None:
                    whole = _JsonRequest(request.scope, limited(request.receive, self.max_body_bytes))
                    await read_whole(whole)
            except ProblemError:
                await drain(request)
                raise
            return await handle(whole)

        return guarded

    def _check_headers(self, request: Request) -> None:
        if request.method not in ("POST", "PUT", "PATCH"):
            return
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise ENCODED
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type and media_type not in self.media_types:
            raise ProblemError(415, f"send Content-Type: {self.media_types[0]}")
        if _length(request) > (self.max_body_bytes or float("inf")):
            raise TOO_LARGE


def check_address(request: Request) -> None:
    """Nothing that is stored has a NUL character, and PostgreSQL cannot even be asked for one."""
    if "\0" in request.scope["path"] or b"%00" in request.scope["query_string"]:
        raise ProblemError(422, "the address contains a NUL character")


class Streaming(Guarded):
    """A route that reads its body line by line, however long that is."""

    media_types = ("application/x-ndjson", "application/ndjson", "application/jsonl")
    max_body_bytes = None


class Watching(Guarded):
    """A route for whoever watches the server, also while there is no database."""

    works_without_database = True


async def admitted(request: Request, required: Role, without_database: bool = False) -> Holder:
    """Who sends this, by the token as it stands now. Raises ProblemError where that may not come in.

    Or where the database is away, unless the route is one that works `without_database`.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise UNAUTHORIZED
    try:
        found = await _holder(request.app.state.context, token.strip(), without_database)
    except OperationError as error:  # nobody has shown a token yet: no word of paths
        log.error("a token could not be looked up", error=str(error))
        raise UNAVAILABLE from None
    if found is None:
        raise UNAUTHORIZED
    if not found.role.includes(required):
        raise ProblemError(403, f"this takes a token of role {required}; yours is of role {found.role}")
    return found


def router(required: Role, route_class: type[Guarded] = Guarded) -> APIRouter:
    """A router whose routes need this role, or one that includes it."""
    return APIRouter(route_class=type("Route", (route_class,), {"required": required}))


async def _holder(context: Context, token: str, without_database: bool) -> Holder | None:
    """By the database; for who must not wait for that by this machine's copy, where the copy knows the token."""
    copy = context.outage.copy
    if copy is not None and without_database:
        found = await run_in_threadpool(_holder_by, copy.database, token)
        if found is not None:
            return found
    return await context.ask_soon(lambda connection: holder(connection, token))


def _holder_by(database: Database, token: str) -> Holder | None:
    with database.read() as connection:
        return holder(connection, token)


def _length(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdecimal() else 0


def limited(receive: Receive, most: int) -> Receive:
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


async def read_whole(request: Request) -> None:
    """Have the whole body, which the request keeps. Raises ProblemError where it does not come."""
    try:
        with anyio.fail_after(MAX_BODY_S):
            await request.body()
    except TimeoutError:
        raise TOO_LATE from None
    except ClientDisconnect:
        raise BROKEN_OFF from None


async def drain(request: Request) -> None:
    """Take in what is not wanted, as far as limits of size and time allow."""
    drained = 0
    with suppress(ClientDisconnect), anyio.move_on_after(MAX_DRAIN_S):
        async for chunk in request.stream():
            drained += len(chunk)
            if drained > MAX_DRAIN_BYTES:
                return
