"""Complaints of what goes wrong again and again in a process that does its work every quarter of a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from guestgate import clock

log = structlog.get_logger()

# Of a server that has just been lost, one word; and then from time to time.
COMPLAIN_EVERY_S = 30.0


class Complaints:
    """What goes wrong every quarter of a second is said from time to time."""

    def __init__(self) -> None:
        """Nothing has gone wrong yet."""
        self._silent_until: dict[str, float] = {}

    @contextmanager
    def instead_of(self, what: str) -> Iterator[None]:
        """Go on after an error, and say it where that is due."""
        try:
            yield
        except Exception as error:
            now = clock.monotonic()
            if now >= self._silent_until.get(what, 0.0):
                self._silent_until[what] = now + COMPLAIN_EVERY_S
                log.error(what, error=str(error))
