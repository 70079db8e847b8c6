"""Several servers on one PostgreSQL: limits are exact across them, whatever happens to one of them.

`GUESTGATE_TEST_ROUNDS` and `GUESTGATE_TEST_SEED` make longer and other runs.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from backends import Server
from callers import Caller, Crowd, Reply, at_once, connected, missing, noon_zone, problems, rows
from gate import Gate, wait_for

from guestgate.fingerprints import fingerprint, sha256_of

pytestmark = pytest.mark.alone

ROUNDS = int(os.environ.get("GUESTGATE_TEST_ROUNDS", "40"))
SEED = int(os.environ.get("GUESTGATE_TEST_SEED", "1"))
NODES, CALLERS = 4, 200
MAXIMA = (1, 3, 7)
KILLS = 4
# Between two calls at a node, so that the start of another one has a processor.
PAUSE_S = 0.01
# A change has to be in force on every node by then.
FOLLOW_S = 2.0

PLANS = '[plans.free]\nname = "Free"\nreentry_minutes = 0\n' + "".join(
    f"""
[plans.most-{most}]
name = "{most} a day"
reentry_minutes = 0
limits = [{{ max = {most}, per = "day" }}]
"""
    for most in MAXIMA
)


def member_of(round_: int) -> tuple[str, int]:
    """Whose limit a round is about, and how many visits that allows."""
    most = MAXIMA[round_ % len(MAXIMA)]
    return f"m-{most}-{round_}", most


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, postgres: Server) -> Iterator[list[Gate]]:
    """Four servers; here they are to be right, so they have a long budget."""
    folder = tmp_path_factory.mktemp("nodes")
    url = postgres.new(folder)
    first = Gate(folder, database_url=url, furnished=True)
    first.studio("s1", timezone=noon_zone())
    first.plans(PLANS)
    first.members(*(f"{member},most-{most}" for member, most in map(member_of, range(ROUNDS + KILLS + 10))))
    first.members(*(f"free-{number},free" for number in range(40)))
    gates = [first, *(first.join(folder / str(number)) for number in range(2, NODES + 1))]
    for gate in gates:
        gate.configure("answer_budget_ms = 750")
        gate.start()
    yield gates
    for gate in gates:
        gate.close()
    postgres.drop(url)


def let_in_once(gate: Gate, replies: list[Reply], member: str, most: int) -> None:
    """Exactly as many as the limit says, and all of it on record."""
    let_in = sorted(reply.id for reply in replies if reply.status == 200)
    assert len(let_in) == most, Counter((reply.status, reply.reason) for reply in replies)
    visits = rows(gate.database, "SELECT id FROM visits WHERE member_id = :member", member=member)
    assert sorted(row[0] for row in visits) == let_in


def test_a_limit_holds_across_all_of_them(nodes: list[Gate]) -> None:
    """200 calls for one member at the same time, a quarter on each node: exactly N are let in, every time."""
    with ExitStack() as stack:
        quarters = [stack.enter_context(connected(node, CALLERS // NODES)) for node in nodes]
        callers = [caller for four in zip(*quarters, strict=True) for caller in four]
        for round_ in range(ROUNDS):
            member, most = member_of(round_)
            replies = [reply for reply in at_once(callers, [member] * CALLERS) if reply is not None]
            assert len(replies) == CALLERS
            assert {reply.status for reply in replies} == {200, 403}, Counter(reply.reason for reply in replies)
            let_in_once(nodes[0], replies, member, most)
    assert problems(nodes[0].database) == []


def test_a_limit_holds_while_a_node_is_killed(nodes: list[Gate]) -> None:
    """SIGKILL of one of them in the middle of 200 calls: never more than N, and what was answered is on record."""
    dice = random.Random(SEED)
    for kill in range(KILLS):
        member, most = member_of(ROUNDS + kill)
        victim = nodes[kill % NODES]
        with ExitStack() as stack:
            quarters = [stack.enter_context(connected(node, CALLERS // NODES)) for node in nodes]
            callers = [caller for four in zip(*quarters, strict=True) for caller in four]
            timer = threading.Timer(dice.random() * 0.15, victim.stop, (signal.SIGKILL,))
            timer.start()
            replies = []
            for caller in callers:
                try:
                    caller.send(member)
                except OSError:
                    caller.close()
            for caller in callers:
                reply = caller.receive()
                if reply is not None:
                    replies.append(reply)
            timer.join()
        visits = rows(nodes[0].database, "SELECT id FROM visits WHERE member_id = :member", member=member)
        assert len(visits) == most
        assert missing(nodes[0].database, replies) == []
        assert sum(reply.status == 200 for reply in replies) <= most
        victim.start()
    assert problems(nodes[0].database) == []


def test_rolling_restarts_refuse_nobody_who_calls_again(nodes: list[Gate]) -> None:
    """Nodes end and start one after the other; on those that are there, every call gets its yes or no."""
    with ExitStack() as stack:
        crowds = [
            stack.enter_context(
                Crowd(node, [f"free-{n}" for n in range(40)], f"{SEED} {number}", size=1, rest_s=PAUSE_S)
            )
            for number, node in enumerate(nodes)
        ]
        for node, crowd in zip(nodes, crowds, strict=True):
            wait_for(lambda crowd=crowd: len(crowd.replies) > 20, "nobody is answered", node)
            assert node.stop() == 0
            node.start()
            seen = len(crowd.replies)
            wait_for(lambda crowd=crowd, seen=seen: len(crowd.replies) > seen + 20, "nobody is answered", node)
    for crowd in crowds:
        assert {reply.status for reply in crowd.replies} == {200}
        assert missing(nodes[0].database, crowd.replies) == []
    assert problems(nodes[0].database) == []


def test_a_revoked_key_ends_everywhere(nodes: list[Gate]) -> None:
    """Two seconds after the command's end no node takes it any more; a new one is taken by all."""
    first = nodes[0]
    old, new = first.keys["s1"], secrets.token_urlsafe(24)
    first.cli("key", "add", "s1", "--key-stdin", input=new)
    time.sleep(FOLLOW_S)  # the promise itself: no earlier, and no later
    first.keys["s1"] = new
    assert [node.checkin("free-1").status_code for node in nodes] == [200] * NODES
    first.cli("key", "revoke", fingerprint(sha256_of(old)))
    time.sleep(FOLLOW_S)
    for node in nodes:
        with node.client() as client:
            body = {"aggregatorId": "free-1", "customerId": 1}
            assert client.post(node.url, json=body, headers={"X-API-Key": old}).status_code == 401
    assert [node.checkin("free-1").status_code for node in nodes] == [200] * NODES


