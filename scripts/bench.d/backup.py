"""Does a backup slow the door down? The same calls with and without one, taken in turns; and how long care takes.

The record is filled with check-ins of the past year first. Calls come at a steady rate over connections that
stay open, and a call is timed from when it was due, so that a stall counts for all who waited in it.
"""

import argparse
import http.client
import json
import os
import random
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import seed
import servers

from guestgate.database import Database

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / ".venv/bin/guestgate"
FILL = """
WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {rows})
INSERT INTO decisions
SELECT {first} + 2 * n, printf('019a0000-%04x-7000-8000-%012x', n >> 16, n), {now} - 31536000000 + n * {step},
       's' || (1 + n % 50), 'm' || (100001 + n * 7919 % 20000), 'm' || (100001 + n * 7919 % 20000), 200000000 + n % 20000,
       'allowed', 'ok', NULL, NULL, printf('019a0000-%04x-7000-8000-%012x', n >> 16, n), 'classic', 1, 0, '0123456789abcdef'
FROM number
"""
VISITS = """
INSERT INTO visits
SELECT seq + 1, id, member_id, studio_id, received_at_ms, date(received_at_ms / 1000, 'unixepoch'), '[]', 0,
       'authorized', NULL, 'checkin', 'classic', 1 FROM decisions
"""
ANSWERS = "INSERT INTO answers SELECT id, 200, 5.5, 0 FROM decisions ORDER BY id"


def main() -> int:
    """Fill, measure in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000, help="check-ins on record, about 0.7 kB each (%(default)s)")
    parser.add_argument("--rate", type=int, default=200, help="calls a second (%(default)s)")
    parser.add_argument("--seconds", type=int, default=8, help="length of a turn (%(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each kind (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="guestgate-bench-"))
    site = servers.Site(folder, seed.studio_keys())
    server = servers.guestgate(site, PROGRAM)
    report: dict[str, Any] = {"cpus": os.cpu_count(), "rows": options.rows, "rate_per_s": options.rate}
    try:
        report["file_mb"] = fill(folder / "guestgate/guestgate.db", options.rows)
        server.start()
        report.update(measure(server, site, options))
        server.stop()
        report.update(care(folder))
    finally:
        server.stop()
        shutil.rmtree(folder)
    if options.json:
        print(json.dumps(report))
    else:
        for name, value in report.items():
            print(f"{name:28}{value:>12,.2f}" if isinstance(value, float) else f"{name:28}{value:>12,}")
    return 0


def fill(path: Path, rows: int) -> float:
    """Check-ins of the past year, each with its visit and its answer; returns the file's size in MB."""
    database = Database.at(f"sqlite:///{path}")
    now, step = time.time_ns() // 1_000_000, 31_536_000_000 // rows
    with database.write() as connection:
        first = connection.exec_driver_sql("SELECT seq FROM feed").scalar_one()
        connection.exec_driver_sql(FILL.format(rows=rows, first=first, now=now, step=step))
        connection.exec_driver_sql(VISITS)
        connection.exec_driver_sql(ANSWERS)
        connection.exec_driver_sql(f"UPDATE feed SET seq = {first + 2 * rows + 2}")
    database.checkpoint("TRUNCATE")
    return path.stat().st_size / 1e6


def measure(server: servers.Server, site: servers.Site, options: argparse.Namespace) -> dict[str, Any]:
    """Turns without and with a backup."""
    calls = Calls(server, site)
    calls.run(options.rate, 3)  # warm up
    quiet: list[float] = []
    busy: list[float] = []
    backups: list[float] = []
    for number in range(options.rounds):
        say(f"round {number + 1} of {options.rounds}")
        quiet += calls.run(options.rate, options.seconds)
        backing = Backups(site.folder)
        backing.start()
        busy += calls.run(options.rate, options.seconds)
        backups += backing.stop()
    p99 = [statistics.quantiles(part, n=100)[98] * 1000 for part in (quiet, busy)]
    return {
        "quiet_p50_ms": statistics.median(quiet) * 1000,
        "quiet_p99_ms": p99[0],
        "backup_p50_ms": statistics.median(busy) * 1000,
        "backup_p99_ms": p99[1],
        "p99_ratio": p99[1] / p99[0],
        "worst_ms": max(busy) * 1000,
        "failed_calls": calls.failed,
        "backups": len(backups),
        "backup_s": statistics.median(backups),
    }


def care(folder: Path) -> dict[str, float]:
    """How long the other commands take on the same record, the server stopped."""
    config = folder / "guestgate/guestgate.toml"
    steps = {
        "check_s": ("db", "check"),
        "forget_s": ("member", "forget", "m100001", "--yes"),
        "copy_s": ("backup", str(folder / "copy.db")),
        "restore_s": ("restore", str(folder / "copy.db")),
        "check_restored_s": ("db", "check"),
        "prune_dry_run_s": ("db", "prune", "--keep", "11months", "--dry-run"),
    }
    return {name: timed(*arguments, "--config", str(config)) for name, arguments in steps.items()}


def timed(*arguments: str) -> float:
    """The seconds that a command takes."""
    say(" ".join(arguments[:2]))
    began = time.monotonic()
    subprocess.run([PROGRAM, *arguments], check=True, stdout=subprocess.DEVNULL, env=seed.environment(), timeout=3600)
    return time.monotonic() - began


class Calls:
    """Threads that call at a steady rate."""

    THREADS = 8

    def __init__(self, server: servers.Server, site: servers.Site) -> None:
        self.failed = 0
        self._server, self._site = server, site
        self._tls = ssl.create_default_context(cafile=str(site.cert))
        self._seconds: list[float] = []

    def run(self, rate: int, seconds: int) -> list[float]:
        """How long each call took, from when it was due."""
        self._seconds = []
        begin = time.monotonic() + 0.2
        threads = [
            threading.Thread(target=self._call, args=(begin + n / rate, self.THREADS / rate, begin + seconds, n))
            for n in range(self.THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self._seconds

    def _call(self, due: float, every: float, until: float, number: int) -> None:
        dice = random.Random(f"{number} {due}")
        connection = http.client.HTTPSConnection("127.0.0.1", self._server.port, timeout=5, context=self._tls)
        while due < until:
            time.sleep(max(0.0, due - time.monotonic()))
            body = json.dumps({"aggregatorId": seed.member_id(dice.randint(1, seed.MEMBERS)), "customerId": 200_100_001})
            headers = {"X-API-Key": dice.choice(self._site.keys), "Content-Type": "application/json"}
            connection.request("POST", servers.PATH, body, headers)
            answer = connection.getresponse()
            answer.read()
            self.failed += answer.status not in (200, 403)
            self._seconds.append(time.monotonic() - due)
            due += every
        connection.close()


class Backups(threading.Thread):
    """One backup after the other until told to stop; the last one is waited for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._ended = threading.Event()
        self._seconds: list[float] = []

    def run(self) -> None:
        """Make copies and throw them away."""
        file = self._folder / "backup.db"
        config = str(self._folder / "guestgate/guestgate.toml")
        while not self._ended.is_set():
            self._seconds.append(timed("backup", str(file), "--config", config))
            file.unlink()

    def stop(self) -> list[float]:
        """How long each took."""
        self._ended.set()
        self.join()
        return self._seconds


def say(text: str) -> None:
    """Progress, for those who watch."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
