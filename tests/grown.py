"""A record that has grown for fourteen months, written by the server itself: millions of rows in a minute.

Of twenty check-ins sixteen made a visit, one was a re-entry on the visit before, two were refused and one
came from nobody known. Of most visits the platform told that the member came in. So the record agrees with
itself, as `guestgate db check` sees it.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cluster import Cluster
from sqlalchemy import Connection

from guestgate import clock, partitions, plans, schema, sequence, studios
from guestgate.database import Database
from guestgate.directory import KeyKind
from guestgate.plans_file import HoursDocument, LimitDocument, PlanDocument
from guestgate.sqlite import safe_sqlite

MONTHS = 14
SPAN = timedelta(days=420)
ROWS_AT_ONCE = 5000
# Members' plans, in turn.
PLANS = {
    "free": PlanDocument(name="Free"),
    "daily": PlanDocument(name="Once a day", limits=(LimitDocument(max=1, per="day"),)),
    "monthly": PlanDocument(name="Eight a month", limits=(LimitDocument(max=8, per="month", scope="studio"),)),
    "cycle": PlanDocument(name="Four in four weeks", cycle_days=28, limits=(LimitDocument(max=4, per="cycle"),)),
    "total": PlanDocument(
        name="A thousand in all",
        payable="per_visit",
        limits=(LimitDocument(max=1000, per="total"),),
        hours=(HoursDocument(from_="06:00", until="24:00"),),
    ),
}

# What a check-in's number says of it: its instant, its id (a UUIDv7), and who stood at which door. One member,
# who comes with every five-thousandth check-in, has come more often than anybody else, and at one studio every
# seventh of them stood.
_FUNCTIONS = """
CREATE FUNCTION pg_temp.ms(n bigint) RETURNS bigint IMMUTABLE LANGUAGE sql AS
    $$SELECT {first_ms} + n * {span_ms} / {decisions}$$;
CREATE FUNCTION pg_temp.id(n bigint) RETURNS text IMMUTABLE LANGUAGE sql AS $$
    SELECT left(hex, 8) || '-' || right(hex, 4) || '-7' || left(md5, 3) || '-8' || substr(md5, 4, 3)
        || '-' || right(md5, 12)
    FROM (SELECT lpad(to_hex(pg_temp.ms(n)), 12, '0') AS hex, md5(n::text) AS md5) AS parts$$;
