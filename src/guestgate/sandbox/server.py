"""`guestgate sandbox serve`: the platform on a port of this machine."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server as Granian
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guestgate.errors import OperationError
from guestgate.sandbox.arrivals import Load
from guestgate.sandbox.open_api import OpenApi, Trouble
from guestgate.sandbox.page import HEADERS, Page
from guestgate.sandbox.platform import Platform
from guestgate.sandbox.traffic import days

LOOPBACK = "127.0.0.1"
# The names a browser on this machine calls it by; any other is a page elsewhere that points its name at us.
NAMES = [LOOPBACK, "localhost"]
STOP_S = 2


class Headers:
    """Puts the same headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        """Around this application."""
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        await self._app(scope, receive, with_headers)


def application(platform: Platform, troubles: Iterator[Trouble | None] | None = None) -> Starlette:
    """The page and the Open API; `troubles` says what goes wrong with its next call."""
    middleware = [Middleware(Headers), Middleware(TrustedHostMiddleware, allowed_hosts=NAMES)]
    routes = [*Page(platform).routes(), *OpenApi(platform, troubles=troubles).routes()]
    app = Starlette(routes=routes, middleware=middleware)
    app.router.redirect_slashes = False
    return app


async def serve(
    platform: Platform,
    port: int,
    load: Load | None,
    ready: Callable[[], object],
    troubles: Iterator[Trouble | None] | None = None,
) -> None:
    """Until SIGTERM or SIGINT; with a load, people come by themselves, one day after the other."""
    ended = asyncio.Event()
    for ending in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(ending, ended.set)
    try:
        socket.create_server((LOOPBACK, port)).close()
    except OSError as error:
        raise OperationError(f"cannot serve on {LOOPBACK}, port {port}: {error.strerror}") from None
    logging.getLogger("_granian").setLevel(logging.ERROR)
    granian = Granian(
        application(platform, troubles),
        address=LOOPBACK,
        port=port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        log_enabled=False,
    )
    async with platform:
        serving = asyncio.create_task(granian.serve())
        coming = asyncio.create_task(days(platform, load)) if load is not None else None
        waiting = asyncio.create_task(ended.wait())
        listening = asyncio.create_task(_listening(port))
        await asyncio.wait({serving, waiting, listening}, return_when=asyncio.FIRST_COMPLETED)
        if listening.done():
            ready()
        listening.cancel()
        tasks = {task for task in (serving, coming, waiting) if task is not None}
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        granian.stop()  # type: ignore[no-untyped-call]
        await asyncio.wait([serving], timeout=STOP_S)
        if coming is not None:
            coming.cancel()
            with suppress(asyncio.CancelledError):
                await coming
        if serving in done:
            raise OperationError(f"the sandbox ended unexpectedly: {serving.exception() or 'see the lines above'}")


async def _listening(port: int) -> None:
    """Return once the port takes connections."""
    while True:
        try:
            _, writer = await asyncio.open_connection(LOOPBACK, port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return
