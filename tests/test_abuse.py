"""Broken and hostile callers, while an ordinary one goes on being served; then a look at what is left behind.

The tests share one server and add up: connections that a test leaves hanging hang until the end of the file.
"""

from __future__ import annotations

import json
import random
import secrets
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from gate import PATH, Gate, wait_for
from wire import Reply, Wire, checkin, request

pytestmark = [pytest.mark.alone, pytest.mark.embedded]

BUDGET_MS = 750
SEED = 20_261_123
LARGE = 10_000_000
GARBAGE = 200
IDLE = 300
USED_AFTERWARDS = 20
HASTY = 40
PAUSE_S = 0.02

# A wrong key may be a right one with a typing error: it is a secret all the same.
WRONG_KEY = "wrong-" + secrets.token_urlsafe(24)


class Neighbour(threading.Thread):
    """The ordinary caller: one check-in after the other, over a kept connection and over new ones in turn."""

    def __init__(self, gate: Gate) -> None:
        """Start calling."""
        super().__init__(name="neighbour")
        self.answers: list[Reply] = []
        self.failures: list[BaseException] = []
        self._gate = gate
        self._data = request(checkin("good"), key=gate.keys["s1"])
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        """Call until told to stop."""
        try:
            with Wire(self._gate) as kept:
                while not self._ended.wait(PAUSE_S):
                    self.answers.append(kept.ask(self._data))
                    with Wire(self._gate) as fresh:
                        self.answers.append(fresh.ask(self._data))
        except Exception as error:
            self.failures.append(error)

    def stop(self) -> None:
        """Stop calling."""
        self._ended.set()
        self.join()

    def assert_served(self) -> None:
        """It was served all the time and still is."""
        wanted = len(self.answers) + 6
        wait_for(lambda: len(self.answers) >= wanted or not self.is_alive(), "the neighbour waits", self._gate)
        assert not self.failures
        assert {reply.status for reply in self.answers} == {200}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A server that takes its time, so that only faults make it say 503."""
    gate = Gate(tmp_path_factory.mktemp("abuse"))
    config = gate.home / "guestgate.toml"
    config.write_text(f"{config.read_text('utf-8')}\nanswer_budget_ms = {BUDGET_MS}\n", "utf-8")
    gate.studio("s1")
    gate.plans()
    gate.members("good,free", "idle,free", "hasty,free")
    gate.start(copied=False)  # it is looked at how it was called, too
    yield gate
    gate.close()


@pytest.fixture(scope="module")
def neighbour(gate: Gate) -> Iterator[Neighbour]:
    """Somebody who calls throughout the whole file."""
    neighbour = Neighbour(gate)
    yield neighbour
    neighbour.stop()


@pytest.fixture(scope="module")
def held() -> Iterator[ExitStack]:
    """What stays open until the end."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def seen() -> Counter[int]:
    """Statuses that abusive callers were answered with."""
    return Counter()


@pytest.fixture(autouse=True)
def unharmed(neighbour: Neighbour) -> Iterator[None]:
    """After each test the neighbour has been served all the time."""
    yield
    if neighbour.is_alive():
        neighbour.assert_served()


def connect(gate: Gate) -> socket.socket:
    """A connection without TLS."""
    return socket.create_connection(("localhost", gate.port), timeout=10)


