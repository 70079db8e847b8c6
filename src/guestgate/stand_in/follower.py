"""Keeping a copy level with the shared record.

A round reads what has been recorded since the last one, by the record's own numbers, and then how the members and
visits that this is about are now. So a round that is repeated, or reads something that a later one reads again,
does no harm. What such numbers do not tell is found by comparing everything, in the order of the keys: for a new
copy, after a failover or a restore, when plans reach further back than before, and once a day.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Column, ColumnElement, Connection, Table, case, delete, or_, select, update

from guestgate import clock, directory, schema, sequence
from guestgate.bulk import BulkSelect
from guestgate.database import Database
from guestgate.forget import new_pseudonym
from guestgate.model import NO_CUSTOMER, Plan, VisitState
from guestgate.stand_in import copy
from guestgate.stand_in.copy import CUSTOMER_COLUMNS, DIRECTORY, MEMBER_COLUMNS, VISIT_COLUMNS, StandInCopy

log = structlog.get_logger()

# Rows of one transaction here; the ledger beside it waits for so many, unless there is nothing yet to decide on.
PAGE, FIRST_PAGE = 1000, 10_000
SYNC_EVERY_MS = 24 * 3600 * 1000
# Of an hour with a transaction that stays open.
MOST_HEIGHTS = 20_000
FORGOTTEN = "member.forgotten"
ABOUT_MEMBERS, ABOUT_TOKENS = ("member.", "customer."), "token."

_d, _m, _k, _v = schema.decisions.c, schema.members.c, schema.customers.c, schema.visits.c
_w, _a = schema.visit_changes.c, schema.changes.c
_member_columns = [_m[name] for name in MEMBER_COLUMNS]
_visit_columns = [_v[name] for name in VISIT_COLUMNS]
_members = BulkSelect(*_member_columns, among=_m.id)
_links = BulkSelect(_k.customer_id, _k.member_id, among=_k.member_id)
_visits = BulkSelect(*_visit_columns, among=_v.id, where=[_v.state != VisitState.REVERSED.value])
_visits_of = BulkSelect(*_visit_columns, among=_v.member_id, where=[_v.state != VisitState.REVERSED.value])
_plans_here = BulkSelect(_m.id, _m.plan_id, among=_m.id)


class Reach(NamedTuple):
    """How far back visits matter: so many days, and for members of some plans all of them."""

    days: int
    total_plans: frozenset[str]

    @staticmethod
    def of(plans: Collection[Plan]) -> Reach:
        """As far as these plans' limits."""
        days = [plan.reach_days for plan in plans]
        total = frozenset(plan.id for plan in plans if plan.reach_days is None)
        return Reach(max((each for each in days if each is not None), default=0), total)


