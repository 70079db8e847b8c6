"""A primary that dies under load, and its synchronous standby in its place: nothing that was answered is lost."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from callers import Caller, Crowd, missing, noon_zone, problems, rows
from cluster import Cluster, primary_and_standby
from gate import Gate, wait_for

from guestgate.database import Database

pytestmark = pytest.mark.alone

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


def now_on(standby: Cluster, gate: Gate) -> Database:
    """The installation's database, as the promoted standby has it."""
    return Database.at(standby.url(gate.database_url.rpartition("/")[2]))


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


def test_a_primary_that_freezes(gate: Gate, pair: tuple[Cluster, Cluster]) -> None:
    """Its machine still takes what is sent, so nothing breaks; the server goes on with the new one all the same."""
    primary, standby = pair
    gate.members("free-1,free")
    gate.start()
    assert gate.checkin("free-1").status_code == 200
    primary.signal(signal.SIGSTOP)
    assert gate.checkin("free-1").status_code == 503
    standby.promote()
    wait_for(lambda: gate.checkin("free-1").status_code == 200, "no full service again", gate, seconds=60)
    assert "the database says nothing" in gate.log.read_text("utf-8")
    gate.studio("s2")
    wait_for(lambda: gate.checkin("free-1", studio_id="s2").status_code == 200, "a new key is not known", gate)
    assert gate.stop() == 0
    assert problems(now_on(standby, gate)) == []
