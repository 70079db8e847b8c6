"""The shared database freezes, dies, gets slow or cannot be reached, and the doors go on.

Every call gets its answer in time, members without limits are let in, and afterwards the shared database has on
record what callers were told: no more and no less. `GUESTGATE_TEST_OUTAGES` and
`GUESTGATE_TEST_SEED` make longer and other runs.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from arrivals import PROMISE_S, Arrivals, percentile
from backends import Server
from callers import Caller, Reply, children, problems
from cluster import Cluster, primary_and_standby
from gate import wait_for
from outage import (
    FILE,
    FOLLOW_S,
    FOLLOWER,
    LEDGER,
    OUTAGE_S,
    STAND_IN,
    Node,
    Watch,
    dark,
    down,
    frozen,
    kill_the_follower,
    most,
    people,
    plan_of,
)
from recount import stand_ins, wait_until_right

from guestgate import clock, corrections, members, studios, visits
from guestgate.database import Database
from guestgate.fingerprints import fingerprint, sha256_of
from guestgate.stand_in import copy
from guestgate.stand_in.copy import StandInCopy
from guestgate.stand_in.follower import Follower
from guestgate.visits import VisitRow

pytestmark = pytest.mark.alone

OUTAGES = int(os.environ.get("GUESTGATE_TEST_OUTAGES", "3"))
SEED = int(os.environ.get("GUESTGATE_TEST_SEED", "1"))
RATE = 70.0
WEATHER_S = 2.5
# What the shared ledger has of the time for an answer.
SHARE_S = 0.2
# Of those without a limit, where everything that a machine does is on the same two processors.
TURNED_AWAY = 0.02


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A PostgreSQL of this file's own, which syncs and which may be stopped."""
    cluster = Cluster(fsync=True)
    yield Server(cluster)
    cluster.close()


NewNode = Callable[..., Node]


@pytest.fixture
def new_node(tmp_path: Path, server: Server) -> Iterator[NewNode]:
    """Makes nodes: on a database of their own or, with the URL of another one's, on that."""
    made: list[Node] = []
    urls: list[str] = []

    def new(*options: str, url: str | None = None, **settings: Any) -> Node:
        folder = tmp_path / f"node-{len(made)}"
        folder.mkdir()
        if url is None:
            url = server.new(folder)
            urls.append(url)
        made.append(Node(folder, url, *options, **settings))
        return made[-1]

    yield new
    for node in made:
        node.close()
    for url in urls:
        server.drop(url)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Node]:
    """A node that stays, behind a relay, for tests that disturb nothing but its way to the database."""
    folder = tmp_path_factory.mktemp("far")
    node = Node(folder, server.new(folder))
    node.furnish(*(member for name in WEATHER for member in people(name)), *people("commands"), *people("says"))
    node.start()
    yield node
    node.close()
    server.drop(node.url)


def check(url: str, *loads: Arrivals, others: Sequence[Reply] = ()) -> None:
    """Every call was answered in time, hardly any without a limit turned away, and the record says what was told.

    Each load was on a node of its own; `others` are all other answers to the same members.
    """
    for arrivals in loads:
        assert not arrivals.kept(), arrivals.kept()
        assert arrivals.told
        free = [told for told in arrivals.told if plan_of(told.member) == "free"]
        turned_away = [told for told in free if told.status != 200]
        assert len(turned_away) <= TURNED_AWAY * len(free), f"{len(turned_away)} of {len(free)}: {turned_away[:5]}"
        statuses = Counter(told.status for told in arrivals.told)
        assert set(statuses) <= {200, 403, 503}, statuses
    told = [told for arrivals in loads for told in arrivals.told]
    wait_until_right(url, [*told, *others], most=most, nodes=len(loads))
    assert problems(Database.at(url)) == []


def ask(node: Node, *names: str, studio: str = "s1") -> list[Reply]:
    """Check these members in, one after the other; each has to be answered in time."""
    caller = Caller(node.gate, studio_id=studio)
    replies = []
    for member in names:
        reply = caller.call(member)
        assert reply is not None, f"{member} got no answer"
        assert reply.seconds < PROMISE_S, f"late: {reply}"
        replies.append(reply)
    caller.close()
    return replies