class Follower:
    """Copies, and is the only one who does."""

    def __init__(self, shared: Database, own: StandInCopy) -> None:
        """Nothing is read before the first `round`."""
        self._shared, self._copy = shared, own
        self._directory_version = -1
        self._reach = Reach(0, frozenset())
        # Numbers that had been given out, and when that was: once all up to one of them is here, the copy is level
        # with that instant.
        self._heights: deque[tuple[int, int]] = deque(maxlen=MOST_HEIGHTS)
        # Whether the next round will compare everything, which takes long.
        self.to_compare = False

    def round(self) -> bool:
        """Bring the copy up to date, or find that only comparing everything does; False where there is more to do.

        Raises OperationError where one of the two databases cannot be used.
        """
        with self._copy.database.read() as connection:
            here = copy.progress(connection)
        with self._shared.read() as connection:
            now_ms = clock.now_ms()
            timeline, last = sequence.position(connection)
            behind = self._is_behind(connection, here, timeline, now_ms)
            news = None if behind else self._read_news(connection, here.seq, last)
            self._heights.append((sequence.given_out(connection) or last, now_ms))
        if news is None:
            if self.to_compare:
                self._sync(timeline, last, FIRST_PAGE if here.timeline is None else PAGE)
            self.to_compare = not self.to_compare
            return False
        self.to_compare = False
        self._take(news, self._level_at_ms(news.upto))
        self._copy.erase_traces()
        return news.upto == last

    def _level_at_ms(self, upto: int) -> int | None:
        """The last instant by which no number above this had been given out; None where that was known before.

        While a transaction stays open, nothing that came after it can be read.
        """
        level_at_ms = None
        while self._heights and self._heights[0][0] <= upto:
            _, level_at_ms = self._heights.popleft()
        return level_at_ms

    def _is_behind(self, shared: Connection, here: Any, timeline: str, now_ms: int) -> bool:
        """Whether only comparing everything brings the copy up to date."""
        if here.timeline != timeline or now_ms - int(here.synced_at_ms) >= SYNC_EVERY_MS:
            return True
        self._read_directory(shared)
        since = clock.from_ms(now_ms).date() - timedelta(days=self._reach.days)
        return bool(since.isoformat() < here.since or self._reach.total_plans - set(json.loads(here.total_plans)))

    def _read_directory(self, shared: Connection) -> None:
        """Copy studios, keys, plans and tokens where they have changed."""
        version = directory.current_version(shared)
        if version == self._directory_version:
            return
        tables = {table.name: [tuple(row) for row in shared.execute(select(table))] for table in DIRECTORY}
        with self._copy.database.write() as connection:
            copy.put_directory(connection, tables)
            self._reach = Reach.of(directory.load_plans(connection).values())
        self._directory_version = version

    # What has been recorded since

    def _read_news(self, shared: Connection, seq: int, last: int) -> _News:
        pages = [_since(shared, columns, seq, last) for columns in (_NEW_VISITS, _CORRECTIONS, _CHANGES)]
        upto = min([last, *(page[-1].seq for page in pages if len(page) == PAGE)])
        made, corrected, changed = ([row for row in page if row.seq <= upto] for page in pages)
        visits = {row.id for row in made} | {row.visit_id for row in corrected}
        if any(row.action.startswith(ABOUT_TOKENS) for row in changed):  # they have no version
            self._directory_version = -1
            self._read_directory(shared)
        members = {row.subject for row in changed if row.action.startswith(ABOUT_MEMBERS)}
        return _News(
            upto=upto,
            people=self._read_people(shared, members),
            visits=visits,
            counting=current_visits(shared, visits),
            somebody_forgotten=any(row.action == FORGOTTEN for row in changed),
        )

    def _take(self, news: _News, level_at_ms: int | None) -> None:
        """Have it here; `level_at_ms` is an instant that the copy is level with then, where that is known."""
        if news.somebody_forgotten:
            self._forget()
        with self._copy.database.write() as connection:
            news.people.write(connection)
            take_visits(connection, news.visits, news.counting)
            copy.note(connection, seq=news.upto, **({} if level_at_ms is None else {"copied_at_ms": level_at_ms}))

    def _read_people(self, shared: Connection, asked: set[str]) -> _People:
        """Some members as they are now, with all visits of those who are new here or have another plan."""
        with self._copy.database.read() as connection:
            plans = dict(_plans_here(connection, asked))
        rows = list(_members(shared, asked))
        moved = {row[0] for row in rows if plans.get(row[0]) != row[1]}
        return _People(asked, moved, rows, list(_links(shared, asked)), list(_visits_of(shared, moved)))

    def _forget(self) -> None:
        """Who was forgotten is not said by name: whoever is no longer there goes, and leaves no trace here."""
        with self._copy.database.explained(), self._copy.database.connect_writer() as connection:
            self._sync_table(connection, PAGE, schema.members, MEMBER_COLUMNS, _m.id, gone=_take_out)
        self._copy.has_traces = True

    # Everything

    def _sync(self, timeline: str, last: int, page: int) -> None:
        """Compare all there is; what is recorded meanwhile comes with the next round."""
        log.info("comparing the copy with the shared record", file=str(self._copy.path))
        started, started_ms = clock.monotonic(), clock.now_ms()
        self._directory_version = -1  # another history may have the same number
        self._heights.clear()
        with self._shared.read() as connection:
            self._read_directory(connection)
        since = (clock.from_ms(started_ms).date() - timedelta(days=self._reach.days)).isoformat()
        total = sorted(self._reach.total_plans)
        matters: ColumnElement[bool] = _v.local_date >= since
        if total:
            matters = or_(matters, _v.member_id.in_(select(_m.id).where(_m.plan_id.in_(total))))
        database = self._copy.database
        with database.explained(), database.connect_writer() as connection, database.bulk_writing(connection):
            self._sync_table(connection, page, schema.members, MEMBER_COLUMNS, _m.id, gone=_take_out)
            self._sync_table(connection, page, schema.customers, CUSTOMER_COLUMNS, _k.customer_id)
            self._sync_table(
                connection,
                page,
                schema.visits,
                VISIT_COLUMNS,
                _v.seq,
                shared=[_v.state != VisitState.REVERSED.value, matters],
                here=[_v.id.not_in(select(_d.id))],
            )
            with connection.begin():
                copy.note(
                    connection,
                    timeline=timeline,
                    seq=last,
                    copied_at_ms=started_ms,
                    synced_at_ms=started_ms,
                    since=since,
                    total_plans=json.dumps(total),
                )
        self._copy.has_traces = True
        log.info("the copy is complete", seconds=round(clock.monotonic() - started, 1))

    def _sync_table(
        self,
        own: Connection,
        size: int,
        table: Table,
        names: Sequence[str],
        key: Column[Any],
        shared: Sequence[ColumnElement[bool]] = (),
        here: Sequence[ColumnElement[bool]] = (),
        gone: Callable[[Connection, Collection[Any]], None] | None = None,
    ) -> None:
        """Make a table's rows the shared one's, page by page in the order of a key.

        `shared` says which rows there matter, `here` which rows here are copies. `gone` is told which keys are no
        longer there, in the transaction that deletes them.
        """
        columns, place = [table.c[name] for name in names], names.index(key.name)
        after: Any = None
        while True:
            beyond = [] if after is None else [key > after]
            with self._shared.read() as connection:
                # The plans that these members have are there by then.
                self._read_directory(connection)
                page = connection.execute(select(*columns).where(*shared, *beyond).order_by(key).limit(size)).all()
            at_end = len(page) < size
            upto = [] if at_end else [key <= page[-1][place]]
            with own.begin():
                copies = own.execute(select(*columns).where(*here, *beyond, *upto)).all()
                present = {row[place]: tuple(row) for row in copies}
                wanted = {row[place]: tuple(row) for row in page}
                missing = present.keys() - wanted.keys()
                if gone is not None:
                    gone(own, missing)
                copy.drop(own, table, key.name, missing)
                copy.put(own, table, names, [row for found, row in wanted.items() if present.get(found) != row])
            self._copy.database.between_chunks()
            if at_end:
                return
            after = page[-1][place]


