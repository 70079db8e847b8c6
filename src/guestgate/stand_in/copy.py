"""A node's copy of what decisions rest on, and what was decided on it: a SQLite file of the record's own schema.

Studios, keys, plans, tokens, members (without what is known of them as persons), links and the visits that limits
may count are copied, by one process only. `decisions` holds nothing but what was decided here and has not been
carried over yet, with its answers; visits that were made here stand among the copied ones.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    Table,
    Text,
    case,
    delete,
    event,
    func,
    insert,
    select,
    update,
)

from guestgate import clock, schema
from guestgate.errors import ConflictError, OperationError, UsageError
from guestgate.sqlite import SqliteDatabase

# One row: how far the copy is, and what has become of what was decided on it.
stand_in = Table(
    "stand_in",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("timeline", Text),  # of the shared record; null: nothing is copied yet
    Column("seq", BigInteger, nullable=False),  # the copy has all up to this number
    Column("copied_at_ms", BigInteger, nullable=False),  # when it was level with the shared record last
    Column("synced_at_ms", BigInteger, nullable=False),  # when it was compared as a whole last
    Column("since", Text, nullable=False),  # visits are copied from this date on
    Column("total_plans", Text, nullable=False),  # JSON list: of members of these plans, all visits are
    Column("checked_at_ms", BigInteger, nullable=False),
    Column("carried_over", BigInteger, nullable=False),  # decisions, since the file was made
    Column("over_limit", BigInteger, nullable=False),  # visits among them that went beyond a limit
)
_s = stand_in.c
ERASE_PATIENCE_S = 0.5
# What is decided here is numbered from here on, beyond all numbers of the shared record.
OWN_NUMBERS = 2**62
OWNER_PATIENCE_S = 30.0
OWNER_RETRY_S = 0.2
_NOTHING = {
    "id": 1,
    "timeline": None,
    "seq": 0,
    "copied_at_ms": 0,
    "synced_at_ms": 0,
    "since": "9999-12-31",
    "total_plans": "[]",
    "checked_at_ms": 0,
    "carried_over": 0,
    "over_limit": 0,
}


@dataclass(frozen=True)
class CopyState:
    """How a copy is. ``problem`` says why it cannot stand in, and is None where it can; ages are seconds.

    ``waiting`` are decisions to be carried over, the oldest of them received at ``oldest_waiting_ms``. A ledger could
    decide and commit here at ``checked_at_ms``.
    """

    problem: str | None
    copied_at_ms: int | None
    age_s: float | None
    waiting: int
    oldest_waiting_ms: int | None
    carried_over: int
    over_limit: int
    checked_at_ms: int | None

    @property
    def oldest_waiting_s(self) -> float:
        """The age of the oldest one; 0 where there is none."""
        return 0.0 if self.oldest_waiting_ms is None else max(0.0, (clock.now_ms() - self.oldest_waiting_ms) / 1000)


class StandInCopy:
    """The file. One server uses it, whose follower `owned` it."""

    def __init__(self, path: Path, *, door: bool = False) -> None:
        """Nothing is opened yet. `door` as for `Database.at`."""
        self.path = path
        self.url = f"sqlite:///{path}"
        self.database = SqliteDatabase(self.url, door=door)
        event.listen(self.database.engine, "connect", _let_references_be)
        # Whether somebody was taken out whose traces are still to be erased; at first nobody knows.
        self.has_traces = True

    def prepare(self) -> None:
        """Make the file, or bring it up to date. Raises UsageError where that is impossible."""
        try:
            self.database.upgrade()
            with self.database.write() as connection:
                stand_in.create(connection, checkfirst=True)
                if connection.execute(select(_s.id)).first() is None:
                    connection.execute(insert(stand_in).values(_NOTHING))
                numbers = schema.feed
                connection.execute(update(numbers).where(numbers.c.seq < OWN_NUMBERS).values(seq=OWN_NUMBERS))
                # Of what was carried over before it was known how it left.
                strays = schema.answers.c.decision_id.not_in(select(schema.decisions.c.id))
                connection.execute(delete(schema.answers).where(strays))
        except (UsageError, OperationError) as error:
            what = str(error).removeprefix("database: ")
            raise UsageError(
                f"stand_in_file: {what}; it should be a file of its own on this machine's disk (or set "
                'stand_in = "refuse")'
            ) from None

    @contextmanager
    def owned(self) -> Iterator[None]:
        """While this lasts, no other server uses the file. Raises ConflictError where one does.

        It is waited for, because a server that was killed may have left a follower behind that is just ending.
        """
        path = self.path.with_name(self.path.name + ".owner")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise UsageError(f"stand_in_file: {path}: {error.strerror}") from None
        try:
            self._lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        give_up_at = clock.monotonic() + OWNER_PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if clock.monotonic() >= give_up_at:
                    raise ConflictError(
                        f"stand_in_file: {self.path} is used by another server; give each server one of its own"
                    ) from None
            clock.sleep(OWNER_RETRY_S)

    def erase_traces(self) -> None:
        """Have nobody who was taken out left in the file's log; tries again later where somebody reads it."""
        if self.has_traces:
            self.has_traces = not self.database.erase_traces(ERASE_PATIENCE_S)

    def read_state(self, max_age_s: int) -> CopyState:
        """How it is now."""
        with self.database.read() as connection:
            return state_of(connection, max_age_s)


