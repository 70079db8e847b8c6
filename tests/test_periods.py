"""Calendars: periods partition them, days begin at their first instant, hours follow the clock on the wall."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from guestgate.model import Hours, Per
from guestgate.periods import first_instant, is_open, next_opening, period, start_of_day

# A busy machine is no failure.
SETTINGS = settings(suppress_health_check=[HealthCheck.too_slow])
ONE_DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)

# Every kind of time zone: none, half and quarter hours, half-hour and two-hour changes of clocks, changes at
# midnight and a minute after it, calendars that lost a day, zones that gave up or moved.
ZONES = (
    "Africa/Cairo",
    "Africa/Casablanca",
    "Africa/Monrovia",
    "America/Asuncion",
    "America/Caracas",
    "America/Goose_Bay",
    "America/Havana",
    "America/Los_Angeles",
    "America/New_York",
    "America/Nuuk",
    "America/Phoenix",
    "America/Santiago",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Antarctica/Casey",
    "Antarctica/Troll",
    "Asia/Amman",
    "Asia/Beirut",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Asia/Kolkata",
    "Asia/Pyongyang",
    "Asia/Tehran",
    "Asia/Tokyo",
    "Atlantic/Azores",
    "Atlantic/Reykjavik",
    "Australia/Adelaide",
    "Australia/Lord_Howe",
    "Australia/Sydney",
    "Europe/Berlin",
    "Europe/Dublin",
    "Europe/Istanbul",
    "Europe/London",
    "Europe/Moscow",
    "Pacific/Apia",
    "Pacific/Auckland",
    "Pacific/Chatham",
    "Pacific/Fakaofo",
    "Pacific/Honolulu",
    "Pacific/Kiritimati",
    "Pacific/Kwajalein",
    "Pacific/Norfolk",
    "UTC",
)
BERLIN = ZoneInfo("Europe/Berlin")
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def zone(name: str) -> ZoneInfo:
    """A time zone by its name."""
    return ZoneInfo(name)


def utc(text: str) -> datetime:
    """An instant written in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def day(text: str) -> date:
    """A date."""
    return date.fromisoformat(text)


def hours(*windows: str) -> tuple[Hours, ...]:
    """Opening hours written as ``mon,tue 06:00-16:00``; no days are all days, until 24:00 closes the day."""
    found = []
    for window in windows:
        days, _, times = window.rpartition(" ")
        start, end = times.split("-")
        weekdays = frozenset(WEEKDAYS.index(name) for name in days.split(",") if name) or frozenset(range(7))
        found.append(
            Hours(weekdays, time.fromisoformat(start), time(0) if end == "24:00" else time.fromisoformat(end))
        )
    return tuple(found)


def a_clock_change(name: str, around: str) -> datetime:
    """The instant within two days of a date at which a zone's offset changes (to the minute)."""
    instant = utc(around) - ONE_DAY
    while (instant + SECOND * 60).astimezone(zone(name)).utcoffset() == instant.astimezone(zone(name)).utcoffset():
        instant += SECOND * 60
        assert instant < utc(around) + 2 * ONE_DAY, "no change of clocks here"
    return instant + SECOND * 60


# -- periods


@pytest.mark.parametrize(
    ("per", "within", "first", "after"),
    [
        pytest.param(Per.DAY, "2026-03-29", "2026-03-29", "2026-03-30", id="a day is itself"),
        pytest.param(Per.DAY, "2025-12-31", "2025-12-31", "2026-01-01", id="the year's last day"),
        pytest.param(Per.WEEK, "2026-03-09", "2026-03-09", "2026-03-16", id="a week begins on Monday"),
        pytest.param(Per.WEEK, "2026-03-15", "2026-03-09", "2026-03-16", id="and ends with Sunday"),
        pytest.param(Per.WEEK, "2026-01-01", "2025-12-29", "2026-01-05", id="also across the new year"),
        pytest.param(Per.MONTH, "2026-03-01", "2026-03-01", "2026-04-01", id="a month begins on the 1st"),
        pytest.param(Per.MONTH, "2024-02-29", "2024-02-01", "2024-03-01", id="and ends on its last day"),
        pytest.param(Per.MONTH, "2025-12-31", "2025-12-01", "2026-01-01", id="December ends the year"),
        pytest.param(Per.TOTAL, "2026-03-10", "0001-01-01", None, id="in total: always, and never over"),
    ],
)
def test_periods_of_the_calendar(per: Per, within: str, first: str, after: str | None) -> None:
    """Days, ISO weeks and months need neither an anchor nor the length of a cycle."""
    assert period(per, day(within), None, None) == (day(first), day(after) if after else None)


