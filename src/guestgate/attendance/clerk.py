"""Reading what check-ins and webhooks tell, in the record's order, and having visits and links follow from it.

How far it has been read is written down in the same transaction as what followed. So it may be killed anywhere, and
any number of clerks may work on one record: whoever writes is alone, and finds out what another one has read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, select

from guestgate import directory, locks, schema, sequence
from guestgate.attendance import attendances, customers, progress
from guestgate.attendance.attendances import Attended
from guestgate.attendance.links import LIFECYCLE
from guestgate.attendance.matching import Unit, Witness
from guestgate.attendance.webhook import told_by
from guestgate.bulk import BulkInsert, BulkSelect
from guestgate.database import Database
from guestgate.directory import Directory
from guestgate.forget import NO_CUSTOMER

PAGE = 500
# Most webhooks tell of the gym's own customers, and nothing has to be worked out for those.
TOGETHER = 8

_d, _w, _s = schema.decisions.c, schema.webhooks.c, schema.sightings.c
_decisions = select(_d.seq, _d.studio_id, _d.customer_id, _d.member_id, _d.received_at_ms)
_insert = BulkInsert(schema.sightings, ignore_existing=True)
_sighted = BulkSelect(_s.customer_id, _s.studio_id, among=_s.customer_id)


class Clerk:
    """One reader of the record."""

    def __init__(self, database: Database) -> None:
        """Nothing is read yet."""
        self._database = database
        self._directory = Directory(version=-1)
        self._attended = Attended([], [])

    def catch_up(self, *, to_the_end: bool = False) -> Attended:
        """Read all webhooks there are, with the decisions before them; returns what became of visits.

        Decisions after the last webhook wait until there is another one, or are read `to_the_end`.
        """
        self._attended = Attended([], [])
        while page := self._page(to_the_end):
            for _ in self._database.write_many(page, self._take, at_least=TOGETHER):
                pass
        return self._attended

    def _page(self, to_the_end: bool) -> list[Any]:
        """The next decisions and webhooks in their order; nothing that something may still appear before."""
        with self._database.read() as connection:
            after = progress.read_up_to(connection)
            _, upto = sequence.position(connection)
            waiting = select(schema.webhooks).where(_w.seq > after, _w.seq <= upto).order_by(_w.seq)
            letters = connection.execute(waiting.limit(PAGE)).all()
            if len(letters) == PAGE or (letters and not to_the_end):
                upto = letters[-1].seq
            elif not letters and not to_the_end:
                return []
            before = _decisions.where(_d.seq > after, _d.seq <= upto).order_by(_d.seq)
            decisions = connection.execute(before.limit(PAGE)).all()
        if len(decisions) == PAGE:
            upto = decisions[-1].seq
        return sorted([*decisions, *(row for row in letters if row.seq <= upto)], key=lambda row: row.seq)

    def _take(self, connection: Connection, chunk: Sequence[Any]) -> None:
        done = progress.read_up_to(connection)
        rows = [row for row in chunk if row.seq > done]
        if not rows:
            return
        if directory.current_version(connection) != self._directory.version:
            self._directory = directory.load(connection)
        decisions = [row for row in rows if not hasattr(row, "body")]
        letters = [row for row in rows if hasattr(row, "body")]
        units = self._decided(connection, decisions) if decisions else []
        units += self._told(connection, letters) if letters else []
        attended = attendances.follow(connection, units)
        self._attended.confirmed.extend(attended.confirmed)
        self._attended.not_confirmed.extend(attended.not_confirmed)
        progress.note(connection, seq=rows[-1].seq)

    def _decided(self, connection: Connection, decisions: Collection[Any]) -> list[Unit]:
        """Remember whom check-ins named; returns what they may change of what was told before."""
        # Somebody may have been forgotten since these were read.
        there = locks.existing(connection, {row.member_id for row in decisions if row.member_id is not None})
        decisions = [
            row
            for row in decisions
            if row.customer_id != NO_CUSTOMER and (row.member_id is None or row.member_id in there)
        ]
        fresh = customers.name(connection, decisions)
        seen = set(map(tuple, _sighted(connection, {row.customer_id for row in decisions})))
        units = customers.make_ours(connection, fresh & {customer_id for customer_id, _ in seen})
        return units + [
            Unit(row.studio_id, row.customer_id, row.received_at_ms, row.received_at_ms)
            for row in decisions
            if (row.customer_id, row.studio_id) in seen
        ]

    def _told(self, connection: Connection, letters: Collection[Any]) -> list[Unit]:
        """Write down what webhooks tell; returns what that may change."""
        told = [
            (row, one)
            for row in letters
            for one in told_by(row.body, self._directory.studios[row.studio_id].timezone)
        ]
        known = customers.known(connection, {(row.studio_id, one.customer_id) for row, one in told})
        numbers = sequence.take(connection, len(told))
        _insert(
            connection,
            [
                (
                    number,
                    one.customer_id,
                    row.studio_id,
                    one.kind.value,
                    Witness.WEBHOOK.value,
                    one.reference,
                    one.at_ms,
                    row.received_at_ms,
                    (row.studio_id, one.customer_id) in known,
                    one.member_id,
                    None,
                )
                for number, (row, one) in zip(numbers, told, strict=True)
            ],
        )
        units = [
            Unit(row.studio_id, one.customer_id, one.at_ms, one.at_ms)
            for row, one in told
            if one.kind not in LIFECYCLE and (row.studio_id, one.customer_id) in known
        ]
        for customer_id in sorted({one.customer_id for _, one in told if one.kind in LIFECYCLE}):
            units += customers.relink(connection, customer_id)
        return units
