"""The lines of a statement: a visit each, as it stands, with what it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import Connection

from guestgate import clock, schema
from guestgate.bulk import BulkSelect
from guestgate.model import BY_CHECKIN, VisitState
from guestgate.payable import Count

_w = schema.visit_changes.c
_confirmations = BulkSelect(
    _w.visit_id,
    _w.seq,
    _w.changed_at_ms,
    _w.who,
    _w.why,
    among=_w.visit_id,
    where=[_w.state == VisitState.CONFIRMED.value],
)


class Kind(StrEnum):
    """What a line is."""

    VISIT = "visit"  # one of the month
    ADJUSTMENT = "adjustment"  # of an earlier month, which is closed: what has become of it since


class Line(NamedTuple):
    """The columns of `guestgate.schema.statement_lines` after those that number a line."""

    kind: str
    payable: int
    visit_id: str
    member_id: str
    studio_id: str
    at_ms: int
    local_date: str
    state: str
    source: str
    plan_id: str | None
    plan_version: int | None
    confirmed_at_ms: int | None
    confirmed_by: str | None
    confirmation: str | None
    adjusts: str | None = None
    changed_at_ms: int | None = None
    changed_by: str | None = None
    why: str | None = None


def lines(connection: Connection, visits: Sequence[Any], payable: dict[str, int], kind: Kind) -> list[Line]:
    """Lines for rows of `guestgate.schema.visits`; `payable` is by their ids, and nothing where it has none."""
    confirmed: dict[str, tuple[int, str, str]] = {}
    ids = [visit.id for visit in visits if visit.state == VisitState.CONFIRMED.value]
    for visit_id, _, *confirmation in sorted(_confirmations(connection, ids), key=_by_seq):
        confirmed[visit_id] = tuple(confirmation)
    return [
        Line(
            kind.value,
            payable.get(visit.id, 0),
            visit.id,
            visit.member_id,
            visit.studio_id,
            visit.at_ms,
            visit.local_date,
            visit.state,
            visit.source,
            visit.plan_id,
            visit.plan_version,
            *confirmed.get(visit.id, (None, None, None)),
        )
        for visit in visits
    ]


def _by_seq(row: Sequence[Any]) -> int:
    seq: int = row[1]
    return seq


def line_dict(month: str, line: Any) -> dict[str, Any]:
    """A line of a month's statement as users see it."""
    return {
        "month": month,
        "kind": line.kind,
        "visit": line.visit_id,
        "member": line.member_id,
        "studio": line.studio_id,
        "at": clock.iso_of(line.at_ms),
        "local_date": line.local_date,
        "state": line.state,
        "source": line.source,
        "payable": line.payable,
        "decision": line.visit_id if line.source in BY_CHECKIN else None,
        "confirmed_at": clock.iso_of(line.confirmed_at_ms),
        "confirmed_by": line.confirmed_by,
        "confirmation": line.confirmation,
        "plan": line.plan_id,
        "plan_version": line.plan_version,
        "adjusts": line.adjusts,
        "changed_at": clock.iso_of(line.changed_at_ms),
        "changed_by": line.changed_by,
        "why": line.why,
    }


class Totals:
    """Sums by studio and plan."""

    def __init__(self) -> None:
        """Nothing has been added."""
        self._sums: dict[tuple[str, str], dict[str, Any]] = {}

    def add(self, line: Line) -> None:
        """One more line."""
        if line.kind == Kind.ADJUSTMENT.value:
            self._total(line.studio_id, line.plan_id)["adjustments"] += line.payable
        else:
            self.count(Count(line.studio_id, line.plan_id, line.state, 1, line.payable))

    def count(self, count: Count) -> None:
        """As many lines of visits."""
        total = self._total(count.studio_id, count.plan_id)
        total["reversed" if count.state == VisitState.REVERSED.value else "visits"] += count.visits
        total["payable"] += count.payable

    def _total(self, studio: str, plan: str | None) -> dict[str, Any]:
        return self._sums.setdefault(
            (studio, plan or ""),
            {"studio": studio, "plan": plan, "visits": 0, "payable": 0, "reversed": 0, "adjustments": 0},
        )

    def sums(self) -> list[dict[str, Any]]:
        """In the order of studios and plans."""
        return [self._sums[key] for key in sorted(self._sums)]