@pytest.mark.parametrize(
    ("anchor", "cycle_days", "within", "first", "after"),
    [
        pytest.param("2026-01-05", 28, "2026-01-05", "2026-01-05", "2026-02-02", id="the anchor is a first day"),
        pytest.param("2026-01-05", 28, "2026-02-01", "2026-01-05", "2026-02-02", id="the 28th day is the last"),
        pytest.param("2026-01-05", 28, "2026-02-02", "2026-02-02", "2026-03-02", id="the next cycle follows"),
        pytest.param("2026-01-05", 28, "2026-01-04", "2025-12-08", "2026-01-05", id="cycles before the anchor"),
        pytest.param("2026-01-05", 1, "2026-07-01", "2026-07-01", "2026-07-02", id="a cycle of one day"),
        pytest.param("2026-01-15", None, "2026-03-14", "2026-02-15", "2026-03-15", id="a month from the 15th"),
        pytest.param("2026-01-15", None, "2026-03-15", "2026-03-15", "2026-04-15", id="renewed on the 15th"),
        pytest.param("2026-01-15", None, "2025-12-20", "2025-12-15", "2026-01-15", id="a month before the anchor"),
        pytest.param("2026-01-31", None, "2026-02-27", "2026-01-31", "2026-02-28", id="31st: before February's end"),
        pytest.param("2026-01-31", None, "2026-02-28", "2026-02-28", "2026-03-31", id="31st: February's last day"),
        pytest.param("2024-01-31", None, "2024-02-28", "2024-01-31", "2024-02-29", id="31st: a leap year's 28th"),
        pytest.param("2024-01-31", None, "2024-02-29", "2024-02-29", "2024-03-31", id="31st: a leap year's 29th"),
        pytest.param("2026-01-31", None, "2026-03-30", "2026-02-28", "2026-03-31", id="31st: back in March"),
        pytest.param("2026-01-31", None, "2026-04-30", "2026-04-30", "2026-05-31", id="31st: April has 30 days"),
        pytest.param("2026-01-31", None, "2026-01-30", "2025-12-31", "2026-01-31", id="31st: over the new year"),
        pytest.param("2024-02-29", None, "2025-02-28", "2025-02-28", "2025-03-29", id="29th: a common February"),
        pytest.param("2026-01-30", None, "2026-03-29", "2026-02-28", "2026-03-30", id="30th: after February"),
    ],
)
def test_cycles(anchor: str, cycle_days: int | None, within: str, first: str, after: str) -> None:
    """A cycle is so many days, or a month from the anchor, whose 31st is the last day of shorter months."""
    assert period(Per.CYCLE, day(within), day(anchor), cycle_days) == (day(first), day(after))


@pytest.mark.parametrize("cycle_days", [None, 28])
def test_a_cycle_needs_an_anchor(cycle_days: int | None) -> None:
    """Without a day to count from there is no cycle, and nothing is guessed."""
    with pytest.raises(ValueError, match="cycle_anchor or valid_from"):
        period(Per.CYCLE, day("2026-03-10"), None, cycle_days)


DATES = st.dates(date(1996, 1, 1), date(2044, 12, 31))
RENEWABLE = st.sampled_from([Per.DAY, Per.WEEK, Per.MONTH, Per.CYCLE])
CYCLE_DAYS = st.none() | st.integers(1, 400)


@settings(SETTINGS, max_examples=400)
@given(RENEWABLE, DATES, DATES, CYCLE_DAYS)
@example(Per.CYCLE, date(2026, 2, 28), date(2025, 12, 31), None)
@example(Per.CYCLE, date(2024, 2, 29), date(2023, 8, 30), None)
def test_periods_partition_the_calendar(per: Per, within: date, anchor: date, cycle_days: int | None) -> None:
    """Each day belongs to one period, all of a period's days agree on it, and the next one begins where it ends."""
    first, after = period(per, within, anchor, cycle_days)
    assert after is not None
    assert first <= within < after
    for offset in range((after - first).days):
        assert period(per, first + offset * ONE_DAY, anchor, cycle_days) == (first, after)
    assert period(per, after, anchor, cycle_days)[0] == after
    assert period(per, first - ONE_DAY, anchor, cycle_days)[1] == first


