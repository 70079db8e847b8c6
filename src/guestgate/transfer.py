"""Moving house: a record that was kept in a file goes on on a PostgreSQL server.

Rows, their numbers and the timeline stay as they are, so whoever follows the event feed goes on with the
cursor it has. All of it is one transaction of the target: killed or failed anywhere, the target is as empty
as it was. The source is read and left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from types import ModuleType
from typing import Any

from sqlalchemy import Connection, Table, func, select

from guestgate import changes, clock, occupancy, partitions, schema, sequence
from guestgate.changes import Change
from guestgate.check import check
from guestgate.database import Database, is_postgres
from guestgate.errors import ConflictError, OperationError, UsageError
from guestgate.postgres import PostgresDatabase
from guestgate.sqlite import SqliteDatabase

REPORT_EVERY = 5000
# Each database has one row of these from the beginning.
OWN = (schema.directory_version, schema.feed)
# The first digits of an id, of the twelve that are its milliseconds: one step is less than five hours.
PREFIX = 6


@dataclass
class Transfer:
    """One move. `run` does it; afterwards the other attributes say what was copied."""

    source_url: str
    target_url: str
    rows: dict[str, int] = field(default_factory=dict)  # by table
    timeline: str = ""
    seq: int = 0

    def __post_init__(self) -> None:
        """Connects to nothing. Raises UsageError for databases between which nothing can be moved."""
        if is_postgres(self.source_url):
            raise UsageError("SOURCE: only a SQLite database can be moved; PostgreSQL has pg_dump for its own")
        if not is_postgres(self.target_url):
            raise UsageError(
                "TARGET: should be postgresql://…; guestgate backup and restore copy one SQLite database to another"
            )
        self._target = PostgresDatabase(self.target_url)

    def run(self, who: str) -> Iterator[tuple[int, int]]:
        """Check the source, copy it, check the copy, commit; yields the rows done so far, and all.

        Raises ConflictError where somebody uses the source or something is in the target already, UsageError
        for a database of another version, OperationError where one of the two does not check out.
        """
        path = SqliteDatabase(self.source_url).path
        Database.open(self.source_url)
        with occupancy.alone(path):
            self._prepare_target()
            source = SqliteDatabase(self.source_url, alone=True)
            with source.read() as reading:
                # What may take long comes before the target's transaction, which must not lie idle.
                _refuse_problems(check(reading), source.name)
                self._read_facts(reading)
                with self._target.write(who) as writing:
                    _refuse_content(writing, self._target.name)
                    yield from self._copy(reading, writing)
                    self._check(writing)
                    self._record(writing)

    def _prepare_target(self) -> None:
        if self._target.schema_version() is None:
            self._target.upgrade()
        self._target.check_usable()
        with self._target.read() as connection:
            _refuse_content(connection, self._target.name)

    def _read_facts(self, reading: Connection) -> None:
        self.rows = {table.name: _count(reading, table) for table in schema.metadata.sorted_tables}
        self.timeline, self.seq = sequence.position(reading)
        self._months = sorted(_months(reading, clock.now()))

    def _copy(self, reading: Connection, writing: Connection) -> Iterator[tuple[int, int]]:
        writing.exec_driver_sql("SET LOCAL statement_timeout = 0")
        for year, month in self._months:
            partitions.add_month(writing, year, month)
        for table in OWN:
            writing.execute(table.delete())
        done, total = 0, sum(self.rows.values())
        yield done, total
        for table in schema.metadata.sorted_tables:
            for count in _copy_table(self._target.driver, reading, writing, table):
                yield done + count, total
            done += self.rows[table.name]
        sequence.carry_on(writing)

    def _check(self, writing: Connection) -> None:
        writing.exec_driver_sql("ANALYZE")
        for name, expected in self.rows.items():
            found = _count(writing, schema.metadata.tables[name])
            if found != expected:
                raise OperationError(f"{self._target.name}: {name} has {found} rows and should have {expected}")
        if sequence.position(writing)[0] != self.timeline:
            raise OperationError(f"{self._target.name}: the timeline is not the source's")
        _refuse_problems(check(writing), self._target.name)

    def _record(self, writing: Connection) -> None:
        facts = {"rows": sum(self.rows.values()), "recorded_until": self.seq, "timeline": self.timeline}
        changes.record(writing, [Change("record.moved", "record", None, facts)])


def _refuse_content(writing: Connection, name: str) -> None:
    for table in schema.metadata.sorted_tables:
        if table not in OWN and writing.execute(select(table).limit(1)).first() is not None:
            raise ConflictError(
                f"{name} is not empty: {table.name} has rows already; give a database that nobody has used"
            )


def _refuse_problems(problems: list[str], name: str) -> None:
    if problems:
        raise OperationError(
            f"{name} does not agree with itself, so nothing was copied; guestgate db check says more: {problems[0]}"
        )


def _count(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def _months(reading: Connection, now: datetime) -> set[tuple[int, int]]:
    """The months whose decisions get a partition: by their ids, apart from a future that a wrong clock saw."""
    decision_id = schema.decisions.c.id
    # Ids with the same first digits were made within hours of one another.
    found = reading.execute(
        select(func.min(decision_id), func.max(decision_id))
        .where(func.substr(decision_id, 15, 1) == "7")
        .group_by(func.substr(decision_id, 1, PREFIX))
    )
    months = set()
    for both in found:
        for made_ms in (int(text[:8] + text[9:13], 16) for text in both):
            if made_ms <= clock.to_ms(now):
                at = clock.from_ms(made_ms)
                months.add((at.year, at.month))
    return months


def _copy_table(psycopg: ModuleType, reading: Connection, writing: Connection, table: Table) -> Iterator[int]:
    """Row by row through PostgreSQL's COPY, so that no memory grows; yields how many were copied."""
    columns = ", ".join(f'"{column.name}"' for column in table.columns)
    rows: Any = reading.connection.cursor()
    sink: Any = writing.connection.cursor()
    rows.execute(f"SELECT {columns} FROM {table.name}")  # noqa: S608
    done = 0
    with sink.copy(f"COPY {table.name} ({columns}) FROM STDIN") as copy:
        for row in rows:
            try:
                copy.write_row(row)
            except psycopg.DataError as error:  # such as a NUL character, which SQLite keeps and PostgreSQL does not
                raise OperationError(f"{table.name}: the row of {row[0]!r} cannot be copied: {error}") from None
            done += 1
            if done % REPORT_EVERY == 0:
                yield done
    rows.close()
    sink.close()
    yield done
