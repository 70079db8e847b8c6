"""The roles of examples/postgres-roles.sql: enough for all that guestgate does, and no more."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import psycopg
import pytest
from callers import problems
from cluster import SUPERUSER, Cluster
from gate import Gate

from guestgate import partitions, sequence
from guestgate.database import Database
from guestgate.errors import UsageError

ROLES = Path(__file__).parents[1] / "examples" / "postgres-roles.sql"
OWNER, SERVER = "guestgate_owner", "guestgate"


def run_roles(url: str) -> None:
    """Run the file in a database."""
    command = ["psql", "--no-psqlrc", "--single-transaction", "--set", "ON_ERROR_STOP=1", "--file", str(ROLES), url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module", params=["superuser", "administrator"])
def name(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[str]:
    """A database in which the file ran twice, by a superuser or by one who may only make roles, with the schema."""
    name = cluster.create()
    admin = SUPERUSER
    if request.param == "administrator":
        admin = "administrator"
        cluster.execute(f"CREATE ROLE {admin} LOGIN CREATEROLE CREATEDB")
        cluster.execute(f"ALTER DATABASE {name} OWNER TO {admin}")
    for _ in range(2):
        run_roles(cluster.url(name, admin))
    Database.at(cluster.url(name, OWNER)).upgrade()
    yield name
    cluster.drop(name)


@pytest.mark.parametrize("name", ["administrator"], indirect=True)
def test_the_server_and_every_command_run_under_the_lesser_role(name: str, cluster: Cluster, tmp_path: Path) -> None:
    """Through the door, the admin listener and the command line; only what is made is the owner's."""
    gate = Gate(tmp_path, database_url=cluster.url(name, SERVER))
    try:
        gate.studio()
        gate.plans()
        gate.members("m1,once", "m2,free")
        gate.start()
        assert gate.checkin("m1").json()["reason"] == "ok"
        assert gate.checkin("m1").json()["reason"] == "limit_reached"
        with gate.office() as office:
            visit = office.get("/visits").json()["items"][0]
            office.post(f"/visits/{visit['id']}/reverse", json={"why": "a test"}).raise_for_status()
            office.put("/members/m3", json={"plan": "free"}).raise_for_status()
        gate.cli("key", "list")
        gate.cli("member", "forget", "m2", "--yes")
        gate.cli("db", "check")
        gate.cli("db", "prune", "--keep", "1month")
        gate.cli("db", "upgrade")
        assert gate.stop() == 0
        assert "could not" not in gate.log.read_text("utf-8")
    finally:
        gate.close()
    assert problems(gate.database) == []
    owners = cluster.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'", name)
    assert owners == [(OWNER,)]


def test_months_are_made_and_dropped_with_the_owners_rights(name: str, cluster: Cluster) -> None:
    """The server's role has no right to make a table, and needs none."""
    database = Database.open(cluster.url(name, SERVER))
    later = datetime(2031, 3, 4, tzinfo=UTC)
    assert partitions.make_ahead(database, later) == 3
    with database.read() as connection:
        assert date(2031, 5, 1) in partitions.months(connection)
    assert partitions.drop_empty(database, later.replace(year=2032)) >= 3
    with database.read() as connection:
        assert date(2031, 5, 1) not in partitions.months(connection)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (id integer)",
        "CREATE TEMPORARY TABLE decisions (id text)",
        "DROP TABLE decisions",
        "TRUNCATE visits",
        "ALTER TABLE visits DISABLE TRIGGER ALL",
        "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE FUNCTION guestgate_add_month(month date) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "CREATE SCHEMA mine",
        "SET ROLE guestgate_owner",
    ],
)
def test_what_the_server_may_not(statement: str, name: str, cluster: Cluster) -> None:
    """Its role changes rows and nothing else."""
    with (
        psycopg.connect(cluster.url(name, SERVER)) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)  # type: ignore[call-overload]