def ask_until(node: Node, member: str, status: int) -> list[Reply]:
    """Check a member in again and again until it is told this."""
    replies: list[Reply] = []

    def is_told() -> bool:
        replies.extend(ask(node, member))
        return replies[-1].status == status

    wait_for(is_told, f"{member} is never told {status}", node.gate)
    return replies


def said(replies: list[Reply]) -> list[tuple[str, int, str]]:
    """What each member was told."""
    return [(reply.member, reply.status, reply.reason) for reply in replies]


def test_a_database_that_freezes(new_node: NewNode, server: Server) -> None:
    """All its processes stopped for six seconds: the circuit opens, and closes by itself."""
    node = new_node(directly=True)
    everybody = people("freeze")
    node.furnish(*everybody)
    node.start()
    with Watch(node, everybody, RATE) as arrivals, frozen(server.cluster):
        began = time.monotonic()
        time.sleep(6.0)
        ended = time.monotonic()
    check(node.url, arrivals)
    told = [told for told in arrivals.told if began + 1.5 < told.sent_at < ended]
    half = percentile(told, 0.5)
    assert half < SHARE_S, f"the circuit does not open: half of the answers took more than {half:.3f} s"
    decided = sum(told.status != 503 for told in told)
    assert stand_ins(node.url) >= decided
    assert node.stand_in.figure("carried_over_total") >= decided
    assert node.gate.stop() == 0


def test_what_a_server_says_while_it_stands_in(far: Node, server: Server) -> None:
    """It is ready and stands in: both can be asked although the database, which has the tokens, says nothing.

    Whatever else is asked for is refused, and not left waiting.
    """
    far.stand_in.wait_until_over()
    before = far.stand_in.figure("decisions_total", outcome="allowed")
    replies = []
    with frozen(server.cluster):
        while far.command("status")["waiting"] == 0 or replies[-1].seconds >= SHARE_S:
            replies += ask(far, *people("says")[:5])
        status, parts = far.stand_in.readiness()
        others = {far.stand_in.status(path) for path in ("/members/free-says-0", "/studios", "/visits")}
        is_open, age_s, waiting = (far.stand_in.figure(name) for name in ("open", "copy_age_seconds", "waiting"))
    assert status == 200 and "stand_in" in parts and parts["stand_in"] != "ok", (status, parts)
    assert others == {503}, others
    assert is_open == 1, "the figures do not say that it stands in"
    assert age_s > SHARE_S and 0 < waiting <= len(replies), (age_s, waiting)
    far.stand_in.wait_until_over()
    status, parts = far.stand_in.readiness()
    assert status == 200 and parts["stand_in"] == "ok", (status, parts)
    assert far.stand_in.status("/members/free-says-0") == 200
    assert far.stand_in.figure("decisions_total", outcome="allowed") > before
    wait_until_right(far.url, replies, most=most)


def test_a_primary_that_dies(tmp_path: Path) -> None:
    """SIGKILL of the primary under load, and its synchronous standby in its place two seconds later; two workers."""
    with primary_and_standby() as (primary, standby), ExitStack() as closing:
        both = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        url = primary.url(primary.create()).replace(f"127.0.0.1:{primary.port}", both)
        node = Node(tmp_path / "node", url, "--workers", "2", directly=True)
        closing.callback(node.close)
        everybody = people("failover")
        node.furnish(*everybody)
        node.start()
        with Watch(node, everybody, RATE) as arrivals:
            primary.signal(signal.SIGKILL)
            time.sleep(2.0)
            standby.promote()
        now = standby.url(url.rpartition("/")[2])
        check(now, arrivals)
        assert stand_ins(now) > 0
        assert node.gate.stop() == 0
        assert problems(Database.at(now)) == []


