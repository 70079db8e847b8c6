"""`guestgate quickstart`: a throw-away installation, a town of the sandbox in it, and that town's doors.

The server is a process of its own, started as `guestgate serve` would be; the sandbox calls it over TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from guestgate import clock, members, settings, starter, tokens
from guestgate.database import Database
from guestgate.errors import OperationError
from guestgate.sandbox import setup
from guestgate.sandbox.arrivals import DAY_S, MORNING_H, Load
from guestgate.sandbox.door import Desk
from guestgate.sandbox.journal import Journal
from guestgate.sandbox.platform import Endpoints, Platform, Seen
from guestgate.sandbox.report import LIMIT_MS, Report
from guestgate.sandbox.town import Town, TownSpec
from guestgate.sandbox.traffic import Traffic, days
from guestgate.self_signed import make_certificate
from guestgate.trust import trust

# The contract's own example, word for word, works against the quickstart. Its customer is whoever pastes the curl
# line: a member besides the town's, so that nobody else uses up their visits, on a plan without hours or limits.
CONTRACT_AGGREGATOR_ID = "<your-id>"
CONTRACT_CUSTOMER = 293123213
GUEST = members.MemberRow(0, "you", {"plan": "roaming"}, (CONTRACT_CUSTOMER,))

COLOURS = {Desk.OPEN: "green", Desk.NOT_ALLOWED: "red", Desk.NOT_FOUND: "red", Desk.ERROR: "yellow"}
SEED, MEMBERS, PEOPLE_A_SECOND = 6, 5000, 6
DEFAULT_SECONDS = 30
STARTUP_S = 30
SHOWN = 8
COLUMNS = ("local time", "studio", "member", "desk sees", "reason on record", "ms")
WIDE = 76


@dataclass(frozen=True)
class Gate:
    """A running server, and the town that lives in it."""

    town: Town
    url: str
    ca: Path
    pages: str
    token: str

    def curl(self, break_lines: str = " ") -> str:
        """The contract's example, ready to paste; `break_lines` stands between its parts."""
        body = f'{{"aggregatorId": "{CONTRACT_AGGREGATOR_ID}", "customerId": {CONTRACT_CUSTOMER}}}'
        parts = (
            f"curl --cacert {shlex.quote(str(self.ca))}",
            f"-H 'X-API-Key: {self.town.studios[0].keys['checkin']}'",
            "-H 'Content-Type: application/json; charset=utf-8'",
            f"-d '{body}'",
            self.url,
        )
        return break_lines.join(parts)


