"""`guestgate quickstart`: a throw-away installation with studios, members and doors, to see it work.

The server is a process of its own, started as `guestgate serve` would be; the doors call it over TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import random
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from guestgate import clock, plans, plans_file, settings, starter, studios
from guestgate.database import Database
from guestgate.directory import KeyKind
from guestgate.errors import OperationError
from guestgate.members import MemberRow, Upsert
from guestgate.sandbox.door import Desk, Door, Tap, trust

# The contract's own example, word for word, works against the quickstart.
CONTRACT_AGGREGATOR_ID = "<your-id>"
CONTRACT_CUSTOMER = 293123213
CONTRACT_MEMBER = "demo-member"

STUDIOS = (
    ("berlin-mitte", "Berlin Mitte", "Europe/Berlin", ("classic",)),
    ("hamburg-altona", "Hamburg Altona", "Europe/Berlin", ("classic", "premium")),
    ("warszawa-centrum", "Warszawa Centrum", "Europe/Warsaw", ("classic",)),
    ("london-soho", "London Soho", "Europe/London", ("premium",)),
    ("lisboa-baixa", "Lisboa Baixa", "Europe/Lisbon", ("classic",)),
)
PLANS = """\
[plans.classic]
name = "Classic"
studio_tags = ["classic"]
limits = [{ max = 1, per = "day" }, { max = 8, per = "month", scope = "studio" }]

[plans.premium]
name = "Premium"
limits = [{ max = 2, per = "day" }]
payable = "per_visit"

[plans.night]
name = "Night owl"
hours = [{ from = "22:00", until = "06:00" }]
"""
MEMBERS = 400
DEFAULT_SECONDS = 30
TAPS_A_SECOND = 8
STARTUP_S = 15
SHOWN = 10
COLOURS = {Desk.OPEN: "green", Desk.NOT_ALLOWED: "red", Desk.NOT_FOUND: "red", Desk.ERROR: "yellow"}


@dataclass
class Town:
    """What the doors have seen so far."""

    seconds: int | None
    started: float = field(default_factory=clock.monotonic)
    desks: Counter[Desk] = field(default_factory=Counter)
    ms: list[float] = field(default_factory=list)
    latest: deque[tuple[str, str, str, Tap]] = field(default_factory=lambda: deque(maxlen=SHOWN))

    def add(self, studio: str, member: str, tap: Tap) -> None:
        """Somebody held a card to a reader."""
        self.desks[tap.desk] += 1
        self.ms.append(tap.ms)
        self.latest.append((clock.iso(clock.now())[11:19], studio, member, tap))

    def percentile(self, share: float) -> float:
        """Milliseconds within which this share of the answers came."""
        ordered = sorted(self.ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def summary(self) -> dict[str, Any]:
        """The figures at the end."""
        return {
            "check_ins": len(self.ms),
            "allowed": self.desks[Desk.OPEN],
            "denied": self.desks[Desk.NOT_ALLOWED] + self.desks[Desk.NOT_FOUND],
            "errors": self.desks[Desk.ERROR],
            "ms_p50": self.percentile(0.5),
            "ms_p99": self.percentile(0.99),
            "ms_worst": max(self.ms, default=0.0),
        }


@dataclass(frozen=True)
class Gate:
    """A running server."""

    url: str
    ca: Path
    keys: dict[str, str]

    def curl(self, break_lines: str = " ") -> str:
        """The contract's example, ready to paste; `break_lines` stands between its parts."""
        studio = STUDIOS[0][0]
        body = f'{{"aggregatorId": "{CONTRACT_AGGREGATOR_ID}", "customerId": {CONTRACT_CUSTOMER}}}'
        parts = (
            f"curl --cacert {shlex.quote(str(self.ca))}",
            f"-H 'X-API-Key: {self.keys[studio]}'",
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
    town = Town(seconds)
    # The demo is a world of its own: no setting of the user's reaches it.
    for name in [name for name in os.environ if name.upper().startswith(settings.ENV_PREFIX)]:
        del os.environ[name]
    # Whatever ends us, the server and the folder go with us.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    with (
        tempfile.TemporaryDirectory(prefix="guestgate-") as folder,
        _serving(Path(folder)) as gate,
        contextlib.suppress(KeyboardInterrupt),
    ):
        show = _Screen(console, gate, town) if on_terminal else _Lines(console, gate, town)
        asyncio.run(_open_doors(gate, town, show))
    _say_goodbye(console, town)
    return town.summary()


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[Gate]:
    """A server with demo studios, plans and members, ended again at the end."""
    config = Path(starter.write(folder, CONTRACT_AGGREGATOR_ID)["config"])
    cert, key = make_certificate(folder)
    port = _free_port()
    keys = _populate(Database.at(settings.load(config).database))
    gate = Gate(f"https://localhost:{port}/checkin-validation", cert, keys)
    command = [sys.executable, "-m", "guestgate", "serve", "--json", "--config", str(config)]
    command += ["--host", "localhost", "--port", str(port), "--tls-cert", str(cert), "--tls-key", str(key)]
    command += ["--admin-port", "0"]
    log = folder / "server.log"
    with log.open("wb") as output:
        # A group of its own, so that Ctrl-C reaches us first and the server is ended in order.
        server = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        _await_server(server, port, cert, log)
        yield gate
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=STARTUP_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _await_server(server: subprocess.Popen[bytes], port: int, cert: Path, log: Path) -> None:
    give_up_at = clock.monotonic() + STARTUP_S
    while True:
        if server.poll() is not None or clock.monotonic() > give_up_at:
            raise OperationError(f"the demo server did not start: {log.read_text('utf-8', 'replace').strip()}")
        with contextlib.suppress(httpx.HTTPError):  # only our own server has our certificate
            httpx.get(f"https://localhost:{port}/healthz", verify=trust(cert), trust_env=False)
            return
        clock.sleep(0.1)


