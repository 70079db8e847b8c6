"""Who is signed in: the session that a request's cookie names."""

from __future__ import annotations

import hashlib
import hmac

from guestgate import sessions
from guestgate.admin.context import Context
from guestgate.admin.pages.view import View
from guestgate.errors import GuestgateError, OperationError
from guestgate.tokens import Holder

COOKIE = "guestgate_session"


def admit(view: View) -> None:
    """Have the view know who asks. Raises OperationError without the database, which alone knows."""
    session = view.request.cookies.get(COOKIE)
    view.holder = holder(view.request.app.state.context, session)
    if view.holder is not None and session is not None:
        view.csrf = form_value(session)


def holder(context: Context, session: str | None) -> Holder | None:
    """Who is behind a session's id, as of now; None where nobody is. Raises OperationError without the database."""
    if not session:
        return None
    check_database(context)
    try:
        with context.database.read() as connection:
            found = sessions.holder(connection, session)
    except GuestgateError:
        context.outage.note(answers=False)
        raise
    context.outage.note(answers=True)
    return found


def check_database(context: Context) -> None:
    """Raise OperationError where the database is known to be away: nobody should wait for it."""
    if context.outage.database_is_away():
        raise OperationError("the shared database does not answer")


def form_value(session: str) -> str:
    """What the forms of a session's pages bear."""
    return hmac.new(session.encode(), b"form", hashlib.sha256).hexdigest()
