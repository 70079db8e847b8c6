"""How busy each studio's door is, by hour, and doors that have gone quiet."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Integer, func, literal_column, select

from guestgate import clock, record, schema
from guestgate.model import Outcome

HOUR_MS = 3_600_000
DAY, WEEK = 24, 7 * 24
# A door that is silent for less is not worth a word, and one that few came to a week ago may well have none today.
LEAST_SILENCE_HOURS, LEAST_MISSED = 2, 3

_d = schema.decisions.c
# Written out: as a parameter it would not be the same expression twice.
_hour = _d.received_at_ms // literal_column(str(HOUR_MS), Integer)


@dataclass(slots=True)
class Calls:
    """One studio's check-ins of an hour."""

    allowed: int = 0
    denied: int = 0
    undecided: int = 0

    @property
    def all(self) -> int:
        """Whatever they were told."""
        return self.allowed + self.denied + self.undecided


Hour = dict[str, Calls]
NONE = Calls()


class Activity:
    """All studios' hours; those that are over are read once and kept. Any thread may ask."""

    def __init__(self) -> None:
        """Nothing has been read."""
        self._kept: dict[int, Hour] = {}
        self._lock = threading.Lock()

    def day(self, connection: Connection, *, ago: int = 0) -> list[Hour]:
        """The 24 hours, by studio, that end with the present one, or with the one so many hours ago."""
        present = this_hour()
        wanted = range(present - ago - DAY + 1, present - ago + 1)
        with self._lock:
            missing = [hour for hour in wanted if hour not in self._kept]
            found = _read(connection, missing[0], missing[-1]) if missing else {}
            hours = [self._kept[hour] if hour in self._kept else found.get(hour, {}) for hour in wanted]
            # A decision may reach the record a little after its hour is over.
            self._kept |= {hour: found.get(hour, {}) for hour in missing if hour < present - 1}
            for old in [hour for hour in self._kept if hour < present - WEEK - DAY]:
                del self._kept[old]
        return hours


def week(connection: Connection, studio: str) -> list[Calls]:
    """One studio's last 168 hours, the oldest first; the last one is not over."""
    present = this_hour()
    wanted = range(present - WEEK + 1, present + 1)
    found = _read(connection, wanted[0], wanted[-1], _d.studio_id == studio)
    return [found.get(hour, {}).get(studio, NONE) for hour in wanted]


def missed(last_call: datetime, week_ago: list[Hour], studio: str) -> int | None:
    """How many check-ins a door that is quiet now had in the same hours a week ago; None where that is no news.

    A studio that closes at night or on Sundays is quiet then every week. `week_ago` are the 24 hours up to then.
    """
    silent = min(this_hour() - clock.to_ms(last_call) // HOUR_MS, DAY) - 1  # whole hours without a call
    if silent < LEAST_SILENCE_HOURS:
        return None
    count = sum(hour[studio].all for hour in week_ago[-1 - silent : -1] if studio in hour)
    return count if count >= LEAST_MISSED else None


def this_hour() -> int:
    """The present hour, counted since the epoch."""
    return clock.now_ms() // HOUR_MS


def _read(connection: Connection, first: int, last: int, *conditions: ColumnElement[bool]) -> dict[int, Hour]:
    """The hours from the first to the last one."""
    edges = (clock.from_ms(hour * HOUR_MS) for hour in (first, last + 1))
    query = (
        select(_d.studio_id, _d.outcome, _hour.label("hour"), func.count().label("calls"))
        .where(*record.received(connection, *edges), _hour.between(first, last), *conditions)
        .group_by(_d.studio_id, _d.outcome, _hour)
    )
    hours: dict[int, Hour] = {}
    for row in connection.execute(query):
        calls = hours.setdefault(row.hour, {}).setdefault(row.studio_id, Calls())
        setattr(calls, Outcome(row.outcome).value, row.calls)
    return hours
