"""Measures guestgate against a careful and a usual way of writing it, and against nginx saying yes.

All of them answer over TLS on loopback, one after another in interleaved rounds, with wrk as the caller.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import seed
import servers

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))
from cluster import Cluster  # noqa: E402 - the tests' throw-away PostgreSQL

HERE = Path(__file__).parent
WARM_UP_S = 2
SETTLE_S = 0.5  # what was under way when wrk hung up
FDATASYNCS = 200
NAMES = {
    "guestgate": "guestgate",
    "sqlite3": "FastAPI, sqlite3 behind a lock",
    "sqlalchemy": "FastAPI, SQLAlchemy asyncio",
    "nginx": "nginx, static answer",
    "guestgate-postgres": "guestgate on PostgreSQL",
    "sqlalchemy-postgres": "FastAPI, SQLAlchemy asyncpg",
}
# Who is compared with whom, and by how many times guestgate should be ahead.
BARS = (
    ("guestgate", "sqlite3", 8.0),
    ("guestgate", "sqlalchemy", 30.0),
    ("guestgate", "nginx", 0.18),
    ("guestgate-postgres", "sqlalchemy-postgres", 12.0),
)
Result = dict[str, Any]


def main() -> int:
    """Measure, print, and say how it went by the exit status."""
    options = _options()
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, frame: sys.exit(128 + number))
    try:
        report = _run(options)
    except KeyboardInterrupt:
        return 130
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(f"scripts/bench: {error}", file=sys.stderr)
        return 1
    _print(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return int(options.check and not all(bar["met"] for bar in report["bars"]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--rounds", type=_between(1, 100), default=3, help="rounds over all servers (3)")
    parser.add_argument("--seconds", type=_between(1, 300), default=5, help="seconds a server and round (5)")
    parser.add_argument("--connections", type=_between(1, 2000), default=64, help="keep-alive connections (64)")
    parser.add_argument("--only", action="append", choices=NAMES, help="only this server (may be repeated)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file as well")
    parser.add_argument("--check", action="store_true", help="exit 1 where a bar is missed")
    return parser.parse_args()


def _between(low: int, high: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"should be {low} to {high}")
        return int(text)

    return number


def _run(options: argparse.Namespace) -> Result:
    """Start everything, measure, end everything, whatever happens."""
    running: list[servers.Server] = []
    ending = ExitStack()
    with tempfile.TemporaryDirectory(prefix="guestgate-bench-", ignore_cleanup_errors=True) as folder:
        try:
            site = servers.Site(Path(folder), seed.studio_keys())
            machine = {
                "cpus": os.cpu_count(),
                "load": os.getloadavg()[0],
                "fdatasync_ms": _fdatasync_ms(site.folder),
            }
            _start(options.only or list(NAMES), site, running, ending)
            rounds = _measure(options, site, running)
        finally:
            # From here on nothing may cut the ending short.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            _say("")
            for server in running:
                server.stop()
            ending.close()
    results = {name: _summary(measured) for name, measured in rounds.items()}
    load = {"rounds": options.rounds, "seconds": options.seconds, "connections": options.connections}
    return {"machine": machine, "load": load, "servers": results, "bars": _bars(results)}


def _start(names: list[str], site: servers.Site, running: list[servers.Server], ending: ExitStack) -> None:
    cluster: Cluster | None = None
    sample = json.dumps({"decision": "allowed", "reason": "ok", "decisionId": 36 * "0"}, separators=(",", ":"))
    for name in (name for name in NAMES if name in names):
        _say(f"starting {NAMES[name]}")
        database = None
        if name.endswith("-postgres"):
            cluster = cluster or Cluster("shared_buffers = 256MB", fsync=True)
            ending.callback(cluster.close)
            database = cluster.url(cluster.create())
        if name.startswith("guestgate"):
            server = servers.guestgate(site, ROOT / ".venv/bin/guestgate", name, database)
        elif name == "nginx":
            server = servers.nginx(site, sample)
        else:
            server = servers.baseline(site, name, ROOT / ".venv-bench/bin/python", database)
        running.append(server)
        server.start()
        if len(server.sample) != len(sample):
            raise RuntimeError(f"{name}'s answer is not as long as the others': {server.sample}")


def _measure(
    options: argparse.Namespace, site: servers.Site, running: list[servers.Server]
) -> dict[str, list[Result]]:
    keys = site.folder / "studio-keys.txt"
    keys.write_text("".join(f"{key}\n" for key in site.keys))
    for server in running:
        _say(f"warming up {NAMES[server.name]}")
        _load(server, keys, WARM_UP_S, options.connections)
    rounds: dict[str, list[Result]] = {server.name: [] for server in running}
    for number in range(1, options.rounds + 1):
        for server in running:
            _say(f"round {number} of {options.rounds}: {NAMES[server.name]}")
            rounds[server.name].append(_load(server, keys, options.seconds, options.connections))
    return rounds


def _load(server: servers.Server, keys: Path, seconds: int, connections: int) -> Result:
    """Call one server with wrk for some seconds."""
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    command += ["--timeout", "10s", "--script", str(HERE / "checkins.lua"), server.url]
    command += ["--", str(keys), str(seed.MEMBERS)]
    wrk = subprocess.run(command, check=False, capture_output=True, text=True, timeout=seconds + 60)
    found = re.search(r"^RESULT (.*)$", wrk.stdout, re.MULTILINE)
    if wrk.returncode or found is None:
        raise RuntimeError(f"wrk: exit {wrk.returncode}\n{wrk.stdout}{wrk.stderr}")
    result: Result = json.loads(found[1])
    if not result["requests"]:
        raise RuntimeError(f"{server.name} answered nothing\n{server.complaint()}")
    result["checkins_per_s"] = (result["requests"] - result["non_2xx"]) / result["seconds"]
    time.sleep(SETTLE_S)
    return result


def _fdatasync_ms(folder: Path) -> float:
    """What making 4 KiB durable costs here; most of what a commit costs."""
    durations = []
    with (folder / "fdatasync").open("wb", buffering=0) as file:
        for _ in range(FDATASYNCS):
            file.write(bytes(4096))
            begin = time.perf_counter()
            os.fdatasync(file.fileno())
            durations.append(time.perf_counter() - begin)
    return statistics.median(durations) * 1000


def _summary(rounds: list[Result]) -> Result:
    """The medians and sums over a server's rounds."""
    medians = {
        name: statistics.median(one[name] for one in rounds) for name in ("checkins_per_s", "p50_ms", "p99_ms")
    }
    sums = {name: sum(one[name] for one in rounds) for name in ("non_2xx", "socket_errors")}
    return {**medians, **sums, "rounds": rounds}


