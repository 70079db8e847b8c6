"""The shared database is lost in every way while check-ins keep coming: how quickly are they answered, who is let in,
and is all of it on record afterwards?

A database that freezes, a primary that is killed, many outages in a row with the follower killed in the middle of
carrying over, and two bad networks. Prints a line for each, and ends with 1 where a promise was broken: every answer
within 750 ms, members without a limit let in, and a record that says what callers were told.
"""

from __future__ import annotations

import argparse
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from arrivals import PROMISE_S, Told, percentile
from callers import problems
from cluster import Cluster, primary_and_standby
from outage import Node, Watch, dark, frozen, kill_the_follower, most, people, plan_of
from recount import stand_ins, wait_until_right

from guestgate.database import Database

LINE = "{:20} {:>9} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7} {:>5} {:>9} {:>9}  {}"
HEAD = LINE.format(
    *("outage", "check-ins", "in time", "p50 ms", "p99 ms", "worst", "let in", "denied", "503", "stand-in"),
    *("caught up", "promises"),
)
# How long there is no primary.
PROMOTED_AFTER_S = 5.0
# Of a server's log, where it does not do what it should.
LOG_CHARS = 4000
EVERYBODY = people("all", free=240, once=40, three=120)


class Load(NamedTuple):
    """Check-ins a second, and the share of those without a limit that may be turned away."""

    rate: float
    turned_away: float


class Finding(NamedTuple):
    """What an outage did; ``told`` are the answers to calls that were made while it lasted."""

    name: str
    told: list[Told]
    stand_ins: int
    caught_up_s: float
    faults: list[str]

    def __str__(self) -> str:
        """A line of the table, and one for each promise that was broken."""
        statuses = Counter(told.status for told in self.told)
        in_time = sum(told.seconds <= PROMISE_S for told in self.told) / len(self.told) if self.told else 0.0
        ms = [f"{percentile(self.told, share) * 1000:.0f}" if self.told else "-" for share in (0.5, 0.99, 1)]
        line = LINE.format(
            *(self.name, len(self.told), f"{in_time:.2%}", *ms, statuses[200], statuses[403], statuses[503]),
            *(self.stand_ins, f"{self.caught_up_s:.1f} s", "BROKEN" if self.faults else "kept"),
        )
        return "\n".join([line, *(f"    {fault}" for fault in self.faults)])


@contextmanager
def serving(url: str, *, directly: bool = False) -> Iterator[Node]:
    """A node on this database, ready to stand in."""
    with tempfile.TemporaryDirectory() as folder:
        node = Node(Path(folder), url, directly=directly)
        try:
            node.furnish(*EVERYBODY)
            node.start()
            yield node
        finally:
            node.close()


def watched(name: str, node: Node, load: Load, outage: Callable[[], None], *, url: str | None = None) -> Finding:
    """An outage under load, held against all that is promised; `url` is where the database is afterwards."""
    watch, faults, began, ended = Watch(node, EVERYBODY, load.rate), [], time.monotonic(), time.monotonic()
    url = url or node.url
    try:
        with watch:
            began = time.monotonic()
            outage()
            ended = time.monotonic()
    except AssertionError as error:
        what, _, log = str(error).partition("\n")
        faults.append(f"{what}\n{log[-LOG_CHARS:]}")
    told, kept = watch.arrivals.told, watch.arrivals.kept()
    free = [each for each in told if plan_of(each.member) == "free"]
    turned_away = sum(each.status != 200 for each in free)
    if kept:
        faults.append(kept)
    if turned_away > load.turned_away * len(free):
        faults.append(f"{turned_away} of {len(free)} calls of members without a limit were turned away")
    try:
        wait_until_right(url, told, most=most)
    except AssertionError as error:
        faults.append(str(error))
    faults += problems(Database.at(url))
    during = [each for each in told if began <= each.sent_at < ended]
    return Finding(name, during, stand_ins(url), watch.caught_up_s, faults)


def freeze(cluster: Cluster, load: Load, seconds: float) -> Finding:
    """Every process of the database stopped."""

    def outage() -> None:
        with frozen(cluster):
            time.sleep(seconds)

    with serving(cluster.url(cluster.create()), directly=True) as node:
        return watched(f"frozen for {seconds:g} s", node, load, outage)


def failover(load: Load) -> Finding:
    """SIGKILL of the primary, and after a while its synchronous standby in its place."""
    with primary_and_standby() as (primary, standby):

        def outage() -> None:
            primary.signal(signal.SIGKILL)
            time.sleep(PROMOTED_AFTER_S)
            standby.promote()

        url = primary.url(primary.create())
        both = url.replace(f"127.0.0.1:{primary.port}", f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}")
        with serving(both, directly=True) as node:
            return watched("primary killed", node, load, outage, url=standby.url(url.rpartition("/")[2]))


def in_a_row(cluster: Cluster, load: Load, count: int, seed: int) -> Finding:
    """Short ones; the follower is killed after each."""
    dice = random.Random(seed)
    with serving(cluster.url(cluster.create())) as node:

        def outages() -> None:
            for _ in range(count):
                kill_the_follower(node, dice.choice([dark(node), frozen(cluster)]), dice)
                node.stand_in.wait_until_over()

        return watched(f"{count} in a row", node, load, outages)


def network(cluster: Cluster, load: Load, name: str, seconds: float, delay_s: float, loss: float) -> Finding:
    """Everything comes late, or some of it."""
    with serving(cluster.url(cluster.create())) as node:

        def outage() -> None:
            node.line.delay_s, node.line.loss = delay_s, loss
            time.sleep(seconds)
            node.line.delay_s = node.line.loss = 0.0

        return watched(name, node, load, outage)


def main() -> int:
    """Run all; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=300, help="check-ins a second; a third with a bad network")
    parser.add_argument("--freeze", type=float, default=30, metavar="S", help="how long the database is frozen")
    parser.add_argument("--outages", type=int, default=20, help="how many in a row")
    parser.add_argument("--network", type=float, default=10, metavar="S", help="how long a network is bad")
    parser.add_argument(
        "--seed", type=int, default=1, help="when the follower is killed, and by which kind of outage"
    )
    parser.add_argument("--only", action="append", choices=["freeze", "failover", "row", "delay", "loss"])
    parser.add_argument(
        "--turned-away",
        type=float,
        default=0.001,
        metavar="SHARE",
        help="of members without a limit: more than this is a broken promise",
    )
    chosen = parser.parse_args()
    load = Load(chosen.rate, chosen.turned_away)
    started, slower = time.monotonic(), load._replace(rate=chosen.rate / 3)
    print(HEAD, flush=True)
    broken = 0
    with closing(Cluster(fsync=True)) as cluster:
        experiments = {
            "freeze": lambda: freeze(cluster, load, chosen.freeze),
            "failover": lambda: failover(load),
            "row": lambda: in_a_row(cluster, slower, chosen.outages, chosen.seed),
            "delay": lambda: network(cluster, slower, "200 ms each way", chosen.network, 0.2, 0.0),
            "loss": lambda: network(cluster, slower, "5 % lost", chosen.network, 0.0, 0.05),
        }
        for name, experiment in experiments.items():
            if name not in (chosen.only or experiments):
                continue
            finding = experiment()
            broken += bool(finding.faults)
            print(finding, flush=True)
    print(f"{broken} with a broken promise, in {time.monotonic() - started:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
