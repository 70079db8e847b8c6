"""Many rows with few calls of the driver.

Measured, both matter at the door: SQLAlchemy's work for every statement and row, and, on SQLite, that the
driver gives up the interpreter lock for every row it inserts or fetches, which beside a busy event loop
costs the ledger's thread more than the database does. So the statements are built by SQLAlchemy once, and
then given to the driver with many rows each; on SQLite many rows are fetched as one JSON value.

Only for columns whose Python values drivers and JSON take as they are: numbers, texts, booleans, None. The
driver's own exceptions come out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Dialect, Table, bindparam, func, insert, select

# Rows in one statement. Few sizes, so that the driver keeps every statement prepared.
SIZES = (64, 32, 16, 8, 4, 2, 1)


class BulkInsert:
    """INSERT of whole rows into one table."""

    def __init__(self, table: Table) -> None:
        """Rows are tuples with every column of `table`, in its order."""
        self._table = table
        self._columns = [column.name for column in table.columns]
        self._statements: dict[tuple[str, int], str] = {}

    def __call__(self, connection: Connection, rows: Sequence[tuple[object, ...]]) -> None:
        """Insert all rows, in their order."""
        if not rows:
            return
        cursor = connection.connection.cursor()
        done = 0
        for size in SIZES:
            while len(rows) - done >= size:
                values: list[object] = []
                for row in rows[done : done + size]:
                    values.extend(row)
                cursor.execute(self._statement(connection.dialect, size), values)
                done += size
        cursor.close()

    def _statement(self, dialect: Dialect, size: int) -> str:
        key = dialect.name, size
        if key not in self._statements:
            one = str(insert(self._table).compile(dialect=dialect, column_keys=self._columns))
            mark = "?" if dialect.paramstyle == "qmark" else "%s"
            row = f"({', '.join([mark] * len(self._columns))})"
            self._statements[key] = f"{one.partition(' VALUES ')[0]} VALUES {', '.join([row] * size)}"
        return self._statements[key]


class BulkSelect:
    """SELECT of some columns where one column is among many values."""

    def __init__(self, *columns: Column[Any], among: Column[Any], where: Sequence[ColumnElement[bool]] = ()) -> None:
        """`among` is the column that is looked up; `where` may have parameters of its own."""
        values = func.json_each(bindparam("among")).table_valued("value")
        self._as_json = select(func.json_group_array(func.json_array(*columns))).where(
            among.in_(select(values.c.value)), *where
        )
        self._plain = select(*columns).where(among.in_(bindparam("among", expanding=True)), *where)
        self._sqlite: tuple[str, list[str]] | None = None

    def __call__(self, connection: Connection, among: Collection[object], **parameters: object) -> Sequence[Any]:
        """The rows, as sequences of the columns' values, in no particular order."""
        if not among:
            return ()
        if connection.dialect.name != "sqlite":
            return connection.execute(self._plain, {"among": list(among), **parameters}).all()
        if self._sqlite is None:
            compiled = self._as_json.compile(dialect=connection.dialect)
            self._sqlite = str(compiled), list(compiled.positiontup or ())
            self._defaults = compiled.params
        statement, names = self._sqlite
        given = {**self._defaults, "among": json.dumps(list(among)), **parameters}
        cursor = connection.connection.cursor()
        cursor.execute(statement, [given[name] for name in names])
        rows: Sequence[Any] = json.loads(cursor.fetchall()[0][0])
        cursor.close()
        return rows
