"""The audit trail: who changed what, when, and how it was before and after.

Every function that changes members, studios, keys, plans or tokens records it here, in the same
transaction; who does it is known from the transaction (`Database.write`). Corrections of visits have a
trail of their own, `visit_changes`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from guestgate import clock, schema, sequence, stretch
from guestgate.bulk import BulkInsert
from guestgate.database import author
from guestgate.record import Filter, rows

_c = schema.changes.c
_insert = BulkInsert(schema.changes)


class Change(NamedTuple):
    """One change. ``action`` is ``noun.verb``; ``before`` and ``after`` are None where there is nothing."""

    action: str
    subject: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


def record(connection: Connection, changes: Sequence[Change]) -> None:
    """Write changes down, each with what differs between before and after."""
    if not changes:
        return
    who, at_ms = author(connection), clock.now_ms()
    written = []
    for seq, change in zip(sequence.take(connection, len(changes)), changes, strict=True):
        before, after = _differences(change.before, change.after)
        written.append((seq, at_ms, who, change.action, change.subject, _json(before), _json(after)))
    _insert(connection, written)


def _differences(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    if before is None or after is None:
        return before, after
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {name: before.get(name) for name in names}, {name: after.get(name) for name in names}


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def change_list(connection: Connection, chosen: Filter) -> Iterator[tuple[int, dict[str, Any]]]:
    """Changes in the order they were made, each with its ``seq``."""
    query = select(schema.changes)
    if chosen.subject is not None:
        query = query.where(_c.subject == chosen.subject)
    if chosen.since is not None:
        query = query.where(_c.at_ms >= clock.to_ms(chosen.since))
        if chosen.subject is None:
            query = query.where(*stretch.of_changes(connection, chosen.since))
    for row in rows(connection, query, _c.seq, chosen):
        yield row.seq, change_dict(row)


def change_dict(row: Any) -> dict[str, Any]:
    """A row of `guestgate.schema.changes` as users see it."""
    return {
        "at": clock.iso_of(row.at_ms),
        "who": row.who,
        "action": row.action,
        "subject": row.subject,
        "before": json.loads(row.before) if row.before else None,
        "after": json.loads(row.after) if row.after else None,
    }