def slow(node: Node) -> None:
    """Everything takes 200 ms, in each direction."""
    node.line.delay_s = 0.2
    time.sleep(WEATHER_S)
    node.line.delay_s = 0.0


def lossy(node: Node) -> None:
    """A twentieth of what is sent gets lost and comes late."""
    node.line.loss = 0.05
    time.sleep(WEATHER_S)
    node.line.loss = 0.0


def black(node: Node) -> None:
    """Nothing passes."""
    with dark(node):
        time.sleep(WEATHER_S)


def cut(node: Node) -> None:
    """All connections end, again and again."""
    dice = random.Random(SEED)
    for _ in range(8):
        node.line.cut()
        time.sleep(dice.random() * 0.6)


def flickering(node: Node) -> None:
    """Nothing passes for a moment, again and again: what is held back arrives after it was decided elsewhere."""
    dice = random.Random(SEED)
    for _ in range(6):
        with dark(node):
            time.sleep(0.1 + dice.random() * 0.4)
        time.sleep(dice.random() * 0.3)


WEATHER = {disturb.__name__: disturb for disturb in (slow, lossy, black, cut, flickering)}


@pytest.mark.parametrize("name", WEATHER)
def test_a_bad_network(name: str, far: Node) -> None:
    """Between a server and its database."""
    everybody = people(name)
    with Watch(far, everybody, RATE, seed=SEED) as arrivals:
        WEATHER[name](far)
    check(far.url, arrivals)
    if name in ("slow", "black"):
        assert stand_ins(far.url) > 0


def test_two_nodes_that_are_cut_off(new_node: NewNode) -> None:
    """Each lets a member with a limit in once more at most, and what went over the limit is counted."""
    first = new_node()
    used = ["once-used", "three-used"]
    unused = ["once-unused", "three-unused", "three-fresh", "once-alone"]
    everybody = people("apart", free=20, once=40, three=40)
    first.furnish(*used, *unused, *everybody)
    second = new_node(url=first.url)
    second.gate.keys = first.gate.keys
    first.start()
    second.start()
    before = ask(first, "once-used", "three-used", "three-used", "three-used", "three-unused", "three-unused")
    assert [reply.status for reply in before] == [200] * 6
    time.sleep(FOLLOW_S)  # the promise itself: by now both copies have those visits
    asked = [*before]
    with dark(first):
        # The one node that still has the database lets it in, and the other one cannot know.
        alone = [*ask(second, "once-alone"), *ask(first, "once-alone")]
        assert [reply.status for reply in alone] == [200, 200], said(alone)
        asked += alone
        with Watch(first, everybody, RATE / 2, seed=1) as one, Watch(second, everybody, RATE / 2, seed=2) as other:
            with dark(second):
                for node in (first, second):
                    denied = ask(node, *used)
                    assert said(denied) == [(name, 403, "limit_reached") for name in used]
                    once_more = ask(node, "once-unused", "three-unused", "three-fresh")
                    assert [reply.status for reply in once_more] == [200] * 3, said(once_more)
                    again = ask(node, "once-unused", "three-unused", "three-fresh")
                    # With its own visit a limit may be used up; with three-fresh it is not.
                    assert all(reply.status in (403, 503) for reply in again), said(again)
                    assert said(again)[2] == ("three-fresh", 503, "unavailable"), said(again)
                    asked += [*denied, *once_more, *again]
                time.sleep(2.0)
            first.line.clear()
    check(first.url, one, other, others=asked)
    let_in = Counter(told.member for told in [*asked, *one.told, *other.told] if told.status == 200)
    over = {member: count - limit for member, count in let_in.items() if (limit := most(member)) is not None}
    assert over["once-unused"] == over["once-alone"] == over["three-unused"] == 1, "the bound was not reached"
    expected = sum(excess for excess in over.values() if excess > 0)
    counted = sum(node.stand_in.figure("over_limit_total") for node in (first, second))
    assert counted == expected, f"{counted} visits over a limit are counted, and there are {expected}"
    after = ask(first, "once-unused", "three-unused", "once-alone")
    assert {reply.reason for reply in after} == {"limit_reached"}, said(after)


