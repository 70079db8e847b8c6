"""Servers that lose their shared database for a while, and what they say of their stand-in meanwhile."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psycopg
from arrivals import Arrivals
from callers import children, noon_zone
from cluster import Cluster
from gate import Gate, wait_for
from prometheus_client.parser import text_string_to_metric_families
from relay import Relay

from guestgate.database import Database

PLANS = """\
[plans.free]
name = "Free"
reentry_minutes = 0

[plans.once]
name = "Once a day"
reentry_minutes = 0
limits = [{ max = 1, per = "day" }]

[plans.three]
name = "Three a day"
reentry_minutes = 0
limits = [{ max = 3, per = "day" }]
"""
LIMITS = {"free": None, "once": 1, "three": 3}
FILE = "guestgate-standin.db"
# Names of a server's processes, as the system knows them.
LEDGER, STAND_IN, FOLLOWER = "guestgate-ledger", "guestgate-stand-in", "guestgate-follower"
# Long enough for the circuit to open.
OUTAGE_S = 1.5
# The copy follows within about half a second; by then it has to.
FOLLOW_S = 2.0
# Whoever watches a server does not wait for ever.
ADMIN_PATIENCE_S = 5.0
# Generous, so that only a server that never gets there fails.
PATIENCE_S = 60.0


def people(name: str, free: int = 60, once: int = 15, three: int = 25) -> list[str]:
    """Members of a test's own, so many of each plan; a member's plan is the first word of its name."""
    numbers = {"free": free, "once": once, "three": three}
    return [f"{plan}-{name}-{number}" for plan, count in numbers.items() for number in range(count)]


def plan_of(member: str) -> str:
    """A member's plan."""
    return member.partition("-")[0]


def most(member: str) -> int | None:
    """How many visits a day a member's plan allows."""
    return LIMITS[plan_of(member)]


