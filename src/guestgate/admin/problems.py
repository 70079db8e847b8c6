"""Errors as RFC 9457 wants them: ``application/problem+json``, one plain sentence in ``detail``."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from guestgate.errors import ConflictError, GuestgateError, NotFoundError, UsageError
from guestgate.events import LostPlaceError

log = structlog.get_logger()

# The most specific first.
STATUS: tuple[tuple[type[GuestgateError], int], ...] = (
    (NotFoundError, 404),
    (ConflictError, 409),
    (LostPlaceError, 410),
    (UsageError, 422),
    (GuestgateError, 503),
)


class ProblemError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        """`detail` is one plain sentence."""
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


class ProblemResponse(JSONResponse):
    """A problem's body."""

    media_type = "application/problem+json"

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        """`more` are members of its own, such as ``errors``."""
        content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
        super().__init__({**content, **more}, status, headers)


def install(app: FastAPI) -> None:
    """Have every error of this application answered so."""

    @app.exception_handler(ProblemError)
    async def _(_: Request, error: ProblemError) -> ProblemResponse:
        return ProblemResponse(error.status, error.detail, error.headers)

    @app.exception_handler(GuestgateError)
    async def _(_: Request, error: GuestgateError) -> ProblemResponse:
        status = next(status for kind, status in STATUS if isinstance(error, kind))
        return ProblemResponse(status, str(error).removeprefix("--"))  # options are fields here

    @app.exception_handler(HTTPException)
    async def _(_: Request, error: HTTPException) -> ProblemResponse:
        return ProblemResponse(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def _(_: Request, error: RequestValidationError) -> ProblemResponse:
        # What was sent is not repeated: it may be personal.
        errors = [{"field": _field(problem["loc"]), "detail": problem["msg"]} for problem in error.errors()]
        malformed = any(problem["type"] == "json_invalid" for problem in error.errors())
        first = errors[0]
        return ProblemResponse(400 if malformed else 422, f"{first['field']}: {first['detail']}", errors=errors)

    @app.exception_handler(Exception)
    async def _(request: Request, error: Exception) -> ProblemResponse:
        log.error("a request failed", method=request.method, path=request.scope["route"].path, exc_info=error)
        return ProblemResponse(500, "this should not have happened; the server's log says more")


def _field(place: tuple[Any, ...]) -> str:
    """``('body', 'limits', 0, 'max')`` as ``limits.0.max``."""
    return ".".join(str(part) for part in place[1:]) or str(place[0])
