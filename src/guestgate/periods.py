"""Calendars: which days belong to a limit's period, and when a studio's local day or hour begins.

Pure. Days are found by calendar arithmetic, instants through the time zone; nothing ever adds 24 hours.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from guestgate.model import Hours, Per

ONE_DAY = timedelta(days=1)
ONE_SECOND = timedelta(seconds=1)
# Hours repeat weekly; a second week covers a day that a time zone left out altogether.
SEARCH_DAYS = 15


@lru_cache(maxsize=65_536)
def period(per: Per, day: date, anchor: date | None, cycle_days: int | None) -> tuple[date, date | None]:
    """The first day of the period that holds `day`, and the first day after it (None: it never ends).

    A cycle is `cycle_days` long or, where that is None, a month from the anchor; an anchor on the 31st
    falls on the last day of shorter months. Raises ValueError for a cycle without an anchor.
    """
    match per:
        case Per.DAY:
            return day, day + ONE_DAY
        case Per.WEEK:
            monday = day - timedelta(days=day.weekday())
            return monday, monday + timedelta(days=7)
        case Per.MONTH:
            first = day.replace(day=1)
            return first, month_day(first, 1, 1)
        case Per.CYCLE:
            if anchor is None:
                raise ValueError("a plan with cycles needs a member with cycle_anchor or valid_from")
            return _cycle(day, anchor, cycle_days)
        case Per.TOTAL:
            return date.min, None


def _cycle(day: date, anchor: date, cycle_days: int | None) -> tuple[date, date]:
    if cycle_days is not None:
        start = day - timedelta(days=(day - anchor).days % cycle_days)
        return start, start + timedelta(days=cycle_days)
    this_month = month_day(day, 0, anchor.day)
    if this_month <= day:
        return this_month, month_day(day, 1, anchor.day)
    return month_day(day, -1, anchor.day), this_month


def month_day(day: date, months: int, day_of_month: int) -> date:
    """A day of the month that lies `months` after the one of `day`, at most that month's last day."""
    index = day.year * 12 + day.month - 1 + months
    year, month = divmod(index, 12)
    return date(year, month + 1, min(day_of_month, monthrange(year, month + 1)[1]))


@lru_cache(maxsize=4096)
def start_of_day(day: date, tz: ZoneInfo) -> datetime:
    """The first instant of a local day, also where its midnight does not exist or comes twice."""
    return first_instant(datetime.combine(day, time.min), tz)


def first_instant(wall: datetime, tz: ZoneInfo) -> datetime:
    """The first instant at which a clock on the wall shows `wall`, or has jumped past it."""
    early, late = sorted(_instants(wall, tz))
    if early.astimezone(tz).replace(tzinfo=None) >= wall:
        return early
    return _first_second(early, late, lambda instant: instant.astimezone(tz).replace(tzinfo=None) >= wall)


def _instants(wall: datetime, tz: ZoneInfo) -> tuple[datetime, datetime]:
    return (
        wall.replace(tzinfo=tz, fold=0).astimezone(UTC),
        wall.replace(tzinfo=tz, fold=1).astimezone(UTC),
    )


def _first_second(low: datetime, high: datetime, holds) -> datetime:  # type: ignore[no-untyped-def]
    """The first whole second in (low, high] at which a monotone condition holds; it holds at `high`."""
    while high - low > ONE_SECOND:
        middle = low + (high - low) // 2
        middle = middle.replace(microsecond=0)
        if middle <= low:
            break
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def is_open(hours: tuple[Hours, ...], at: datetime, tz: ZoneInfo) -> bool:
    """Whether an instant lies within the hours, by the clock on the studio's wall."""
    local = at.astimezone(tz)
    wall = local.time()
    today = local.weekday()
    yesterday = (today - 1) % 7
    for window in hours:
        if window.start < window.end:
            if today in window.days and window.start <= wall < window.end:
                return True
        elif (today in window.days and wall >= window.start) or (yesterday in window.days and wall < window.end):
            return True
    return False


def next_opening(hours: tuple[Hours, ...], at: datetime, tz: ZoneInfo) -> datetime | None:
    """For an instant outside the hours, the first later one within them; None where no window ever opens."""
    for opening in _openings(hours, at.astimezone(tz).date(), tz):
        if opening > at:
            return opening
    return None


@lru_cache(maxsize=4096)
def _openings(hours: tuple[Hours, ...], today: date, tz: ZoneInfo) -> tuple[datetime, ...]:
    """Instants at which the hours begin, from yesterday on, in order."""
    return tuple(sorted({instant for instant in _edges(hours, today, tz) if is_open(hours, instant, tz)}))


def _edges(hours: tuple[Hours, ...], today: date, tz: ZoneInfo) -> Iterator[datetime]:
    """Instants at which hours may begin: each window's start, on both passes where a clock is set back,
    and each change of clocks, which may land inside a window."""
    for offset in range(-1, SEARCH_DAYS):
        day = today + timedelta(days=offset)
        begin, end = start_of_day(day, tz), start_of_day(day + ONE_DAY, tz)
        if begin.astimezone(tz).utcoffset() != end.astimezone(tz).utcoffset():
            before = begin.astimezone(tz).utcoffset()
            yield _first_second(begin, end, lambda i, before=before: i.astimezone(tz).utcoffset() != before)
        yield begin
        for window in hours:
            wall = datetime.combine(day, window.start)
            yield first_instant(wall, tz)
            yield from _instants(wall, tz)
