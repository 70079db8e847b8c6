"""How fast the platform is called: never beyond what it allows, and longer apart while it cannot answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from platforms import Time

from guestgate.platform.pace import (
    BROKEN_ATTEMPTS,
    BURST,
    BUSY_ATTEMPTS,
    EVERY_S,
    MOST_ASKED_S,
    MOST_S,
    Pace,
    Places,
    delay_s,
)
from guestgate.sandbox.open_api import MINUTE_S, RateLimit


@given(st.lists(st.floats(0, 90), max_size=25))
def test_never_more_than_the_platform_allows(pauses: list[float]) -> None:
    """However calls and pauses follow one another: the platform's own count never refuses one."""
    time = Time()
    limit, places = RateLimit(lambda: time.now), Places()
    for pause in [*pauses, 0, MINUTE_S, 0]:
        time.now += pause
        for _ in range(40):
            time.now += places.take(time.now)
            assert limit.take("endpoint")


def test_two_thousand_at_once_take_two_minutes() -> None:
    """Nothing is refused, and not much time is wasted."""
    time = Time()
    limit, pace, began = RateLimit(lambda: time.now), time.pace(), time.now
    for _ in range(2000):
        pace.await_place("endpoint")
        assert limit.take("endpoint")
    assert 120 < time.now - began < 135


def test_endpoints_do_not_wait_for_one_another() -> None:
    """Each has its own places, and a burst of them at once."""
    time = Time()
    pace = time.pace()
    for endpoint in ("one", "other"):
        for _ in range(BURST):
            pace.await_place(endpoint)
    assert sum(time.waited) < EVERY_S / 100
    pace.await_place("one")
    assert sum(time.waited) == pytest.approx(EVERY_S)


def test_waits_grow_and_end() -> None:
    """By chance between a half and the whole of a time that doubles; together longer than a shut minute."""
    for dice, least in ((0.0, 0.25), (1.0, 0.5)):
        waits = [delay_s(attempt, BUSY_ATTEMPTS, 0, dice) for attempt in range(1, BUSY_ATTEMPTS)]
        assert waits[:3] == [least, 2 * least, 4 * least]
        assert sum(wait or 0 for wait in waits) > MINUTE_S and max(wait or 0 for wait in waits) <= MOST_S
    assert delay_s(BUSY_ATTEMPTS, BUSY_ATTEMPTS, 0, 0.5) is None
    assert delay_s(BROKEN_ATTEMPTS, BROKEN_ATTEMPTS, 0, 0.5) is None


def test_what_the_platform_asks_for_is_waited() -> None:
    """And a little longer, by chance; unless it is too long to wait for."""
    waits = {delay_s(1, BUSY_ATTEMPTS, 60, dice) for dice in (0, 0.5, 1)}
    assert len(waits) == 3 and all(wait is not None and 60 < wait < 61 for wait in waits)
    assert delay_s(1, BUSY_ATTEMPTS, MOST_ASKED_S + 1, 0.5) is None


def test_dice_are_thrown_each_time() -> None:
    """Two callers who failed together do not come back together."""
    waited: list[float] = []
    for _ in range(2):
        pace = Pace(now=lambda: 0.0, sleep=waited.append)
        assert all(pace.await_retry(attempt, BUSY_ATTEMPTS, 0) for attempt in range(1, BUSY_ATTEMPTS))
    assert len(set(waited)) == len(waited)
