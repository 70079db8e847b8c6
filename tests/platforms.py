"""The sandbox's Open API on a port of this machine, inside the test's own process; and time that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
from gate import free_port, wait_for
from granian.constants import Interfaces
from granian.server.embed import Server as Granian

from guestgate.platform.accounts import Account
from guestgate.platform.pace import Pace
from guestgate.sandbox.journal import Journal
from guestgate.sandbox.open_api import Trouble
from guestgate.sandbox.platform import Checkin, Endpoints, Platform
from guestgate.sandbox.server import LOOPBACK, application
from guestgate.sandbox.town import Studio, Town


class OpenPlatform:
    """Use as a context manager. `troubles` are what goes wrong with the next calls, in order."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.port = free_port()
        self.troubles: deque[Trouble | None] = deque()
        self.platform = Platform(town, Endpoints("https://localhost:1/checkin-validation"), Journal(None))
        self._server = Granian(
            application(self.platform, self._next()), address=LOOPBACK, port=self.port, interface=Interfaces.ASGI,
            log_enabled=False, websockets=False,
        )  # fmt: skip
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _next(self) -> Iterator[Trouble | None]:
        while True:
            yield self.troubles.popleft() if self.troubles else None

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._server.serve())
        self._loop.close()

    def __enter__(self) -> OpenPlatform:
        self._thread.start()
        wait_for(self._answers, "the sandbox does not answer")
        return self

    def _answers(self) -> bool:
        try:
            return httpx.head(f"{self.url(self.town.studios[0])}/studios", trust_env=False).status_code == 401
        except httpx.TransportError:
            return False

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._server.stop)
        self._thread.join(10)

    def url(self, studio: Studio) -> str:
        """The address of a studio's chain."""
        return f"http://{LOOPBACK}:{self.port}/{studio.tenant}/v1"

    def account(self, studio: Studio, **different: Any) -> Account:
        """A studio's account."""
        given = {"studio_id": studio.id, "base_url": self.url(studio), "key": studio.keys["openapi"]}
        return Account(**{**given, **different})

    def came_in(self, studio: Studio, customer_id: int, at: datetime, out_at: datetime | None = None) -> int:
        """Put an entry into the platform's history; returns its number."""
        number = len(self.platform.checkins) + 1
        self.platform.checkins.append(Checkin(number, customer_id, studio, at, out_at))
        return number


class Time:
    """A clock that jumps instead of waiting."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waited: list[float] = []

    def sleep(self, seconds: float) -> None:
        """Jump."""
        self.waited.append(seconds)
        self.now += seconds

    def pace(self) -> Pace:
        """A pace by this clock, with dice that always show the same."""
        return Pace(now=lambda: self.now, sleep=self.sleep, dice=lambda: 0.5)
