"""What a server with PostgreSQL says at its start, one plain sentence each; and versions side by side."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from backends import Server
from cluster import PASSWORD, STRICT, Cluster
from gate import Gate
from terminal import Terminal

from guestgate.database import Database, schema_versions
from guestgate.errors import UsageError

SERVE = ("serve", "--behind-proxy", "--host", "127.0.0.1")


@pytest.fixture
def desk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], postgres: Server
) -> Iterator[Terminal]:
    """An installation on PostgreSQL."""
    url = postgres.new(tmp_path)
    desk = Terminal(tmp_path / "home", monkeypatch, capsys, url, furnished=True)
    yield desk
    desk.close()
    postgres.drop(url)


def complaint(desk: Terminal, url: str, *, command: tuple[str, ...] = SERVE) -> str:
    """What the server says at its start where this is its database."""
    desk.monkeypatch.setenv("GUESTGATE_DATABASE", url)
    said = desk.complaint(*command)
    assert PASSWORD not in said and "Traceback" not in said
    return said


def name_of(url: str) -> str:
    """The database's name."""
    return url.rpartition("/")[2]


def url_of(desk: Terminal) -> str:
    """The installation's database."""
    config = (desk.home / "guestgate.toml").read_text("utf-8")
    return next(line for line in config.splitlines() if line.startswith("database = ")).split('"')[1]


@pytest.mark.parametrize(
    "url, says",
    [
        ("postgresql://localhost:port/guestgate", "the port is no number"),
        ("postgresql://u:throw-away%zz@localhost/guestgate", "%25 for %"),
        ("postgresql://u:throw-away@100%@localhost/guestgate", "%25 for %"),
        ("postgresql://u:100@throw-away@localhost/guestgate", "%40 for @"),
        ("postgresql://u:throw-away/100@localhost/guestgate", "%2F for /"),
        ("postgresql:/u:throw-away@localhost/guestgate", "write postgresql://"),
        ("postgresql//u:throw-away@localhost/guestgate", "is not a database URL"),
        ("postgresql://u:throw-away@[::1/guestgate", "IPv6"),
        ("postgresql://u:throw-away@localhost/guestgate?sslmod=require", "sslmod"),
        ("postgresql://u:throw-away@localhost/guestgate?prepare_threshold=few", "prepare_threshold"),
        ("postgresql+asyncpg://localhost/guestgate", "write postgresql://"),
        ("postgresql://u:throw-away@127.0.0.1:1/guestgate", "Connection refused"),
        ("postgresql://u:throw-away@nowhere.invalid/guestgate", "nowhere.invalid"),
    ],
)
def test_addresses_that_lead_nowhere(url: str, says: str, desk: Terminal) -> None:
    """By what is wrong with them, and without the password."""
    assert says in complaint(desk, url)


def test_who_may_not_come_in(desk: Terminal, postgres: Server) -> None:
    """A wrong password, a database that is not there, and a role without rights."""
    cluster, url = postgres.cluster, url_of(desk)
    name = name_of(url)
    cluster.execute(f"DROP ROLE IF EXISTS {STRICT}")
    cluster.execute(f"CREATE ROLE {STRICT} LOGIN PASSWORD 'right'")
    try:
        assert "password authentication failed" in complaint(desk, cluster.url(name, STRICT, "wrong"))
        assert "does not exist" in complaint(desk, cluster.url("nowhere", STRICT, "right"))
        said = complaint(desk, cluster.url(name, STRICT, "right"))
        assert f"role {STRICT} may not" in said or "permission denied" in said
        cluster.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {STRICT}", name)
        said = complaint(desk, cluster.url(name, STRICT, "right"))
        assert f"role {STRICT} may not INSERT, UPDATE, DELETE in " in said
        cluster.execute(f"GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {STRICT}", name)
        desk.monkeypatch.setenv("GUESTGATE_DATABASE", cluster.url(name, STRICT, "right"))
        desk.run("studio", "list")
    finally:
        cluster.execute(f"DROP OWNED BY {STRICT}", name)
        cluster.execute(f"DROP ROLE {STRICT}")


def test_a_standby_cannot_write(desk: Terminal, postgres: Server) -> None:
    """Neither alone nor where the database itself is read-only; said by what to give instead."""
    standby = Cluster(standby_of=postgres.cluster)
    try:
        said = complaint(desk, standby.url(name_of(url_of(desk))))
        assert "read-only" in said or "standby" in said or "hot standby" in said
    finally:
        standby.close()
    name = name_of(url_of(desk))
    postgres.cluster.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    said = complaint(desk, url_of(desk))
    assert "read-only" in said