def test_outages_in_a_row(new_node: NewNode, server: Server) -> None:
    """Each time the follower is killed while it carries over: it is started again, and nothing is lost or doubled."""
    node = new_node()
    everybody = people("row")
    node.furnish(*everybody)
    node.start()
    dice = random.Random(SEED)
    with Watch(node, everybody, RATE, seed=SEED) as arrivals:
        for _ in range(OUTAGES):
            outage: AbstractContextManager[None] = dice.choice([dark(node), frozen(server.cluster)])
            kill_the_follower(node, outage, dice)
            node.stand_in.wait_until_over()
    check(node.url, arrivals)
    assert stand_ins(node.url) > OUTAGES
    assert node.gate.stop() == 0
    wait_until_right(node.url, arrivals.told, most=most)


def test_a_local_ledger_that_dies(new_node: NewNode) -> None:
    """In the middle of an outage: for a moment nobody can decide and all are told so, and then it goes on."""
    node = new_node()
    everybody = people("local")
    node.furnish(*everybody)
    node.start()
    assert node.gate.process is not None
    server_pid = node.gate.process.pid
    with Watch(node, everybody, RATE, seed=SEED) as arrivals, dark(node):
        time.sleep(OUTAGE_S)
        (victim,) = children(server_pid, STAND_IN)
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: set(children(server_pid, STAND_IN)) - {victim}, "it was not started again", node.gate)
        time.sleep(OUTAGE_S)
        back_at = time.monotonic()
        time.sleep(OUTAGE_S)
    assert not arrivals.kept(), arrivals.kept()
    at_last = [told for told in arrivals.told if told.sent_at > back_at and plan_of(told.member) == "free"]
    assert at_last and Counter(told.status for told in at_last)[200] >= (1 - TURNED_AWAY) * len(at_last), at_last[:5]
    wait_until_right(node.url, arrivals.told, most=most)
    assert problems(Database.at(node.url)) == []


def test_a_server_that_shall_not_stand_in(new_node: NewNode) -> None:
    """With `refuse` everybody is told in time that nothing can be said, and there is no local ledger."""
    node = new_node(stand_in="refuse")
    node.furnish("free-1", "once-1")
    node.gate.start()
    replies = ask(node, "free-1")
    assert said(replies) == [("free-1", 200, "ok")]
    assert node.gate.process is not None
    assert children(node.gate.process.pid, LEDGER)
    assert not children(node.gate.process.pid, STAND_IN) and not children(node.gate.process.pid, FOLLOWER)
    assert not (node.gate.home / FILE).exists()
    with dark(node):
        refused = [reply for _ in range(5) for reply in ask(node, "free-1", "once-1", "nobody")]
    assert {(reply.status, reply.reason) for reply in refused} == {(503, "unavailable")}, said(refused)
    replies += [*refused, *ask_until(node, "free-1", 200)]
    wait_until_right(node.url, replies, most=most)


def test_whoever_watches_is_not_kept_waiting(new_node: NewNode) -> None:
    """Nor in the first moments, when nobody has noticed yet that the database says nothing."""
    node = new_node()
    node.furnish("free-1")
    node.start()
    with dark(node):
        assert node.stand_in.figure("ready") == 1
        assert node.stand_in.readiness()[1]["database"] == "does not answer"


def test_whoever_watches_a_server_that_shall_not_stand_in_is_not_kept_waiting_either(new_node: NewNode) -> None:
    """No copy says whether somebody has heard of the database; so it is asked, and not waited for."""
    node = new_node(stand_in="refuse")
    node.furnish("free-1")
    node.gate.start()
    assert node.stand_in.readiness()[0] == 200
    with dark(node):
        assert node.stand_in.status("/studios") == 503
        status, parts = node.stand_in.readiness()
        assert status == 503 and parts["database"] == "does not answer"


