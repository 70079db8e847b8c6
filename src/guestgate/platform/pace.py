"""How fast the platform is called, and when again after it could not answer.

It lets 1,000 requests a minute through for each endpoint, then none for a minute. We stay below, and whoever
is told to wait waits longer each time, by chance, so that callers who failed together do not come back together.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from guestgate import clock

# 900 a minute and a burst are never more than 950 in one; the rest is for whoever else calls with the same key.
EVERY_S = 60 / 900
BURST = 50
FIRST_S, MOST_S = 0.5, 30.0
# Busy: together these waits are longer than the minute for which the platform shuts an endpoint.
BUSY_ATTEMPTS, BROKEN_ATTEMPTS = 10, 5
# Who asks us to wait longer than this gets no second call.
MOST_ASKED_S = 120.0


def delay_s(attempt: int, attempts: int, asked_s: float, dice: float) -> float | None:
    """Seconds to wait after a call has failed for the `attempt`-th time of at most `attempts`; None to give up.

    `asked_s` is what the platform asks for, 0 where nothing; `dice` is a number from 0 to 1.
    """
    if attempt >= attempts or asked_s > MOST_ASKED_S:
        return None
    longest = min(MOST_S, FIRST_S * 2.0 ** (attempt - 1))
    return asked_s + longest * (1 + dice) / 2


class Places:
    """One endpoint's places in time, so many a minute; some may be taken at once."""

    def __init__(self) -> None:
        """All are free."""
        self._next_at = 0.0

    def take(self, now: float) -> float:
        """Take the next place; returns the seconds until it comes."""
        self._next_at = max(self._next_at, now - (BURST - 1) * EVERY_S)
        wait_s = max(0.0, self._next_at - now)
        self._next_at += EVERY_S
        return wait_s


class Pace:
    """One account's pace, endpoint by endpoint. For one thread."""

    def __init__(
        self,
        *,
        now: Callable[[], float] = clock.monotonic,
        sleep: Callable[[float], None] = clock.sleep,
        dice: Callable[[], float] = random.random,
    ) -> None:
        """`now` gives seconds, `sleep` waits for some, `dice` gives a number from 0 to 1."""
        self._now, self._sleep, self._dice = now, sleep, dice
        self._places: dict[str, Places] = {}

    def await_place(self, endpoint: str) -> None:
        """Wait until this endpoint may be called once more."""
        self._wait(self._places.setdefault(endpoint, Places()).take(self._now()))

    def await_retry(self, attempt: int, attempts: int, asked_s: float) -> bool:
        """Wait after a call has failed (see `delay_s`); False where it is to be given up."""
        wait_s = delay_s(attempt, attempts, asked_s, self._dice())
        if wait_s is None:
            return False
        self._wait(wait_s)
        return True

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)
