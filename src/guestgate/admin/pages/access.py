"""Who may see and do what on the pages: sessions and roles, checked before a form is looked at.

A browser has a session's id in a cookie that no script and no other site can use. Each form bears a value
made from that id, which other sites cannot know.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlsplit

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from guestgate import sessions
from guestgate.admin.access import Handler, check_address, drain, limited, read_whole
from guestgate.admin.pages import errors, headers
from guestgate.admin.pages.admission import COOKIE, OVER, STREAM, admit
from guestgate.admin.pages.view import PART, View
from guestgate.admin.problems import ProblemError
from guestgate.errors import GuestgateError
from guestgate.tokens import Role

FORM_FIELD = "csrf"
MAX_FORM_BYTES = 64 * 1024
MAX_FIELDS = 50
FORM = "application/x-www-form-urlencoded"
# Where a part of a page stands, as the page's script says.
PART_OF = "hx-current-url"

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
                response = await run_in_threadpool(errors.refused, view, error.status_code, error.detail)
            except GuestgateError as error:
                response = await run_in_threadpool(errors.failed, view, error)
            return headers.page(response)

        return guarded

    async def _answer(self, request: Request, view: View, handle: Handler) -> Response:
        whole = request
        try:
            check_address(request)
            await self._admit(view)
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

    async def _admit(self, view: View) -> None:
        """Find out who is signed in. Raises ProblemError where that is of no use here."""
        await admit(view)
        if view.holder is None:
            return
        if self.required is not None and not view.holder.role.includes(self.required):
            raise ProblemError(
                403, f"this takes a token of role {self.required}; yours is of role {view.holder.role}"
            )


def router(required: Role | None) -> APIRouter:
    """A router for pages that need this role, or one that includes it; no part of the API's document."""
    return APIRouter(route_class=type("Route", (Page,), {"required": required}), include_in_schema=False)


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


def _sign_in(request: Request) -> Response:
    """To the page that asks for a token, and from there to where this leads."""
    if request.headers.get("accept") == STREAM:
        return Response(OVER, media_type=STREAM)
    is_part = PART in request.headers
    here = urlsplit(request.headers.get(PART_OF, "/") if is_part else str(request.url))
    to = here.path + (f"?{here.query}" if here.query else "")
    is_page = request.method == "GET"
    if is_page and not is_part and request.headers.get("sec-fetch-site") == "cross-site":
        # Whoever follows a link from elsewhere may be signed in all the same: asked by a page of ours, the browser
        # sends the cookie along.
        return HTMLResponse(AGAIN)
    target = f"/login?to={quote(to, safe='')}" if is_page and to != "/" else "/login"
    if is_part:  # a redirect would put the other page into this one
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