def test_a_copy_that_is_too_old(new_node: NewNode) -> None:
    """It stands in as long as it may, and no longer."""
    node = new_node(stand_in_max_age_s=4)
    node.furnish("free-1")
    node.start()
    replies = ask(node, "free-1")
    began = time.monotonic()
    with dark(node):
        replies += ask(node, "free-1")
        assert replies[-1].status == 200, said(replies)
        replies += ask_until(node, "free-1", 503)
        assert time.monotonic() - began > 2.5, "a copy that was young enough did not stand in"
        replies += ask(node, "free-1", "free-1")
        assert [reply.reason for reply in replies[-2:]] == ["unavailable"] * 2, said(replies)
    replies += ask_until(node, "free-1", 200)
    node.stand_in.wait_until_over()
    wait_until_right(node.url, replies, most=most)


def make_copy(node: Node, age_s: int = 0) -> None:
    """A copy that was level so long ago, as a server has it that was stopped then."""
    own = StandInCopy(node.gate.home / FILE)
    own.prepare()
    follower = Follower(Database.at(node.url), own)
    while not follower.round():
        pass
    with own.database.write() as connection:
        copy.note(connection, copied_at_ms=clock.now_ms() - age_s * 1000)


def test_a_server_that_starts_without_its_database(new_node: NewNode) -> None:
    """On a copy that is young enough: it lets members in by their limits, and carries over."""
    node = new_node()
    everybody = people("starts", free=5, once=5, three=5)
    node.furnish(*everybody)
    make_copy(node)
    with down(node):
        node.gate.start()
        replies = ask_until(node, everybody[0], 200)
        let_in = ask(node, *everybody[1:])
        assert {reply.status for reply in let_in} == {200}, said(let_in)
        denied = ask(node, "once-starts-0")
        assert said(denied) == [("once-starts-0", 403, "limit_reached")]
        assert stand_ins(node.url) == 0
    replies += [*let_in, *denied]
    wait_for(lambda: stand_ins(node.url) == len(replies), "not all is carried over", node.gate)
    wait_until_right(node.url, replies, most=most)
    assert problems(Database.at(node.url)) == []


@pytest.mark.parametrize(
    ("age_s", "says"),
    [
        (None, r"(?!.*stand in).*"),
        (7200, r".*; nor can this machine stand in for it: the copy is 72\d\d s old, and may be 3600"),
    ],
)
def test_a_server_that_has_nothing_to_start_with(new_node: NewNode, age_s: int | None, says: str) -> None:
    """Neither the database nor a copy that is young enough: it says so in a sentence, and does not start."""
    node = new_node()
    node.furnish("free-1")
    if age_s is not None:
        make_copy(node, age_s)
    with down(node):
        done = node.gate.cli("serve", "--behind-proxy", "--host", "localhost", status=2)
    sentence = rf"guestgate: database: test_\w+ on PostgreSQL .* cannot be used: {says}\n"
    assert re.fullmatch(sentence, done.stderr), done.stderr


def test_the_copy_follows(new_node: NewNode) -> None:
    """What was changed before an outage holds in it: members, plans, keys, studios, and visits."""
    node = new_node()
    gate = node.gate
    node.furnish("free-suspended", "free-removed", "once-came", "once-taken-back", "once-moved")
    node.start()
    before = ask(node, "once-came", "once-moved")
    by_mistake = VisitRow(1, "once-taken-back", "s1", clock.now() - timedelta(minutes=1))
    with gate.database.write() as connection:
        visits.add(connection, by_mistake)
    gate.studio("s2")
    revoked = gate.studio("s3")
    time.sleep(FOLLOW_S)
    gate.members(
        "free-new,free,active", "free-suspended,free,suspended", "once-moved,free,active",
        header="member_id,plan,status",
    )  # fmt: skip
    with gate.database.write() as connection:
        corrections.reverse(connection, by_mistake.id, "by mistake")
        members.remove(connection, "free-removed")
        studios.revoke_key(connection, fingerprint(sha256_of(revoked)))
    time.sleep(FOLLOW_S)  # the promise itself
    with dark(node):
        replies = ask(
            node, "free-new", "free-suspended", "free-removed", "once-came", "once-taken-back", "once-moved"
        )
        elsewhere = ask(node, "free-new", studio="s2")
        without_key = gate.checkin("free-new", studio_id="s3").status_code
    assert said(replies) == [
        ("free-new", 200, "ok"),
        ("free-suspended", 403, "membership_suspended"),
        ("free-removed", 403, "unknown_member"),
        ("once-came", 403, "limit_reached"),
        ("once-taken-back", 200, "ok"),
        ("once-moved", 200, "ok"),
    ]
    assert said(elsewhere) == [("free-new", 200, "ok")], "a new studio is not known"
    assert without_key == 401, "a revoked key is taken"
    node.stand_in.wait_until_over()
    assert stand_ins(node.url) > 0
    wait_until_right(node.url, [*before, *replies, *elsewhere], most=most)


