"""Reading what check-ins, webhooks and our own people tell, and having visits and links follow from it.

Page by page, in the record's order. First what a page tells is written down, which takes little for each row. Then it
is followed, a few customers at a time: one webhook may name hundreds, and the door needs the lock meanwhile. At last
the page counts as read. All of it can be done again, so it may be killed anywhere, and any number of clerks may work
on one record: whoever writes is alone, and leaves a page that another one has read.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from guestgate import directory, locks, schema, sequence
from guestgate.attendance import attendances, customers, progress
from guestgate.attendance.attendances import FEW, Attended
from guestgate.attendance.links import LIFECYCLE
from guestgate.attendance.matching import Unit, Witness
from guestgate.attendance.webhook import Told, told_by
from guestgate.bulk import BulkInsert, BulkSelect
from guestgate.database import MAX_CHUNK, Database
from guestgate.directory import Directory
from guestgate.model import NO_CUSTOMER, Source

PAGE = 500
# So many rows take hardly longer to write down than one.
TOGETHER = 8

_d, _w, _s = schema.decisions.c, schema.webhooks.c, schema.sightings.c
_v, _c, _k = schema.visits.c, schema.changes.c, schema.customers.c
_decisions = select(_d.seq, _d.studio_id, _d.customer_id, _d.member_id, _d.received_at_ms)
# Whoever linked them: a member that was added with its customers has no change of its own for them.
_links = select(_c.seq, _c.after).where(
    _c.action.in_(["customer.linked", "member.added"]), _c.after.contains("customer")
)
_by_hand = select(_v.seq, _v.studio_id, _v.member_id, _v.at_ms).where(_v.source == Source.MANUAL.value)
_insert = BulkInsert(schema.sightings, ignore_existing=True)
_sighted = BulkSelect(_s.customer_id, _s.studio_id, among=_s.customer_id)
_customers_of = BulkSelect(_k.member_id, _k.customer_id, among=_k.member_id)


class _Page(NamedTuple):
    """What the record has up to a number, beyond what was read. ``links`` are changes that linked a customer."""

    upto: int
    letters: Sequence[Any]
    decisions: Sequence[Any]
    links: Sequence[Any]
    by_hand: Sequence[Any]


@dataclass
class _Case:
    """What is to be followed about a customer: what may have changed, and whether the platform told whose it is."""

    units: list[Unit] = field(default_factory=list)
    relink: bool = False


class Clerk:
    """One reader of the record."""

    def __init__(self, database: Database) -> None:
        """Nothing is read yet."""
        self._database = database
        self._directory = Directory(version=-1)
        self._attended = Attended([], [])
        self._upto = 0
        self._cases = defaultdict[int, _Case](_Case)

    def catch_up(self, *, to_the_end: bool = False) -> Attended:
        """Read all webhooks there are, with all else before them; returns what became of visits.

        What comes after the last webhook waits until there is another one, or is read `to_the_end`.
        """
        self._attended = Attended([], [])
        while page := self._page(to_the_end):
            self._read(page)
        return self._attended

    def _page(self, to_the_end: bool) -> _Page | None:
        """What comes next; nothing that something may still appear before."""
        with self._database.read() as connection:
            after = progress.read_up_to(connection)
            _, upto = sequence.position(connection)
            waiting = select(schema.webhooks).where(_w.seq > after, _w.seq <= upto).order_by(_w.seq)
            letters = connection.execute(waiting.limit(PAGE)).all()
            if len(letters) == PAGE or (letters and not to_the_end):
                upto = letters[-1].seq
            elif not letters and not to_the_end:
                return None
            others = []
            for query in (_decisions, _links, _by_hand):
                seq = query.selected_columns.seq
                rows = connection.execute(query.where(seq > after, seq <= upto).order_by(seq).limit(PAGE)).all()
                upto = rows[-1].seq if len(rows) == PAGE else upto
                others.append(rows)
            if directory.current_version(connection) != self._directory.version:
                self._directory = directory.load(connection)
        page = _Page(upto, *([row for row in rows if row.seq <= upto] for rows in (letters, *others)))
        return page if any(page[1:]) else None

    def _read(self, page: _Page) -> None:
        """Read a page, also one that was read in part: what follows rests on all there is, not on what is new."""
        self._upto = page.upto
        self._cases.clear()
        self._write(page.decisions, self._name, at_least=TOGETHER)
        self._write(self._told(page.letters), self._write_down, at_least=TOGETHER)
        with self._database.read() as connection:
            self._look_up(connection, page)
        self._write(self._cases.items(), self._follow, at_most=FEW)
        with self._database.write() as connection:
            if progress.read_up_to(connection) < page.upto:
                progress.note(connection, seq=page.upto)

    def _write(
        self,
        items: Iterable[Any],
        write: Callable[[Connection, list[Any]], None],
        *,
        at_least: int = 1,
        at_most: int = MAX_CHUNK,
    ) -> None:
        """Write items, unless another clerk has read the page by then."""

        def unless_read(connection: Connection, some: list[Any]) -> None:
            if progress.read_up_to(connection) < self._upto:
                write(connection, some)

        for _ in self._database.write_many(items, unless_read, at_least=at_least, at_most=at_most):
            pass

    def _name(self, connection: Connection, decisions: Sequence[Any]) -> None:
        """Remember whom check-ins named."""
        # Somebody may have been forgotten since these were read.
        there = locks.existing(connection, {row.member_id for row in decisions if row.member_id is not None})
        customers.name(
            connection,
            [
                row
                for row in decisions
                if row.customer_id != NO_CUSTOMER and (row.member_id is None or row.member_id in there)
            ],
        )

    def _told(self, letters: Iterable[Any]) -> Iterator[tuple[Any, Told]]:
        """All that webhooks tell, each with its webhook."""
        for row in letters:
            for one in told_by(row.body, self._directory.studios[row.studio_id].timezone):
                yield row, one

    def _write_down(self, connection: Connection, told: Sequence[tuple[Any, Told]]) -> None:
        """Write down what webhooks tell, and what of it is to be followed."""
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
        for row, one in told:
            if one.kind in LIFECYCLE:
                self._cases[one.customer_id].relink = True
            elif (row.studio_id, one.customer_id) in known:
                self._add([Unit(row.studio_id, one.customer_id, one.at_ms, one.at_ms)])

    def _look_up(self, connection: Connection, page: _Page) -> None:
        """What the rest of a page may change of what was told, of this page and before."""
        customers_of = defaultdict[str, list[int]](list)
        for member_id, customer_id in _customers_of(connection, {row.member_id for row in page.by_hand}):
            customers_of[member_id].append(customer_id)
        moments = [(row.studio_id, row.customer_id, row.received_at_ms) for row in page.decisions]
        moments += [(row.studio_id, one, row.at_ms) for row in page.by_hand for one in customers_of[row.member_id]]
        units = [Unit(*moment, moment[-1]) for moment in moments]
        linked = {customer_id for row in page.links for customer_id in _linked_by(row)}
        sighted = set(map(tuple, _sighted(connection, {unit.customer_id for unit in units} | linked)))
        self._add(unit for unit in units if (unit.customer_id, unit.studio_id) in sighted)
        for customer_id in linked & {customer_id for customer_id, _ in sighted}:
            self._add(customers.moved(connection, customer_id))

    def _add(self, units: Iterable[Unit]) -> None:
        for unit in units:
            self._cases[unit.customer_id].units.append(unit)

    def _follow(self, connection: Connection, cases: Sequence[tuple[int, _Case]]) -> None:
        """Have links and visits follow for a few customers."""
        units = [unit for _, case in cases for unit in case.units]
        units += customers.make_ours(connection, {customer_id for customer_id, _ in cases})
        for customer_id, case in cases:
            if case.relink:
                units += customers.relink(connection, customer_id)
        attended = attendances.follow(connection, units)
        self._attended.confirmed.extend(attended.confirmed)
        self._attended.not_confirmed.extend(attended.not_confirmed)


def _linked_by(change: Any) -> list[int]:
    """The customers that a change linked to a member, unless they were forgotten since."""
    after = json.loads(change.after)
    given = [*after.get("customers", ()), after.get("customer_id")]
    return [customer_id for customer_id in given if isinstance(customer_id, int) and customer_id != NO_CUSTOMER]