def test_the_feed_is_complete_with_several_writers(nodes: list[Gate]) -> None:
    """A reader that pages along while all nodes write sees every decision and visit once, in one order."""
    with nodes[0].office("viewer") as office:
        cursor = office.get("/events", params={"limit": 1}).json()["next"]
        seen: list[str] = []
        while page := office.get("/events", params={"after": cursor, "limit": 1000}).json()["events"]:
            cursor = page[-1]["cursor"]
        with ExitStack() as stack:
            crowds = [
                stack.enter_context(Crowd(node, [f"free-{n}" for n in range(40)], number, size=3))
                for number, node in enumerate(nodes)
            ]
            numbers = []
            give_up_at = time.monotonic() + 60
            while sum(len(crowd.replies) for crowd in crowds) < 600:
                assert time.monotonic() < give_up_at, "nobody is answered"
                content = office.get("/events", params={"after": cursor, "limit": 200}).json()
                cursor = content["next"]
                seen += [event["id"] for event in content["events"]]
                numbers += [int(event["cursor"].rpartition(".")[2]) for event in content["events"]]
        told = {reply.id for crowd in crowds for reply in crowd.replies}

        def all_seen() -> bool:
            nonlocal cursor
            content = office.get("/events", params={"after": cursor, "limit": 1000}).json()
            cursor = content["next"]
            seen.extend(event["id"] for event in content["events"])
            numbers.extend(int(event["cursor"].rpartition(".")[2]) for event in content["events"])
            return told <= {event.removeprefix("decision-") for event in seen}

        wait_for(all_seen, "events are missing", nodes[0])
    assert len(seen) == len(set(seen)), "an event came twice"
    assert numbers == sorted(numbers)
    visits = {f"visit-{decision_id}" for decision_id in told}
    assert visits <= set(seen), "a visit is missing"


def test_a_server_whose_connections_are_ended_goes_on(nodes: list[Gate]) -> None:
    """All of them, as by a restart of the database: new ones are made, and no call is lost over it."""
    node, caller = nodes[1], Caller(nodes[1])
    assert caller.call("free-2") is not None
    with node.database.engine.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid != pg_backend_pid()"
        )
    for number in range(20):
        reply = caller.call(f"free-{number}")
        assert reply is not None and reply.status == 200, number
    caller.close()
    assert node.stop() == 0
    node.start()