def test_commands_during_an_outage_and_after_it(far: Node) -> None:
    """They say what waits, list it, and carry over nothing as long as there is nowhere to carry it."""
    names = people("commands")[:20]
    far.stand_in.wait_until_over()
    before = far.command("status")
    assert before["ready"] and not before["problem"] and Path(before["file"]) == far.gate.home / FILE, before
    assert before["waiting"] == 0 and before["oldest_waiting"] is None, before
    assert before["age_s"] < FOLLOW_S + PROMISE_S, f"the copy does not follow: {before}"
    assert far.gate.json("standin", "list") == []
    with dark(far):
        replies = ask(far, *names)
        during = far.command("status")
        waiting = far.gate.json("standin", "list")
        far.gate.cli("standin", "reconcile", "--json", status=None)
        still = far.command("status")
    assert {reply.status for reply in replies} <= {200, 403}, said(replies)
    assert during["waiting"] == still["waiting"] == len(names), (during, still)
    assert during["oldest_waiting"] == waiting[0]["received_at"] and during["age_s"] > before["age_s"], during
    assert [decision["id"] for decision in waiting] == [reply.id for reply in replies]
    far.stand_in.wait_until_over()
    after = far.command("status")
    assert after["waiting"] == 0 and after["carried_over"] == before["carried_over"] + len(names), (before, after)
    assert far.gate.json("standin", "list") == []
    assert far.command("reconcile") == {"carried_over": 0, "over_limit": 0, "waiting": 0}
    recorded = {decision["id"]: decision for decision in far.gate.json("decisions", "--limit", "1000")}
    for decision in waiting:
        there = recorded[decision["id"]]
        assert decision["stand_in"] and decision.keys() == there.keys(), decision
        # What was held back on its way may have been decided there as well; then that decision stays.
        for field in decision.keys() - {"stand_in", "http_status", "answer_ms", "undelivered"}:
            assert there[field] == decision[field], (field, decision, there)
    wait_until_right(far.url, replies, most=most)


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_node_that_is_killed_with_decisions_waiting(by_hand: bool, new_node: NewNode) -> None:
    """They are carried over by a command while it is down, or by itself when it starts again."""
    node = new_node()
    everybody = people("killed", free=20, once=10, three=10)
    node.furnish(*everybody)
    node.start()
    with dark(node):
        replies = ask(node, *everybody)
        node.gate.stop(signal.SIGKILL)
    assert {reply.status for reply in replies} == {200}, said(replies)
    assert stand_ins(node.url) == 0
    assert node.command("status")["waiting"] == len(everybody)
    if by_hand:
        # Decisions whose answer is not on record yet are left for a few seconds.
        wait_for(lambda: node.command("reconcile")["waiting"] == 0, "not all is carried over", node.gate)
        assert node.command("reconcile") == {"carried_over": 0, "over_limit": 0, "waiting": 0}
    else:
        node.start()
        node.stand_in.wait_until_over()
    assert stand_ins(node.url) == len(everybody)
    status = node.command("status")
    assert (status["waiting"], status["carried_over"]) == (0, len(everybody)), status
    wait_until_right(node.url, replies, most=most)
    assert problems(Database.at(node.url)) == []
