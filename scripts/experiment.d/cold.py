"""A machine without a copy: how soon it can stand in for a database of a million members, and what memory that costs.

The memory is the most that the two processes of the stand-in ever had, against a database of a thousand members in
the same run. The exit status is 1 where it takes more than a minute, or more than 100 MB.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from cluster import Cluster
from gate import Gate
from grown import SETTINGS, grow
from million import child_named, peak_mib

READY_S, MEMORY_MB = 60.0, 100.0
PROCESSES = ("guestgate-follower"[:15], "guestgate-stand-in"[:15])


def start_cold(cluster: Cluster, decisions: int, members: int, folder: Path) -> tuple[float, float]:
    """Seconds until the copy could stand in, and the memory of its processes in MB."""
    grown = grow(cluster, decisions, members)
    folder.mkdir()
    gate = Gate(folder, database_url=grown.url, stand_in="snapshot")
    try:
        started = time.monotonic()
        gate.start(copied=False)
        while not (status := json.loads(gate.cli("standin", "status", "--json").stdout))["ready"]:
            if time.monotonic() - started > 10 * READY_S:
                raise SystemExit(f"the copy is not complete after {10 * READY_S:.0f} s: {status}")
            time.sleep(0.2)
        ready_s = time.monotonic() - started
        memory = sum(peak_mib(child_named(gate, name)) for name in PROCESSES) * 1.048576
        size = (gate.home / "guestgate-standin.db").stat().st_size / 1e6
        print(
            f"{status['members']:9,} members, {status['visits']:9,} visits copied: ready {ready_s:5.1f} s after the "
            f"start, {memory:4.0f} MB of memory, {size:5.0f} MB on disk",
            flush=True,
        )
        return ready_s, memory
    finally:
        gate.close()


def run(decisions: int, members: int) -> bool:
    """Whether all is well."""
    cluster = Cluster(*SETTINGS)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _, few = start_cold(cluster, 10_000, 1_000, Path(folder, "few"))
            ready_s, many = start_cold(cluster, decisions, members, Path(folder, "many"))
    finally:
        cluster.close()
    print(f"{many - few:.0f} MB more than for a thousand members; ready after {ready_s:.1f} s")
    return many - few <= MEMORY_MB and ready_s <= READY_S


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=1_000_000)
    parser.add_argument("--decisions", type=int, default=2_000_000)
    chosen = parser.parse_args()
    raise SystemExit(0 if run(chosen.decisions, chosen.members) else 1)