def _let_references_be(connection: Any, _record: object) -> None:
    """The record's own hold; its rows come here in pieces."""
    connection.execute("PRAGMA foreign_keys = OFF").close()


def oldest_waiting_ms(connection: Connection) -> int | None:
    """When the oldest decision that waits was received; None where none waits. They are numbered in their order."""
    oldest = select(schema.decisions.c.received_at_ms).order_by(schema.decisions.c.seq).limit(1)
    return connection.execute(oldest).scalar_one_or_none()


def state_of(connection: Connection, max_age_s: int) -> CopyState:
    """How the copy is; `max_age_s` is the setting ``stand_in_max_age_s``. Counts all that waits."""
    row = progress(connection)
    waiting = connection.execute(select(func.count()).select_from(schema.decisions)).scalar_one()
    copied = row.timeline is not None
    return CopyState(
        problem=problem_of(row, max_age_s),
        copied_at_ms=row.copied_at_ms if copied else None,
        age_s=_age_s(row) if copied else None,
        waiting=waiting,
        oldest_waiting_ms=oldest_waiting_ms(connection),
        carried_over=row.carried_over,
        over_limit=row.over_limit,
        checked_at_ms=row.checked_at_ms or None,
    )


def progress(connection: Connection) -> Any:
    """The row of `stand_in`."""
    return connection.execute(select(stand_in)).one()


def problem_of(row: Any, max_age_s: int) -> str | None:
    """Why the copy with this row cannot stand in; None where it can."""
    if row.timeline is None:
        return "the copy is not complete yet"
    age_s = _age_s(row)
    if age_s > max_age_s:
        return f"the copy is {age_s:.0f} s old, and may be {max_age_s}"
    return None


def _age_s(row: Any) -> float:
    return max(0.0, (clock.now_ms() - int(row.copied_at_ms)) / 1000)


def note(connection: Connection, **values: Any) -> None:
    """Change the row of `stand_in`."""
    connection.execute(update(stand_in).values(**values))


def counted(connection: Connection, carried_over: int, over_limit: int) -> None:
    """Add to what has been carried over."""
    note(connection, carried_over=_s.carried_over + carried_over, over_limit=_s.over_limit + over_limit)


# Not copied, and what stands there instead.
MEMBER_COLUMNS = ("id", "plan_id", "status", "valid_from", "valid_until", "cycle_anchor")
CUSTOMER_COLUMNS = ("customer_id", "member_id")
VISIT_COLUMNS = tuple(column.name for column in schema.visits.columns if column.name != "reversed_why")
_FILLED: Mapping[str, dict[str, object]] = {
    "members": {"profile": "{}", "updated_at_ms": 0},
    "customers": {"linked_at_ms": 0},
}
FIRST = -2
DIRECTORY = (schema.studios, schema.keys, schema.plans, schema.plan_versions, schema.tokens)


def put(connection: Connection, table: Table, columns: Sequence[str], rows: Collection[Sequence[Any]]) -> None:
    """Write rows of some columns, in the place of those with the same key."""
    if not rows:
        return
    filled = _FILLED.get(table.name, {})
    names = ", ".join((*columns, *filled))
    marks = ", ".join("?" * (len(columns) + len(filled)))
    fill = tuple(filled.values())
    _driver(connection).executemany(
        f"INSERT OR REPLACE INTO {table.name} ({names}) VALUES ({marks})",  # noqa: S608
        [(*row, *fill) for row in rows],
    )


def drop(connection: Connection, table: Table, column: str, values: Collection[object]) -> int:
    """Delete the rows that have one of these values in a column; returns how many there were."""
    if not values:
        return 0
    cursor = _driver(connection)
    cursor.executemany(f"DELETE FROM {table.name} WHERE {column} = ?", [(value,) for value in values])  # noqa: S608
    return int(cursor.rowcount)


def put_directory(connection: Connection, tables: Mapping[str, Sequence[Sequence[Any]]]) -> None:
    """Have these studios, keys, plans and tokens, and no others.

    The ledger sees by the version that they are new. It counts downwards, so that it is none of the shared record's.
    """
    for table in DIRECTORY:
        connection.execute(table.delete())
        put(connection, table, tuple(column.name for column in table.columns), tables[table.name])
    version = schema.directory_version.c.version
    connection.execute(
        update(schema.directory_version).values(version=case((version > FIRST, FIRST), else_=version - 1))
    )


def _driver(connection: Connection) -> Any:
    return connection.connection.cursor()