def client_hello() -> bytes:
    """What a client says first."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def read_all(wire: Wire) -> bytes:
    """All that comes until the server ends the connection, in whatever manner."""
    answer = b""
    with suppress(ConnectionError, ssl.SSLEOFError):
        while chunk := wire.socket.recv(65536):
            answer += chunk
    return answer


# Callers who say nothing, or stop in the middle


def test_silent_connections(gate: Gate, held: ExitStack) -> None:
    """Somebody connects and does not even shake hands."""
    for _ in range(20):
        held.enter_context(connect(gate))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_stalled_handshakes(gate: Gate, held: ExitStack, share: float) -> None:
    """A first byte, half a greeting, or a greeting without anything after it."""
    hello = client_hello()
    for _ in range(10):
        held.enter_context(connect(gate)).sendall(hello[: 1 + int(share * len(hello))])


@pytest.mark.parametrize("cut", [1, 60, -2])
def test_half_a_header(gate: Gate, held: ExitStack, cut: int) -> None:
    """Callers who never come to the end of their header."""
    head = request(b"", key=gate.keys["s1"])
    for _ in range(10):
        held.enter_context(Wire(gate)).send(head[:cut])


@pytest.mark.parametrize("chunks", [None, 10], ids=["with length", "in chunks"])
def test_half_a_body_is_a_408_in_time(gate: Gate, seen: Counter[int], chunks: int | None) -> None:
    """Callers who never come to the end of their body hear so within about the budget."""
    data = request(checkin("good"), key=gate.keys["s1"], chunks=chunks)[:-8]
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(gate)) for _ in range(20)]
        waited = []
        for wire in wires:
            wire.send(data)
            started = time.monotonic()
            if len(waited) < 3:  # the others wait at the same time
                assert_status(wire.reply(), 408, seen)
                waited.append(time.monotonic() - started)
        for wire in wires[len(waited) :]:
            assert_status(wire.reply(), 408, seen)
    assert min(waited) < 2 * BUDGET_MS / 1000


def test_a_body_that_drips_is_a_408(gate: Gate, seen: Counter[int]) -> None:
    """A byte now and then does not buy time."""
    body = checkin("good")
    with Wire(gate) as wire:
        wire.send(request(body.ljust(1000), key=gate.keys["s1"])[:-1000])
        wire.socket.settimeout(0.1)
        for byte in body:
            try:
                wire.send(bytes([byte]))
                if wire.socket.recv(12) == b"HTTP/1.1 408":
                    seen[408] += 1
                    return
            except TimeoutError:
                continue
    raise AssertionError("there was no answer as long as the body dripped")


def assert_status(reply: Reply | None, status: int, seen: Counter[int]) -> None:
    """There is an answer and it is this one."""
    assert reply is not None, "the server closed the connection without an answer"
    seen[reply.status] += 1
    assert reply.status == status


# Too much, or not what it should be


@pytest.mark.parametrize("valid", [True, False], ids=["valid key", "wrong key"])
@pytest.mark.parametrize("chunked", [True, False], ids=["in chunks", "with length"])
def test_ten_megabytes(gate: Gate, seen: Counter[int], valid: bool, chunked: bool) -> None:
    """413, or 401 where the key is wrong; the answer arrives although most of the body is never read."""

    def pieces() -> Iterator[bytes]:
        for _ in range(LARGE // 50_000):
            yield b" " * 50_000

    headers = {"X-API-Key": gate.keys["s1"] if valid else WRONG_KEY, "Content-Type": "application/json"}
    for _ in range(5):
        with httpx.Client(verify=gate.tls(), timeout=10) as client:
            reply = client.post(gate.url, content=pieces() if chunked else b" " * LARGE, headers=headers)
        seen[reply.status_code] += 1
        assert reply.status_code == (413 if valid else 401)
        assert reply.json()["status"] == reply.status_code


def test_thousands_of_brackets(gate: Gate, seen: Counter[int]) -> None:
    """Deep nesting is a bad body like any other."""
    with Wire(gate) as wire:
        for body in (b"[" * 8_000 + b"]" * 8_000, b"[" * 16_000, b'{"a":' * 3_000):
            for _ in range(10):
                assert_status(wire.ask(request(body, key=gate.keys["s1"])), 400, seen)


def test_a_flood_of_wrong_keys(gate: Gate, seen: Counter[int]) -> None:
    """Guessing is answered, again and again."""
    with Wire(gate) as wire:
        for number in range(300):
            assert_status(wire.ask(request(checkin("good"), key=f"{WRONG_KEY}{number}")), 401, seen)


def test_garbage_over_tls(gate: Gate, seen: Counter[int]) -> None:
    """Random bytes, and requests that random bytes have got into, end in a 4xx or in silence."""
    rng = random.Random(SEED)
    valid = request(checkin("good"), key=WRONG_KEY)
    for number in range(GARBAGE):
        if number % 2:
            data = rng.randbytes(rng.randrange(1, 600)) + b"\r\n\r\n" * rng.randrange(2)
        else:
            spoilt = bytearray(valid)
            for _ in range(rng.randrange(1, 8)):
                spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
            data = bytes(spoilt[: rng.randrange(len(spoilt) // 2, len(spoilt) + 1)])
        with Wire(gate) as wire:
            with suppress(ConnectionError, ssl.SSLEOFError):
                wire.send(data)
                with socket.socket(fileno=socket.dup(wire.socket.fileno())) as same:
                    same.shutdown(socket.SHUT_WR)
            answer = read_all(wire)
        if answer:
            status = int(answer.split()[1])
            seen[status] += 1
            assert answer.startswith(b"HTTP/1.") and 400 <= status < 500, (SEED, number, data, answer)


def test_garbage_without_tls(gate: Gate) -> None:
    """Random bytes instead of a handshake are never answered with HTTP."""
    rng = random.Random(SEED)
    for number in range(GARBAGE // 4):
        data = rng.randbytes(rng.randrange(1, 600))
        answer = b""
        with connect(gate) as connection, suppress(ConnectionError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(4096):
                answer += chunk
        assert b"HTTP" not in answer, (SEED, number, data, answer)


# Callers who leave, and callers who stay


@pytest.mark.parametrize("rude", [False, True], ids=["closing", "resetting"])
def test_callers_who_hang_up_at_once(gate: Gate, rude: bool) -> None:
    """They send a valid check-in and are gone before anybody could answer."""
    data = request(checkin("hasty"), key=gate.keys["s1"])
    for _ in range(HASTY // 2):
        with Wire(gate) as wire:
            wire.send(data)
            if rude:
                wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_idle_connections(gate: Gate, held: ExitStack, neighbour: Neighbour) -> None:
    """Hundreds are open and unused; any of them still works when it is needed."""
    wires = [held.enter_context(Wire(gate)) for _ in range(IDLE)]
    neighbour.assert_served()
    data = request(checkin("idle"), key=gate.keys["s1"])
    assert {wire.ask(data).status for wire in wires[:: IDLE // USED_AFTERWARDS]} == {200}


# What is left behind


def test_nothing_was_a_server_error(seen: Counter[int]) -> None:
    """Whatever came was the caller's fault."""
    assert {status for status in seen if status >= 500} == set()