def _populate(database: Database) -> dict[str, str]:
    """Demo content; returns each studio's key."""
    keys = {}
    file = Path(database.name).parent / "plans.toml"
    file.write_text(PLANS, "utf-8")
    rows = [
        MemberRow(number, f"m-{1000 + number}", {"plan": plan, "status": status}, (700_000 + number,))
        for number, (plan, status) in enumerate(_memberships())
    ]
    rows.append(MemberRow(0, CONTRACT_MEMBER, {"plan": "premium"}, (CONTRACT_CUSTOMER,)))
    with database.write() as connection:
        plans.apply(connection, plans_file.read(file))
        for studio_id, name, timezone, tags in STUDIOS:
            studios.add(connection, studio_id, name=name, timezone=timezone, tags=frozenset(tags), test=False)
            keys[studio_id] = secrets.token_urlsafe(24)
            studios.add_key(connection, studio_id, keys[studio_id], KeyKind.CHECKIN)
        Upsert()(connection, rows)
    return keys


def _memberships() -> Iterator[tuple[str, str]]:
    choose = random.Random(1)  # a demo is the same every time
    for _ in range(MEMBERS):
        plan = choose.choices(("classic", "premium", "night"), (70, 25, 5))[0]
        yield plan, choose.choices(("active", "suspended", "cancelled"), (94, 3, 3))[0]


async def _open_doors(gate: Gate, town: Town, show: Any) -> None:
    """Let members come until the time is over."""
    choose = random.Random(2)
    running: set[asyncio.Task[None]] = set()
    async with contextlib.AsyncExitStack() as stack:
        doors = {
            studio: await stack.enter_async_context(Door(gate.url, key, gate.ca)) for studio, key in gate.keys.items()
        }
        stack.enter_context(show)
        town.started = clock.monotonic()
        while town.seconds is None or clock.monotonic() - town.started < town.seconds:
            studio = choose.choice(list(doors))
            number = choose.randrange(MEMBERS)
            member = f"m-{1000 + number}" if choose.random() < 0.97 else f"stranger-{number}"
            taps = 2 if choose.random() < 0.15 else 1  # some tap again, and it is the same visit
            task = asyncio.create_task(_arrive(doors[studio], studio, member, 700_000 + number, taps, town, show))
            running.add(task)
            task.add_done_callback(running.discard)
            await asyncio.sleep(choose.expovariate(TAPS_A_SECOND))
        await asyncio.gather(*running)


