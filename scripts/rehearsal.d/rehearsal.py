"""A rehearsal: guestgate under libfaketime, a town's traffic with every fault, and the auditor's word on it.

Nothing of guestgate is imported: everything is done with its commands, in a folder that is thrown away. Exit status 0
only if the auditor finds no difference, every call that no fault met was delivered, and memory stayed flat.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

PYTHON = sys.executable
STARTUP_S = 20
# Memory is looked at once caches have filled; then it may move by so much and no further.
WARM_UP = 1 / 3
# Who makes calls so late has measured this machine, and no server.
TOO_LATE_MS = 250
MAY_GROW, MAY_GROW_KIB = 1.10, 8 * 1024


def main() -> int:
    """Rehearse, print, and say whether all was well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=500, help="people a second (500)")
    parser.add_argument("--for", dest="seconds", type=int, default=60, help="seconds (60)")
    parser.add_argument("--seed", type=int, default=1, help="of the day in town (1)")
    parser.add_argument("--faults", default="all", help="as for guestgate sandbox traffic (all)")
    parser.add_argument("--studios", type=int, default=6)
    parser.add_argument("--members", type=int, default=8000)
    parser.add_argument("--json", action="store_true", help="print one object")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in this new folder and keep it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="guestgate-rehearsal-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        result = rehearse(folder.absolute(), options)
    if options.json:
        print(json.dumps(result))
    else:
        tell(result)
    return 0 if result["well"] else 1


