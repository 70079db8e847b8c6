"""Errors as RFC 9457 wants them: ``application/problem+json``, one plain sentence in ``detail``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from guestgate.errors import ConflictError, GuestgateError, NotFoundError, UsageError
from guestgate.events import LostPlaceError
from guestgate.toml_lines import sentence

log = structlog.get_logger()

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
# The most specific first.
STATUS: tuple[tuple[type[GuestgateError], int], ...] = (
    (NotFoundError, 404),
    (ConflictError, 409),
    (LostPlaceError, 410),
    (UsageError, 422),
    (GuestgateError, 503),
)


class ProblemError(HTTPException):
    """An answer that is an error; its detail is one plain sentence.

    FastAPI lets an HTTPException pass where it takes any other error in the body's way for bad JSON.
    """


class ProblemResponse(JSONResponse):
    """A problem's body."""

    media_type = "application/problem+json"

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        """`more` are members of its own, such as ``errors``."""
        content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
        super().__init__({**content, **more}, status, headers)


def install(app: FastAPI, page: Callable[[Request, int, str], Awaitable[Response | None]]) -> None:
    """Have every error of this application answered so, unless it is one that people see as a `page`."""

    async def answer(
        request: Request, status: int, detail: str, headers: dict[str, str] | None = None, **more: Any
    ) -> Response:
        shown = await page(request, status, detail)
        if shown is None:
            return ProblemResponse(status, detail, headers, **more)
        shown.headers.update(headers or {})
        return shown

    @app.exception_handler(GuestgateError)
    async def _(request: Request, error: GuestgateError) -> Response:
        return await answer(request, status_of(error), words_of(error))

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = ", ".join(_allowed(request))
            return await answer(request, 405, f"use {allowed}", {"allow": allowed})
        if error.status_code == HTTPStatus.NOT_FOUND:
            return await answer(request, 404, "there is nothing here")
        return await answer(request, error.status_code, error.detail, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> Response:
        # What was sent is not repeated: it may be personal.
        errors = [
            {"field": _field(problem["loc"]), "detail": sentence(problem["type"], problem["msg"])}
            for problem in error.errors()
        ]
        first = errors[0]
        return await answer(request, 422, f"{first['field']}: {first['detail']}", errors=errors)

    @app.exception_handler(Exception)
    async def _(request: Request, error: Exception) -> Response:
        log.error("a request failed", method=request.method, path=request.scope["route"].path, exc_info=error)
        return await answer(request, 500, "this should not have happened; the server's log says more")


def status_of(error: GuestgateError) -> int:
    """The status that says what kind of error this is."""
    return next(status for kind, status in STATUS if isinstance(error, kind))


def words_of(error: GuestgateError) -> str:
    """Its sentence; what is an option on the command line is a field here."""
    return str(error).removeprefix("--")


def _allowed(request: Request) -> list[str]:
    """The methods that some route takes at this path; each route knows its own only."""
    return [
        method
        for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]


def _field(place: tuple[Any, ...]) -> str:
    """``('body', 'limits', 0, 'max')`` as ``limits.0.max``."""
    return ".".join(str(part) for part in place[1:]) or str(place[0])
