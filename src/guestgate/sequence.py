"""One order for everything that is recorded: decisions, visits, corrections, changes, and what webhooks tell.

A reader that has seen one number has seen all before it; that is what the event feed stands on.

On SQLite each row takes the next number while its transaction holds the write lock, so numbers become
visible in their own order. On PostgreSQL transactions overlap: a row's number is that of its transaction,
which the server gives out in ascending order, with a place within the transaction below it. A reader looks
only at what lies below the oldest transaction that is still running, since all of that is visible.

The timeline names the history that the numbers belong to: a database that was put back to an earlier state
begins a new one, and its numbers jump ahead of any that the lost future may have given out. On PostgreSQL a
promoted standby and a restored dump begin one, too.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from guestgate import clock, schema
from guestgate.errors import OperationError

# Rows of one transaction: an import's chunk is below a tenth of it. Transactions: more than 2**42.
PLACES = 20
FIRST_REVISION = "0002"
_HERE = "guestgate_numbers"
NUMBERED = (
    schema.decisions,
    schema.visits,
    schema.visit_changes,
    schema.changes,
    schema.validations,
    schema.webhooks,
    schema.sightings,
)

_take_sqlite = f"UPDATE {schema.feed.name} SET seq = seq + ? RETURNING seq"  # noqa: S608
_transaction = f"SELECT pg_current_xact_id()::text::bigint, base FROM {schema.cluster.name}"  # noqa: S608
# Where a server writes now; what it says about its last checkpoint is older after a promotion.
WAL_TIMELINE = "('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::integer"
_position = f"""
    SELECT f.timeline, c.wal_timeline, pg_snapshot_xmin(pg_current_snapshot())::text::bigint + c.base, {WAL_TIMELINE}
    FROM {schema.feed.name} AS f, {schema.cluster.name} AS c"""  # noqa: S608
# This one may be younger than all that have ended.
_next_transaction = f"""
    SELECT max(base) + greatest(pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
        pg_current_xact_id_if_assigned()::text::bigint + 1)
    FROM {schema.cluster.name}"""  # noqa: S608
_home = f"""
    SELECT (pg_control_system()).system_identifier || '/' || oid, {WAL_TIMELINE}
    FROM pg_database WHERE datname = current_database()"""  # noqa: S608


def take(connection: Connection, count: int) -> range:
    """The next numbers, for rows of this transaction; on SQLite it must hold the write lock."""
    if connection.dialect.name == "sqlite":
        ((last,),) = _ask(connection, _take_sqlite, (count,))
        return range(last - count + 1, last + 1)
    numbers = connection.info.get(_HERE)
    if numbers is None:
        ((transaction, base),) = _ask(connection, _transaction)
        numbers = connection.info[_HERE] = _Numbers(transaction, (transaction + base) << PLACES)
    first, numbers.next = numbers.next, numbers.next + count
    if numbers.next - (first >> PLACES << PLACES) > 1 << PLACES:
        raise OperationError("a transaction has too many rows for their numbers")
    return range(first, numbers.next)


@dataclass
class _Numbers:
    """Those of a transaction on PostgreSQL."""

    transaction: int
    next: int


def forget_numbers(connection: Connection) -> None:
    """At the beginning of a transaction: it has taken none yet."""
    connection.info.pop(_HERE, None)


def transaction_of(connection: Connection) -> int | None:
    """The number by which PostgreSQL knows this transaction; None where it has written nothing."""
    numbers = connection.info.get(_HERE)
    return None if numbers is None else numbers.transaction


def _ask(connection: Connection, statement: str, parameters: tuple[int, ...] = ()) -> list[Any]:
    cursor = connection.connection.cursor()
    cursor.execute(statement, parameters)
    rows: list[Any] = list(cursor.fetchall())
    cursor.close()
    return rows


def position(connection: Connection) -> tuple[str, int]:
    """The timeline, and the last number up to which nothing more will appear."""
    if connection.dialect.name == "sqlite":
        row = connection.execute(select(schema.feed.c.timeline, schema.feed.c.seq)).one()
        return row.timeline, row.seq
    timeline, born_on, oldest, wal_timeline = connection.exec_driver_sql(_position).one()
    if wal_timeline != born_on:  # a standby was promoted; what it had not got is lost
        timeline = f"{timeline}-{wal_timeline}"
    return timeline, (oldest << PLACES) - 1


def given_out(connection: Connection) -> int | None:
    """The last number that any row may have by now; None where the database does not say."""
    if connection.dialect.name == "sqlite":
        return connection.execute(select(func.max(schema.feed.c.seq))).scalar()
    row = connection.exec_driver_sql(_next_transaction).scalar()
    return None if row is None else (int(row) << PLACES) - 1


def new_timeline() -> str:
    """A name that no other history has."""
    return secrets.token_hex(4)


def begin_timeline(connection: Connection) -> None:
    """After a restore: what is recorded from now on is another history than the one that was lost.

    Its numbers start at the present millisecond. Unless more than a thousand rows a second were recorded
    all the time, the lost history never got that far, so no number ever stands for two things.
    """
    _, last = position(connection)
    connection.execute(update(schema.feed).values(timeline=new_timeline(), seq=max(last, clock.now_ms())))


def create(connection: Connection) -> None:
    """The first numbers of an empty PostgreSQL database."""
    home, wal_timeline = connection.exec_driver_sql(_home).one()
    connection.execute(insert(schema.directory_version).values(id=1, version=1))
    connection.execute(insert(schema.feed).values(id=1, timeline=new_timeline(), seq=0))
    connection.execute(
        insert(schema.cluster).values(id=1, base=0, home=home, wal_timeline=wal_timeline, oldest_user=FIRST_REVISION)
    )


def is_foreign(connection: Connection) -> bool:
    """Whether this PostgreSQL database is a copy of one that lived elsewhere, with that one's numbers."""
    home, _ = connection.exec_driver_sql(_home).one()
    return bool(connection.execute(select(schema.cluster.c.home)).scalar_one() != home)


def settle_down(connection: Connection) -> None:
    """Go on in such a copy: another timeline, and numbers above all that there are.

    And above what the original may have given out since then, unless it wrote more than a hundred
    transactions a second all the time: they start at the present hundredth of a second.
    """
    home, wal_timeline = connection.exec_driver_sql(_home).one()
    connection.execute(update(schema.feed).values(timeline=new_timeline()))
    connection.execute(update(schema.cluster).values(home=home, wal_timeline=wal_timeline, base=0))
    make_room(connection, clock.now_ms() // 10)


def carry_on(connection: Connection) -> None:
    """Go on with the history of a SQLite database whose rows were copied into this one, with higher numbers."""
    _, wal_timeline = connection.exec_driver_sql(_home).one()
    connection.execute(update(schema.cluster).values(wal_timeline=wal_timeline))
    make_room(connection)


def make_room(connection: Connection, first: int = 0) -> None:
    """Have the next transactions' numbers lie above those of all rows, and above the last that SQLite gave out.

    Also above where months were closed, since what is written later is told by that. They count as the `first`
    transaction and later ones, at least.
    """
    columns = (*(table.c.seq for table in (*NUMBERED, schema.feed)), schema.statements.c.position)
    last = [connection.execute(select(func.max(column))).scalar_one() or 0 for column in columns]
    ((transaction, _),) = _ask(connection, _transaction)
    base = max(0, max(first, (max(last) >> PLACES) + 1) - transaction)
    connection.execute(update(schema.cluster).values(base=base))
