"""Visits that no check-in made: those of an earlier system, so that limits carry on, and those added by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from sqlalchemy import Connection, select

from guestgate import changes, clock, directory, members, schema, sequence, studios
from guestgate.bulk import BulkInsert, BulkSelect
from guestgate.changes import Change
from guestgate.errors import UsageError
from guestgate.instants import parse_instant
from guestgate.model import Plan, Source, Studio, VisitState
from guestgate.rows import BadRow, BadRowError, Report

FIELDS = ("member_id", "studio_id", "at")
# Importing the same visit twice gives the same id.
NAMESPACE = UUID("6f1b5d5e-2f0b-5c55-9a3e-3f0c2f3f7a11")

_members = BulkSelect(schema.members.c.id, schema.members.c.plan_id, among=schema.members.c.id)
_visits = BulkSelect(schema.visits.c.id, among=schema.visits.c.id)
_insert = BulkInsert(schema.visits)


class VisitRow(NamedTuple):
    """A visit as an earlier system knew it."""

    line: int
    member_id: str
    studio_id: str
    at: datetime

    @property
    def id(self) -> str:
        """The same for the same member, studio and millisecond."""
        return str(uuid5(NAMESPACE, f"{self.member_id}\0{self.studio_id}\0{clock.to_ms(self.at)}"))


def parse_row(line: int, given: dict[str, Any]) -> VisitRow:
    """Check one row's fields, each by itself. Raises BadRowError."""
    for name in given:
        if name not in FIELDS:
            raise BadRowError(f"{name[:64]!a}: there is no such field")
    for name in FIELDS:
        if not isinstance(given.get(name), str) or not given[name].strip():
            raise BadRowError(f"{name}: is missing, or not a text")
        if any(0xD800 <= ord(character) <= 0xDFFF for character in given[name]):
            raise BadRowError(f"{name}: is not UTF-8")
    try:
        at = parse_instant(given["at"].strip(), "at")
    except UsageError as error:
        raise BadRowError(str(error)) from None
    if at > clock.now():
        raise BadRowError(f"at: {given['at']} lies in the future")
    return VisitRow(line, given["member_id"].strip(), given["studio_id"].strip(), at)


class Import:
    """Adds visits that are not there yet; bad rows are reported and the others kept."""

    def __init__(self) -> None:
        """Nothing has been imported yet."""
        self.report = Report()
        self._directory = directory.Directory()

    def __call__(self, connection: Connection, given: Sequence[VisitRow | BadRow]) -> None:
        """Take some rows, in their order."""
        rows = [row for row in given if isinstance(row, VisitRow)]
        if self._directory.version != directory.current_version(connection):
            self._directory = directory.load(connection)
        known_studios = self._directory.studios
        known = {member_id for member_id, _ in _members(connection, {row.member_id for row in rows})}
        present = {visit_id for (visit_id,) in _visits(connection, {row.id for row in rows})}
        fresh: list[VisitRow] = []
        for row in given:
            if isinstance(row, BadRow):
                self.report.bad.append(row)
            elif row.member_id not in known:
                self.report.bad.append(BadRow(row.line, f"member_id: there is no member {row.member_id!r}"))
            elif row.studio_id not in known_studios:
                self.report.bad.append(BadRow(row.line, f"studio_id: there is no studio {row.studio_id!r}"))
            elif row.id in present:
                self.report.unchanged += 1
            else:
                present.add(row.id)
                self.report.added += 1
                fresh.append(row)
        _add(connection, [(row, known_studios[row.studio_id], None) for row in fresh], Source.IMPORT)


def add(connection: Connection, row: VisitRow) -> bool:
    """Add a visit by hand, under the member's plan as it is now; False where it is there already.

    Raises NotFoundError where there is no such member or studio.
    """
    book = directory.load(connection)
    plan = book.plans[members.require(connection, row.member_id).plan_id]
    studios.require(connection, row.studio_id)
    if connection.execute(select(schema.visits.c.id).where(schema.visits.c.id == row.id)).first() is not None:
        return False
    _add(connection, [(row, book.studios[row.studio_id], plan)], Source.MANUAL)
    return True


def _add(connection: Connection, visits: Sequence[tuple[VisitRow, Studio, Plan | None]], source: Source) -> None:
    """Write visits and who added them."""
    if not visits:
        return
    trail, rows = [], []
    for seq, (row, studio, plan) in zip(sequence.take(connection, len(visits)), visits, strict=True):
        trail.append(
            Change(
                "visit.added",
                row.id,
                None,
                {"member": row.member_id, "studio": studio.id, "at": clock.iso(row.at), "source": source.value},
            )
        )
        rows.append(
            (
                seq,
                row.id,
                row.member_id,
                studio.id,
                clock.to_ms(row.at),
                row.at.astimezone(studio.timezone).date().isoformat(),
                directory.tags_text(studio.tags),
                studio.test,
                VisitState.AUTHORIZED.value,
                None,
                source.value,
                plan.id if plan else None,
                plan.version if plan else None,
            )
        )
    _insert(connection, rows)
    changes.record(connection, trail)
