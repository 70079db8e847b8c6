"""Servers that share a record and say how they are: to one another, on the start page and in the API."""

from __future__ import annotations

import html
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backends import Server
from callers import rows
from desk import Desk
from gate import Gate, wait_for
from sqlalchemy import insert, update

from guestgate import __version__, clock, nodes, schema
from guestgate.database import Database
from guestgate.nodes import Node, NodeState
from guestgate.settings import Settings
from guestgate.tokens import Role

SILENT_S = nodes.SILENT_MS / 1000


@pytest.fixture
def database(home: Gate) -> Database:
    """An empty one."""
    return home.database


def a_node(name: str = "one:8443", **more: Any) -> Node:
    """A server that has just started."""
    return nodes.this_server(Settings())._replace(name=name, **more)


def say(database: Database, what: Any, node: Node) -> None:
    """In a transaction of its own."""
    with database.write() as connection:
        what(connection, node)


def seen(database: Database, own: Node | None = None) -> dict[str, dict[str, Any]]:
    """All servers by id."""
    with database.read() as connection:
        return {node["id"]: node for node in nodes.node_list(connection, own)}


def silent_for(database: Database, node: Node, milliseconds: int) -> None:
    """It was heard from so long ago."""
    with database.write() as connection:
        connection.execute(
            update(schema.nodes).values(seen_at_ms=clock.now_ms() - milliseconds).where(schema.nodes.c.id == node.id)
        )


def test_what_a_server_says_is_what_others_read(database: Database) -> None:
    """As it said it last."""
    node = a_node()
    say(database, nodes.arrive, node)
    said = node._replace(state=NodeState.STANDING_IN, checkins=412, in_time=0.75, p99_ms=18.5, copy_age_s=0.25)
    say(database, nodes.tell, said)
    (read,) = seen(database).values()
    assert read.pop("seen_at") >= read["started_at"]
    assert read == {
        "id": node.id,
        "name": "one:8443",
        "version": __version__,
        "state": "standing_in",
        "started_at": clock.iso_of(node.started_at_ms),
        "checkins": 412,
        "in_time": 0.75,
        "p99_ms": 18.5,
        "copy_age_s": 0.25,
    }


