"""The last minute's check-ins, from a door's figures as they grow."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from guestgate.last_minute import LastMinute
from guestgate.metrics import DoorMetrics
from guestgate.model import CheckIn, Outcome, Reason, Ruling

AT = "2026-11-26T18:00:00+00:00"


class Door:
    """Figures that grow by check-ins that took so many milliseconds."""

    def __init__(self) -> None:
        self.metrics = DoorMetrics()
        self.minute = LastMinute()

    def answers(
        self, milliseconds: Iterable[float], outcome: Outcome = Outcome.ALLOWED, *, arrived: bool = True
    ) -> None:
        """Some check-ins are answered."""
        reason = Reason.UNAVAILABLE if outcome is Outcome.UNDECIDED else Reason.OK
        checkin = CheckIn("id", None, "s1", "m", 1, "key")  # type: ignore[arg-type]
        for took_ms in milliseconds:
            self.metrics.answered(Ruling("id", outcome, reason), checkin, took_ms / 1000, arrived=arrived)

    def look(self, at_s: float) -> None:
        """Somebody looks."""
        self.minute.look(self.metrics.of_answers(), at_s)


@pytest.fixture
def door() -> Door:
    """One that has been looked at once, after answers that nobody asks about."""
    door = Door()
    door.answers([700] * 10)
    door.look(0)
    return door


def test_where_nobody_came(door: Door) -> None:
    """There is no share, and no time."""
    for minute in (LastMinute(), door.minute):
        assert (minute.checkins, minute.in_time, minute.p99_ms) == (0, None, None)


def test_what_is_in_time(door: Door) -> None:
    """A yes or no that somebody heard: no 503, and none to a caller who was gone."""
    door.answers([5] * 6)
    door.answers([5], Outcome.DENIED)
    door.answers([400], Outcome.UNDECIDED)
    door.answers([5, 5], arrived=False)
    door.look(5)
    assert door.minute.checkins == 10 and door.minute.in_time == 0.7


def test_how_soon_nearly_all_were_answered(door: Door) -> None:
    """By the edges of the histogram; one in a hundred may be slower."""
    door.answers([*[15] * 199, 390])
    door.look(5)
    assert door.minute.p99_ms == 20
    door.answers([390] * 10)
    door.look(10)
    assert door.minute.p99_ms == 400
    door.answers([5000] * 100)
    door.look(15)
    assert door.minute.p99_ms == 1000  # the last edge: beyond it nobody knows


def test_a_minute_later_it_is_forgotten(door: Door) -> None:
    """Not before, and what came since stays."""
    door.answers([5] * 3)
    for at_s in range(5, 60, 5):
        door.look(at_s)
    door.answers([5] * 2)
    door.look(60)
    assert door.minute.checkins == 5
    door.look(65)
    assert door.minute.checkins == 2
    for at_s in range(70, 130, 5):
        door.look(at_s)
    assert door.minute.checkins == 0


def test_figures_that_are_missing_or_fall(door: Door) -> None:
    """A door that says nothing changes nothing; one that counts anew is no negative number."""
    door.answers([5] * 4)
    door.look(5)
    door.minute.look([], 10)
    assert door.minute.checkins == 4
    door.minute.look(DoorMetrics().of_answers(), 15)
    assert (door.minute.checkins, door.minute.in_time) == (0, None)


def test_what_it_looks_at_does_not_grow_with_the_keys(door: Door) -> None:
    """It is collected every few seconds in the door's own loop, which a figure for each key would hold up."""
    before = sum(len(metric.samples) for metric in door.metrics.of_answers())
    for key in range(500):
        door.metrics.answered(
            Ruling("id", Outcome.ALLOWED, Reason.OK),
            CheckIn("id", None, "s1", "m", 1, f"key-{key}"),  # type: ignore[arg-type]
            0.005,
            arrived=True,
        )
    assert sum(len(metric.samples) for metric in door.metrics.of_answers()) == before < 30
    door.look(5)
    assert door.minute.checkins == 500
