"""The record by hour and by minute: the figures that studios' pages and the start page show."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from gate import Gate
from past import Past

from guestgate import activity, clock, record
from guestgate.activity import DAY, HOUR_MS, WEEK, Activity, Calls
from guestgate.pulse import MINUTE_MS, MINUTES, Minute, Pulse
from guestgate.record import Filter


@pytest.fixture
def past(home: Gate) -> Iterator[Past]:
    """Two studios, and somebody who may come once a day."""
    for studio in ("s1", "s2"):
        home.studio(studio)
    home.plans()
    home.members("free-0,free", "once-0,once")
    past = Past(home.database)
    yield past
    past.close()


def hours_ago(count: float) -> datetime:
    """In the middle of an hour that began so many hours before this one; the present one began just now."""
    began = activity.this_hour() * HOUR_MS
    return clock.from_ms(began + (0 if count == 0 else HOUR_MS // 2)) - timedelta(hours=count)


def test_a_studio_s_week_by_hour(home: Gate, past: Past) -> None:
    """Its own calls only, each in its hour, by what they were told."""
    for ago in (WEEK, WEEK - 1, 30, 30, 0):
        past.checkin("free-0", hours_ago(ago))
    past.checkin("nobody", hours_ago(30))
    past.checkin("free-0", hours_ago(29), studio="s2")
    with home.database.read() as connection:
        week = activity.week(connection, "s1")
        assert activity.week(connection, "nowhere") == [Calls()] * WEEK
    assert len(week) == WEEK
    assert {WEEK - 1 - place: calls for place, calls in enumerate(week) if calls.all} == {
        WEEK - 1: Calls(allowed=1),
        30: Calls(allowed=2, denied=1),
        0: Calls(allowed=1),
    }


def test_every_studio_s_day_is_read_once(home: Gate, past: Past) -> None:
    """What is over is kept; what may still grow is read again."""
    for ago in (DAY, DAY - 1, 5, 1, 0):
        past.checkin("free-0", hours_ago(ago))
    past.checkin("free-0", hours_ago(5), studio="s2")
    kept = Activity()
    with home.database.read() as connection:
        day = kept.day(connection)
    assert [DAY - 1 - place for place, hour in enumerate(day) if hour] == [DAY - 1, 5, 1, 0]
    assert day[-1 - 5] == {"s1": Calls(allowed=1), "s2": Calls(allowed=1)}
    for ago in (5, 1, 0):
        past.checkin("nobody", hours_ago(ago))
    with home.database.read() as connection:
        again = kept.day(connection)
    assert again[:-2] == day[:-2]
    assert again[-2:] == [{"s1": Calls(allowed=1, denied=1)}] * 2


def test_the_same_day_a_week_ago(home: Gate, past: Past) -> None:
    """It ends with the hour a week before this one."""
    for ago in (WEEK + DAY, WEEK + DAY - 1, WEEK, WEEK - 1):
        past.checkin("free-0", hours_ago(ago))
    with home.database.read() as connection:
        day = Activity().day(connection, ago=WEEK)
    assert [place for place, hour in enumerate(day) if hour] == [0, DAY - 1]


@pytest.mark.parametrize(
    ("last_call_ago", "came_a_week_ago", "missed"),
    [
        (0, range(DAY), None),
        (2, range(DAY), None),
        (5, [1, 2, 3, 4], 4),
        (5, [1, 2], None),  # few came a week ago either
        (5, [0, 5, 6, 7], None),  # they came before it fell silent, and in the hour that is not over
        (500, range(DAY), DAY - 1),
    ],
)
def test_a_door_that_has_gone_quiet(last_call_ago: int, came_a_week_ago: list[int], missed: int | None) -> None:
    """By what it had in the same hours a week ago; nights and closed days are no news."""
    week_ago = [{"s1": Calls(allowed=1)} if DAY - 1 - place in came_a_week_ago else {} for place in range(DAY)]
    assert activity.missed(hours_ago(last_call_ago), week_ago, "s1") == missed
    assert activity.missed(hours_ago(last_call_ago), week_ago, "s2") is None


def test_the_last_hour_by_minute(home: Gate, past: Past) -> None:
    """Read at once or decision by decision, it is the same."""
    now = clock.from_ms(clock.now_ms() // MINUTE_MS * MINUTE_MS)
    for minutes in (MINUTES, MINUTES - 1, 10, 10, 0):
        past.checkin("free-0", now - timedelta(minutes=minutes))
    past.checkin("nobody", now - timedelta(minutes=10))
    past.checkin("free-0", now - timedelta(minutes=9), undelivered=True)
    read, followed = Pulse(), Pulse()
    with home.database.read() as connection:
        read.read(connection)
        for _, decision in record.decisions(connection, Filter()):
            followed.add(decision)
    minutes = read.minutes()
    assert minutes == followed.minutes() and len(minutes) == MINUTES
    passed = clock.now_ms() // MINUTE_MS - clock.to_ms(now) // MINUTE_MS
    by_age = {MINUTES - 1 - place - passed: minute for place, minute in enumerate(minutes) if minute != Minute()}
    assert by_age[10] == Minute(allowed=2, denied=1, answered=3, in_time=3, total_ms=4.5, slowest_ms=1.5)
    assert by_age[10].mean_ms == 1.5
    assert by_age[9] == Minute(allowed=1, answered=1, total_ms=1.5, slowest_ms=1.5)
    assert by_age.keys() - {MINUTES - 1} == {10, 9, 0}


def test_a_minute_without_answers_has_no_mean() -> None:
    """Nor has one whose answers nobody knows of."""
    assert Minute().mean_ms is None and Minute(allowed=3).mean_ms is None
