"""Decisions and answers by month, on PostgreSQL: a month that is over and empty gives its space back at once.

A month holds the decisions whose ids were made in it: an id begins with its millisecond. What no month holds,
such as the decision of a machine whose clock is wrong, goes into a partition of its own.

Making and dropping a month locks tables that every check-in uses. So whoever does it beside open doors waits
for those locks for moments only, and comes back later.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import date, datetime, timedelta

from sqlalchemy import Column, Connection, Index, MetaData, Table
from sqlalchemy.exc import DBAPIError

from guestgate import clock, schema, search, stretch
from guestgate.database import BusyError, Database, Fault

AHEAD = 3
# Check-ins wait behind whoever waits for a table, so that is short; somebody's long query is waited for in between.
WAIT_MS = 50
TRIES, REST_S = 8, 0.2
# How far a machine's clock may be put back while a check-in waits for its id.
CLOCK_STEP = timedelta(hours=1)
# A studio's record in its order; where the days of `guestgate.stretch` begin and end; the lists of members, and
# their names.
MORE_INDEXES = {
    "decisions": ("studio_id, seq",),
    "visits": ("studio_id, seq", f"({stretch.DAY_OF_VISIT}), seq"),
    "changes": (f"({stretch.DAY_OF_CHANGE}), seq",),
    "members": ("status, id", "plan_id, status, id", *search.POSTGRES_INDEXES),
}
PARTITIONED = {schema.decisions.name: "id", schema.answers.name: "decision_id"}

# With the owner's rights, so that the server's own role needs none to make and drop tables. Their search path
# ends with the temporary tables, which would come first otherwise, and anybody can make some.
_ADD_MONTH = """
CREATE OR REPLACE FUNCTION guestgate_add_month(month date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
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
_DROP_MONTH = """
CREATE OR REPLACE FUNCTION guestgate_drop_month(month date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
DECLARE
    part text := to_char(month, 'YYYY_MM');
    look text := format('SELECT EXISTS (SELECT FROM %I) OR EXISTS (SELECT FROM %I)',
        'decisions_' || part, 'answers_' || part);
    used boolean;
BEGIN
    IF to_regclass('decisions_' || part) IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE look INTO used;
    IF used THEN
        RETURN false;
    END IF;
    LOCK TABLE ONLY decisions, ONLY answers IN ACCESS EXCLUSIVE MODE;
    EXECUTE look INTO used;
    IF NOT used THEN
        EXECUTE format('DROP TABLE %I, %I', 'decisions_' || part, 'answers_' || part);
    END IF;
    RETURN NOT used;
END $$
"""
_MONTHS = """
SELECT to_date(substr(c.relname, 11), 'YYYY_MM') FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid
WHERE inhparent = 'decisions'::regclass AND c.relname ~ '^decisions_[0-9]{4}_[0-9]{2}$' ORDER BY 1"""


def create_all(connection: Connection) -> None:
    """All tables, of an empty database."""
    whole = [table for table in schema.metadata.sorted_tables if table.name not in PARTITIONED]
    schema.metadata.create_all(connection, tables=whole)
    schema.cluster.create(connection)
    for name, key in PARTITIONED.items():
        _partitioned(schema.metadata.tables[name], key).create(connection)
        connection.exec_driver_sql(f"CREATE TABLE {name}_rest PARTITION OF {name} DEFAULT")
    _index(connection)
    here = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    for function in (_ADD_MONTH, _DROP_MONTH):
        connection.exec_driver_sql(function.replace("{schema}", here), execution_options={"no_parameters": True})


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


def make_ahead(database: Database, now: datetime) -> int:
    """`keep_ahead` beside open doors. Raises BusyError where somebody has the tables in use for long."""
    if database.engine.dialect.name == "sqlite":
        return 0
    with database.read() as connection:
        present = months(connection)
    return sum(_beside_doors(database, "add", month) for month in _ahead(now) if month not in present)


def drop_empty(database: Database, now: datetime) -> int:
    """Drop months that are over and have no rows left; returns how many.

    Beside open doors; what somebody has in use for long is left for the next time.
    """
    if database.engine.dialect.name == "sqlite":
        return 0
    with database.read() as connection:
        over = [month for month in months(connection) if month < now.date().replace(day=1)]
    dropped = 0
    with suppress(BusyError):
        for month in over:
            dropped += _beside_doors(database, "drop", month)
    return dropped


def _beside_doors(database: Database, what: str, month: date) -> bool:
    with database.explained(), database.connect_writer() as connection:
        for _ in range(TRIES):
            try:
                with connection.begin():
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {WAIT_MS}")
                    return _ask(connection, what, month)
            except DBAPIError as error:
                if database.fault(error) is not Fault.BUSY:
                    raise
            clock.sleep(REST_S)
    raise BusyError(f"{database.name}: decisions or answers are in use by a long query; try again afterwards")


def months(connection: Connection) -> list[date]:
    """The first days of the months that have a partition."""
    return list(connection.exec_driver_sql(_MONTHS, execution_options={"no_parameters": True}).scalars())


def _index(connection: Connection) -> None:
    """Indexes that a file does without: what they are for is quick enough there, or their writing too dear."""
    for table, columns in MORE_INDEXES.items():
        for names in columns:
            connection.exec_driver_sql(f"CREATE INDEX ON {table} ({names})")


def first_id(since: datetime) -> str:
    """No check-in received since then has an id that comes before this."""
    digits = f"{max(0, clock.to_ms(since) - CLOCK_STEP // clock.MILLISECOND):012x}"
    return f"{digits[:8]}-{digits[8:]}"


def keep_ahead(connection: Connection, now: datetime) -> int:
    """Have partitions for this month and the next ones; returns how many were made."""
    return sum(_ask(connection, "add", month) for month in _ahead(now))


def _ahead(now: datetime) -> list[date]:
    return [_month(now.year, now.month + ahead) for ahead in range(AHEAD)]


def _month(year: int, month: int) -> date:
    """Its first day; months above 12 are the next year's."""
    return date(year + (month - 1) // 12, (month - 1) % 12 + 1, 1)


def add_month(connection: Connection, year: int, month: int) -> bool:
    """Have partitions for one month; months above 12 are the next year's. False where there are."""
    return _ask(connection, "add", _month(year, month))


def _ask(connection: Connection, what: str, month: date) -> bool:
    return bool(connection.exec_driver_sql(f"SELECT guestgate_{what}_month(%s)", (month,)).scalar_one())