@settings(SETTINGS, max_examples=200)
@given(DATES, DATES, CYCLE_DAYS)
def test_a_cycle_begins_on_the_anchor(within: date, anchor: date, cycle_days: int | None) -> None:
    """The anchor is a first day, and every cycle is as long as it should be."""
    assert period(Per.CYCLE, anchor, anchor, cycle_days)[0] == anchor
    first, after = period(Per.CYCLE, within, anchor, cycle_days)
    assert after is not None
    if cycle_days is not None:
        assert (after - first).days == cycle_days
        assert (first - anchor).days % cycle_days == 0
    else:
        assert 28 <= (after - first).days <= 31
        assert first.day == anchor.day or (first.day < anchor.day and (first + ONE_DAY).day == 1)


# -- days


@pytest.mark.parametrize(
    ("name", "local", "expected"),
    [
        pytest.param("UTC", "2026-03-10", "2026-03-10 00:00", id="in UTC"),
        pytest.param("Europe/Berlin", "2026-03-10", "2026-03-09 23:00", id="ahead of UTC"),
        pytest.param("America/Los_Angeles", "2026-01-10", "2026-01-10 08:00", id="behind UTC"),
        pytest.param("Asia/Kathmandu", "2026-01-10", "2026-01-09 18:15", id="a quarter of an hour off"),
        pytest.param(
            "America/Santiago", "2022-09-11", "2022-09-11 04:00", id="no midnight: Santiago begins at 01:00"
        ),
        pytest.param("Asia/Beirut", "2022-03-27", "2022-03-26 22:00", id="no midnight: Beirut begins at 01:00"),
        pytest.param("Africa/Cairo", "2023-04-28", "2023-04-27 22:00", id="no midnight: Cairo begins at 01:00"),
        pytest.param("America/Havana", "2022-11-06", "2022-11-06 04:00", id="midnight twice: Havana's first"),
        pytest.param("America/Santiago", "2022-04-03", "2022-04-03 04:00", id="23:00 twice: after the second"),
        pytest.param("Pacific/Apia", "2011-12-29", "2011-12-29 10:00", id="Apia: the day before the lost one"),
        pytest.param("Pacific/Apia", "2011-12-30", "2011-12-30 10:00", id="Apia: the lost day begins with the next"),
        pytest.param("Pacific/Apia", "2011-12-31", "2011-12-30 10:00", id="Apia: the day after the lost one"),
        pytest.param("America/Goose_Bay", "2010-11-07", "2010-11-07 03:00", id="back at 00:01: the first of two"),
    ],
)
def test_start_of_day(name: str, local: str, expected: str) -> None:
    """A local day starts at its first instant, whatever clocks and calendar do at midnight."""
    assert start_of_day(day(local), zone(name)) == utc(expected)


@pytest.mark.parametrize(
    ("name", "local", "length"),
    [
        pytest.param("Europe/Berlin", "2026-03-28", 24.0, id="an ordinary day"),
        pytest.param("Europe/Berlin", "2026-03-29", 23.0, id="Berlin in spring"),
        pytest.param("Europe/Berlin", "2026-10-25", 25.0, id="Berlin in autumn"),
        pytest.param("Australia/Lord_Howe", "2022-10-02", 23.5, id="Lord Howe in spring"),
        pytest.param("Australia/Lord_Howe", "2022-04-03", 24.5, id="Lord Howe in autumn"),
        pytest.param("Antarctica/Troll", "2023-03-26", 22.0, id="Troll in spring"),
        pytest.param("America/Havana", "2022-11-06", 25.0, id="midnight twice"),
        pytest.param("Africa/Cairo", "2023-04-28", 23.0, id="no midnight"),
        pytest.param("Pacific/Apia", "2011-12-30", 0.0, id="a day that never was"),
    ],
)
def test_a_day_is_as_long_as_the_clocks_make_it(name: str, local: str, length: float) -> None:
    """From one day's start to the next there are 22 to 25 hours, or none; nothing assumes 24."""
    tz = zone(name)
    assert start_of_day(day(local) + ONE_DAY, tz) - start_of_day(day(local), tz) == timedelta(hours=length)


