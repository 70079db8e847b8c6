"""Local dates of many instants: each quarter of an hour is looked up in its time zone once."""

from __future__ import annotations

from datetime import date, datetime
from zoneinfo import ZoneInfo

from guestgate import clock

# No day of any zone's begins within one.
QUARTER_MS = 900_000


class Calendar(dict[int, "date | None"]):
    """A time zone's dates by the quarter's number since the epoch; None for one with two, should there be any."""

    def __init__(self, timezone: ZoneInfo) -> None:
        """No date is known yet."""
        super().__init__()
        self._timezone = timezone

    def __missing__(self, quarter: int) -> date | None:
        first, last = (self._date(clock.from_ms(ms)) for ms in (quarter * QUARTER_MS, (quarter + 1) * QUARTER_MS - 1))
        self[quarter] = first if first == last else None
        return self[quarter]

    def at(self, at_ms: int, at: datetime) -> date:
        """The date at an instant, which is given in both ways."""
        return self[at_ms // QUARTER_MS] or self._date(at)

    def _date(self, at: datetime) -> date:
        return at.astimezone(self._timezone).date()


class Calendars(dict[ZoneInfo, Calendar]):
    """The calendar of each time zone."""

    def __missing__(self, timezone: ZoneInfo) -> Calendar:
        self[timezone] = Calendar(timezone)
        return self[timezone]
