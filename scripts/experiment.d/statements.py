"""Closing a month of many visits while doors are open, and taking its file along.

For each size of month: how long the closing takes, how much memory it and the file take, for how long it keeps the
write lock at a time, and what it does to the time of answers, as a ratio to the same doors before, in the same run.
Memory is that of a process of its own, above what it needs for a month of ten visits. The exit status is 1 where a
call failed or a statement is not what the visits come to.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from _door import check_in, for_seconds
from callers import problems
from cluster import Cluster
from gate import Gate, environment
from grown import SETTINGS
from paid import fill

PLANS = """
[plans.daily]
name = "Daily"
[plans.each]
name = "Each"
payable = "per_visit"
"""
BOTH, FEW = ("daily", "each"), 10
# One visit a day of each member, so that all of them pay.
DAYS = 27
# Runs a command and says on standard error what it took. A transaction that writes lasts from when it has the lock.
WATCHED = """
import json, sys, time
from pathlib import Path
from sqlalchemy import event
from sqlalchemy.engine import Engine
from guestgate import cli
begun, held = {}, []
@event.listens_for(Engine, "after_cursor_execute")
def executed(connection, *_):
    if "guestgate_who" in connection.get_execution_options():
        begun.setdefault(id(connection), time.monotonic())
@event.listens_for(Engine, "commit")
def commits(connection):
    if id(connection) in begun:
        held.append(time.monotonic() - begun.pop(id(connection)))
try:
    cli.main()
finally:
    peak_kib = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    print(json.dumps({"peak_kib": peak_kib, "held_s": held}), file=sys.stderr)
"""


@dataclass(frozen=True)
class Took:
    """What a command took."""

    seconds: float
    peak_mib: float
    held_ms: list[float]  # by each transaction


async def command(gate: Gate, *arguments: str) -> Took:
    """Run one, watched."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        WATCHED,
        *arguments,
        "--config",
        str(gate.home / "guestgate.toml"),
        env=environment(),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"{arguments} failed: {said.decode()}")
    figures = json.loads(said.splitlines()[-1])
    return Took(loop.time() - started, figures["peak_kib"] / 1024, [s * 1000 for s in sorted(figures["held_s"])])


@contextmanager
def installation(on_server: bool) -> Iterator[Gate]:
    """A server with doors, on a file or a throw-away server."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Cluster(*SETTINGS)) if on_server else nullcontext() as cluster,
    ):
        gate = Gate(Path(folder), database_url=cluster.url(cluster.create()) if cluster else None)
        try:
            gate.studio("s1")
            gate.plans(PLANS)
            yield gate
        finally:
            gate.close()


async def run(sizes: list[int], rate: float, seconds: float, on_server: bool) -> bool:
    """Whether all is well."""
    well = True
    with installation(on_server) as gate:
        people = [f"p-{number}" for number in range(max(2000, max(sizes) // DAYS + 1))]
        gate.members(*(f"{person},{BOTH[number % 2]}" for number, person in enumerate(people)))
        gate.start()
        months = [f"2026-{number:02d}" for number in range(1, len(sizes) + 2)]
        for month, size in zip(months, [FEW, *sizes], strict=True):
            fill(gate.database, month, size, people, plans=BOTH)
        before = await for_seconds(gate, rate, seconds, people[:2000])
        print(f"doors by themselves: {before}", flush=True)
        least: dict[str, float] = {}
        for month, size in zip(months, [FEW, *sizes], strict=True):
            until = asyncio.Event()
            beside = asyncio.create_task(check_in(gate, rate, until, people[:2000]))
            closed = await command(gate, "statement", month, "--close")
            until.set()
            answers = await beside
            file = Path(gate.folder, f"{month}.csv")
            written = await command(gate, "statement", month, "--csv", str(file))
            if size == FEW:
                least = {"close": closed.peak_mib, "file": written.peak_mib}
                continue
            with file.open(encoding="utf-8-sig", newline="") as source:
                said = sum(int(line["payable"]) for line in csv.DictReader(source))
            well = well and said == size and not answers.failed
            print(
                f"{month}, {size:,} visits, {said:,} pay: closed in {closed.seconds:.1f} s "
                f"({size / closed.seconds:,.0f} a second; {len(closed.held_ms):,} transactions, half of them up to "
                f"{statistics.median(closed.held_ms):.1f} ms, the longest {closed.held_ms[-1]:.1f} ms), "
                f"{closed.peak_mib - least['close']:+.1f} MiB; "
                f"its file in {written.seconds:.1f} s, {written.peak_mib - least['file']:+.1f} MiB"
            )
            print(f"    doors beside the closing: {answers}")
            print(f"    p99 {answers.percentile(0.99) / before.percentile(0.99):.2f} times as long", flush=True)
        found = problems(gate.database)
        print(f"{len(found)} problems in the record {found[:3]}")
        return well and not found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", type=int, action="append", help="100,000 and 1,000,000 unless given; repeat")
    parser.add_argument("--rate", type=float, default=100.0, help="check-ins a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="of doors by themselves")
    parser.add_argument("--postgresql", action="store_true", help="on a throw-away server instead of a file")
    chosen = parser.parse_args()
    sizes = chosen.visits or [100_000, 1_000_000]
    raise SystemExit(0 if asyncio.run(run(sizes, chosen.rate, chosen.seconds, chosen.postgresql)) else 1)