LOST_DAYS = {
    ("Pacific/Apia", date(2011, 12, 30)),
    ("Pacific/Fakaofo", date(2011, 12, 30)),
    ("Pacific/Kiritimati", date(1994, 12, 31)),
    ("Pacific/Kwajalein", date(1993, 8, 21)),
}


@settings(SETTINGS, max_examples=600)
@given(st.sampled_from(ZONES), st.dates(date(1990, 1, 1), date(2040, 12, 31)))
@example("Pacific/Apia", date(2011, 12, 30))
@example("Pacific/Apia", date(2011, 12, 31))
@example("Pacific/Kiritimati", date(1994, 12, 31))
@example("Pacific/Kwajalein", date(1993, 8, 21))
@example("America/Havana", date(2022, 11, 6))
@example("America/Santiago", date(2022, 9, 11))
@example("America/Goose_Bay", date(2010, 11, 7))
@example("Antarctica/Troll", date(2023, 3, 26))
def test_a_day_starts_at_its_first_instant(name: str, local: date) -> None:
    """The start bears the day's date and the instant before an earlier one; a lost day starts with the next."""
    tz = zone(name)
    start = start_of_day(local, tz)
    lost = (name, local) in LOST_DAYS
    assert start.utcoffset() == timedelta(0)
    assert start.astimezone(tz).date() == (local + ONE_DAY if lost else local)
    assert (start - MICROSECOND).astimezone(tz).date() < local
    assert (start - SECOND).astimezone(tz).date() < local


@settings(SETTINGS, max_examples=200)
@given(st.sampled_from(ZONES), st.dates(date(2012, 1, 1), date(2040, 12, 31)))
def test_days_touch(name: str, local: date) -> None:
    """Every hour between two starts of a day belongs to that day: none is lost, none counts twice.

    From 2012 on: before, some zones went back to 23:01 at 00:01 and so had two ends of the same day.
    """
    tz = zone(name)
    start, end = start_of_day(local, tz), start_of_day(local + ONE_DAY, tz)
    assert start < end
    instant = start
    while instant < end:
        assert instant.astimezone(tz).date() == local
        instant += timedelta(minutes=30)


@pytest.mark.parametrize(
    ("name", "wall", "expected"),
    [
        pytest.param("Europe/Berlin", "2026-03-10 06:00", "2026-03-10 05:00", id="an ordinary time"),
        pytest.param("Europe/Berlin", "2026-03-29 01:59", "2026-03-29 00:59", id="just before the gap"),
        pytest.param("Europe/Berlin", "2026-03-29 02:00", "2026-03-29 01:00", id="the first time left out"),
        pytest.param("Europe/Berlin", "2026-03-29 02:30", "2026-03-29 01:00", id="in the gap: when it is jumped"),
        pytest.param("Europe/Berlin", "2026-03-29 03:00", "2026-03-29 01:00", id="just after the gap"),
        pytest.param("Europe/Berlin", "2026-10-25 02:30", "2026-10-25 00:30", id="a time twice: the first"),
        pytest.param("Europe/Berlin", "2026-10-25 03:00", "2026-10-25 02:00", id="after the repeated hour"),
        pytest.param("Australia/Lord_Howe", "2022-10-02 02:15", "2022-10-01 15:30", id="in a gap of half an hour"),
        pytest.param("Pacific/Apia", "2011-12-30 12:00", "2011-12-30 10:00", id="noon of the lost day"),
    ],
)
def test_first_instant(name: str, wall: str, expected: str) -> None:
    """The first instant at which the clock on the wall shows a time, or has jumped past it."""
    assert first_instant(datetime.fromisoformat(wall), zone(name)) == utc(expected)


# -- hours


