"""The start page: what happens at the doors now, and whether they are in time."""

from __future__ import annotations

from fastapi import Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from guestgate.admin.pages.access import router
from guestgate.admin.pages.admission import COOKIE
from guestgate.admin.pages.live import Live
from guestgate.admin.pages.view import In
from guestgate.admin.problems import ProblemError
from guestgate.tokens import Role

reading = router(Role.VIEWER)

MAX_STREAMS = 64
# For proxies that would gather what is live until there is enough of it.
UNBUFFERED = {"x-accel-buffering": "no"}


@reading.get("/")
async def show(view: In) -> Response:
    """The page as it is now; what changes comes by the stream."""
    live: Live = view.request.app.state.live
    parts = await live.parts()
    return await run_in_threadpool(view.render, "now.html", parts=parts)


@reading.get("/now/stream")
async def stream(view: In) -> Response:
    """The parts of the page that change, as server-sent events, for as long as the session is good."""
    live: Live = view.request.app.state.live
    if live.watching >= MAX_STREAMS:
        raise ProblemError(503, "too many live pages are open")
    messages = live.messages(view.request.cookies[COOKIE])
    return StreamingResponse(messages, media_type="text/event-stream", headers=UNBUFFERED)