def test_who_says_nothing_is_silent_and_after_a_day_forgotten(database: Database) -> None:
    """Forgotten by whoever speaks then."""
    one, other = a_node(), a_node("other:8443")
    for node in (one, other):
        say(database, nodes.arrive, node)
    silent_for(database, one, nodes.SILENT_MS // 2)
    assert {node["state"] for node in seen(database).values()} == {"serving"}
    silent_for(database, one, nodes.SILENT_MS + 5_000)
    assert seen(database)[one.id]["state"] == "silent"
    silent_for(database, one, nodes.FORGOTTEN_MS + 60_000)
    say(database, nodes.tell, other)
    assert set(seen(database)) == {other.id}


def test_a_server_that_starts_again_takes_its_own_place(database: Database) -> None:
    """One of the same name is gone; others stay, and so does one that ends another one's."""
    before, other, after = a_node(), a_node("other:8443"), a_node()
    for node in (before, other, after):
        say(database, nodes.arrive, node)
    assert set(seen(database)) == {other.id, after.id}
    say(database, nodes.leave, before)
    say(database, nodes.leave, other)
    assert set(seen(database)) == {after.id}
    say(database, nodes.tell, other)  # it was taken for gone, and is not
    assert set(seen(database)) == {other.id, after.id}


def test_a_server_knows_best_how_it_is_itself(database: Database) -> None:
    """Before it has told the others, and after."""
    own = a_node(checkins=5)
    assert seen(database, own)[own.id]["checkins"] == 5
    say(database, nodes.arrive, own._replace(checkins=3))
    say(database, nodes.arrive, a_node("a"))
    assert [node["checkins"] for node in seen(database, own).values()] == [0, 5]


def test_a_server_on_a_unix_socket_has_a_name_as_well() -> None:
    """Of machine and socket."""
    assert nodes.this_server(Settings(host="unix:/run/g.sock", behind_proxy=True)).name.endswith(":unix:/run/g.sock")


def text(page: str) -> str:
    """What of a page is read, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def test_one_server_by_itself(served: Gate) -> None:
    """With what it did in the last minute. On SQLite nobody else has to know, and nothing is written."""
    for _ in range(3):
        served.checkin("free-1")
    with Desk(served, Role.VIEWER) as desk, served.office("viewer") as office:

        def told() -> bool:
            (node,) = office.get("/nodes").json()["items"]
            return bool(node["checkins"] == 3 and node["in_time"] == 1 and 0 < node["p99_ms"] < 750)

        wait_for(told, "the server does not say what it did", served)
        (node,) = office.get("/nodes").json()["items"]
        assert node["state"] == "serving" and node["name"].endswith(f":{served.port}")
        told_so = "3 check-ins in the last minute, 100 % in time , 99 % within"
        wait_for(lambda: told_so in text(desk.page("/")), "it is not on the page", served)
        assert f"{node['name']} serving" in text(desk.page("/"))
        assert f"This server · version {__version__} · started" in text(desk.page("/"))
    written = rows(served.database, "SELECT name FROM nodes")
    assert written == ([] if served.database_url.startswith("sqlite") else [(node["name"],)])


def test_without_figures_of_its_own_there_are_the_others(database: Database, home: Gate) -> None:
    """A door that says nothing leaves its server's page with what the database knows."""
    with database.write() as connection:
        connection.execute(insert(schema.nodes).values({**a_node()._asdict(), "seen_at_ms": clock.now_ms()}))
    assert [node["name"] for node in seen(home.database).values()] == ["one:8443"]


@pytest.fixture
def pair(tmp_path: Path, postgres: Server) -> Iterator[tuple[Gate, Gate]]:
    """Two servers on one PostgreSQL; the second has no admin listener."""
    url = postgres.new(tmp_path)
    one = Gate(tmp_path, database_url=url)
    one.studio("s1")
    one.plans()
    one.members("free-1,free")
    other = one.join(tmp_path / "other")
    other.admin_port = 0
    for gate in (one, other):
        gate.start()
    yield one, other
    for gate in (one, other):
        gate.close()
    postgres.drop(url)


@pytest.mark.alone
def test_two_servers_know_of_one_another(pair: tuple[Gate, Gate]) -> None:
    """What each did; that one was killed, and when it was heard of last; that it is back; and that it ended."""
    one, other = pair
    other.checkin("free-1")
    with Desk(one, Role.VIEWER) as desk, one.office("viewer") as office:

        def the_other() -> dict[str, Any] | None:
            found = office.get("/nodes").json()["items"]
            return next((node for node in found if node["name"].endswith(f":{other.port}")), None)

        def is_so(**wanted: Any) -> bool:
            node = the_other()
            return node is not None and wanted.items() <= node.items()

        def read() -> str:
            return text(desk.page("/"))

        wait_for(lambda: is_so(state="serving", checkins=1, in_time=1.0), "the other one is not heard of", one)
        before = the_other()
        assert before is not None
        other.stop(signal.SIGKILL)
        wait_for(lambda: is_so(state="silent"), "nobody misses it", one, SILENT_S + 20)
        wait_for(lambda: f"{before['name']} not heard from Since " in read(), "the page does not say so", one)
        assert "It has ended, or is cut off from the database." in read()
        other.start()
        wait_for(lambda: is_so(state="serving"), "it is not heard of again", one)
        after = the_other()
        assert after is not None and after["id"] != before["id"]
        assert len(office.get("/nodes").json()["items"]) == 2
        assert other.stop() == 0
        assert the_other() is None
        wait_for(lambda: before["name"] not in read(), "it is still on the page", one)
