"""The only module that knows the time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


def now() -> datetime:
    """The present instant in UTC, to the millisecond (what the record stores)."""
    return from_ms(now_ms())


def now_ms() -> int:
    """The present instant in milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def monotonic() -> float:
    """Seconds on a clock that never jumps; the clock of every deadline."""
    return time.monotonic()


def sleep(seconds: float) -> None:
    """Do nothing for a while."""
    time.sleep(seconds)


def to_ms(instant: datetime) -> int:
    """Milliseconds since the Unix epoch of an aware instant."""
    return (instant - EPOCH) // MILLISECOND


def from_ms(ms: int) -> datetime:
    """The UTC instant of so many milliseconds since the Unix epoch."""
    return EPOCH + ms * MILLISECOND


def iso(instant: datetime) -> str:
    """ISO 8601 in UTC with milliseconds: ``2026-11-23T18:02:00.123Z``."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{instant.microsecond // 1000:03d}Z"


def iso_of(ms: int | None) -> str | None:
    """`iso` of so many milliseconds since the Unix epoch, or None."""
    return None if ms is None else iso(from_ms(ms))