def test_temporary_tables_do_not_get_in_the_way_of_the_owners_functions(name: str, cluster: Cluster) -> None:
    """Where somebody gave the right to make some: they come first in a search path unless it says otherwise."""
    cluster.execute(f"GRANT TEMPORARY ON DATABASE {name} TO {SERVER}")
    with psycopg.connect(cluster.url(name, SERVER)) as connection:
        connection.execute("CREATE TEMPORARY TABLE decisions_rest (id text)")
        connection.execute("CREATE TEMPORARY TABLE decisions (id text) PARTITION BY RANGE (id)")
        connection.execute("SELECT guestgate_add_month('2033-01-01')")
        assert connection.execute(
            "SELECT count(*) FROM pg_inherits WHERE inhparent = 'public.decisions'::regclass "
            "AND inhrelid::regclass::text LIKE '%decisions_2033_01'"
        ).fetchone() == (1,)
        connection.rollback()
    cluster.execute(f"REVOKE TEMPORARY ON DATABASE {name} FROM {SERVER}")


@pytest.mark.parametrize(
    "taken, says",
    [
        ("USAGE ON SCHEMA public", "role guestgate may not use any schema of its search path"),
        ("SELECT ON alembic_version", "role guestgate may not SELECT in alembic_version"),
        ("INSERT, DELETE ON decisions", "role guestgate may not INSERT, DELETE in decisions"),
        ("UPDATE ON members", "role guestgate may not UPDATE in members"),
        ("ALL ON ALL TABLES IN SCHEMA public", "role guestgate may not SELECT in alembic_version"),
        ("EXECUTE ON FUNCTION guestgate_add_month(date)", "role guestgate may not EXECUTE guestgate_add_month(date)"),
    ],
)
def test_a_missing_right_is_told_at_the_start(taken: str, says: str, name: str, cluster: Cluster) -> None:
    """One plain sentence that names the role, the right and the table, and where to find what is needed."""
    cluster.execute(f"REVOKE {taken} FROM {SERVER}", name)
    try:
        with pytest.raises(UsageError) as refused:
            Database.open(cluster.url(name, SERVER))
        assert says in str(refused.value)
        assert "examples/postgres-roles.sql gives what guestgate needs" in str(refused.value)
        assert "\n" not in str(refused.value)
    finally:
        cluster.execute(f"GRANT USAGE ON SCHEMA public TO {SERVER}", name)
        cluster.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {SERVER}", name)
        cluster.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {SERVER}", name)
    Database.open(cluster.url(name, SERVER))


def test_a_dump_is_put_back_by_the_owner(name: str, cluster: Cluster) -> None:
    """Elsewhere, with the file run again: it says that it is a copy, and after db upgrade all is well."""
    there = cluster.create()
    run_roles(cluster.url(there))
    dumped = subprocess.run(
        ["pg_dump", "--no-owner", "--no-privileges", cluster.url(name, OWNER)], capture_output=True, check=True
    )
    subprocess.run(
        ["psql", "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", cluster.url(there, OWNER)],
        input=dumped.stdout,
        capture_output=True,
        check=True,
    )
    run_roles(cluster.url(there))
    original = Database.at(cluster.url(name, OWNER))
    with original.write() as connection:  # as many transactions as a year has seconds
        connection.exec_driver_sql("UPDATE cluster SET base = base + 31536000")
        lost = sequence.take(connection, 1)[0]
    with pytest.raises(UsageError, match="was filled from a dump of another one: run guestgate db upgrade"):
        Database.open(cluster.url(there, SERVER))
    Database.at(cluster.url(there, OWNER)).upgrade()
    database = Database.open(cluster.url(there, SERVER))
    assert problems(database) == []
    with database.write() as connection:
        assert sequence.take(connection, 1)[0] > lost
    assert partitions.make_ahead(database, datetime(2035, 1, 1, tzinfo=UTC)) == 3
    cluster.drop(there)