async def _arrive(door: Door, studio: str, member: str, customer: int, taps: int, town: Town, show: Any) -> None:
    for _ in range(taps):
        tap = await door.tap(member, customer)
        town.add(studio, member, tap)
        show.tapped()
        await asyncio.sleep(0.4)


class _Lines:
    """A line for each check-in."""

    def __init__(self, console: Console, gate: Gate, town: Town) -> None:
        self._console, self._gate, self._town = console, gate, town

    def __enter__(self) -> None:
        self._console.print(f"guestgate answers at {self._gate.url}", soft_wrap=True)
        self._console.print(f"Try it:\n{self._gate.curl()}", soft_wrap=True, markup=False)

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def tapped(self) -> None:
        """Show the latest check-in."""
        at, studio, member, tap = self._town.latest[-1]
        why = tap.reason or tap.note or ""
        line = f"{at}  {studio:<17} {member:<14} {tap.desk.value:<12} {why:<22} {tap.ms:6.1f} ms"
        self._console.print(line, soft_wrap=True, markup=False)


class _Screen:
    """A live view of the town."""

    def __init__(self, console: Console, gate: Gate, town: Town) -> None:
        self._gate, self._town = gate, town
        self._live = Live(self._render(), console=console, refresh_per_second=8, get_renderable=self._render)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def tapped(self) -> None:
        """The live view refreshes by itself."""

    def _render(self) -> Group:
        town = self._town
        figures = town.summary()
        counts = Text.assemble(
            (f"{figures['allowed']} allowed", "bold green"),
            "   ",
            (f"{figures['denied']} denied", "bold red"),
            "   ",
            (f"{figures['errors']} errors", "bold yellow" if figures["errors"] else "dim"),
            f"   p50 {figures['ms_p50']:.1f} ms   p99 {figures['ms_p99']:.1f} ms   limit 750 ms",
        )
        table = Table(box=None, expand=True, header_style="dim", pad_edge=False)
        for name in ("UTC", "studio", "member", "the desk sees", "reason on record"):
            table.add_column(name, no_wrap=True)
        table.add_column("ms", justify="right")
        for at, studio, member, tap in town.latest:
            desk = Text(tap.desk.value, COLOURS[tap.desk])
            table.add_row(at, studio, member, desk, tap.reason or tap.note or "", f"{tap.ms:.1f}")
        for _ in range(SHOWN - len(town.latest)):
            table.add_row("", "", "", "", "", "")
        left = (
            "Ctrl-C ends"
            if town.seconds is None
            else f"{max(0, int(town.seconds - clock.monotonic() + town.started))} s left"
        )
        return Group(
            Panel(table, title="guestgate quickstart", subtitle=left, border_style="cyan"),
            counts,
            Text(),
            Text("Try it from another terminal:", "bold"),
            Text(self._gate.curl(" \\\n  ")),
        )


def _say_goodbye(console: Console, town: Town) -> None:
    figures = town.summary()
    console.print(
        f"{figures['check_ins']} check-ins: {figures['allowed']} allowed, {figures['denied']} denied, "
        f"{figures['errors']} errors; {figures['ms_p50']} ms for half of them, {figures['ms_p99']} ms for 99 %, "
        f"{figures['ms_worst']} ms at worst",
        soft_wrap=True,
    )
    console.print("Your own: guestgate init my-gate", soft_wrap=True)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, good for two days."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = clock.now()
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    key_path.touch(mode=0o600)
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_path, key_path


def _free_port() -> int:
    """8443 where it is free, else any other."""
    for port in (8443, 0):
        with contextlib.suppress(OSError), socket.create_server(("localhost", port)) as server:
            free: int = server.getsockname()[1]
            return free
    raise OperationError("there is no free port on localhost")
