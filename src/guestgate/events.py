"""The event feed: all that was recorded, in the one order of `guestgate.sequence`.

Nothing is written for it. Each event is a row of the record, and a cursor is a place in that order, so a
reader that goes on where it stopped misses nothing and gets nothing twice. A decision waits for its answer
to be recorded, but not for long: how the answer left belongs to the event.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Connection

from guestgate import changes, clock, corrections, record, sequence
from guestgate.errors import OperationError, UsageError
from guestgate.model import VisitState
from guestgate.record import Filter, Order

CORRECTIONS = {VisitState.CONFIRMED.value: "confirmation", VisitState.REVERSED.value: "reversal"}


class LostPlaceError(OperationError):
    """A cursor that leads nowhere in this database: it was put back to an earlier state."""


class Row(NamedTuple):
    """One event before it has its cursor. ``ready`` is false where a decision still waits for its answer."""

    seq: int
    id: str
    type: str
    at: str
    data: dict[str, Any]
    ready: bool = True


def read(
    connection: Connection, after: str | None, limit: int, *, payable_requires: str
) -> tuple[list[dict[str, Any]], str]:
    """Up to `limit` events after a cursor (None: from the beginning), and the cursor to go on with.

    Raises UsageError for what is no cursor, LostPlaceError where its place is not in this record.
    """
    timeline, last = sequence.position(connection)
    seq = 0 if after is None else _seq(after, timeline, last)
    if seq == last:
        return [], f"{timeline}.{seq}"
    rows = [
        *_decisions(connection, seq, limit),
        *_visits(connection, seq, limit, payable_requires),
        *_corrections(connection, seq, limit),
        *_changes(connection, seq, limit),
    ]
    rows.sort(key=lambda row: row.seq)
    events = []
    for row in islice(rows, limit):
        if not row.ready or row.seq > last:  # what comes before it may not be visible yet
            break
        seq = row.seq
        events.append({"id": row.id, "cursor": f"{timeline}.{seq}", "type": row.type, "at": row.at, "data": row.data})
    return events, f"{timeline}.{seq}"


def end(connection: Connection) -> str:
    """The cursor behind all that is recorded so far."""
    timeline, last = sequence.position(connection)
    return f"{timeline}.{last}"


def _seq(cursor: str, timeline: str, last: int) -> int:
    history, _, number = cursor.partition(".")
    if not history or not number.isascii() or not number.isdecimal() or len(number) > 30:
        raise UsageError("after: this is not a cursor; give one that came with an event, or leave it out")
    if history != timeline or int(number) > last:
        raise LostPlaceError(
            "this cursor leads nowhere: the database was put back to an earlier state; read the feed again from "
            "its beginning and take every event by its id"
        )
    return int(number)


def _decisions(connection: Connection, seq: int, limit: int) -> list[Row]:
    now, chosen = clock.now(), Filter(after=seq, limit=limit, order=Order.ASCENDING)
    return [
        Row(
            number,
            f"decision-{data['id']}",
            "decision",
            data["received_at"],
            data,
            ready=not record.awaits_answer(data, now),
        )
        for number, data in record.decisions(connection, chosen)
    ]


def _visits(connection: Connection, seq: int, limit: int, payable_requires: str) -> list[Row]:
    """Visits as they were made; what became of them are events of their own."""
    chosen = Filter(after=seq, limit=limit, order=Order.ASCENDING)
    return [
        Row(
            number,
            f"visit-{data['id']}",
            "visit",
            data["at"],
            {**data, "state": VisitState.AUTHORIZED.value, "reversed_why": None},
        )
        for number, data in record.visits(connection, chosen, payable_requires=payable_requires)
    ]


def _corrections(connection: Connection, seq: int, limit: int) -> list[Row]:
    rows = []
    for number, data in corrections.correction_list(connection, after=seq, limit=limit):
        kind = CORRECTIONS.get(data["state"], "correction")
        rows.append(Row(number, f"{kind}-{number}", kind, data.pop("at"), data))
    return rows


def _changes(connection: Connection, seq: int, limit: int) -> list[Row]:
    chosen = Filter(after=seq, limit=limit, order=Order.ASCENDING)
    return [
        Row(number, f"change-{number}", "change", data.pop("at"), data)
        for number, data in changes.change_list(connection, chosen)
    ]