def test_the_record_holds_exactly_the_valid_check_ins(gate: Gate, neighbour: Neighbour) -> None:
    """Each answered one once, and of the hasty ones at most as many as there were."""
    neighbour.stop()
    assert not neighbour.failures
    wait_for(lambda: all(row["http_status"] or row["undelivered"] for row in gate.json("decisions")), "no end", gate)
    rows = gate.json("decisions")
    members = Counter(row["member"] for row in rows)
    answered = [reply.json()["decisionId"] for reply in neighbour.answers]
    assert sorted(row["id"] for row in rows if row["member"] == "good") == sorted(answered)
    assert len(set(answered)) == len(answered)
    assert members.keys() <= {"good", "idle", "hasty"}
    assert members["idle"] == USED_AFTERWARDS
    assert members["hasty"] <= HASTY
    assert {row["decision"] for row in rows} == {"allowed"}
    reversed_visits = {row["id"] for row in gate.json("visits") if row["state"] == "reversed"}
    assert reversed_visits == {row["visit"] for row in rows if row["undelivered"]}
    gate.cli("db", "check")


def test_the_log_is_calm(gate: Gate) -> None:
    """No traceback, no error: broken callers are everyday life. Told is only whose answer was not delivered."""
    log = gate.log.read_text("utf-8")
    assert "Traceback" not in log
    assert "panic" not in log
    lines = [json.loads(line) for line in log.splitlines()]
    warnings = {line["event"] for line in lines if line["level"] != "info"}
    assert warnings <= {"an answer was not delivered", "expires soon"}


def test_no_key_is_anywhere(gate: Gate) -> None:
    """Neither right nor wrong ones: in no file, no listing, no error, no command line."""
    secrets_ = [token.encode() for token in (gate.keys["s1"], WRONG_KEY)]
    found = {str(file): file.read_bytes() for file in gate.home.iterdir()} | {"the log": gate.log.read_bytes()}
    assert {gate.database.path, gate.database.wal_path} <= {Path(name) for name in found}
    for command in (
        *("studio list", "key list --all", "plan list", "member list", "member show good", "decisions", "visits"),
        *("explain good --studio s1", "db check", "studio add s1 --name x --timezone UTC --key-stdin"),
        *("key add s1 --key-stdin", "key add nowhere --key-stdin"),
    ):
        done = gate.cli(*command.split(), "--json", input=gate.keys["s1"], status=None)
        found[command] = (done.stdout + done.stderr).encode()
    assert gate.process is not None
    ours = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may have ended meanwhile
            group = int(process.joinpath("stat").read_text().rpartition(")")[2].split()[2])
            ours += group == gate.process.pid
            names = ("cmdline", "environ") if group == gate.process.pid else ("cmdline",)
            found |= {str(process / name): process.joinpath(name).read_bytes() for name in names}
    assert ours > 1, "the server has at least two processes"
    assert [name for name, content in found.items() for secret in secrets_ if secret in content] == []


def test_the_server_still_ends_in_order(gate: Gate, held: ExitStack) -> None:
    """Connections that hang do not keep it from ending."""
    assert gate.stop() == 0
    log = gate.log.read_text("utf-8")
    assert "Traceback" not in log
    assert "panic" not in log


@pytest.mark.parametrize(
    ("path", "with_key", "status"), [("/nope", True, 404), (PATH, False, 401), (PATH, True, 408)]
)
def test_a_stalled_body_does_not_keep_its_connection(served: Gate, path: str, with_key: bool, status: int) -> None:
    """Whatever the answer, the connection is closed after it: held open, a few thousand would shut the door."""
    key = served.keys["s1"] if with_key else "unknown"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nContent-Length: 100\r\n\r\n{{"
    for _ in range(5):
        connection = socket.create_connection(("localhost", served.port), timeout=20)
        with served.tls().wrap_socket(connection, server_hostname="localhost") as stream:
            stream.sendall(head.encode())
            answer = b""
            while chunk := stream.recv(65536):  # a connection that stays open ends this with a TimeoutError
                answer += chunk
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
