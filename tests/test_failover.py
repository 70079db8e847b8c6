"""A primary that dies under load, and its synchronous standby in its place: nothing that was answered is lost."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import structlog
from callers import Caller, Crowd, missing, noon_zone, problems, rows
from cluster import Cluster, primary_and_standby
from gate import Gate, wait_for

from guestgate.database import Database

PLANS = """\
[plans.free]
name = "Free"
reentry_minutes = 0

[plans.three]
name = "Three a day"
reentry_minutes = 0
limits = [{ max = 3, per = "day" }]
"""
MEMBERS = [f"{plan}-{number}" for plan in ("free", "three") for number in range(300)]


@pytest.fixture
def pair() -> Iterator[tuple[Cluster, Cluster]]:
    """A primary whose commits wait for its standby, and that standby."""
    with primary_and_standby() as pair:
        yield pair


@pytest.fixture
def gate(pair: tuple[Cluster, Cluster], tmp_path: Path) -> Iterator[Gate]:
    """An installation that knows both; it has a studio and plans, and does not serve yet."""
    primary, standby = pair
    both = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
    url = primary.url(primary.create())
    gate = Gate(tmp_path, database_url=url.replace(f"127.0.0.1:{primary.port}", both))
    gate.studio("s1", timezone=noon_zone())
    gate.plans(PLANS)
    yield gate
    gate.close()


@pytest.fixture
def process(gate: Gate, tmp_path: Path) -> Iterator[Callable[..., Database]]:
    """Makes what processes of one machine have of the database: each is told what the others have seen."""
    made: list[Database] = []

    def make(url: str = gate.database_url, **options: bool) -> Database:
        made.append(Database.at(url, fence=tmp_path / "fence", **options))
        return made[-1]

    yield make
    for database in made:
        database.engine.dispose()


def now_on(standby: Cluster, gate: Gate) -> Database:
    """The installation's database, as the promoted standby has it."""
    return Database.at(standby.url(gate.database_url.rpartition("/")[2]))


def port_of(database: Database) -> int:
    """Which of the hosts it reads from."""
    with database.read() as connection:
        return int(connection.exec_driver_sql("SELECT inet_server_port()").scalar_one())


def first_for_libpq(gate: Gate) -> int:
    """The port of the host that libpq by itself takes for writing."""
    with psycopg.connect(gate.database_url, target_session_attrs="read-write") as connection:
        return connection.info.port


def ways_to_say_it(gate: Gate, first: Cluster, second: Cluster) -> list[str]:
    """The same two hosts in every form that libpq takes."""
    login, database = gate.database_url.partition("@")[0], gate.database_url.rpartition("/")[2]
    ports = f"{first.port},{second.port}"
    return [
        gate.database_url,
        f"{login}@/{database}?host=127.0.0.1,localhost&port={ports}",
        f"{login}@/{database}?hostaddr=127.0.0.1,127.0.0.1&port={ports}",
        f"{login}@one,two/{database}?hostaddr=127.0.0.1,127.0.0.1&port={ports}",
    ]


def hang_up(cluster: Cluster) -> None:
    """End guestgate's connections there, so that it needs new ones."""
    cluster.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'guestgate'")


def decided_on(cluster: Cluster, gate: Gate) -> object:
    """How many decisions this server has."""
    return cluster.execute("SELECT count(*) FROM decisions", gate.database_url.rpartition("/")[2])


def test_a_standby_takes_over(gate: Gate, pair: tuple[Cluster, Cluster]) -> None:
    """SIGKILL of the primary, promotion: the server finds the new one by itself, and the record is whole."""
    primary, standby = pair
    gate.members(*(f"{member},{member.partition('-')[0]}" for member in MEMBERS))
    gate.start()
    with gate.office("viewer") as office:
        cursor = office.get("/events", params={"limit": 5}).json()["next"]
    with Crowd(gate, MEMBERS, "failover", size=8) as crowd:
        wait_for(lambda: len(crowd.replies) > 300, "nobody is answered", gate)
        primary.signal(signal.SIGKILL)
        wait_for(lambda: any(r.status == 503 for r in crowd.replies), "nobody noticed", gate)
        standby.promote()
        wait_for(lambda: {r.status for r in crowd.replies[-50:]} <= {200, 403}, "no full service again", gate)
        crowd.end()
    assert crowd.broken == 0
    assert {reply.status for reply in crowd.replies} == {200, 403, 503}
    now = now_on(standby, gate)
    assert missing(now, crowd.replies) == []
    visits = Counter(member for (member,) in rows(now, "SELECT member_id FROM visits WHERE state != 'reversed'"))
    assert all(count <= 3 for member, count in visits.items() if member.startswith("three"))
    let_in = Counter(reply.member for reply in crowd.replies if reply.reason == "ok")
    assert all(visits[member] >= count for member, count in let_in.items())
    caller = Caller(gate)
    assert {caller.call(member).status for member in MEMBERS[:50]} == {200}  # type: ignore[union-attr]
    caller.close()
    with gate.office("viewer") as office:
        lost = office.get("/events", params={"after": cursor})
        assert lost.status_code == 410, "the promoted server's history is another one"
        assert office.get("/events", params={"limit": 5}).json()["events"]
    assert gate.stop() == 0
    assert problems(now) == []


