"""Having visits follow from who was seen to come in. Every function is part of the caller's transaction.

What is worked out for a customer at a studio rests on all that is known around the instants that are new, whatever
was worked out before. Only a change is written: as a correction of the visit, and beside what was seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, select, update

from guestgate import clock, corrections, locks, schema
from guestgate.attendance.matching import MAX_STAY_MS, WINDOW_MS, Opening, Sighting, Unit, Witness, visits_of
from guestgate.attendance.webhook import Kind
from guestgate.bulk import BulkSelect
from guestgate.corrections import NO_ENTRY, UNDELIVERED
from guestgate.database import SYSTEM
from guestgate.model import BY_CHECKIN, Source, VisitState

# Beyond this, nothing that lies close to one another hangs together.
NEAR_MS = 30 * WINDOW_MS
DAY_MS = 86_400_000
# Following what is new about one customer takes several queries, so one transaction does it for so many.
FEW = 4
MOVES = (Kind.ENTRY.value, Kind.EXIT.value)

_d, _a, _v, _w = schema.decisions.c, schema.answers.c, schema.visits.c, schema.visit_changes.c
_s, _k, _n = schema.sightings.c, schema.customers.c, schema.named_customers.c
# A stand-in may have denied what the ledger had allowed; then the visit has a decision that let nobody in.
_made = BulkSelect(_d.id, _d.customer_id, among=_d.id, where=[_d.visit_id.is_not(None)])
_left = BulkSelect(_a.decision_id, _a.undelivered, among=_a.decision_id)
_belongs = (
    update(schema.sightings)
    .where(_s.seq == bindparam("b_seq"))
    .values(visit_id=bindparam("b_visit"), member_id=bindparam("b_member"))
)


class Attended(NamedTuple):
    """What became of visits: the ids of those that were confirmed, and of those that are confirmed no more."""

    confirmed: list[str]
    not_confirmed: list[str]


def follow(connection: Connection, units: Iterable[Unit]) -> Attended:
    """Have visits and what was seen agree, wherever something may be new."""
    spans: dict[tuple[str, int], tuple[int, int]] = {}
    for studio_id, customer_id, since_ms, until_ms in units:
        since, until = spans.get((studio_id, customer_id), (since_ms, until_ms))
        spans[studio_id, customer_id] = min(since, since_ms), max(until, until_ms)
    attended = Attended([], [])
    for (studio_id, customer_id), (since_ms, until_ms) in sorted(spans.items()):
        one = _Attendance(connection, Unit(studio_id, customer_id, since_ms, until_ms))
        one.write(attended)
    return attended


def reverse_absent(connection: Connection, unit: Unit) -> list[str]:
    """Reverse a customer's visits of unknown delivery between two instants that no entry belongs to; returns them.

    Only where the platform's history was asked about all of that, and is written down: a webhook may be lost.
    """
    return _Attendance(connection, unit).reverse_absent()


class _Attendance:
    """One customer at one studio, around some instants."""

    def __init__(self, connection: Connection, unit: Unit) -> None:
        """Read all that it rests on, under the members' locks."""
        self._connection, self._unit = connection, unit
        # What is written, and what that may rest on.
        self._first_ms, self._last_ms = unit.since_ms - NEAR_MS, unit.until_ms + MAX_STAY_MS
        self._around = (self._first_ms - MAX_STAY_MS - NEAR_MS, self._last_ms + NEAR_MS)
        linked = connection.execute(
            select(_k.member_id).where(_k.customer_id == unit.customer_id)
        ).scalar_one_or_none()
        named = connection.execute(
            select(_n.member_id).where(
                _n.customer_id == unit.customer_id, _n.studio_id == unit.studio_id, _n.member_id != ""
            )
        ).scalars()
        self._members = set(named) | ({linked} if linked else set())
        for member_id in sorted(self._members):
            locks.lock(connection, member_id)
        self._rows = connection.execute(
            select(schema.sightings).where(
                _s.customer_id == unit.customer_id,
                _s.studio_id == unit.studio_id,
                _s.kind.in_(MOVES),
                _s.at_ms.between(*self._around),
            )
        ).all()
        self._visits = self._read_visits() if self._members else {}
        self._openings: list[Opening] = []
        # Visits that somebody surely was told of, whoever's card it was.
        self._delivered: set[str] = set()
        if self._visits:
            self._read_openings(linked)

    def _read_visits(self) -> dict[str, Any]:
        query = select(schema.visits).where(
            _v.member_id.in_(self._members),
            # By the index of dates, which are a day ahead or behind somewhere.
            _v.local_date.between(_date(self._around[0] - DAY_MS), _date(self._around[1] + DAY_MS)),
            _v.at_ms.between(*self._around),
            _v.studio_id == self._unit.studio_id,
            _v.source != Source.IMPORT.value,
        )
        return {row.id: row for row in self._connection.execute(query)}

    def _read_openings(self, linked: str | None) -> None:
        """Answers that let this customer in, and what staff entered for the member that the customer is linked to."""
        customer_of = dict(_made(self._connection, list(self._visits)))
        reentries = self._connection.execute(
            select(_d.id, _d.visit_id, _d.received_at_ms, _d.customer_id).where(
                schema.made_no_visit,
                _d.member_id.in_(self._members),
                _d.visit_id.in_(list(self._visits)),
            )
        ).all()
        answers = [
            (row.at_ms, row.id, row.id, customer_of[row.id]) for row in self._visits.values() if row.id in customer_of
        ]
        answers += [(row.received_at_ms, row.id, row.visit_id, row.customer_id) for row in reentries]
        left = dict(_left(self._connection, [decision_id for _, decision_id, _, _ in answers]))
        for at_ms, decision_id, visit_id, customer_id in answers:
            if left.get(decision_id) in (False, 0):
                self._delivered.add(visit_id)
            if customer_id == self._unit.customer_id:
                undelivered = bool(left.get(decision_id))
                self._openings.append(Opening(at_ms, decision_id, visit_id, undelivered))
        for row in self._visits.values():
            if row.source == Source.MANUAL.value and row.member_id == linked:
                self._openings.append(Opening(row.at_ms, row.id, row.id, undelivered=False))

    def write(self, attended: Attended) -> None:
        """Bring up to date what may have changed, and tell of visits whose state did."""
        if not self._members:
            return
        seen = {_sighting(row): row for row in self._rows}
        found = visits_of(self._openings, seen.keys())
        entries: dict[str, list[Sighting]] = defaultdict(list)
        for sighting, visit_id in found.items():
            if sighting.kind is Kind.ENTRY:
                entries[visit_id].append(sighting)
        lost = {row.visit_id for row in self._rows if row.kind == Kind.ENTRY.value} - entries.keys()
        for visit_id in sorted(self._visits):
            visit = self._visits[visit_id]
            if not self._first_ms <= visit.at_ms <= self._last_ms:
                continue
            if visit_id in entries and self._confirm(visit, min(entries[visit_id], key=_best)):
                attended.confirmed.append(visit_id)
            elif visit_id in lost and self._take_back(visit):
                attended.not_confirmed.append(visit_id)
        self._note(seen, found)

    def reverse_absent(self) -> list[str]:
        """Reverse visits that nobody is known to have been told of and nobody was seen to come in on."""
        came_in = set(visits_of(self._openings, [_sighting(row) for row in self._rows]).values())
        named = {opening.visit_id for opening in self._openings}
        return [
            visit_id
            for visit_id, visit in sorted(self._visits.items())
            if visit.source in BY_CHECKIN
            and self._unit.since_ms <= visit.at_ms <= self._unit.until_ms
            and visit.state == VisitState.AUTHORIZED.value
            and visit_id in named - self._delivered - came_in
            and corrections.reverse(self._connection, visit_id, NO_ENTRY)
        ]

    def _confirm(self, visit: Any, entry: Sighting) -> bool:
        if visit.state == VisitState.CONFIRMED.value:
            return False
        if visit.state == VisitState.REVERSED.value and self._reversed_by_hand(visit):
            return False
        return corrections.confirm(self._connection, visit.id, why(entry))

    def _reversed_by_hand(self, visit: Any) -> bool:
        """Whether that was a decision of people, which no evidence undoes."""
        last = self._connection.execute(
            select(_w.who).where(_w.visit_id == visit.id).order_by(_w.seq.desc()).limit(1)
        ).scalar_one_or_none()
        if last in (None, SYSTEM):
            return False
        # Somebody may have carried over by hand what a stand-in had decided.
        return not (visit.reversed_why == UNDELIVERED and self._is_undelivered(visit.id))

    def _is_undelivered(self, visit_id: str) -> bool:
        return all(opening.undelivered for opening in self._openings if opening.visit_id == visit_id)

    def _take_back(self, visit: Any) -> bool:
        """What seemed to be an entry on this visit turned out to be one on another."""
        if visit.state != VisitState.CONFIRMED.value:
            return False
        if self._is_undelivered(visit.id):
            return corrections.reverse(self._connection, visit.id, UNDELIVERED)
        return corrections.authorize(self._connection, visit.id, "the entry belongs to another visit")

    def _note(self, seen: Mapping[Sighting, Any], found: Mapping[Sighting, str]) -> None:
        """Write beside what was seen whose it is and which visit it belongs to."""
        only = next(iter(self._members)) if len(self._members) == 1 else None
        changed = []
        for sighting, row in seen.items():
            if self._first_ms <= sighting.at_ms <= self._last_ms:
                visit_id = found.get(sighting)
                member_id = self._visits[visit_id].member_id if visit_id else only
                if (row.visit_id, row.member_id) != (visit_id, member_id):
                    changed.append({"b_seq": row.seq, "b_visit": visit_id, "b_member": member_id})
        if changed:
            self._connection.execute(_belongs, changed)


