"""A real installation for tests: its own folder, database, certificate and server process."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import commands
import httpx

from guestgate import members, plans, plans_file, starter, studios, tokens
from guestgate.database import Database
from guestgate.directory import KeyKind
from guestgate.members import Upsert, parse_row
from guestgate.rows import RowFile, parsed
from guestgate.self_signed import make_certificate
from guestgate.tokens import Role

PATH = "/checkin-validation"
PLANS = """\
[plans.free]
name = "Free"
reentry_minutes = 0

[plans.once]
name = "Once a day"
reentry_minutes = 0
limits = [{ max = 1, per = "day" }]
"""


class Gate:
    """One installation. `cli` runs a command as a user would; `start` serves it over TLS on a free port.

    What it begins with is written by this process, by the functions that the commands call.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        database_url: str | None = None,
        stand_in: str = "refuse",
        furnished: bool = False,
    ) -> None:
        """Create it as `guestgate init` does, in a new file or an empty database; `options` go to every `serve`.

        The database of a `furnished` one has its schema already, in the folder ``gate`` where it is a file.
        Without its database it does not `stand_in`, unless that is what a test is about: what it then decides is
        right by looser rules.
        """
        self.folder, self.stand_in = folder, stand_in
        self.options = options
        self.cert, self.key_file = make_certificate(folder)
        self.port, self.admin_port = free_port(), free_port()
        self.keys: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | commands.Process | None = None
        self.log = folder / "server.log"
        self.home = folder / "gate"
        write_installation(self.home, database_url, furnished=furnished)
        self.database_url = database_url or f"sqlite:///{self.home / 'guestgate.db'}"
        self.database = Database.at(self.database_url)
        if database_url is not None:
            self.configure(f'stand_in = "{stand_in}"')

    @property
    def url(self) -> str:
        """Where check-ins are taken."""
        return f"https://localhost:{self.port}{PATH}"

    def cli(
        self, *arguments: str, input: str = "", status: int | None = 0, config: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; fails the test unless it exits with `status` (None: any)."""
        if config:
            arguments += ("--config", str(self.home / "guestgate.toml"))
        done = commands.run(arguments, environment(), input)
        assert status is None or done.returncode == status, (done.returncode, done.stdout, done.stderr)
        return done

    def join(self, folder: Path, *options: str) -> Gate:
        """Another machine's installation on the same database, with the same studios' keys."""
        folder.mkdir()
        other = Gate(folder, *options, database_url=self.database_url, stand_in=self.stand_in, furnished=True)
        other.keys = self.keys
        return other

    def configure(self, line: str) -> None:
        """Add a setting."""
        with (self.home / "guestgate.toml").open("a", encoding="utf-8") as config:
            config.write(f"{line}\n")

    def json(self, *arguments: str, **options: Any) -> list[Any]:
        """The objects that a command prints with --json."""
        return [json.loads(line) for line in self.cli(*arguments, "--json", **options).stdout.splitlines()]

    def studio(self, studio_id: str = "s1", *, timezone: str = "Europe/Berlin", test: bool = False) -> str:
        """Add a studio; returns its key."""
        token = secrets.token_urlsafe(24)
        with self.database.write() as connection:
            studios.add(connection, studio_id, name=studio_id, timezone=timezone, tags=frozenset(), test=test)
            studios.add_key(connection, studio_id, token, KeyKind.CHECKIN, None)
        self.keys[studio_id] = token
        return token

    def plans(self, text: str = PLANS) -> None:
        """Put plans into force."""
        file = self.folder / "plans.toml"
        file.write_text(text, "utf-8")
        documents = plans_file.read(file)
        with self.database.write() as connection:
            plans.apply(connection, documents)

    def members(self, *rows: str, header: str = "member_id,plan") -> None:
        """Import members, a CSV row each."""
        file = self.folder / "members.csv"
        file.write_text("\n".join((header, *rows)) + "\n", "utf-8")
        upsert = Upsert()
        with RowFile(str(file), members.FIELDS, ("member_id",)) as source:
            for _ in self.database.write_many(parsed(source, parse_row), upsert):
                pass
        assert not upsert.report.bad, list(upsert.report.bad)

    def start(self, *options: str, wrapper: tuple[str, ...] = (), copied: bool = True) -> None:
        """Serve, and return once connections are taken.

        The process is a copy as that of `cli` is, unless there is a `wrapper` or a test is about how it is started.
        """
        arguments = ["serve", "--host", "localhost", "--port", str(self.port), "--admin-port", str(self.admin_port)]
        arguments += ["--config", str(self.home / "guestgate.toml"), *self.options, *options]
        if "--behind-proxy" not in arguments:
            arguments += ["--tls-cert", str(self.cert), "--tls-key", str(self.key_file)]
        self._log_before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output, Path(os.devnull).open("rb") as nothing:
            if copied and not wrapper:
                files = (nothing, output, output)
                self.process = commands.Process(tuple(arguments), environment(), files, start_new_session=True)
            else:
                command = [*wrapper, sys.executable, "-m", "guestgate", *arguments]
                self.process = subprocess.Popen(
                    command, stdout=output, stderr=output, env=environment(), start_new_session=True
                )
        wait_for(self._serves, "the server did not start", self, 120)

    def _serves(self) -> bool:
        """All of it: the public listener may be open before the admin listener is."""
        assert self.process is not None and self.process.poll() is None, self.log.read_text("utf-8", "replace")
        return b'"event": "serving"' in self.log.read_bytes()[self._log_before :]

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        """End the server and everything it started; returns its exit status."""
        assert self.process is not None
        process, self.process = self.process, None
        if with_signal is signal.SIGKILL:
            os.killpg(process.pid, signal.SIGKILL)  # the whole group: listener and ledger die at once
        else:
            process.send_signal(with_signal)
        return process.wait(timeout=30)

    def close(self) -> None:
        """End what is still running."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=30)

    def tls(self) -> ssl.SSLContext:
        """A context that trusts the installation's certificate."""
        return ssl.create_default_context(cafile=self.cert)

    def client(self, studio_id: str = "s1", **options: Any) -> httpx.Client:
        """An HTTP client with a studio's key."""
        headers = {"X-API-Key": self.keys[studio_id], "Content-Type": "application/json; charset=utf-8"}
        return httpx.Client(verify=self.tls(), headers=headers, timeout=10, **options)

    def checkin(self, member: str, customer: int = 1, studio_id: str = "s1") -> httpx.Response:
        """One check-in."""
        with self.client(studio_id) as client:
            return client.post(self.url, json={"aggregatorId": member, "customerId": customer})

    def token(self, role: str = "admin", *, name: str = "", expires_at: datetime | None = None) -> str:
        """A new token for the admin listener, without the price of a command."""
        with self.database.write("test") as connection:
            return tokens.create(connection, Role(role), name=name, expires_at=expires_at)

    @property
    def admin_url(self) -> str:
        """Where the admin listener serves."""
        return f"http://127.0.0.1:{self.admin_port}"

    def office(self, role: str = "admin", *, name: str = "", **options: Any) -> httpx.Client:
        """A client of the admin API, with a token of this role; paths begin behind ``/api/v1``."""
        headers = {"Authorization": f"Bearer {self.token(role, name=name)}"}
        return httpx.Client(base_url=f"{self.admin_url}/api/v1", headers=headers, timeout=60, **options)

    def raw(self, data: bytes, *, read: bool = True, timeout: float = 5) -> bytes:
        """Send bytes over TLS as they are; returns all that comes back until the server closes or goes quiet."""
        connection = socket.create_connection(("localhost", self.port), timeout=timeout)
        with self.tls().wrap_socket(connection, server_hostname="localhost") as stream:
            stream.sendall(data)
            answer = b""
            try:
                while read and (chunk := stream.recv(65536)):
                    answer += chunk
            except TimeoutError:
                pass
            return answer


def write_installation(home: Path, database_url: str | None, *, furnished: bool) -> None:
    """As `guestgate init` does. A `furnished` database is not looked at: that would take longer than most tests."""
    with patch.object(starter, "Database") if furnished else nullcontext():
        starter.write(home, database_url=database_url)


def environment() -> dict[str, str]:
    """The environment without settings of whoever runs the tests; output is UTF-8 and plain."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GUESTGATE_")}
    return {**kept, "PYTHONUTF8": "1", "NO_COLOR": "1", "COLUMNS": "200"}


# Below the ports that the system gives to connections, so that none is taken between its choice and its use;
# processes that run tests side by side choose from ranges of their own.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = iter(random.sample(range(10_000 + _WORKER % 4 * 5_000, 15_000 + _WORKER % 4 * 5_000), 5_000))


def free_port() -> int:
    """A port nobody listens on, and that was not given before."""
    for port in _PORTS:
        with suppress(OSError), socket.create_server(("localhost", port)):
            return port
    raise AssertionError("all ports are taken")


def wait_for(condition: Any, problem: str, gate: Gate | None = None, seconds: float = 30) -> None:
    """Poll until a condition holds; a generous limit, only so that a broken test ends."""
    give_up_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up_at:
            log = gate.log.read_text("utf-8", "replace") if gate and gate.log.exists() else ""
            raise AssertionError(f"{problem}\n{log}")
        time.sleep(0.02)