def test_an_old_primary_is_started_again(
    gate: Gate, pair: tuple[Cluster, Cluster], process: Callable[..., Database]
) -> None:
    """It takes writes and comes first in the address; whoever has seen the promoted one, or is told, goes there."""
    primary, standby = pair
    gate.members("free-1,free")
    gate.start()
    assert gate.checkin("free-1").status_code == 200
    following = f"{standby.url(gate.database_url.rpartition('/')[2])}?target_session_attrs=any"
    assert port_of(process(following)) == standby.port, "a standby has no history of its own and is not judged"
    pooled = process(pooled=True)
    assert port_of(pooled) == primary.port
    primary.kill()
    standby.promote()
    wait_for(lambda: gate.checkin("free-1").status_code == 200, "no full service again", gate)
    gate.studio("s2")
    wait_for(lambda: gate.checkin("free-1", studio_id="s2").status_code == 200, "a new key is not known", gate)
    assert port_of(pooled) == standby.port
    primary.start()
    assert first_for_libpq(gate) == primary.port, "the old primary is no danger, and this test shows nothing"
    before = decided_on(primary, gate)
    for database in (pooled, gate.database):
        database.engine.dispose()
        assert port_of(database) == standby.port
    for url in ways_to_say_it(gate, primary, standby):
        with structlog.testing.capture_logs() as events:
            database = process(url)
            assert [port_of(database) for _ in range(3)] == [standby.port] * 3
        assert [event["event"] for event in events] == ["an old primary is passed over"], "said once, and no more"
        assert f":{primary.port} is an old primary" in events[0]["why"]
    hang_up(standby)
    gate.studio("s3")
    wait_for(lambda: gate.checkin("free-1", studio_id="s3").status_code == 200, "a newer key is not known", gate)
    assert "an old primary is passed over" in gate.log.read_text("utf-8")
    assert gate.stop() == 0
    assert decided_on(primary, gate) == before
    assert problems(now_on(standby, gate)) == []


def test_a_primary_that_freezes(gate: Gate, pair: tuple[Cluster, Cluster], process: Callable[..., Database]) -> None:
    """Its machine still takes what is sent, so nothing breaks; the server goes on with the new one all the same.

    Nor does anybody go back when the frozen one goes on, not even on connections that never broke.
    """
    primary, standby = pair
    gate.members("free-1,free")
    gate.start()
    idle = process(pooled=True)
    with idle.read(), idle.read():
        assert port_of(idle) == primary.port
    ledger = process(door=True).connect_ledger(400)
    with ledger.begin():
        pass
    assert gate.checkin("free-1").status_code == 200
    primary.signal(signal.SIGSTOP)
    assert gate.checkin("free-1").status_code == 503
    standby.promote()
    wait_for(lambda: gate.checkin("free-1").status_code == 200, "no full service again", gate, seconds=60)
    assert "the database says nothing" in gate.log.read_text("utf-8")
    gate.studio("s2")
    wait_for(lambda: gate.checkin("free-1", studio_id="s2").status_code == 200, "a new key is not known", gate)
    assert port_of(process(pooled=True)) == standby.port
    primary.signal(signal.SIGCONT)
    wait_for(lambda: first_for_libpq(gate) == primary.port, "the old primary does not go on")
    assert port_of(idle) == standby.port, "an idle connection to the old primary was used again"
    with ledger, ledger.begin():
        assert ledger.exec_driver_sql("SELECT inet_server_port()").scalar_one() == standby.port
    hang_up(standby)
    gate.studio("s3")
    wait_for(lambda: gate.checkin("free-1", studio_id="s3").status_code == 200, "a newer key is not known", gate)
    assert "an old primary is passed over" in gate.log.read_text("utf-8")
    assert gate.stop() == 0
    assert problems(now_on(standby, gate)) == []


def test_a_primary_that_nobody_fenced_off(gate: Gate, pair: tuple[Cluster, Cluster]) -> None:
    """It took part in nothing and broke no connection, but its commits wait for the standby that was promoted."""
    primary, standby = pair
    gate.members("free-1,free")
    gate.start()
    assert gate.checkin("free-1").status_code == 200
    primary.signal(signal.SIGSTOP)
    standby.promote()
    primary.signal(signal.SIGCONT)
    assert first_for_libpq(gate) == primary.port
    assert gate.checkin("free-1").status_code == 503
    wait_for(lambda: gate.checkin("free-1").status_code == 200, "the promoted one is not found", gate, seconds=60)
    assert "an old primary is passed over" in gate.log.read_text("utf-8")
    assert gate.stop() == 0
    assert problems(now_on(standby, gate)) == []
