"""Signing in with a token, signing out, and the choice of light or dark."""

from __future__ import annotations

from fastapi import Response
from starlette.concurrency import run_in_threadpool

from guestgate import sessions, tokens
from guestgate.admin.pages.access import is_secure, keep_session, router
from guestgate.admin.pages.admission import COOKIE
from guestgate.admin.pages.view import THEME, THEMES, In
from guestgate.database import Database
from guestgate.tokens import Role

anybody, reading = router(None), router(Role.VIEWER)

A_YEAR_S = 365 * 86400
MAX_TOKEN_LENGTH = 512


@anybody.get("/login")
def ask(view: In) -> Response:
    """The page that asks for a token."""
    return view.render("login.html", to=view.asked("to"), wrong=False)


@anybody.post("/login")
async def sign_in(view: In) -> Response:
    """With a token that is valid, on to where the visitor wanted to go."""
    token, to = view.form.get("token", "").strip()[:MAX_TOKEN_LENGTH], view.form.get("to", "")
    context = view.request.app.state.context
    # Without a token nobody gets as far as the lock for writing.
    is_known = await context.ask_soon(lambda connection: tokens.holder(connection, token)) is not None
    before = view.request.cookies.get(COOKIE)
    session = await run_in_threadpool(_begin, context.database, token, before) if is_known else None
    if session is None:
        return view.render("login.html", 401, to=to, wrong=True)
    response = view.go(_here(to))
    keep_session(view.request, response, session)
    return response


@reading.post("/logout")
def sign_out(view: In) -> Response:
    """The session ends on the server as well."""
    with view.office.write() as connection:
        sessions.end(connection, view.request.cookies[COOKIE])
    response = view.go("/login")
    response.delete_cookie(COOKIE)
    return response


@reading.post("/theme")
def choose_theme(view: In) -> Response:
    """Light, dark, or whatever the device has."""
    response = view.go(_here(view.form.get("to", "")))
    theme = view.form.get("theme", "")
    if theme in THEMES:
        secure = is_secure(view.request)
        response.set_cookie(THEME, theme, max_age=A_YEAR_S, secure=secure, httponly=True, samesite="strict")
    return response


def _begin(database: Database, token: str, before: str | None) -> str | None:
    """A new session; what this browser had before ends."""
    with database.write() as connection:
        if before is not None:
            sessions.end(connection, before)
        return sessions.begin(connection, token)


def _here(path: str) -> str:
    """An address of ours; whatever else is written leads to the first page."""
    is_ours = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if is_ours else "/"
