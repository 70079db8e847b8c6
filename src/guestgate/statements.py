"""A month's statement: visits, payable visits and corrections, derived from the record when asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from guestgate import clock, corrections, record
from guestgate.errors import UsageError
from guestgate.model import VisitState
from guestgate.record import Filter

MONTH = re.compile(r"^[0-9]{4}-(0[1-9]|1[0-2])$")


def statement(connection: Connection, month: str, studio: str | None, *, payable_requires: str) -> dict[str, Any]:
    """Totals by studio, and every correction of a visit of that month. Raises UsageError for what is no month.

    Visits belong to the month of their local date. Those of test studios are left out. ``open`` says that
    the month is not over yet somewhere.
    """
    if not MONTH.fullmatch(month):
        raise UsageError(f"{month!r} is not a month; write 2026-11")
    totals: dict[str, dict[str, Any]] = {}
    for visit in visits(connection, month, studio, payable_requires=payable_requires):
        total = totals.setdefault(
            visit["studio"], {"studio": visit["studio"], "visits": 0, "payable": 0, "reversed": 0}
        )
        is_reversed = visit["state"] == VisitState.REVERSED.value
        total["visits"] += not is_reversed
        total["reversed"] += is_reversed
        total["payable"] += visit["payable"]
    made = corrections.correction_list(connection, month=month, studio=studio)
    return {
        "month": month,
        "open": _is_open(month),
        "totals": [totals[name] for name in sorted(totals)],
        "corrections": [correction for _, correction in made],
    }


def visits(
    connection: Connection, month: str, studio: str | None, *, payable_requires: str
) -> Iterator[dict[str, Any]]:
    """The month's visits, in the order they were recorded."""
    chosen = Filter(studio=studio, month=month, tests=False)
    for _, visit in record.visits(connection, chosen, payable_requires=payable_requires):
        yield visit


def _is_open(month: str) -> bool:
    """Whether it is still this month, or not yet, somewhere: the last time zone is twelve hours behind."""
    return clock.iso(clock.now() - timedelta(hours=12))[:7] <= month
