"""Instants as users write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from guestgate.errors import UsageError

_SPAN = re.compile(r"(\d+)([smhdw])")
FIRST_YEAR, LAST_YEAR = 1970, 9000
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_instant(text: str, name: str, *, also: str = "") -> datetime:
    """An ISO 8601 instant with offset, in UTC. Raises UsageError that names the option or field.

    ``also`` is what could be written there as well, for whoever wrote neither.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{name}: {text!r} is not an instant; write {also}2026-11-23T18:02:00+01:00") from None
    if instant.tzinfo is None:
        whole = text if "T" in text or " " in text else f"{text}T00:00"
        raise UsageError(f"{name}: {text!r} has no offset from UTC; write {whole}Z or {whole}+01:00")
    if not FIRST_YEAR <= instant.year <= LAST_YEAR:
        raise UsageError(f"{name}: {text!r} lies outside the years {FIRST_YEAR} to {LAST_YEAR}")
    return instant.astimezone(UTC)


def parse_since(text: str, now: datetime, name: str = "--since") -> datetime:
    """An instant, or how long ago: ``90m``, ``24h``, ``30d``."""
    if _SPAN.fullmatch(text) is None:
        return parse_instant(text, name, also="7d or ")
    try:
        return now - parse_span(text, name)
    except OverflowError:
        raise UsageError(f"{name}: {text!r} lies outside the calendar") from None


def parse_span(text: str, name: str) -> timedelta:
    """How long: ``90s``, ``15m``, ``24h``, ``30d``. Raises UsageError that names the option or field."""
    match = _SPAN.fullmatch(text)
    if match is None:
        raise UsageError(f"{name}: {text!r} is not a span of time; write 15m, 2h or 1d")
    try:
        return timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError:
        raise UsageError(f"{name}: {text!r} lies outside the calendar") from None


def parse_local(text: str, timezone: str, name: str) -> datetime:
    """A time on a wall clock, as forms send it (``2026-11-23T18:02``), in UTC. Raises UsageError.

    Of a time that comes twice the first is meant, and one that does not exist counts as if clocks had not changed.
    """
    try:
        local = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{name}: {text!r} is not a time; write 2026-11-23T18:02") from None
    if local.tzinfo is not None:
        raise UsageError(f"{name}: write it without an offset, as the clock on the wall has it")
    if not FIRST_YEAR <= local.year <= LAST_YEAR:
        raise UsageError(f"{name}: {text!r} lies outside the years {FIRST_YEAR} to {LAST_YEAR}")
    return local.replace(tzinfo=ZoneInfo(timezone)).astimezone(UTC)