def run(seconds: int | None, *, quiet: bool = False) -> dict[str, Any]:
    """Run for so many seconds (None: until Ctrl-C on a terminal, else 30) and return the summary."""
    console = Console(quiet=quiet, highlight=False)
    on_terminal = console.is_terminal and not quiet
    if seconds is None and not on_terminal:
        seconds = DEFAULT_SECONDS
    # The demo is a world of its own: no setting of the user's reaches it.
    for name in [name for name in os.environ if name.upper().startswith(settings.ENV_PREFIX)]:
        del os.environ[name]
    # Whatever ends us, the server and the folder go with us.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    report = Report(Counter())
    with tempfile.TemporaryDirectory(prefix="guestgate-") as folder, contextlib.ExitStack() as stack:
        with console.status("A town moves in …") if on_terminal else contextlib.nullcontext():
            gate = stack.enter_context(_serving(Path(folder)))
        stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        show = _Screen(console, gate, report, seconds) if on_terminal else _Lines(console, gate)
        asyncio.run(_open_doors(gate, seconds, report, show))
    summary = _summary(report)
    _say_goodbye(console, summary)
    return summary


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[Gate]:
    """An installation with a town in it and its server, ended again at the end."""
    config = Path(starter.write(folder, CONTRACT_AGGREGATOR_ID)["config"])
    town = Town(TownSpec(SEED, members=MEMBERS, day=clock.now().date().isoformat()))
    database = Database.at(settings.load(config).database)
    setup.put(town, folder / "town", database)
    with database.write() as connection:
        members.save(connection, GUEST)
        token = tokens.create(connection, tokens.Role.OPERATOR, name="quickstart")
    cert, key = make_certificate(folder)
    port, admin_port = _free_port("localhost", 8443), _free_port("127.0.0.1", 8444)
    command = [sys.executable, "-m", "guestgate", "serve", "--json", "--config", str(config)]
    command += ["--host", "localhost", "--port", str(port), "--tls-cert", str(cert), "--tls-key", str(key)]
    command += ["--admin-host", "127.0.0.1", "--admin-port", str(admin_port)]
    log = folder / "server.log"
    with log.open("wb") as output:
        # A group of its own, so that Ctrl-C reaches us first and the server is ended in order.
        server = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        _await_server(server, port, cert, log)
        yield Gate(
            town, f"https://localhost:{port}/checkin-validation", cert, f"http://127.0.0.1:{admin_port}/", token
        )
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=STARTUP_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _free_port(host: str, wanted: int) -> int:
    """The wanted one where it is free, else any other."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.create_server((host, port)) as server:
            free: int = server.getsockname()[1]
            return free
    raise OperationError(f"there is no free port on {host}")


def _await_server(server: subprocess.Popen[bytes], port: int, cert: Path, log: Path) -> None:
    give_up_at = clock.monotonic() + STARTUP_S
    while True:
        if server.poll() is not None or clock.monotonic() > give_up_at:
            raise OperationError(f"the demo server did not start: {log.read_text('utf-8', 'replace').strip()}")
        with contextlib.suppress(httpx.HTTPError):  # only our own server has our certificate
            httpx.get(f"https://localhost:{port}/healthz", verify=trust(cert), trust_env=False)
            return
        clock.sleep(0.1)


async def _open_doors(gate: Gate, seconds: int | None, report: Report, show: _Lines | _Screen) -> None:
    """Let people come: one day in so many seconds, or one day after the other."""

    def tapped(seen: Seen) -> None:
        report.add(seen.tap, None)
        show.tapped(seen)

    load = Load(PEOPLE_A_SECOND, seconds or DAY_S, SEED, from_h=MORNING_H)
    async with Platform(gate.town, Endpoints(gate.url, ca=gate.ca), Journal(None), on_tap=tapped) as platform:
        with show:
            await (Traffic(platform, load).run() if seconds else days(platform, load))


class _Lines:
    """A line for each check-in."""

    def __init__(self, console: Console, gate: Gate) -> None:
        self._console, self._gate = console, gate

    def __enter__(self) -> None:
        self._console.print(f"guestgate answers at {self._gate.url}", soft_wrap=True)
        self._console.print(f"See it in the browser: {self._gate.pages}\nToken: {self._gate.token}", soft_wrap=True)
        self._console.print(f"Try it:\n{self._gate.curl()}", soft_wrap=True, markup=False)

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def tapped(self, seen: Seen) -> None:
        """Print it."""
        planned, tap = seen.planned, seen.tap
        who = f"{seen.local_time}  {planned.studio.id:<17} {planned.aggregator_id:<14}"
        line = f"{who} {tap.desk.value:<12} {tap.reason or tap.note or '':<22} {tap.ms:6.1f} ms"
        self._console.print(line, soft_wrap=True, markup=False)


class _Screen:
    """A live view of the town's doors."""

    def __init__(self, console: Console, gate: Gate, report: Report, seconds: int | None) -> None:
        self._console, self._gate, self._report, self._seconds = console, gate, report, seconds
        self._started = clock.monotonic()
        self._latest: deque[Seen] = deque(maxlen=SHOWN)
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._render)

    def __enter__(self) -> None:
        self._started = clock.monotonic()
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def tapped(self, seen: Seen) -> None:
        """It is on the screen when that is next drawn."""
        self._latest.append(seen)

    def _render(self) -> Group:
        left = "Ctrl-C ends"
        if self._seconds is not None:
            left = f"{max(0, int(self._seconds - clock.monotonic() + self._started))} s left"
        return Group(
            Panel(self._table(), title="guestgate quickstart", subtitle=left, border_style="cyan"),
            self._counts(),
            self._reasons(),
            Text(),
            Text.assemble(("See it in the browser: ", "bold"), self._gate.pages),
            Text.assemble(("Token: ", "bold"), self._gate.token),
            Text("Try it from another terminal:", "bold"),
            Text(self._gate.curl(" \\\n  ")),
        )

    def _table(self) -> Table:
        """The latest check-ins; a narrow window shows them without times."""
        columns = COLUMNS if self._console.width >= WIDE else COLUMNS[1:-1]
        table = Table(box=None, expand=True, header_style="dim", padding=(0, 1, 0, 0), pad_edge=False)
        for name in columns:
            table.add_column(name, no_wrap=True, justify="right" if name == "ms" else "left")
        for seen in self._latest:
            planned, tap = seen.planned, seen.tap
            cells: dict[str, str | Text] = {
                "local time": seen.local_time,
                "studio": planned.studio.id,
                "member": planned.aggregator_id,
                "desk sees": Text(tap.desk.value, COLOURS[tap.desk]),
                "reason on record": tap.reason or tap.note or "",
                "ms": f"{tap.ms:.1f}",
            }
            table.add_row(*(cells[name] for name in columns))
        for _ in range(SHOWN - len(self._latest)):
            table.add_row()
        return table

    def _counts(self) -> Text:
        figures = _summary(self._report)
        return Text.assemble(
            (f"{figures['allowed']} allowed", "bold green"),
            "   ",
            (f"{figures['denied']} denied", "bold red"),
            "   ",
            (f"{figures['errors']} errors", "bold yellow" if figures["errors"] else "dim"),
            f"   p50 {figures['ms_p50']:.1f} ms   p99 {figures['ms_p99']:.1f} ms   limit {LIMIT_MS} ms",
        )

    def _reasons(self) -> Text:
        """What was given as the reason how often, the most frequent first; as many as the line holds."""
        counts = [f"{count} {reason}" for reason, count in self._report.reasons.most_common()]
        while len(line := " · ".join(counts)) > self._console.width:
            counts.pop()
        return Text(line, "dim")


def _summary(report: Report) -> dict[str, Any]:
    """The figures so far."""
    desks, answers = report.desks, report.latencies
    return {
        "check_ins": answers.count,
        "allowed": desks[Desk.OPEN],
        "denied": desks[Desk.NOT_ALLOWED] + desks[Desk.NOT_FOUND],
        "errors": desks[Desk.ERROR],
        "ms_p50": answers.percentile_ms(0.5),
        "ms_p99": answers.percentile_ms(0.99),
        "ms_worst": answers.worst_ms,
    }


def _say_goodbye(console: Console, figures: dict[str, Any]) -> None:
    console.print(
        f"{figures['check_ins']} check-ins: {figures['allowed']} allowed, {figures['denied']} denied, "
        f"{figures['errors']} errors; {figures['ms_p50']} ms for half of them, {figures['ms_p99']} ms for 99 %, "
        f"{figures['ms_worst']} ms at worst",
        soft_wrap=True,
    )
    console.print("Your own: guestgate init my-gate", soft_wrap=True)