def why(entry: Sighting) -> str:
    """What a confirmation rests on, so that it can be found again."""
    what = "webhook" if entry.source is Witness.WEBHOOK else "check-in"
    return f"entry told by {what} {entry.reference}"


def stay_of(connection: Connection, visit_id: str) -> dict[str, str | None]:
    """When somebody came in on a visit and left, as far as that was told: ``entered_at``, ``left_at``."""
    rows: Collection[Any] = connection.execute(select(_s.kind, _s.at_ms).where(_s.visit_id == visit_id)).all()
    first = {kind: min((row.at_ms for row in rows if row.kind == kind), default=None) for kind in MOVES}
    return {
        "entered_at": clock.iso_of(first[Kind.ENTRY.value]),
        "left_at": clock.iso_of(first[Kind.EXIT.value]),
    }


def _sighting(row: Any) -> Sighting:
    return Sighting(row.at_ms, Kind(row.kind), Witness(row.source), row.reference)


def _best(entry: Sighting) -> tuple[bool, Sighting]:
    """Of several entries that confirm a visit, the first that a webhook told of."""
    return entry.source is not Witness.WEBHOOK, entry


def _date(ms: int) -> str:
    return clock.from_ms(max(0, min(ms, 253_402_300_799_999))).date().isoformat()