def rehearse(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One rehearsal; returns its figures."""
    prepare(folder, options)
    port = free_port()
    clock = options.faults == "all" or "clock" in options.faults
    process, log = serve(folder, port, clock=clock)
    memory = Memory()
    try:
        await_port(process, port, log)
        memory.watch("server", process.pid)
        arguments = ["--town", "town", "--url", f"https://localhost:{port}/checkin-validation", "--ca", "cert.pem"]
        arguments += ["--rate", str(options.rate), "--for", str(options.seconds), "--seed", str(options.seed)]
        arguments += ["--member-validation-url", f"https://localhost:{port}/member-validation", "--codes"]
        arguments += ["--webhook-url", f"https://localhost:{port}/webhook", "--faults", options.faults]
        arguments += ["--clock-file", "clock", "--log", "run.jsonl", "--svg", "run.svg", "--json"]
        driver = start(folder, "sandbox", "traffic", *arguments, stdout=subprocess.PIPE)
        memory.watch("traffic", driver.pid)
        output, _ = driver.communicate()
        if driver.returncode:
            raise SystemExit("the traffic did not run to its end")
        time.sleep(1)  # what the last answers left to write
        memory.end()
    finally:
        process.terminate()
        process.wait(timeout=30)
    audited = run(folder, "sandbox", "audit", "run.jsonl", "--json", status=None)
    check = run(folder, "db", "check", status=None)
    traffic, audit = json.loads(output), json.loads(audited.stdout)
    well = {
        "the auditor finds no difference": audit["agrees"],
        "no call undelivered but those that a fault met": traffic["undelivered"] == 0 and not traffic["not_made"],
        "memory flat": all(memory.is_flat(name) for name in memory.kib),
        "the record agrees with itself": check.returncode == 0,
    }
    return {
        "well": all(well.values()),
        "bars": well,
        "traffic": traffic,
        "audit": audit,
        "memory_mib": {name: memory.summary(name) for name in memory.kib},
    }


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """An installation with the town's plans, studios, keys and members, and a certificate."""
    run(folder, "init", ".")
    run(folder, "sandbox", "export", "town", "--studios", str(options.studios), "--members", str(options.members))
    subprocess.run(["sh", "town/setup.sh"], cwd=folder, env=environment(), check=True, stdout=subprocess.DEVNULL)
    request = "req -x509 -newkey rsa:2048 -nodes -days 800 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(["openssl", *request.split(), *files], cwd=folder, check=True, capture_output=True)


def serve(folder: Path, port: int, *, clock: bool) -> tuple[subprocess.Popen[bytes], Path]:
    """The server; with a clock, its wall clock can be set while its monotonic clock stays real."""
    log = folder / "server.log"
    arguments = ["--host", "localhost", "--port", str(port), "--admin-port", str(free_port())]
    arguments += ["--tls-cert", "cert.pem", "--tls-key", "key.pem", "--json"]
    with log.open("wb") as output:
        env = environment() | (fake_clock(folder) if clock else {})
        return start(folder, "serve", *arguments, env=env, stdout=output, stderr=output), log


def fake_clock(folder: Path) -> dict[str, str]:
    """What makes a process read the time from libfaketime."""
    (library,) = [*Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")][:1] or [None]
    if library is None:
        raise SystemExit("libfaketime is missing; on Debian: apt-get install faketime")
    (folder / "clock").write_text("+0\n")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(folder / "clock"),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        # Otherwise waits with a time-out on the real monotonic clock end at once and spin.
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        "NO_FAKE_STAT": "1",
        "PYTHONPATH": str(Path(__file__).parent / "faketime"),
    }


class Memory:
    """Resident memory of processes and their children, looked at twice a second."""

    def __init__(self) -> None:
        """Nothing is watched yet."""
        self.kib: dict[str, list[int]] = {}
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def watch(self, name: str, pid: int) -> None:
        """From now on."""
        self.kib[name] = []
        thread = threading.Thread(target=self._look, args=(name, pid), daemon=True)
        thread.start()
        self._threads.append(thread)

    def _look(self, name: str, pid: int) -> None:
        while not self._ended.wait(0.5):
            used = resident_kib(pid)
            if used:
                self.kib[name].append(used)

    def end(self) -> None:
        """No longer."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def summary(self, name: str) -> dict[str, float]:
        """MiB after the warm-up, and the most there was later."""
        kib = self.kib[name]
        warm = int(len(kib) * WARM_UP)
        return {"warm": round(kib[warm] / 1024, 1), "most_later": round(max(kib[warm:]) / 1024, 1)}

    def is_flat(self, name: str) -> bool:
        """Whether it stayed where it was once warm."""
        kib = self.kib[name]
        warm = kib[int(len(kib) * WARM_UP)]
        return max(kib) <= warm * MAY_GROW + MAY_GROW_KIB


def resident_kib(pid: int) -> int:
    """Of a process and its children; 0 where it is gone."""
    total = 0
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        total += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return total + sum(resident_kib(int(child)) for child in children)


def start(folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """One of guestgate's commands, under way."""
    options.setdefault("env", environment())
    return subprocess.Popen([PYTHON, "-m", "guestgate", *arguments], cwd=folder, **options)


def run(folder: Path, *arguments: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
    """One of guestgate's commands, to its end."""
    command = [PYTHON, "-m", "guestgate", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    if status is not None and done.returncode != status:
        raise SystemExit(f"guestgate {' '.join(arguments)}: {done.stderr.strip()}")
    return done


def environment() -> dict[str, str]:
    """Without the caller's settings, and with guestgate in the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GUESTGATE_")}
    return kept | {"PATH": f"{Path(PYTHON).parent}:{os.environ.get('PATH', '')}", "PYTHONUTF8": "1"}


def free_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("localhost", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return once connections are taken."""
    give_up_at = time.monotonic() + STARTUP_S
    while True:
        if process.poll() is not None or time.monotonic() > give_up_at:
            raise SystemExit(f"the server did not start: {log.read_text('utf-8', 'replace')}")
        try:
            socket.create_connection(("localhost", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)


def tell(result: dict[str, Any]) -> None:
    """For people."""
    traffic, audit = result["traffic"], result["audit"]
    print(f"calls        {traffic['calls']}, undelivered {traffic['undelivered']} {traffic['undelivered_why'] or ''}")
    print(f"desks        {traffic['desk']}")
    print(f"reasons      {traffic['reasons']}")
    print(f"answers      p50 {traffic['ms_p50']} ms, p99 {traffic['ms_p99']} ms, worst {traffic['ms_worst']} ms")
    print(f"webhooks     {traffic['webhooks']}")
    print(f"faults       {traffic['faults']}; traffic was at most {traffic['behind_ms']} ms late")
    print(f"record       {audit['decisions']} decisions, {audit['visits']} visits, {audit['taken_back']} taken back")
    for name, memory in result["memory_mib"].items():
        print(f"memory       {name}: {memory['warm']} MiB warm, {memory['most_later']} MiB at most later")
    for problem in audit["problems"][:20]:
        print(f"difference   {problem}")
    if traffic["behind_ms"] > TOO_LATE_MS:
        print(
            "too busy     this machine was too late with its own calls to say much of the server; use a lower --rate"
        )
    for bar, held in result["bars"].items():
        print(f"{'holds' if held else 'BROKEN':<12} {bar}")


if __name__ == "__main__":
    sys.exit(main())
