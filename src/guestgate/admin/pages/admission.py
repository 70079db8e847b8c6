"""Who is signed in: the session that a request's cookie names."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import Connection

from guestgate import sessions
from guestgate.admin.context import Context
from guestgate.admin.pages.view import View
from guestgate.errors import GuestgateError, OperationError
from guestgate.tokens import Holder

Answer = TypeVar("Answer")

COOKIE = "guestgate_session"
PATIENCE_S = 3.0
# What a live page is told when its session has ended: it leaves, and asks no more.
STREAM = "text/event-stream"
OVER = b"event: over\ndata: \n\n"


async def admit(view: View) -> None:
    """Have the view know who asks. Raises OperationError without the database, which alone knows."""
    session = view.request.cookies.get(COOKIE)
    if session is not None:
        view.holder = await holder(view.request.app.state.context, session)
        view.csrf = form_value(session)


async def holder(context: Context, session: str) -> Holder | None:
    """Who is behind a session's id, as of now; None where nobody is. Raises OperationError without the database."""
    return await ask_soon(context, lambda connection: sessions.holder(connection, session))


async def ask_soon(context: Context, question: Callable[[Connection], Answer]) -> Answer:
    """What takes milliseconds, asked before anything else. Raises OperationError where that takes far longer.

    A database that has just fallen silent is not known to be away yet, and would be waited for.
    """

    def ask() -> Answer:
        check_database(context)
        with context.database.read() as connection:
            return question(connection)

    try:
        with anyio.fail_after(PATIENCE_S):
            answer = await anyio.to_thread.run_sync(ask, abandon_on_cancel=True)
    except TimeoutError:
        context.outage.note(answers=False, why=f"it says nothing for {PATIENCE_S:.0f} s")
        raise OperationError("the database does not answer") from None
    except GuestgateError as error:
        context.outage.note(answers=False, why=error)
        raise
    context.outage.note(answers=True)
    return answer


def check_database(context: Context) -> None:
    """Raise OperationError where the database is known to be away: nobody should wait for it."""
    if context.outage.database_is_away():
        raise OperationError("the shared database does not answer")


def form_value(session: str) -> str:
    """What the forms of a session's pages bear."""
    return hmac.new(session.encode(), b"form", hashlib.sha256).hexdigest()