@pytest.mark.parametrize(
    ("windows", "local", "expected"),
    [
        pytest.param(["mon,tue 06:00-16:00"], "2026-03-10 05:59:59.999999", False, id="before opening"),
        pytest.param(["mon,tue 06:00-16:00"], "2026-03-10 06:00", True, id="from is included"),
        pytest.param(["mon,tue 06:00-16:00"], "2026-03-10 15:59:59.999999", True, id="the last instant"),
        pytest.param(["mon,tue 06:00-16:00"], "2026-03-10 16:00", False, id="until is excluded"),
        pytest.param(["mon,tue 06:00-16:00"], "2026-03-11 12:00", False, id="another weekday"),
        pytest.param(["06:00-09:00", "18:00-21:00"], "2026-03-10 20:00", True, id="any window will do"),
        pytest.param(["06:00-09:00", "18:00-21:00"], "2026-03-10 12:00", False, id="between two windows"),
        pytest.param(["fri 22:00-02:00"], "2026-03-13 22:00", True, id="past midnight: the evening"),
        pytest.param(["fri 22:00-02:00"], "2026-03-14 01:59:59.999999", True, id="past midnight: the morning after"),
        pytest.param(["fri 22:00-02:00"], "2026-03-14 02:00", False, id="past midnight: over"),
        pytest.param(["fri 22:00-02:00"], "2026-03-13 01:00", False, id="past midnight: not the morning before"),
        pytest.param(["fri 22:00-02:00"], "2026-03-14 22:00", False, id="past midnight: not the next evening"),
        pytest.param(["sun 22:00-02:00"], "2026-03-16 01:00", True, id="past midnight: from Sunday to Monday"),
        pytest.param(
            ["fri 20:00-24:00"], "2026-03-13 23:59:59.999999", True, id="until 24:00: the day's last instant"
        ),
        pytest.param(["fri 20:00-24:00"], "2026-03-14 00:00", False, id="until 24:00: midnight is over"),
        pytest.param(["fri 00:00-24:00"], "2026-03-13 00:00", True, id="a whole day: its start"),
        pytest.param(["fri 00:00-24:00"], "2026-03-13 23:59:59.999999", True, id="a whole day: its end"),
        pytest.param(["fri 00:00-24:00"], "2026-03-14 00:00", False, id="a whole day: not the next"),
    ],
)
def test_is_open(windows: list[str], local: str, expected: bool) -> None:
    """Hours are those of the clock on the studio's wall; a window belongs to the weekday that it starts on."""
    at = datetime.fromisoformat(local).replace(tzinfo=BERLIN).astimezone(UTC)
    assert is_open(hours(*windows), at, BERLIN) is expected


@pytest.mark.parametrize(
    ("name", "windows", "at", "expected"),
    [
        pytest.param("UTC", ["06:00-16:00"], "2026-03-10 05:00", "2026-03-10 06:00", id="later today"),
        pytest.param("UTC", ["06:00-16:00"], "2026-03-10 16:00", "2026-03-11 06:00", id="tomorrow"),
        pytest.param("UTC", ["mon 06:00-16:00"], "2026-03-09 16:00", "2026-03-16 06:00", id="in a week"),
        pytest.param("UTC", ["fri 22:00-02:00"], "2026-03-14 02:00", "2026-03-20 22:00", id="after a night"),
        pytest.param("UTC", ["fri 20:00-24:00"], "2026-03-14 00:00", "2026-03-20 20:00", id="after 24:00"),
        pytest.param("UTC", ["20:00-22:00", "07:00-08:00"], "2026-03-10 12:00", "2026-03-10 20:00", id="the nearest"),
        pytest.param(
            "Europe/Berlin",
            ["02:30-06:00"],
            "2026-03-29 00:30",
            "2026-03-29 01:00",
            id="opening falls into the gap",
        ),
        pytest.param(
            "Europe/Berlin",
            ["02:15-02:45"],
            "2026-03-29 00:30",
            "2026-03-30 00:15",
            id="the gap swallows the window",
        ),
        pytest.param(
            "Europe/Berlin",
            ["sun 02:15-02:45"],
            "2026-03-22 02:00",
            "2026-04-05 00:15",
            id="a week's only window lost",
        ),
        pytest.param(
            "Europe/Berlin",
            ["01:00-02:30"],
            "2026-10-25 00:45",
            "2026-10-25 01:00",
            id="set back into the window",
        ),
        pytest.param(
            "Europe/Berlin",
            ["02:30-02:45"],
            "2026-10-25 00:50",
            "2026-10-25 01:30",
            id="the window comes twice",
        ),
        pytest.param(
            "Australia/Lord_Howe",
            ["01:45-01:50"],
            "2022-04-02 14:55",
            "2022-04-02 15:15",
            id="half an hour later again",
        ),
        pytest.param(
            "Africa/Cairo",
            ["fri 00:00-06:00"],
            "2023-04-27 12:00",
            "2023-04-27 22:00",
            id="opens at no midnight",
        ),
        pytest.param(
            "America/Santiago",
            ["sat 23:00-23:30"],
            "2022-04-03 02:45",
            "2022-04-03 03:00",
            id="Saturday goes on",
        ),
        pytest.param(
            "Pacific/Apia",
            ["fri 06:00-08:00"],
            "2011-12-24 00:00",
            "2012-01-05 16:00",
            id="the only weekday was lost",
        ),
        pytest.param(
            "Pacific/Apia",
            ["sat 00:00-08:00"],
            "2011-12-29 12:00",
            "2011-12-30 10:00",
            id="Saturday follows Thursday",
        ),
    ],
)
def test_next_opening(name: str, windows: list[str], at: str, expected: str) -> None:
    """The first later instant within the hours, across weekends, changed clocks and lost days."""
    assert next_opening(hours(*windows), utc(at), zone(name)) == utc(expected)


