"""What went wrong, as a page with a way back; and while the database is away, how the doors are."""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from urllib.parse import urlsplit

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool

from guestgate import clock
from guestgate.admin import monitoring
from guestgate.admin.pages import headers
from guestgate.admin.pages.admission import admit
from guestgate.admin.pages.view import PART, View
from guestgate.admin.problems import status_of, words_of
from guestgate.errors import GuestgateError

LOOK_AGAIN_S = 5
OF_PROGRAMS = ("/api/", "/metrics", "/readyz")
TITLES = {
    HTTPStatus.FORBIDDEN: "This is not allowed",
    HTTPStatus.NOT_FOUND: "Not found",
    HTTPStatus.METHOD_NOT_ALLOWED: "This cannot be done here",
    HTTPStatus.UNPROCESSABLE_ENTITY: "This cannot be done",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Something went wrong",
    HTTPStatus.SERVICE_UNAVAILABLE: "Not at the moment",
}


def refused(view: View, status: int, detail: str) -> Response:
    """The page for an error whose sentence anybody may read."""
    if PART in view.request.headers:
        return _whole(view, status)
    title = TITLES.get(HTTPStatus(status), HTTPStatus(status).phrase)
    return view.render("error.html", status, title=title, detail=detail, back=_back(view.request))


def failed(view: View, error: GuestgateError) -> Response:
    """The page for what could not be done."""
    status = status_of(error)
    if status != HTTPStatus.SERVICE_UNAVAILABLE:
        return refused(view, status, words_of(error))
    # No word of paths to somebody who is not signed in.
    return _away(view, None if view.holder is None else words_of(error))


async def page(request: Request, status: int, detail: str) -> Response | None:
    """The page for an error that no page's guard has met; None where it is no person who asks."""
    view: View | None = getattr(request.state, "view", None)
    if view is None:
        if request.url.path.startswith(OF_PROGRAMS) or "text/html" not in request.headers.get("accept", ""):
            return None
        view = View(request)
        with suppress(GuestgateError):  # only for what stands around the sentence
            await admit(view)
    return headers.page(await run_in_threadpool(refused, view, status, detail))


def _away(view: View, detail: str | None) -> Response:
    """No database, so nobody can be let in: what may be seen is what `/readyz` tells anybody."""
    if PART in view.request.headers:
        return _whole(view, HTTPStatus.SERVICE_UNAVAILABLE)
    context = view.request.app.state.context
    stands_in = context.settings.stands_in
    sentence, goes_on = monitoring.stand_in(context, context.ask_door(False)) if stands_in else (None, False)
    return view.render(
        "away.html",
        HTTPStatus.SERVICE_UNAVAILABLE,
        since=clock.iso_of(context.outage.away_since_ms),
        stands_in=stands_in,
        goes_on=goes_on,
        sentence=sentence,
        detail=detail,
        was_form=view.request.method == "POST",
        again=view.here,
        again_s=LOOK_AGAIN_S,
    )


def _whole(view: View, status: int) -> Response:
    """In the place of a part of a page, the whole page, which says what is wrong."""
    return Response(status_code=status, headers={"hx-redirect": view.address})


def _back(request: Request) -> str | None:
    """The page of ours that led here."""
    came_from = urlsplit(request.headers.get("referer", ""))
    if came_from.netloc != request.headers.get("host") or came_from.path in ("", "/", "/login"):
        return None
    return came_from.path + (f"?{came_from.query}" if came_from.query else "")
