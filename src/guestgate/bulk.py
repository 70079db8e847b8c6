"""Many rows with few calls of the driver.

Measured, both matter at the door: SQLAlchemy's work for every statement and row, and, on SQLite, that the
driver gives up the interpreter lock for every row it inserts or fetches, which beside a busy event loop
costs the ledger's thread more than the database does. So the statements are built by SQLAlchemy once, and
then given to the driver with many rows each; on SQLite many rows are fetched as one JSON value, on PostgreSQL
many are sent as one array for each column.

Only for columns whose Python values drivers and JSON take as they are: numbers, texts, booleans, None. The
driver's own exceptions come out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Dialect,
    Select,
    Table,
    Text,
    bindparam,
    func,
    insert,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY

# Rows in one statement. Few sizes, so that the driver keeps every statement prepared.
SIZES = (64, 32, 16, 8, 4, 2, 1)
# What PostgreSQL calls the columns' types.
ARRAYS = {int: "bigint", str: "text", bool: "boolean", float: "double precision"}


class BulkInsert:
    """INSERT of whole rows into one table."""

    def __init__(self, table: Table, *, ignore_existing: bool = False, renewed: Sequence[str] = ()) -> None:
        """Rows are tuples with every column of `table`, in its order.

        With `ignore_existing`, one that is there already stays as it is; else it gets the new values in the
        columns that are `renewed`, where there are any.
        """
        self._table = table
        self._columns = [column.name for column in table.columns]
        self._suffix = " ON CONFLICT DO NOTHING" if ignore_existing else ""
        if renewed:
            keys = ", ".join(column.name for column in table.primary_key)
            values = ", ".join(f"{name} = excluded.{name}" for name in renewed)
            self._suffix = f" ON CONFLICT ({keys}) DO UPDATE SET {values}"
        self._statements: dict[int, str] = {}
        self._from_arrays = self._build_from_arrays()

    def __call__(self, connection: Connection, rows: Sequence[tuple[object, ...]]) -> None:
        """Insert all rows, in their order."""
        if not rows:
            return
        cursor = connection.connection.cursor()
        if connection.dialect.name == "sqlite":
            self._in_sizes(cursor, connection.dialect, rows)
        else:
            cursor.execute(self._from_arrays, [list(column) for column in zip(*rows, strict=True)])
        cursor.close()

    def _in_sizes(self, cursor: Any, dialect: Dialect, rows: Sequence[tuple[object, ...]]) -> None:
        done = 0
        for size in SIZES:
            while len(rows) - done >= size:
                values: list[object] = []
                for row in rows[done : done + size]:
                    values.extend(row)
                cursor.execute(self._statement(dialect, size), values)
                done += size

    def _statement(self, dialect: Dialect, size: int) -> str:
        if size not in self._statements:
            one = str(insert(self._table).compile(dialect=dialect, column_keys=self._columns))
            row = f"({', '.join(['?'] * len(self._columns))})"
            rows = f"{one.partition(' VALUES ')[0]} VALUES {', '.join([row] * size)}"
            self._statements[size] = rows + self._suffix
        return self._statements[size]

    def _build_from_arrays(self) -> str:
        """An array for each column: one statement for any number of rows, so that it stays prepared."""
        arrays = ", ".join(f"%s::{ARRAYS[column.type.python_type]}[]" for column in self._table.columns)
        columns = ", ".join(self._columns)
        return f"INSERT INTO {self._table.name} ({columns}) SELECT * FROM unnest({arrays}){self._suffix}"  # noqa: S608


class BulkSelect:
    """SELECT of some columns where one column is among many values."""

    def __init__(
        self,
        *columns: Column[Any],
        among: Column[Any],
        where: Sequence[ColumnElement[bool]] = (),
        lock: bool = False,
    ) -> None:
        """`among` is the column that is looked up; `where` may have parameters of its own.

        With `lock` the rows are locked where the database locks rows; those that somebody else has locked
        are left out.
        """
        values = func.json_each(bindparam("among")).table_valued("value")
        self._as_json = select(func.json_group_array(func.json_array(*columns))).where(
            among.in_(select(values.c.value)), *where
        )
        element = BigInteger() if among.type.python_type is int else Text()
        self._plain = select(*columns).where(among == func.any(bindparam("among", type_=ARRAY(element))), *where)
        if lock:
            self._plain = self._plain.order_by(among).with_for_update(key_share=True, skip_locked=True)
        self._compiled: dict[str, tuple[str, dict[str, Any], list[str]]] = {}

    def __call__(self, connection: Connection, among: Collection[object], **parameters: object) -> Sequence[Any]:
        """The rows, as sequences of the columns' values, in no particular order."""
        if not among:
            return ()
        cursor = connection.connection.cursor()
        try:
            if connection.dialect.name == "sqlite":
                statement, defaults, names = self._statement(self._as_json, connection.dialect)
                given = {**defaults, "among": json.dumps(list(among)), **parameters}
                cursor.execute(statement, [given[name] for name in names])
                rows: Sequence[Any] = json.loads(cursor.fetchall()[0][0])
            else:
                statement, defaults, _ = self._statement(self._plain, connection.dialect)
                cursor.execute(statement, {**defaults, "among": list(among), **parameters})
                rows = cursor.fetchall()
            return rows
        finally:
            cursor.close()

    def _statement(self, query: Select[Any], dialect: Dialect) -> tuple[str, dict[str, Any], list[str]]:
        if dialect.name not in self._compiled:
            compiled = query.compile(dialect=dialect)
            self._compiled[dialect.name] = str(compiled), dict(compiled.params), list(compiled.positiontup or ())
        return self._compiled[dialect.name]
