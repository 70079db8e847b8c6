"""Who may see and do what on the pages: sessions and roles, checked before a form is looked at.

A browser has a session's id in a cookie that no script and no other site can use. Each form bears a value
made from that id, which other sites cannot know.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlsplit

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from guestgate import sessions
from guestgate.admin.access import UNAVAILABLE, Handler, check_address, drain, limited, read_whole
from guestgate.admin.context import Context
from guestgate.admin.pages import headers
from guestgate.admin.pages.view import View, error_page
from guestgate.admin.problems import STATUS, ProblemError
from guestgate.errors import GuestgateError, OperationError
from guestgate.tokens import Holder, Role

log = structlog.get_logger()

COOKIE = "guestgate_session"
FORM_FIELD = "csrf"
MAX_FORM_BYTES = 64 * 1024
MAX_FIELDS = 50
FORM = "application/x-www-form-urlencoded"
# Its own scripts load parts of pages with this header.
PART = "hx-request"

FOREIGN = ProblemError(403, "this form is not of your session's pages; open the page again and send it from there")
AGAIN = '<!doctype html><html lang="en"><title>guestgate</title><meta http-equiv="refresh" content="0">'
NO_FORM = ProblemError(415, f"send Content-Type: {FORM}")


class Page(APIRoute):
    """A page, part of a page or form that only some roles may use; without a session it leads to the entrance.

    ``required`` is None where nobody has to be signed in.
    """

    required: Role | None

    def get_route_handler(self) -> Handler:
        """The handler behind its guard. Whatever goes wrong becomes a page, too."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            view = request.state.view = View(request)
            try:
                response = await self._answer(request, view, handle)
            except HTTPException as error:
                response = error_page(view, error.status_code, error.detail)
            except GuestgateError as error:
                response = _failed(view, error)
            for name, value in headers.PAGE.items():
                response.headers.setdefault(name, value)
            return response

        return guarded

    async def _answer(self, request: Request, view: View, handle: Handler) -> Response:
        whole = request
        try:
            check_address(request)
            await self._admit(request, view)
            if view.holder is None and self.required is not None:
                await drain(request)
                return _sign_in(request)
            if request.method == "POST":
                _check_origin(request)
                whole = Request(request.scope, limited(request.receive, MAX_FORM_BYTES))
                await read_whole(whole)
        except ProblemError:
            await drain(request)
            raise
        if request.method == "POST":
            view.form = _fields(await whole.body())
            if self.required is not None and not _same(view.form.get(FORM_FIELD), view.csrf):
                raise FOREIGN
        return await handle(whole)

    async def _admit(self, request: Request, view: View) -> None:
        """Find out who is signed in. Raises ProblemError where that is of no use here."""
        session = request.cookies.get(COOKIE)
        view.holder = await run_in_threadpool(holder, request.app.state.context, session)
        if view.holder is None or session is None:
            return
        view.csrf = form_value(session)
        if self.required is not None and not view.holder.role.includes(self.required):
            raise ProblemError(
                403, f"this takes a token of role {self.required}; yours is of role {view.holder.role}"
            )


def router(required: Role | None) -> APIRouter:
    """A router for pages that need this role, or one that includes it; no part of the API's document."""
    return APIRouter(route_class=type("Route", (Page,), {"required": required}), include_in_schema=False)


def holder(context: Context, session: str | None) -> Holder | None:
    """Who is behind a session's id, as of now; None where nobody is. Raises OperationError without the database."""
    if not session:
        return None
    if context.outage.database_is_away():
        raise OperationError("the shared database does not answer")
    with context.database.read() as connection:
        return sessions.holder(connection, session)


def form_value(session: str) -> str:
    """What the forms of a session's pages bear."""
    return hmac.new(session.encode(), b"form", hashlib.sha256).hexdigest()


def keep_session(request: Request, response: Response, session: str) -> None:
    """Have the browser keep a session's id, and send it to nobody else."""
    response.set_cookie(
        COOKIE,
        session,
        max_age=int(sessions.LASTS.total_seconds()),
        secure=is_secure(request),
        httponly=True,
        samesite="strict",
    )


def is_secure(request: Request) -> bool:
    """Whether the browser speaks TLS, with us or with a proxy before us."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))


def _failed(view: View, error: GuestgateError) -> Response:
    if view.holder is None:  # no word of paths to somebody who is not signed in
        log.error("a page failed before anybody was signed in", error=str(error))
        return error_page(view, UNAVAILABLE.status_code, UNAVAILABLE.detail)
    status = next(status for kind, status in STATUS if isinstance(error, kind))
    return error_page(view, status, str(error).removeprefix("--"))


def _sign_in(request: Request) -> Response:
    """To the page that asks for a token, and from there to where this leads."""
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    is_page = request.method == "GET" and PART not in request.headers
    if is_page and request.headers.get("sec-fetch-site") == "cross-site":
        # Whoever follows a link from elsewhere may be signed in all the same: asked by a page of ours, the browser
        # sends the cookie along.
        return HTMLResponse(AGAIN)
    target = f"/login?to={quote(here, safe='')}" if is_page and here != "/" else "/login"
    if PART in request.headers:  # a redirect would put the other page into this one
        return Response(status_code=401, headers={"hx-redirect": target})
    return RedirectResponse(target, 303)


def _check_origin(request: Request) -> None:
    """Raise ProblemError for what is no form, or comes from another site, as far as the browser says so."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none"):
        raise FOREIGN
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host", ""):
        raise FOREIGN
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise NO_FORM


def _same(given: str | None, wanted: str | None) -> bool:
    return given is not None and wanted is not None and hmac.compare_digest(given.encode(), wanted.encode())


def _fields(body: bytes) -> Mapping[str, str]:
    """The fields of a form; of a name that comes twice, the last."""
    try:
        fields = dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"))
    except ValueError:
        raise NO_FORM from None
    if any("\0" in text for text in fields.values()):
        raise ProblemError(422, "the form contains a NUL character")
    return fields
