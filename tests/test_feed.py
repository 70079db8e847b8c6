"""The event feed under sixteen writers, read by the example consumer, which is killed again and again.

`GUESTGATE_TEST_KILLS` and `GUESTGATE_TEST_SEED` make longer and other runs.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from backends import Backend
from callers import Crowd, locked, rows
from gate import Gate, environment, wait_for

KILLS = int(os.environ.get("GUESTGATE_TEST_KILLS", "50"))
SEED = int(os.environ.get("GUESTGATE_TEST_SEED", "1"))
REPEAT = f"GUESTGATE_TEST_SEED={SEED} GUESTGATE_TEST_KILLS={KILLS} python -m pytest tests/test_feed.py"
EXAMPLES = Path(__file__).parents[1] / "examples"
DOORS, CLERKS, IMPORTERS = 10, 4, 2


@pytest.fixture(scope="module")
def gate(new_gate: Callable[[], Gate]) -> Gate:
    """An installation that serves."""
    gate = new_gate()
    gate.studio("s1")
    gate.plans()
    gate.members(*(f"{plan}-{number},{plan}" for plan in ("free", "once") for number in range(40)))
    gate.start()
    return gate


class Consumer:
    """The example consumer, as a process."""

    def __init__(self, gate: Gate, office: Path) -> None:
        self._gate, self._office = gate, office
        self._token = gate.token("viewer")
        self._process: subprocess.Popen[bytes] | None = None
        self.log = office.with_suffix(".log")

    def start(self) -> None:
        """Follow the feed from where the last one stopped."""
        command = [sys.executable, str(EXAMPLES / "consumer.py"), self._gate.admin_url, str(self._office)]
        env = environment() | {"GUESTGATE_TOKEN": self._token}
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(command, env=env, stdout=output, stderr=output)

    def kill(self) -> None:
        """Wherever it is; it has not ended by itself, as it would where an event came twice."""
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text("utf-8")
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def seen(self, query: str = "select id from events order by rowid") -> list[str]:
        """What it has put down, in its order."""
        try:
            with closing(sqlite3.connect(self._office, timeout=30)) as office:
                return [row[0] for row in office.execute(query)]
        except sqlite3.OperationalError:  # not even its tables
            return []


def clerk(gate: Gate, number: int, stop: threading.Event) -> None:
    """Changes members, adds visits and takes them back, one after the other."""
    dice = random.Random(f"{SEED}-{number}")
    with gate.office("operator") as office:
        while not stop.is_set():
            member = f"clerk-{number}-{dice.randrange(20)}"
            office.put(f"/members/{member}", json={"plan": dice.choice(["free", "once"])}).raise_for_status()
            visit = office.post("/visits", json={"member": member, "studio": "s1"}).json()
            if dice.random() < 0.5:
                office.post(f"/visits/{visit['id']}/reverse", json={"why": "a test"})


def importer(gate: Gate, number: int, stop: threading.Event) -> None:
    """Sends members in bulk."""
    with gate.office("operator") as office:
        while not stop.is_set():
            mark = secrets.token_hex(4)
            lines = [json.dumps({"member_id": f"bulk-{number}-{mark}-{n}", "plan": "free"}) for n in range(50)]
            headers = {"Content-Type": "application/x-ndjson"}
            office.post("/members/bulk", content="\n".join(lines), headers=headers).raise_for_status()


def expected(gate: Gate) -> list[str]:
    """The ids of all events, read straight from the tables."""
    return [name for _, name in numbered(gate)]


def numbered(gate: Gate) -> list[tuple[int, str]]:
    """The same, with their numbers."""
    kinds = {"confirmed": "confirmation", "reversed": "reversal", "authorized": "correction"}
    found = [
        *((seq, f"decision-{name}") for seq, name in rows(gate.database, "SELECT seq, id FROM decisions")),
        *((seq, f"visit-{name}") for seq, name in rows(gate.database, "SELECT seq, id FROM visits")),
        *((seq, f"{kinds[s]}-{seq}") for seq, s in rows(gate.database, "SELECT seq, state FROM visit_changes")),
        *((seq, f"change-{seq}") for (seq,) in rows(gate.database, "SELECT seq FROM changes")),
    ]
    return sorted(found)


def test_a_consumer_that_is_killed_misses_and_repeats_nothing(gate: Gate, backend: Backend, tmp_path: Path) -> None:
    """All that was recorded, once, in its order."""
    kills = KILLS if backend.name == "sqlite" else KILLS // 3 + 1  # the consumer has a file of its own on either
    consumer, dice, stop = Consumer(gate, tmp_path / "office.db"), random.Random(SEED), threading.Event()
    work: list[tuple[Callable[[Gate, int, threading.Event], None], int]] = [
        *((clerk, number) for number in range(CLERKS)),
        *((importer, number) for number in range(IMPORTERS)),
    ]
    threads = [threading.Thread(target=write, args=(gate, number, stop)) for write, number in work]
    people = [f"{plan}-{number}" for plan in ("free", "once") for number in range(40)]
    try:
        with Crowd(gate, people, SEED, DOORS):
            for thread in threads:
                thread.start()
            for _ in range(kills):
                consumer.start()
                time.sleep(dice.uniform(0.05, 0.5))
                consumer.kill()
            stop.set()
            for thread in threads:
                thread.join(60)
    finally:
        stop.set()
    everything = expected(gate)
    consumer.start()
    wait_for(lambda: len(consumer.seen()) >= len(everything), REPEAT, gate, seconds=120)
    consumer.kill()
    assert consumer.seen() == expected(gate), REPEAT
    assert min(Counter(name.partition("-")[0] for name in everything).values()) > kills / 10


def test_the_feed_waits_for_what_comes(gate: Gate) -> None:
    """With `wait` the call is held open until something happens, and comes back empty when nothing does."""
    with gate.office("viewer") as office:
        wait_for(lambda: not office.get("/events", params={"after": "latest"}).json()["events"], "not empty", gate)
        place = office.get("/events", params={"after": "latest"}).json()["next"]
        empty = office.get("/events", params={"after": place, "wait": 0.3}).json()
        assert empty == {"events": [], "next": place}
        change = threading.Timer(0.5, gate.cli, ("member", "set", "free-1", "--status", "suspended"))
        change.start()
        part = office.get("/events", params={"after": place, "wait": 30}).json()
        change.join()
        assert [event["data"]["action"] for event in part["events"]] == ["member.changed"]
        assert part["events"][0]["data"]["before"] == {"status": "active"}
        assert part["next"] == part["events"][-1]["cursor"]
        gate.cli("member", "set", "free-1", "--status", "active")


def test_a_token_that_is_revoked_meanwhile_gets_nothing(gate: Gate) -> None:
    """A call that is held open ends with 401 when something comes, not with events."""
    with gate.office("viewer") as office:
        place = office.get("/events", params={"after": "latest"}).json()["next"]
        fingerprint = sha256(office.headers["authorization"].removeprefix("Bearer ").encode()).hexdigest()[:16]
        revoking = threading.Timer(0.5, gate.cli, ("token", "revoke", fingerprint))  # which is itself an event
        revoking.start()
        assert office.get("/events", params={"after": place, "wait": 30}).status_code == 401
        revoking.join()


def test_a_decision_comes_with_how_its_answer_left(gate: Gate) -> None:
    """The feed waits for that, and the visit that the decision made comes after it."""
    with gate.office("viewer") as office:
        place = office.get("/events", params={"after": "latest"}).json()["next"]
        reply = gate.checkin("free-2").json()
        found: list[dict[str, object]] = []
        while len(found) < 2:
            part = office.get("/events", params={"after": place, "wait": 10}).json()
            place, found = part["next"], found + part["events"]
    decision, visit = found
    assert (decision["type"], visit["type"]) == ("decision", "visit")
    assert decision["data"] == gate.json("decisions", "--member", "free-2", "--limit", "1")[0]
    assert decision["data"]["http_status"] == 200 and decision["data"]["undelivered"] is False  # type: ignore[index]
    assert visit["data"] == gate.json("visits", "--member", "free-2", "--limit", "1")[0]
    assert visit["data"]["id"] == reply["decisionId"]  # type: ignore[index]


def test_parts_of_any_size_make_the_same_whole(gate: Gate) -> None:
    """Pages of one, seven and a thousand give the same events, at their cursors and in their order."""
    wholes = []
    with gate.office("viewer") as office:
        first = _part(office, None, 1)
        assert first[0]["id"] == expected(gate)[0]
        timeline, _, _ = first[0]["cursor"].rpartition(".")
        (start, _), *rest = numbered(gate)[-2000:]
        for limit in (1000, 337, 7):
            whole, place = [], f"{timeline}.{start}"
            while part := _part(office, place, limit):
                whole += part
                place = part[-1]["cursor"]
            wholes.append([event["id"] for event in whole])
    assert wholes == [[name for _, name in rest]] * 3


def _part(office: httpx.Client, after: str | None, limit: int) -> list[dict[str, str]]:
    parameters = {"limit": str(limit)} | ({"after": after} if after else {})
    events: list[dict[str, str]] = office.get("/events", params=parameters).json()["events"]
    return events


@pytest.mark.parametrize(
    ("cursor", "status"), [("nonsense", 422), ("abc.1x", 422), ("abc.1", 410), (".5", 422), ("abc.-1", 422)]
)
def test_a_cursor_that_leads_nowhere_is_refused(gate: Gate, cursor: str, status: int) -> None:
    """What is none, and what belongs to another history."""
    with gate.office("viewer") as office:
        answer = office.get("/events", params={"after": cursor})
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        ahead = office.get("/events", params={"after": "latest"}).json()["next"] + "000"
        assert office.get("/events", params={"after": ahead}).status_code == 410


def test_an_undelivered_visit_is_reversed_in_the_feed(gate: Gate) -> None:
    """A caller that hung up: the decision says so, and a reversal follows the visit."""
    with gate.office("viewer") as office:
        before = office.get("/events", params={"after": "latest"}).json()["next"]

    def hang_up() -> None:
        hanging_up = pytest.raises(httpx.ReadTimeout)
        with locked(gate.database, "free-3"), gate.client() as client, hanging_up:
            body = {"aggregatorId": "free-3", "customerId": 1}
            client.post(gate.url, json=body, timeout=httpx.Timeout(10, read=0.2))

    def reversals() -> list[dict[str, Any]]:
        with gate.office("viewer") as office:
            place, found = before, []
            while part := _part(office, place, 1000):
                found += [event for event in part if event["type"] == "reversal"]
                place = part[-1]["cursor"]
            return [event["data"] for event in found if event["data"]["member"] == "free-3"]

    def reversed_at_last() -> bool:
        hang_up()  # a busy server may come to a call, and answer it, before it sees that the caller has gone
        return bool(reversals())

    wait_for(reversed_at_last, "no reversal came", gate)
    found = reversals()
    assert {(reversal["who"], reversal["why"]) for reversal in found} == {("guestgate", "undelivered")}
    assert len({reversal["visit"] for reversal in found}) == len(found), "each visit is taken back once"


def test_an_applications_database_is_kept_in_step(gate: Gate, tmp_path: Path) -> None:
    """The example of the documents: what the shop sells is let in, and what is refused is told."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop, shop:
        shop.execute("create table memberships (id, plan, status, paid_until, changed_at)")
        shop.execute("insert into memberships values ('shop-1', 'free', 'active', null, 100)")
        shop.execute("insert into memberships values ('shop-2', 'gold', 'active', null, 100)")
    env = environment() | {"GUESTGATE_TOKEN": gate.token("operator"), "GUESTGATE_URL": gate.admin_url}
    log = tmp_path / "log"
    with log.open("wb") as output:
        command = [sys.executable, "-u", str(EXAMPLES / "keep_in_step.py")]
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=output, stderr=output)
    try:
        wait_for(lambda: gate.checkin("shop-1").status_code == 200, "the member did not arrive", gate)
        with closing(sqlite3.connect(tmp_path / "shop.db")) as shop, shop:
            shop.execute("update memberships set status = 'suspended', changed_at = 101 where id = 'shop-1'")
        wait_for(lambda: gate.checkin("shop-1").json()["reason"] == "membership_suspended", "no change", gate)
        wait_for(lambda: "shop-2: plan: there is no plan 'gold'" in log.read_text("utf-8"), "the bad row", gate)
    finally:
        process.kill()
        process.wait()
