"""Decisions and answers by month, on PostgreSQL: retention drops a month that is over instead of its rows.

A month holds the decisions whose ids were made in it: an id begins with its millisecond. What no month holds,
such as the decision of a machine whose clock is wrong, goes into a partition of its own.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Column, Connection, Index, MetaData, Table

from guestgate import clock, schema, stretch

AHEAD = 3
# How far a machine's clock may be put back while a check-in waits for its id.
CLOCK_STEP_MS = 3_600_000
# A studio's record in its order; where the days of `guestgate.stretch` begin and end; the lists of members.
MORE_INDEXES = {
    "decisions": ("studio_id, seq",),
    "visits": ("studio_id, seq", "local_date, seq"),
    "changes": (f"({stretch.DAY_OF_CHANGE}), seq",),
    "members": ("status, id", "plan_id, status, id"),
}
PARTITIONED = {schema.decisions.name: "id", schema.answers.name: "decision_id"}

# With the owner's rights, so that the server's own role needs none to make tables.
_ADD_MONTH = """
CREATE OR REPLACE FUNCTION guestgate_add_month(month date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    bounds text[] := ARRAY[]::text[];
    ms text;
    edge date;
    whole text;
    key text;
    part text;
BEGIN
    month := date_trunc('month', month)::date;
    FOREACH edge IN ARRAY ARRAY[month, (month + interval '1 month')::date] LOOP
        ms := lpad(to_hex((extract(epoch FROM edge::timestamp) * 1000)::bigint), 12, '0');
        bounds := bounds || (left(ms, 8) || '-' || right(ms, 4));
    END LOOP;
    part := to_char(month, 'YYYY_MM');
    IF to_regclass('decisions_' || part) IS NOT NULL THEN
        RETURN false;
    END IF;
    PERFORM pg_advisory_xact_lock(1869571429, 3);
    IF to_regclass('decisions_' || part) IS NOT NULL THEN
        RETURN false;
    END IF;
    FOR whole, key IN VALUES ('decisions', 'id'), ('answers', 'decision_id') LOOP
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', whole || '_' || part, whole);
        EXECUTE format(
            'WITH moved AS (DELETE FROM %I WHERE %I >= %L AND %I < %L RETURNING *) '
            'INSERT INTO %I SELECT * FROM moved',
            whole || '_rest', key, bounds[1], key, bounds[2], whole || '_' || part);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            whole, whole || '_' || part, bounds[1], bounds[2]);
    END LOOP;
    RETURN true;
END $$
"""


def create_all(connection: Connection) -> None:
    """All tables, of an empty database."""
    whole = [table for table in schema.metadata.sorted_tables if table.name not in PARTITIONED]
    schema.metadata.create_all(connection, tables=whole)
    schema.cluster.create(connection)
    for name, key in PARTITIONED.items():
        _partitioned(schema.metadata.tables[name], key).create(connection)
        connection.exec_driver_sql(f"CREATE TABLE {name}_rest PARTITION OF {name} DEFAULT")
    _index(connection)
    connection.exec_driver_sql(_ADD_MONTH, execution_options={"no_parameters": True})


def _partitioned(table: Table, key: str) -> Table:
    """The same columns and indexes, where an id is unique within its partition, which it names itself."""
    columns = [
        Column(column.name, column.type, primary_key=column.name == key, nullable=column.nullable)
        for column in table.columns
    ]
    copy = Table(
        table.name,
        MetaData(naming_convention=schema.metadata.naming_convention),
        *columns,
        postgresql_partition_by=f"RANGE ({key})",
    )
    for index in table.indexes:
        options = index.dialect_options["postgresql"]
        where = options["where"]
        Index(index.name, *(copy.c[column.name] for column in index.columns), postgresql_where=where)
    if "seq" in copy.c:
        Index(f"ix_{table.name}_seq", copy.c.seq)
    return copy


def _index(connection: Connection) -> None:
    """Indexes that a file does without: what they are for is quick enough there, or their writing too dear."""
    for table, columns in MORE_INDEXES.items():
        for names in columns:
            connection.exec_driver_sql(f"CREATE INDEX ON {table} ({names})")


def first_id(since: datetime) -> str:
    """No check-in received since then has an id that comes before this."""
    digits = f"{max(0, clock.to_ms(since) - CLOCK_STEP_MS):012x}"
    return f"{digits[:8]}-{digits[8:]}"


def keep_ahead(connection: Connection, now: datetime) -> int:
    """Have partitions for this month and the next ones; returns how many were made."""
    return sum(add_month(connection, now.year, now.month + ahead) for ahead in range(AHEAD))


def add_month(connection: Connection, year: int, month: int) -> bool:
    """Have partitions for one month; months above 12 are the next year's. False where there are."""
    first = datetime(year + (month - 1) // 12, (month - 1) % 12 + 1, 1, tzinfo=UTC).date()
    return bool(connection.exec_driver_sql("SELECT guestgate_add_month(%s)", (first,)).scalar_one())