def test_without_windows_it_never_opens() -> None:
    """No window, no opening; nothing searches for ever."""
    assert not is_open((), utc("2026-03-10 12:00"), BERLIN)
    assert next_opening((), utc("2026-03-10 12:00"), BERLIN) is None


WALL_TIMES = st.builds(time, st.integers(0, 23), st.sampled_from([0, 1, 15, 30, 45]))
WINDOWS = st.builds(Hours, st.frozensets(st.integers(0, 6), min_size=1), WALL_TIMES, WALL_TIMES)
CHANGES = (
    ("Europe/Berlin", "2026-03-29"),
    ("Europe/Berlin", "2026-10-25"),
    ("America/Santiago", "2022-09-11"),
    ("America/Santiago", "2022-04-03"),
    ("Asia/Beirut", "2022-03-27"),
    ("Africa/Cairo", "2023-04-28"),
    ("America/Havana", "2022-11-06"),
    ("America/Goose_Bay", "2010-11-07"),
    ("America/Nuuk", "2025-03-30"),
    ("Australia/Lord_Howe", "2022-04-03"),
    ("Australia/Lord_Howe", "2022-10-02"),
    ("Antarctica/Troll", "2023-10-29"),
    ("Pacific/Apia", "2011-12-30"),
)
CHANGE_INSTANTS = {change: a_clock_change(*change) for change in CHANGES}


@st.composite
def places_and_instants(draw: st.DrawFn) -> tuple[ZoneInfo, datetime]:
    """Any instant in any zone, as often one within a few hours of a change of clocks."""
    if draw(st.booleans()):
        change = draw(st.sampled_from(CHANGES))
        minutes = draw(st.integers(-600, 600) | st.integers(-20_160, 600))
        return zone(change[0]), CHANGE_INSTANTS[change] + timedelta(minutes=minutes)
    minutes = draw(st.integers(0, 50 * 365 * 24 * 60))
    return zone(draw(st.sampled_from(ZONES))), utc("1990-01-01") + timedelta(minutes=minutes)


@settings(SETTINGS, max_examples=600)
@given(
    places_and_instants(),
    st.lists(WINDOWS, min_size=1, max_size=3).map(tuple),
    st.lists(st.floats(0, 1, exclude_max=True), max_size=5),
)
def test_the_next_opening_is_open_and_nothing_before_it(
    where_and_when: tuple[ZoneInfo, datetime], windows: tuple[Hours, ...], fractions: list[float]
) -> None:
    """An opening is later than asked and open, and for a closed studio no instant tried before it is."""
    tz, at = where_and_when
    opens = next_opening(windows, at, tz)
    assert opens is not None
    assert opens > at
    assert is_open(windows, opens, tz)
    if is_open(windows, at, tz):
        return
    wait = opens - at
    # Every quarter of an hour of the last day and a half, and some instants of the time before.
    tried = [opens - step * timedelta(minutes=15) for step in range(1, 144)]
    tried += [opens - MICROSECOND, opens - SECOND]
    tried += [at + wait * fraction for fraction in (*fractions, *(step / 50 for step in range(50)))]
    assert not [instant for instant in tried if at <= instant < opens and is_open(windows, instant, tz)]


@settings(SETTINGS, max_examples=300)
@given(places_and_instants(), WINDOWS)
def test_hours_are_read_off_the_wall(where_and_when: tuple[ZoneInfo, datetime], window: Hours) -> None:
    """Whether a studio is open depends on nothing but the weekday and the time that its clock shows."""
    tz, at = where_and_when
    shown = at.astimezone(tz).replace(tzinfo=UTC)
    assert is_open((window,), at, tz) is is_open((window,), shown, ZoneInfo("UTC"))
