"""Callers for load, crash and fault tests: connections that stay open, many calls at once, and what came back."""

from __future__ import annotations

import http.client
import json
import random
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from gate import PATH, Gate
from sqlalchemy import text

from guestgate import locks, schema
from guestgate.check import check
from guestgate.database import Database

COMM_CHARS = 15  # what the system keeps of a process's name


class Reply(NamedTuple):
    """One answer that was received to its last byte."""

    member: str
    status: int
    decision: str
    reason: str
    id: str
    seconds: float


class Caller:
    """One connection of a studio's; it is opened again where the server closed it."""

    def __init__(self, gate: Gate, tls: ssl.SSLContext | None = None, studio_id: str = "s1") -> None:
        self._key = gate.keys[studio_id]
        self._http = http.client.HTTPSConnection("localhost", gate.port, timeout=30, context=tls or gate.tls())
        self._member = ""
        self._sent_at = 0.0

    def connect(self) -> None:
        """Shake hands now, so that the next call is nothing but a call."""
        self._http.connect()

    def send(self, member: str, customer: int = 1) -> None:
        """Ask. Raises OSError where there is nobody to ask."""
        body = json.dumps({"aggregatorId": member, "customerId": customer})
        headers = {"X-API-Key": self._key, "Content-Type": "application/json"}
        self._member, self._sent_at = member, time.monotonic()
        self._http.request("POST", PATH, body, headers)

    def receive(self) -> Reply | None:
        """The answer; None where the connection ended before all of it was here."""
        try:
            response = self._http.getresponse()
            content = json.loads(response.read())
        except (OSError, http.client.HTTPException):
            self.close()
            return None
        seconds = time.monotonic() - self._sent_at
        return Reply(
            self._member, response.status, content["decision"], content["reason"], content["decisionId"], seconds
        )

    def call(self, member: str) -> Reply | None:
        """Ask and wait; None where no whole answer came."""
        try:
            self.send(member)
        except (OSError, http.client.HTTPException):
            self.close()
            return None
        return self.receive()

    def close(self) -> None:
        """Hang up."""
        with suppress(OSError):
            self._http.close()


@contextmanager
def connected(gate: Gate, number: int) -> Iterator[list[Caller]]:
    """So many callers, all of them connected."""
    tls = gate.tls()
    callers = [Caller(gate, tls) for _ in range(number)]
    try:
        for caller in callers:
            caller.connect()
        yield callers
    finally:
        for caller in callers:
            caller.close()


def at_once(callers: Iterable[Caller], members: Iterable[str]) -> list[Reply | None]:
    """All ask before any reads its answer."""
    asking = list(zip(callers, members, strict=False))
    for caller, member in asking:
        caller.send(member)
    return [caller.receive() for caller, _ in asking]


@contextmanager
def locked(database: Database, *members: str) -> Iterator[None]:
    """Another program is at work: on all there is on SQLite; on PostgreSQL on these members or, without any, on
    everything that check-ins write.
    """
    with database.write() as connection:
        for member in members:
            locks.lock(connection, member)
        if not members and connection.dialect.name == "postgresql":
            connection.exec_driver_sql("LOCK TABLE decisions, answers IN SHARE MODE")
        yield


class Crowd:
    """Threads that check members in, one call after the other each, until told to stop; between two calls they rest.

    Without a rest they take all that the processors have.
    """

    def __init__(
        self, gate: Gate, members: Sequence[str], seed: object, size: int = 6, *, rest_s: float = 0.0
    ) -> None:
        self._rest_s = rest_s
        self.replies: list[Reply] = []
        self.broken = 0  # calls without a whole answer
        self._gate, self._members = gate, members
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(f"{seed}-{number}",), daemon=True) for number in range(size)
        ]

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def end(self) -> None:
        """Finish the calls that are under way, and make no more."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a call got no answer and no end"

    def _run(self, seed: str) -> None:
        dice = random.Random(seed)
        caller = Caller(self._gate)
        while not self._stop.is_set():
            reply = caller.call(dice.choice(self._members))
            if reply is None:
                self.broken += 1
                self._stop.wait(0.01)
            else:
                self.replies.append(reply)
                self._stop.wait(self._rest_s)
        caller.close()


def rows(database: Database, query: str, **parameters: Any) -> list[Any]:
    """What a query finds."""
    with database.read() as connection:
        return list(connection.execute(text(query), parameters).all())


def everything(database: Database) -> dict[str, list[Any]]:
    """Every row of every table."""
    return {table.name: rows(database, f"SELECT * FROM {table.name}") for table in schema.metadata.sorted_tables}


def problems(database: Database) -> list[str]:
    """What `guestgate db check` finds."""
    with database.read() as connection:
        return check(connection)


def missing(database: Database, replies: Iterable[Reply]) -> list[str]:
    """What is wrong with the record of these answers: each has to be there once, as it was received."""
    recorded: dict[str, list[tuple[str, str]]] = {}
    for decision_id, outcome, reason in rows(database, "SELECT id, outcome, reason FROM decisions"):
        recorded.setdefault(decision_id, []).append((outcome, reason))
    outcomes = {200: "allowed", 403: "denied"}
    found = []
    for reply in replies:
        if reply.status not in outcomes:
            continue
        if recorded.get(reply.id) != [(reply.decision, reply.reason)] or reply.decision != outcomes[reply.status]:
            found.append(f"{reply} is on record as {recorded.get(reply.id)}")
    return found


def parent_and_state(pid: int) -> tuple[int, str]:
    """A process's parent and state; ``X`` where it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return 0, "X"
    state, parent = stat.rpartition(")")[2].split()[:2]
    return int(parent), state


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    return parent_and_state(pid)[1] in "XZ"


def ledger_of(gate: Gate) -> int:
    """The ledger's process."""
    assert gate.process is not None
    (ledger,) = children(gate.process.pid, "guestgate-ledger")
    return ledger


def children(parent: int, name: str) -> list[int]:
    """The living processes whose names begin like this under another one, at whatever depth."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    above = {pid: parent_and_state(pid)[0] for pid in pids if not gone(pid)}

    def below(pid: int) -> bool:
        while pid := above.get(pid, 0):
            if pid == parent:
                return True
        return False

    return [pid for pid in above if below(pid) and _named(pid).startswith(name[:COMM_CHARS])]


def _named(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def noon_zone() -> str:
    """A time zone in which it is about noon now, so that no day or month ends while a test runs."""
    west = datetime.now(UTC).hour - 12
    return f"Etc/GMT{west:+d}" if west else "Etc/GMT"
