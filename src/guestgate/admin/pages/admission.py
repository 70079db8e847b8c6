"""Who is signed in: the session that a request's cookie names."""

from __future__ import annotations

import hashlib
import hmac

from guestgate import sessions
from guestgate.admin.context import Context
from guestgate.admin.pages.view import View

COOKIE = "guestgate_session"
# What a live page is told when its session has ended: it leaves, and asks no more.
STREAM = "text/event-stream"
OVER = b"event: over\ndata: \n\n"


async def admit(view: View) -> None:
    """Have the view know who asks. Raises OperationError without the database, which alone knows."""
    session = view.request.cookies.get(COOKIE)
    if session is not None:
        context: Context = view.request.app.state.context
        view.holder = await context.ask_soon(lambda connection: sessions.holder(connection, session))
        view.csrf = form_value(session)


def form_value(session: str) -> str:
    """What the forms of a session's pages bear."""
    return hmac.new(session.encode(), b"form", hashlib.sha256).hexdigest()