def _bars(results: dict[str, Result]) -> list[Result]:
    """What guestgate is expected to reach; ratios of medians."""
    bars: list[Result] = [
        {"name": f"times {NAMES[other]}", "value": _ratio(results, own, other), "at_least": at_least}
        for own, other, at_least in BARS
        if own in results and other in results
    ]
    if "guestgate" in results:
        bars.append({"name": "p99 in ms", "value": results["guestgate"]["p99_ms"], "below": 25.0})
    for bar in bars:
        bar["met"] = bar["value"] >= bar["at_least"] if "at_least" in bar else bar["value"] < bar["below"]
    return bars


def _ratio(results: dict[str, Result], own: str, other: str) -> float:
    """How many check-ins guestgate answers for one of the other's."""
    answered = results[other]["checkins_per_s"]
    return float(results[own]["checkins_per_s"] / answered) if answered else float("inf")


def _print(report: Result) -> None:
    machine, load, results = report["machine"], report["load"], report["servers"]
    print(
        f"{machine['cpus']} processors, load {machine['load']:.1f} before, "
        f"fdatasync {machine['fdatasync_ms']:.2f} ms; "
        f"{load['connections']} keep-alive TLS connections, {load['rounds']} rounds of {load['seconds']} s\n"
    )
    print(f"{'':32}{'check-ins/s':>12}{'p50 ms':>10}{'p99 ms':>10}{'guestgate is':>14}{'non-2xx':>10}")
    for name, result in results.items():
        own = "guestgate-postgres" if name.endswith("-postgres") else "guestgate"
        ratio = f"{_ratio(results, own, name):.3g} x" if own in results else ""
        print(
            f"{NAMES[name]:32}{result['checkins_per_s']:>12,.0f}{result['p50_ms']:>10.1f}{result['p99_ms']:>10.1f}"
            f"{ratio:>14}{result['non_2xx']:>10,}"
        )
    print()
    for bar in report["bars"]:
        limit = f"at least {bar['at_least']:g}" if "at_least" in bar else f"below {bar['below']:g}"
        print(f"{'met   ' if bar['met'] else 'missed'} {bar['name']}: {bar['value']:.3g} ({limit})")
    broken = {name: result["socket_errors"] for name, result in results.items() if result["socket_errors"]}
    for name, count in broken.items():
        print(f"broken connections, {NAMES[name]}: {count:,}")


def _say(text: str) -> None:
    """Progress, for those who watch."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
