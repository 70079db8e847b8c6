"""A million members, imported by command line and by API while doors are open.

Tells how long it takes, how much memory it needs, and what it does to the time of answers (as a difference to the
same doors before, in the same run).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from _door import check_in, for_seconds
from callers import children
from gate import Gate, environment

PLANS = "[plans.daily]\nname = 'Daily'\nlimits = [{ max = 1, per = 'day' }]\n[plans.free]\nname = 'Free'\n"


def row(number: int, plan: str) -> dict[str, object]:
    """A member as a real one would be, in no particular order of ids."""
    mixed = number * 2654435761 % 2**32
    return {
        "member_id": f"m-{mixed:010d}",
        "plan": plan,
        "valid_from": "2026-01-01",
        "customer_id": 1_000_000_000 + number,
        "first_name": "Anna",
        "last_name": f"Muster-{mixed}",
        "email": f"anna.{mixed}@example.com",
    }


def peak_mib(pid: int) -> float:
    """The most memory that a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


async def by_command_line(gate: Gate, file: Path) -> None:
    """`guestgate member import`."""
    command = [sys.executable, "-m", "guestgate", "member", "import", str(file)]
    command += ["--config", str(gate.home / "guestgate.toml")]
    process = await asyncio.create_subprocess_exec(*command, env=environment())
    if await process.wait() != 0:
        raise SystemExit("the import failed")


async def by_api(gate: Gate, count: int, plan: str) -> None:
    """`POST /api/v1/members/bulk`, streamed."""

    async def lines() -> AsyncIterator[bytes]:
        for first in range(0, count, 1000):
            yield "".join(json.dumps(row(n, plan)) + "\n" for n in range(first, min(first + 1000, count))).encode()
            await asyncio.sleep(0)

    headers = {"Authorization": f"Bearer {gate.token('operator')}", "Content-Type": "application/x-ndjson"}
    async with httpx.AsyncClient(timeout=None) as client:
        answer = await client.post(f"{gate.admin_url}/api/v1/members/bulk", content=lines(), headers=headers)
    report = answer.raise_for_status().json()
    print(f"    {report['added']} added, {report['updated']} updated, {len(report['bad'])} bad")


async def run(count: int, per_s: float, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        gate = Gate(Path(folder))
        gate.studio("s1")
        gate.plans(PLANS)
        people = [f"p-{number}" for number in range(2000)]
        gate.members(*(f"{person},daily" for person in people))
        gate.start(copied=False)
        file = Path(folder) / "members.csv"
        with file.open("w", encoding="utf-8") as output:
            names = list(row(0, "free"))
            print(",".join(names), file=output)
            for number in range(count):
                print(",".join(str(value) for value in row(number, "free").values()), file=output)
        print(f"{count} members, {file.stat().st_size / 1e6:.0f} MB; doors: {per_s:g} check-ins a second")
        try:
            assert gate.process is not None
            (admin,) = children(gate.process.pid, "guestgate-admin")
            for name, work in (
                ("command line, new", lambda: by_command_line(gate, file)),
                ("command line, again (unchanged)", lambda: by_command_line(gate, file)),
                ("API, all changed", lambda: by_api(gate, count, "daily")),
            ):
                quiet = await for_seconds(gate, per_s, seconds, people)
                until = asyncio.Event()
                doors = asyncio.create_task(check_in(gate, per_s, until, people))
                started = time.monotonic()
                await work()
                took = time.monotonic() - started
                until.set()
                busy = await doors
                print(f"{name}: {took:.1f} s, {count / took:.0f} members a second")
                print(f"    doors before: {quiet}")
                print(f"    doors during: {busy}; p99 {busy.percentile(0.99) - quiet.percentile(0.99):+.1f} ms")
                print(f"    peak memory: admin {peak_mib(admin):.0f} MiB", end="")
                print(f", commands {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB")
            check = json.loads(gate.cli("db", "check", "--json").stdout)
            print(f"db check: {check}; database {gate.database.path.stat().st_size / 1e6:.0f} MB")
        finally:
            gate.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=200, help="check-ins a second")
    parser.add_argument("--seconds", type=float, default=10, help="how long the doors are watched before each import")
    chosen = parser.parse_args()
    os.environ["PYTHONUTF8"] = "1"
    asyncio.run(run(chosen.members, chosen.rate, chosen.seconds))