def _take_out(connection: Connection, gone: Collection[str]) -> None:
    """Members who are no longer there leave nothing behind; what waits to be carried over does not name them."""
    for member_id in gone:
        pseudonym = new_pseudonym()
        linked = select(_k.customer_id).where(_k.member_id == member_id)
        connection.execute(
            update(schema.decisions)
            .where(or_(_d.member_id == member_id, _d.aggregator_id == member_id, _d.customer_id.in_(linked)))
            .values(
                member_id=case((_d.member_id.is_(None), None), else_=pseudonym),
                aggregator_id=pseudonym,
                customer_id=NO_CUSTOMER,
            )
        )
        _drop_copied_visits(connection, [member_id])
        connection.execute(update(schema.visits).where(_v.member_id == member_id).values(member_id=pseudonym))
    copy.drop(connection, schema.customers, "member_id", gone)


_NEW_VISITS = (_v.seq, _v.id)
_CORRECTIONS = (_w.seq, _w.visit_id)
_CHANGES = (_a.seq, _a.action, _a.subject)


def _since(shared: Connection, columns: tuple[Column[Any], ...], seq: int, last: int) -> Sequence[Any]:
    """The next page of rows with a number."""
    number = columns[0]
    query = select(*columns).where(number > seq, number <= last).order_by(number).limit(PAGE)
    return shared.execute(query).all()


class _News(NamedTuple):
    """What was recorded up to a number, and how what it is about is now."""

    upto: int
    people: _People
    visits: set[str]
    counting: list[Any]
    somebody_forgotten: bool


class _People(NamedTuple):
    """Those of some members who exist, their links to customers, and all visits of those who have ``moved``."""

    asked: set[str]
    moved: set[str]
    rows: list[Any]
    links: list[Any]
    visits: list[Any]

    def write(self, connection: Connection) -> None:
        gone = self.asked - {row[0] for row in self.rows}
        copy.drop(connection, schema.customers, "member_id", self.asked)
        _drop_copied_visits(connection, gone | self.moved)
        copy.drop(connection, schema.members, "id", gone)
        copy.put(connection, schema.members, MEMBER_COLUMNS, self.rows)
        copy.put(connection, schema.customers, CUSTOMER_COLUMNS, self.links)
        copy.put(connection, schema.visits, VISIT_COLUMNS, self.visits)


def _drop_copied_visits(connection: Connection, members: Collection[str]) -> None:
    """All visits of some members but those that were made here and wait to be carried over."""
    for member_id in members:
        waits = _v.id.in_(select(_d.id))
        connection.execute(delete(schema.visits).where(_v.member_id == member_id, ~waits))


def current_visits(shared: Connection, ids: Collection[str]) -> list[Any]:
    """Those of some visits that count, as they are in the shared record now."""
    return list(_visits(shared, ids))


def take_visits(connection: Connection, ids: Collection[str], current: Sequence[Any]) -> None:
    """Have these visits as they are in the shared record now; `current` are those that count."""
    copy.drop(connection, schema.visits, "id", set(ids) - {row[VISIT_COLUMNS.index("id")] for row in current})
    copy.put(connection, schema.visits, VISIT_COLUMNS, current)
