"""Instants in bodies and queries."""

from __future__ import annotations

from datetime import UTC, datetime

from guestgate.errors import UsageError
from guestgate.instants import FIRST_YEAR, LAST_YEAR


def aware(instant: datetime, name: str) -> datetime:
    """The same in UTC. Raises UsageError where it has no offset, or is beyond reason."""
    if instant.tzinfo is None:
        raise UsageError(f"{name}: has no offset from UTC; write 2026-11-23T18:02:00+01:00")
    if not FIRST_YEAR <= instant.year <= LAST_YEAR:
        raise UsageError(f"{name}: lies outside the years {FIRST_YEAR} to {LAST_YEAR}")
    return instant.astimezone(UTC)