def test_databases_of_others(desk: Terminal, postgres: Server) -> None:
    """An empty one, another program's, and one whose encoding has not all names."""
    empty = postgres.cluster.create()
    latin = postgres.cluster.create(ENCODING="LATIN1", LC_COLLATE="C", LC_CTYPE="C")
    try:
        assert "guestgate init" in complaint(desk, postgres.cluster.url(empty))
        postgres.cluster.execute("CREATE TABLE invoices (id int)", empty)
        said = complaint(desk, postgres.cluster.url(empty), command=("db", "upgrade"))
        assert "another program's" in said
        assert "LATIN1" in complaint(desk, postgres.cluster.url(latin))
        assert "LATIN1" in complaint(desk, postgres.cluster.url(latin), command=("db", "upgrade"))
    finally:
        postgres.cluster.drop(empty)
        postgres.cluster.drop(latin)


def test_an_older_schema_is_upgraded_first(desk: Terminal) -> None:
    """The sentence names the command."""
    with desk.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    said = complaint(desk, url_of(desk))
    assert "older guestgate (0001" in said and "guestgate db upgrade" in said


def test_versions_side_by_side(desk: Terminal) -> None:
    """A newer guestgate has upgraded: this one goes on where that left it room for that, and refuses where not."""
    newest = schema_versions()[-1]
    with desk.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        connection.exec_driver_sql(f"UPDATE cluster SET oldest_user = '{newest}'")
    desk.run("studio", "list")
    desk.studio()
    assert [studio["id"] for studio in desk.json("studio", "list")] == ["s1"]
    with desk.writing() as connection:
        connection.exec_driver_sql("UPDATE cluster SET oldest_user = '9999'")
    said = complaint(desk, url_of(desk))
    assert "newer guestgate (schema 9999" in said
    assert "newer guestgate" in complaint(desk, url_of(desk), command=("db", "upgrade"))


def test_a_server_of_the_older_version_serves_on(tmp_path: Path, postgres: Server) -> None:
    """An upgrade by a newer one while it runs: it answers, and can be started again."""
    url = postgres.new(tmp_path)
    gate = Gate(tmp_path, database_url=url)
    try:
        gate.studio()
        gate.plans()
        gate.members("free-1,free")
        gate.start()
        with gate.database.write() as connection:
            connection.exec_driver_sql("ALTER TABLE members ADD COLUMN nickname text")
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        assert gate.checkin("free-1").status_code == 200
        gate.members("free-2,free")
        assert gate.stop() == 0
        gate.start()
        assert gate.checkin("free-2").status_code == 200
        assert gate.stop() == 0
    finally:
        gate.close()
        postgres.drop(url)


def test_several_upgrade_at_once(tmp_path: Path, postgres: Server) -> None:
    """Nodes that are started together on an empty database: one makes the schema, and all go on."""
    url = postgres.cluster.url(postgres.cluster.create())
    done: list[tuple[str | None, str]] = []
    threads = [threading.Thread(target=lambda: done.append(Database.at(url).upgrade())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    newest = schema_versions()[-1]
    assert sorted(done, key=str) == sorted([(None, newest), *[(newest, newest)] * 5], key=str)
    Database.open(url)
    postgres.drop(url)


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/Halifax", "UTC"])
def test_any_time_zone_of_the_server(zone: str, tmp_path: Path, postgres: Server) -> None:
    """Instants are stored as numbers and months begin in UTC, so nothing depends on it."""
    name = postgres.cluster.create()
    url = postgres.cluster.url(name)
    postgres.cluster.execute(f"ALTER DATABASE {name} SET timezone = '{zone}'")
    Database.at(url).upgrade()
    months = (
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class "
        "WHERE relname ~ '^decisions_2' AND relkind = 'r' ORDER BY relname"
    )
    bounds = postgres.cluster.execute(months, name)
    reference = postgres.cluster.create()
    Database.at(postgres.cluster.url(reference)).upgrade()
    assert bounds == postgres.cluster.execute(months, reference)
    assert len(bounds) == 3
    postgres.drop(url)
    postgres.cluster.drop(reference)


def test_without_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says what to install."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UsageError, match=r"guestgate\[postgres\]"):
        Database.at("postgresql://localhost/guestgate")