CREATE FUNCTION pg_temp.date(n bigint) RETURNS text IMMUTABLE LANGUAGE sql AS
    $$SELECT to_char(to_timestamp(pg_temp.ms(n) / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD')$$;
CREATE FUNCTION pg_temp.number(n bigint) RETURNS bigint IMMUTABLE LANGUAGE sql AS
    $$SELECT CASE WHEN n % 5000 = 0 THEN 4 ELSE n * 2654435761 % {members} END$$;
CREATE FUNCTION pg_temp.member(number bigint) RETURNS text IMMUTABLE LANGUAGE sql AS
    $$SELECT 'm-' || lpad(number::text, 7, '0')$$;
CREATE FUNCTION pg_temp.plan(number bigint) RETURNS text IMMUTABLE LANGUAGE sql AS
    $$SELECT (ARRAY['free', 'daily', 'monthly', 'cycle', 'total'])[number % 5 + 1]$$;
CREATE FUNCTION pg_temp.studio(n bigint) RETURNS text IMMUTABLE LANGUAGE sql AS
    $$SELECT 's-' || CASE WHEN n < 100 THEN 'closed' WHEN n % 7 = 3 THEN '0' ELSE (n * 40503 % {studios})::text END$$;
"""

# `door` is the number of the check-in that first stood there: a re-entry's is that of the one before.
_ROWS = """
INSERT INTO members SELECT pg_temp.member(n), pg_temp.plan(n),
    CASE WHEN n % 50 = 49 THEN 'suspended' ELSE 'active' END,
    '2025-01-01', NULL, '2025-01-15',
    json_build_object('first_name', 'Anna', 'last_name', 'Muster-' || n,
        'email', 'anna.' || n || '@example.com')::text,
    {first_ms}, NULL
FROM generate_series(0, {members} - 1) AS n;

INSERT INTO customers SELECT 1000000000 + n, pg_temp.member(n), {first_ms}, true
FROM generate_series(0, {members} - 1) AS n;

INSERT INTO changes SELECT n * 4 + 2, pg_temp.ms(n), 'cli:operator', 'member.added', pg_temp.member(n), NULL,
    json_build_object('plan', pg_temp.plan(n), 'status', 'active', 'email', 'anna.' || n || '@example.com',
        'customers', json_build_array(1000000000 + n))::text
FROM generate_series(1, {members} - 1) AS n;

INSERT INTO decisions SELECT n * 4, pg_temp.id(n), pg_temp.ms(n), pg_temp.studio(door),
    CASE WHEN kind < 19 THEN pg_temp.member(pg_temp.number(door)) END,
    CASE WHEN kind < 19 THEN pg_temp.member(pg_temp.number(door)) ELSE 'stranger-' || n END,
    CASE WHEN kind < 19 THEN 1000000000 + pg_temp.number(door) ELSE 1 END,
    CASE WHEN kind < 17 THEN 'allowed' ELSE 'denied' END,
    CASE WHEN kind < 16 THEN 'ok' WHEN kind = 16 THEN 'reentry' WHEN kind < 19 THEN 'limit_reached'
        ELSE 'unknown_member' END,
    CASE WHEN kind IN (17, 18) THEN '{{"max": 1, "per": "day", "scope": "network", "used": 1}}' END, NULL,
    CASE WHEN kind < 17 THEN pg_temp.id(door) END,
    CASE WHEN kind < 19 THEN pg_temp.plan(pg_temp.number(door)) END, CASE WHEN kind < 19 THEN 1 END,
    false, '0123456789abcdef'
FROM (SELECT n, n % 20 AS kind, CASE WHEN n % 20 = 16 THEN n - 1 ELSE n END AS door
    FROM generate_series(1, {decisions}) AS n) AS checkins;

INSERT INTO answers SELECT pg_temp.id(n), CASE WHEN n % 20 < 17 THEN 200 ELSE 403 END, 3.5, n % 500 = 3
FROM generate_series(1, {decisions}) AS n;

INSERT INTO visits SELECT n * 4 + 1, pg_temp.id(n), pg_temp.member(pg_temp.number(n)), pg_temp.studio(n),
    pg_temp.ms(n), pg_temp.date(n), '[]', false,
    CASE WHEN why IS NOT NULL THEN 'reversed' WHEN n % 20 < 12 THEN 'confirmed' ELSE 'authorized' END, why,
    'checkin',
    pg_temp.plan(pg_temp.number(n)), 1
FROM (SELECT n, {why} AS why FROM generate_series(1, {decisions}) AS n) AS made WHERE n % 20 < 16;

INSERT INTO visit_changes SELECT n * 4 + 3, pg_temp.id(n), pg_temp.ms(n) + 60000,
    CASE WHEN why IS NULL THEN 'confirmed' ELSE 'reversed' END,
    CASE WHEN why = 'the card was passed back' THEN 'cli:operator' ELSE 'guestgate' END,
    coalesce(why, 'entry told by webhook ' || pg_temp.id(n))
FROM (SELECT n, {why} AS why FROM generate_series(1, {decisions}) AS n) AS made
WHERE n % 20 < 12 OR why IS NOT NULL AND n % 20 < 16;
"""
_WHY = "CASE WHEN n % 500 = 3 THEN 'undelivered' WHEN n % 500 = 47 THEN 'the card was passed back' END"

# For the server that holds it: quick to fill, with a cache as a small server of one's own would have.
SETTINGS = (
    "wal_level = minimal",
    "max_wal_senders = 0",
    "max_wal_size = 8GB",
    "shared_buffers = 512MB",
    "maintenance_work_mem = 256MB",
)


@dataclass(frozen=True)
class Grown:
    """A grown record. Its last check-in was a minute before ``now``."""

    url: str
    now: datetime
    decisions: int
    members: int
    studios: int
    # Studio s-1's.
    key: str = "a-key-of-studio-s-1-long-enough-to-be-strong"

    @property
    def busiest_member(self) -> str:
        """Whoever came most."""
        return self.member(4)

    @property
    def busiest_studio(self) -> str:
        """Where most check-ins are."""
        return "s-0"

    @property
    def months(self) -> list[str]:
        """The months of the record, ``2026-11``, the first one first."""
        first = self.now - SPAN
        count = first.year * 12 + first.month - 1
        return [f"{n // 12}-{n % 12 + 1:02d}" for n in range(count, self.now.year * 12 + self.now.month)]

    def member(self, number: int) -> str:
        """A member's id."""
        return f"m-{number % self.members:07d}"


def grow(cluster: Cluster, decisions: int, members: int | None = None) -> Grown:
    """Fill a new database: a tenth as many members as decisions, or so many, and five hundred studios at most."""
    url, few_studios = cluster.url(cluster.create()), min(500, decisions // 400)
    grown = Grown(url, clock.now(), decisions, members or decisions // 10, few_studios)
    database = Database.at(grown.url)
    database.upgrade()
    with database.write() as connection:
        for number in (*range(grown.studios), "closed"):
            studios.add(
                connection,
                f"s-{number}",
                name=f"Studio {number}",
                timezone="UTC",
                tags=frozenset(),
                test=False,
            )
        studios.add_key(connection, "s-1", grown.key, KeyKind.CHECKIN)
        plans.apply(connection, PLANS)
        for month in grown.months:
            partitions.add_month(connection, int(month[:4]), int(month[5:]))
    with database.write() as connection:
        _fill(connection, grown)
        sequence.make_room(connection)
    # As the server's own upkeep leaves it, whenever that comes by.
    cluster.execute("VACUUM (ANALYZE)", grown.url.rpartition("/")[2])
    database.engine.dispose()
    return grown


def _fill(connection: Connection, grown: Grown) -> None:
    last = grown.now - timedelta(minutes=1)
    values = {
        "first_ms": clock.to_ms(last - SPAN),
        "span_ms": clock.to_ms(last) - clock.to_ms(last - SPAN),
        "decisions": grown.decisions,
        "members": grown.members,
        "studios": grown.studios,
        "why": _WHY,
    }
    options = {"no_parameters": True}
    # What the product wrote so far is numbered like this transaction; here the numbers begin at 4.
    connection.exec_driver_sql("DELETE FROM changes", execution_options=options)
    for statement in (_FUNCTIONS + _ROWS).format(**values).split(";\n"):
        if statement.strip():
            connection.exec_driver_sql(statement, execution_options=options)


def in_a_file(grown: Grown, file: Path) -> Grown:
    """The same record in a new SQLite database, where its numbers go on after its own last one."""
    copy = replace(grown, url=f"sqlite:///{file}")
    Database.at(copy.url).upgrade()
    with Database.at(grown.url).read() as reading, closing(_unsafe(file)) as writing:
        for table in schema.metadata.sorted_tables:
            names = [column.name for column in table.columns]
            writing.execute(f"DELETE FROM {table.name}")
            source: Any = reading.connection.driver_connection
            with source.cursor(name="copied") as rows:
                rows.itersize = ROWS_AT_ONCE
                rows.execute(f"SELECT {', '.join(names)} FROM {table.name}")
                writing.executemany(f"INSERT INTO {table.name} VALUES ({', '.join('?' * len(names))})", rows)
        writing.execute(f"UPDATE feed SET seq = {grown.decisions * 4 + 3}")
        writing.commit()
    return copy


def _unsafe(file: Path) -> Any:
    """A connection that is quick and keeps nothing safe."""
    connection = safe_sqlite().connect(str(file))
    for setting in ("locking_mode = EXCLUSIVE", "journal_mode = OFF", "synchronous = OFF", "cache_size = -2000000"):
        connection.execute(f"PRAGMA {setting}").fetchall()
    return connection


def month_before(now: datetime) -> str:
    """The month before this one."""
    return (now.astimezone(UTC).replace(day=1) - timedelta(days=1)).strftime("%Y-%m")