class StandIn:
    """What a server says of its stand-in at its admin listener. Made while the database is there, for the token."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._client = gate.office("viewer")
        self._client.base_url = gate.admin_url
        self._client.timeout = ADMIN_PATIENCE_S

    def _get(self, path: str) -> httpx.Response:
        try:
            return self._client.get(path)
        except httpx.TimeoutException:
            raise AssertionError(f"{path} says nothing for {ADMIN_PATIENCE_S} s") from None

    def figure(self, name: str, **labels: str) -> float:
        """One of its figures, without its prefix; 0 for a counter that has not counted yet."""
        answer = self._get("/metrics")
        assert answer.status_code == 200, f"/metrics: {answer.status_code} {answer.text}"
        return sum(
            sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
            if sample.name == f"guestgate_stand_in_{name}" and labels.items() <= sample.labels.items()
        )

    def readiness(self) -> tuple[int, dict[str, str]]:
        """The status of `/readyz`, and what each part says."""
        answer = self._get("/readyz")
        return answer.status_code, answer.json()["parts"]

    def status(self, path: str) -> int:
        """The status of another path of the admin API, which need not work."""
        return self._get(f"/api/v1{path}").status_code

    def wait_until_ready(self) -> None:
        """A copy has been made."""
        wait_for(lambda: self.figure("ready") == 1, "the stand-in does not get ready", self._gate, PATIENCE_S)

    def wait_until_open(self) -> None:
        """It decides check-ins."""
        wait_for(lambda: self.figure("open") == 1, "the stand-in does not say that it stands in", self._gate)

    def wait_until_over(self) -> None:
        """It decides no more, and all that it decided is in the shared database."""

        def over() -> bool:
            return self.figure("waiting") == 0 and self.figure("open") == 0

        wait_for(over, "the stand-in does not end, or does not carry everything over", self._gate, PATIENCE_S)

    def close(self) -> None:
        """Ask no more."""
        self._client.close()


class Node:
    """A server with its stand-in; between it and the database stands a relay, unless it is to reach it `directly`."""

    def __init__(
        self,
        folder: Path,
        url: str,
        *options: str,
        directly: bool = False,
        stand_in: str = "snapshot",
        **settings: str | int,
    ) -> None:
        """An installation on this database, which is not serving yet; `settings` go to its configuration."""
        folder.mkdir(exist_ok=True)
        self.url = url
        port = psycopg.conninfo.conninfo_to_dict(url)["port"]
        self.relay = None if directly else Relay("127.0.0.1", int(str(port)))
        its_url = url if self.relay is None else url.replace(f":{port}/", f":{self.relay.port}/")
        self.gate = Gate(folder, *options, database_url=its_url, stand_in=stand_in)
        self.gate.database = Database.at(url)  # a test itself always gets through
        with (self.gate.home / "guestgate.toml").open("a", encoding="utf-8") as config:
            for name, value in settings.items():
                print(f"{name} = {json.dumps(value)}", file=config)
        self._stand_in: StandIn | None = None

    def furnish(self, *members: str) -> None:
        """A studio, plans, and members of these names."""
        self.gate.studio("s1", timezone=noon_zone())
        self.gate.plans(PLANS)
        self.gate.members(*(f"{member},{plan_of(member)}" for member in members))

    def start(self) -> None:
        """Serve, and return once there is a copy to stand in with."""
        self.gate.start()
        self.stand_in.wait_until_ready()

    @property
    def stand_in(self) -> StandIn:
        """What it says of its stand-in."""
        if self._stand_in is None:
            self._stand_in = StandIn(self.gate)
        return self._stand_in

    @property
    def line(self) -> Relay:
        """Its way to the database."""
        assert self.relay is not None
        return self.relay

    def command(self, *arguments: str) -> dict[str, Any]:
        """The one object that a `standin` command prints."""
        (content,) = self.gate.json("standin", *arguments)
        assert isinstance(content, dict)
        return content

    @property
    def follower(self) -> int | None:
        """The process that copies and carries over; None while there is none."""
        assert self.gate.process is not None
        return next(iter(children(self.gate.process.pid, FOLLOWER)), None)

    def close(self) -> None:
        """End what is still running, however it is."""
        if self.relay is not None:
            self.relay.clear()
        self.gate.close()
        if self._stand_in is not None:
            self._stand_in.close()
        if self.relay is not None:
            self.relay.close()


@contextmanager
def frozen(cluster: Cluster) -> Iterator[None]:
    """Every process of the database is stopped; its machine still takes what is sent."""
    cluster.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        cluster.signal(signal.SIGCONT)


@contextmanager
def dark(*nodes: Node) -> Iterator[None]:
    """Nothing passes between these nodes and the database, and nobody is told."""
    for node in nodes:
        node.line.black_out()
    try:
        yield
    finally:
        for node in nodes:
            node.line.clear()


@contextmanager
def down(node: Node) -> Iterator[None]:
    """The database is not running: whoever asks for it is turned away at once."""
    node.line.before = lambda _: "cut"
    node.line.cut()
    try:
        yield
    finally:
        node.line.before = lambda _: ""


class Watch:
    """The load on a node over an outage, and how long it took until all was carried over.

    Entered with a node that is ready; the outage is what the body does. ``caught_up_s`` counts from the body's end.
    """

    WARM_UP_S, COOL_DOWN_S = 0.7, 0.7

    def __init__(self, node: Node, members: Sequence[str], rate: float, *, seed: int = 1) -> None:
        self._node = node
        self.arrivals = Arrivals(node.gate, members, rate, seed=seed)
        self.caught_up_s = 0.0

    def __enter__(self) -> Arrivals:
        self.arrivals.__enter__()
        time.sleep(self.WARM_UP_S)
        return self.arrivals

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                ended = time.monotonic()
                self._node.stand_in.wait_until_over()
                self.caught_up_s = time.monotonic() - ended
                time.sleep(self.COOL_DOWN_S)
        finally:
            self.arrivals.end()


def kill_the_follower(node: Node, outage: AbstractContextManager[None], dice: random.Random) -> None:
    """Go through an outage and kill the follower when it is over, in the middle of carrying over.

    Every other time that is when the first decision of the stand-in is seen in the shared database, and otherwise
    at some moment of the first second. Returns once there is another follower.
    """
    carried_over = "SELECT count(*) FROM decisions WHERE stand_in"
    with psycopg.connect(node.url, autocommit=True) as database:
        before = database.execute(carried_over).fetchone()
        with outage:
            time.sleep(OUTAGE_S)
        if dice.random() < 0.5:
            time.sleep(dice.random())
        else:
            give_up_at = time.monotonic() + PATIENCE_S
            while database.execute(carried_over).fetchone() == before:
                assert time.monotonic() < give_up_at, "nothing is carried over"
            time.sleep(dice.random() * 0.02)
    wait_for(lambda: node.follower is not None, "there is no follower", node.gate)
    victim = node.follower
    assert victim is not None
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    wait_for(lambda: node.follower not in (None, victim), "the follower was not started again", node.gate)
