"""A throw-away PostgreSQL for tests: a real server on loopback, from the programs that are installed."""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from gate import free_port, wait_for

SUPERUSER, PASSWORD = "postgres", "throw-away"
# The role that has to show its password.
STRICT = "strict"
START_S, STOP_S = 60, 10
PROGRAMS = Path("/usr/lib/postgresql")
MUCH_ROOM = 4 << 30


def in_memory() -> str | None:
    """A folder in memory, where there is one with room: tests mostly wait for databases to be made."""
    folder = "/dev/shm"
    try:
        return folder if shutil.disk_usage(folder).free > MUCH_ROOM else None
    except FileNotFoundError:
        return None


class Cluster:
    """One server. ``fsync`` is for tests of what survives; without it a test database is made in no time."""

    def __init__(self, *settings: str, fsync: bool = False, standby_of: Cluster | None = None) -> None:
        """Make it and start it, new or as another one's standby; `settings` are lines of its configuration."""
        self.folder = Path(tempfile.mkdtemp(prefix="guestgate-pg-", dir=None if fsync else in_memory()))
        self.port = free_port()
        self._bin = newest_programs()
        self._as_user = _drop_to_postgres(self.folder)
        if standby_of is None:
            self._make()
        else:
            self._run(
                "pg_basebackup",
                "--checkpoint",
                "fast",
                "--pgdata",
                self.data,
                "--write-recovery-conf",
                "--dbname",
                standby_of.url(),
            )
        lines = [
            "listen_addresses = '127.0.0.1'",
            f"port = {self.port}",
            f"unix_socket_directories = '{self.folder}'",
            "max_connections = 200",
            "shared_buffers = 64MB",
            "timezone = 'Asia/Kathmandu'",  # whatever it is, it must not matter
            *([] if fsync else ["fsync = off", "full_page_writes = off", "synchronous_commit = on"]),
            *settings,
        ]
        with Path(self.data, "postgresql.conf").open("a") as file:
            file.write("\n".join(lines) + "\n")
        self.start()

    def _make(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD, "utf-8")
        secret.chmod(0o644)
        self._run(
            "initdb",
            *("--pgdata", self.data, "--username", SUPERUSER, "--pwfile", str(secret), "--auth", "trust"),
            *("--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync", "--no-instructions"),
        )
        hba = Path(self.data, "pg_hba.conf")
        hba.write_text(f"host all {STRICT} 127.0.0.1/32 scram-sha-256\n{hba.read_text('utf-8')}", "utf-8")

    @property
    def data(self) -> str:
        """Its data directory."""
        return str(self.folder / "data")

    @property
    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "LC_ALL": "C"}

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._as_user, str(self._bin / program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env=self._environment,
        )
        assert done.returncode == 0, (program, done.stdout, done.stderr, self.log)

    @property
    def log(self) -> str:
        """What the server said."""
        file = self.folder / "log"
        return file.read_text("utf-8", "replace") if file.exists() else ""

    def start(self) -> None:
        """Start the server; returns once it takes connections."""
        command = [*self._as_user, "--pdeathsig", "QUIT", str(self._bin / "postgres"), "-D", self.data]
        with (self.folder / "log").open("ab") as output:
            # Whatever ends the tests ends it, too.
            self._server = process = subprocess.Popen(
                command, stdout=output, stderr=output, cwd="/", env=self._environment
            )
        give_up_at = time.monotonic() + START_S
        while True:
            assert process.poll() is None and time.monotonic() < give_up_at, self.log
            with suppress(psycopg.OperationalError):
                psycopg.connect(self.url(), connect_timeout=2).close()
                return
            time.sleep(0.05)

    def stop(self, how: str = "immediate") -> None:
        """Stop the server."""
        self._run("pg_ctl", "stop", "--wait", "--mode", how, "--pgdata", self.data)
        self._server.wait()

    def kill(self) -> None:
        """End all its processes at once, as when its machine loses power; `start` works afterwards."""
        pids = self.pids()
        self.signal(signal.SIGKILL)
        self._server.wait()
        give_up_at = time.monotonic() + STOP_S
        while any(Path(f"/proc/{pid}/exe").exists() for pid in pids):
            assert time.monotonic() < give_up_at, self.log
            time.sleep(0.05)

    def promote(self) -> None:
        """Make a standby the primary."""
        self._run("pg_ctl", "promote", "--wait", "--pgdata", self.data)

    @property
    def pid(self) -> int:
        """The server's first process."""
        return int(Path(self.data, "postmaster.pid").read_text().splitlines()[0])

    def pids(self) -> list[int]:
        """All its processes."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *map(int, children)]

    def signal(self, what: signal.Signals) -> None:
        """Send a signal to every process of the server."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, what)

    def url(self, database: str = "postgres", user: str = SUPERUSER, password: str = PASSWORD) -> str:
        """Its address."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement as the superuser."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def create(self, template: str = "template0", **options: str) -> str:
        """A new database; returns its name."""
        name = f"test_{secrets.token_hex(6)}"
        more = " ".join(f"{option} '{value}'" for option, value in options.items())
        give_up_at = time.monotonic() + 30
        while True:
            try:
                self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY {more}")
                return name
            except psycopg.errors.ObjectInUse:  # somebody's connection to the template is just going away
                assert time.monotonic() < give_up_at
                time.sleep(0.05)

    def drop(self, name: str) -> None:
        """Remove a database, whoever still uses it."""
        assert re.fullmatch("test_[0-9a-f]+", name)
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def close(self) -> None:
        """End what is left of the server, whatever state it is in, and leave nothing behind."""
        with suppress(FileNotFoundError, ProcessLookupError):
            pid = self.pid
            self.signal(signal.SIGCONT)
            os.kill(pid, signal.SIGQUIT)  # at once, but without leaving shared memory behind
            give_up_at = time.monotonic() + STOP_S
            while Path(f"/proc/{pid}/exe").exists() and time.monotonic() < give_up_at:
                time.sleep(0.05)
            self.signal(signal.SIGKILL)
        self._server.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def primary_and_standby() -> Iterator[tuple[Cluster, Cluster]]:
    """A primary whose commits wait for its standby, and that standby."""
    primary = Cluster(fsync=True)
    clusters = [primary]
    try:
        clusters.append(standby := Cluster(fsync=True, standby_of=primary))
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.execute("SELECT pg_reload_conf()")
        in_step = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        wait_for(lambda: primary.execute(in_step) == [(1,)], "the standby does not follow")
        yield primary, standby
    finally:
        for cluster in clusters:
            cluster.close()


def newest_programs() -> Path:
    """Where initdb and its like are: on the path, or where Debian puts them."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    versions = sorted(PROGRAMS.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    assert versions, "PostgreSQL is not installed; scripts/test does that, or: apt-get install postgresql"
    return versions[-1].parent


def _drop_to_postgres(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return ["setpriv"]
    user = pwd.getpwnam(SUPERUSER)
    os.chown(folder, user.pw_uid, user.pw_gid)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
