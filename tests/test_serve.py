"""`guestgate serve` as a process: options, certificates, signals, and changes while it runs."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from gate import PATH, Gate, environment, wait_for
from wire import Reply, Wire, ask, checkin, request

# A change has to be in force by then.
FOLLOW_S = 2
TIGHT = """\
[plans.free]
name = "Free, but once a day"
reentry_minutes = 0
limits = [{ max = 1, per = "day" }]
"""

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """An installation for servers that must not start."""
    return Gate(tmp_path_factory.mktemp("empty"))


@pytest.fixture
def server(home: Gate) -> Gate:
    """A serving installation of its own for this test, with studio s1 and members of both plans."""
    prepare(home)
    home.start()
    return home


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """An installation that tests start and stop as they like; nothing in it changes but the record."""
    gate = Gate(tmp_path_factory.mktemp("prepared"))
    prepare(gate)
    yield gate
    gate.close()


def prepare(gate: Gate) -> None:
    """Studio s1, members of both plans."""
    gate.studio("s1")
    gate.plans()
    gate.members(*(f"{plan}-{number},{plan}" for plan in ("free", "once") for number in range(6)))


# Certificates


def write_certificate(
    folder: Path,
    *,
    key: Key | None = None,
    starts: timedelta = timedelta(hours=-1),
    ends: timedelta = timedelta(days=2),
    password: bytes | None = None,
) -> tuple[Path, Path]:
    """A certificate and its key, as files that exist nowhere before."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now + starts, now + ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    unique = secrets.token_hex(4)
    cert_file, key_file = folder / f"{unique}.cert.pem", folder / f"{unique}.key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    return cert_file, key_file


def expired(folder: Path) -> tuple[Path, Path]:
    """A pair whose time is over."""
    return write_certificate(folder, starts=timedelta(days=-9), ends=timedelta(seconds=-5))


def mismatched(folder: Path) -> tuple[Path, Path]:
    """A certificate with the key of another."""
    return write_certificate(folder)[0], write_certificate(folder)[1]


def mismatched_kinds(folder: Path) -> tuple[Path, Path]:
    """A certificate with a key of another kind."""
    return write_certificate(folder)[0], write_certificate(folder, key=rsa.generate_private_key(65537, 2048))[1]


def locked(folder: Path) -> tuple[Path, Path]:
    """A key that asks for a password."""
    return write_certificate(folder, password=b"hunter2-secret")


def no_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate file with something else in it."""
    cert, key = write_certificate(folder)
    cert.write_text("this is no certificate\n", "utf-8")
    return cert, key


def broken_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate file that was cut off."""
    cert, key = write_certificate(folder)
    cert.write_bytes(cert.read_bytes()[:-200])
    return cert, key


def binary_certificate(folder: Path) -> tuple[Path, Path]:
    """DER instead of PEM."""
    cert, key = write_certificate(folder)
    cert.write_bytes(ssl.PEM_cert_to_DER_cert(cert.read_text("utf-8")))
    return cert, key


def broken_key(folder: Path) -> tuple[Path, Path]:
    """A key file that was cut off."""
    cert, key = write_certificate(folder)
    key.write_bytes(key.read_bytes()[:-100])
    return cert, key


def empty_files(folder: Path) -> tuple[Path, Path]:
    """Files with nothing in them, as a disk that is full leaves them."""
    cert, key = write_certificate(folder)
    cert.write_bytes(b"")
    key.write_bytes(b"")
    return cert, key


def missing_certificate(folder: Path) -> tuple[Path, Path]:
    """A path where no certificate is."""
    cert, key = write_certificate(folder)
    cert.unlink()
    return cert, key


def missing_key(folder: Path) -> tuple[Path, Path]:
    """A path where no key is."""
    cert, key = write_certificate(folder)
    key.unlink()
    return cert, key


Pair = Callable[[Path], tuple[Path, Path]]
BAD_PAIRS: list[Pair] = [
    *(expired, mismatched, mismatched_kinds, locked, no_certificate, broken_certificate, binary_certificate),
    *(broken_key, empty_files, missing_certificate, missing_key),
]


def serial_served(gate: Gate) -> int:
    """The serial number of the certificate that a new caller is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with Wire(gate, context=context) as wire:
        shown = wire.socket.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def serial_of(cert: Path) -> int:
    """The serial number of a certificate in a file."""
    return x509.load_pem_x509_certificate(cert.read_bytes()).serial_number


# Wrong usage


def assert_sentence(text: str) -> str:
    """One plain sentence of ours on standard error and nothing else; returns it."""
    assert text.startswith("guestgate: ")
    assert text.count("\n") == 1, text
    assert len(text) < 500
    return text


def refused(gate: Gate, *options: str) -> str:
    """What `serve` says before it exits with 2."""
    done = gate.cli("serve", "--port", str(gate.port), *options, status=2)
    assert done.stdout == ""
    return assert_sentence(done.stderr)


def with_tls(gate: Gate) -> tuple[str, ...]:
    """Options that would do."""
    return ("--tls-cert", str(gate.cert), "--tls-key", str(gate.key_file))


def test_without_a_certificate_it_does_not_start(empty: Gate) -> None:
    """The sentence names the options that are missing."""
    assert "--tls-cert" in refused(empty)
    assert "--tls-key" in refused(empty, "--tls-cert", str(empty.cert))
    assert "--tls-cert" in refused(empty, "--tls-key", str(empty.key_file))


@pytest.mark.parametrize("bad", BAD_PAIRS, ids=lambda bad: bad.__name__)
def test_with_a_bad_certificate_it_does_not_start(empty: Gate, bad: Pair) -> None:
    """The sentence names the file; it never waits for a password."""
    cert, key = bad(empty.folder)
    said = refused(empty, "--tls-cert", str(cert), "--tls-key", str(key))
    assert str(cert) in said or str(key) in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("options", "about"),
    [
        (("--host", "0.0.0.0"), "loopback"),
        (("--host", "::"), "loopback"),
        (("--host", "192.0.2.1"), "loopback"),
        (("--host", "example.com"), "loopback"),
        (("--host", "unix:relative.sock"), "unix:/"),
        (("--host", "127.0.0.1", "--tls-cert", "cert.pem"), "tls_cert"),
        (("--host", "127.0.0.1", "--tls-key", "key.pem"), "tls_key"),
    ],
)
def test_behind_a_proxy_it_is_neither_public_nor_encrypted(empty: Gate, options: tuple[str, ...], about: str) -> None:
    """Plain HTTP stays on this machine; a certificate beside it would be a misunderstanding."""
    said = refused(empty, "--behind-proxy", *options)
    assert "--behind-proxy" in said
    assert about in said


def test_behind_a_proxy_the_default_address_is_refused_too(empty: Gate) -> None:
    """Without --host it would be every address of the machine."""
    assert "--behind-proxy" in refused(empty, "--behind-proxy")


@pytest.mark.parametrize(
    ("options", "about"),
    [
        (("--workers", "2"), "--workers"),
        (("--workers", "0"), "--workers"),
        (("--port", "0"), "--port"),
        (("--port", "65536"), "--port"),
        (("--port", "https"), "--port"),
        (("--admin-port", "-1"), "--admin-port"),
        (("--host", "unix:/tmp/door.sock"), "--host"),
        (("--bogus",), "--bogus"),
        (("--config", "/nowhere/guestgate.toml"), "/nowhere/guestgate.toml"),
    ],
)
def test_wrong_options_are_named(empty: Gate, options: tuple[str, ...], about: str) -> None:
    """Exit status 2 and a sentence about that very option; several workers need more than SQLite."""
    assert about in refused(empty, *with_tls(empty), *options)


def test_without_a_database_it_does_not_start(empty: Gate, tmp_path: Path) -> None:
    """The sentence says how to create one, and none is created by the way."""
    config = tmp_path / "guestgate.toml"
    config.write_text("", "utf-8")
    done = empty.cli("serve", *with_tls(empty), "--config", str(config), config=False, status=2)
    assert "guestgate init" in assert_sentence(done.stderr)
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize("address", ["localhost", "0.0.0.0"])
def test_a_port_in_use_is_a_failure_in_one_sentence(empty: Gate, address: str) -> None:
    """Exit status 1, with the port and without a stack trace."""
    with socket.create_server((address, 0)) as occupant:
        port = str(occupant.getsockname()[1])
        done = empty.cli("serve", "--host", "localhost", "--port", port, *with_tls(empty), status=1)
    assert port in assert_sentence(done.stderr)


def test_an_address_of_another_machine_is_a_failure_in_one_sentence(empty: Gate) -> None:
    """Exit status 1 for what only the operating system can know."""
    done = empty.cli("serve", "--host", "192.0.2.1", "--port", str(empty.port), *with_tls(empty), status=1)
    assert "192.0.2.1" in assert_sentence(done.stderr)


def test_two_servers_do_not_share_a_port(prepared: Gate, empty: Gate) -> None:
    """The second one fails, rather than to take half of the first one's calls with another record."""
    prepared.start()
    try:
        second = launch(empty, "--host", "localhost", "--port", str(prepared.port), *with_tls(empty))
        try:
            said = second.communicate(timeout=5)[1]
        except subprocess.TimeoutExpired:
            second.terminate()
            said = second.communicate(timeout=30)[1]
            raise AssertionError(f"the second server serves on the first one's port: {said}") from None
        assert second.returncode == 1
        assert str(prepared.port) in assert_sentence(said)
    finally:
        prepared.stop()


# Ways to serve


def launch(gate: Gate, *options: str) -> subprocess.Popen[str]:
    """Start a server with exactly these options; its log comes through its standard error."""
    command = [sys.executable, "-m", "guestgate", "serve", "--config", str(gate.home / "guestgate.toml"), *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True)


def test_plain_http_on_loopback_behind_a_proxy(prepared: Gate) -> None:
    """The same contract without TLS; the log says where it serves."""
    prepared.start("--behind-proxy", "--host", "127.0.0.1")
    try:
        headers = {"X-API-Key": prepared.keys["s1"]}
        with httpx.Client(base_url=f"http://127.0.0.1:{prepared.port}", headers=headers) as client:
            assert client.get("/healthz").status_code == 200
            assert client.post(PATH, json={"aggregatorId": "free-0", "customerId": 1}).status_code == 200
            assert client.post(PATH, json={}).status_code == 400
            assert client.post(PATH, json={}, headers={"X-API-Key": "wrong"}).status_code == 401
    finally:
        assert prepared.stop() == 0
    assert f"http://127.0.0.1:{prepared.port}" in prepared.log.read_text("utf-8")


@pytest.fixture
def door(tmp_path: Path) -> Path:
    """Where a Unix socket will be; such paths must be short."""
    return tmp_path / "door.sock"


def answers(door: Path, path: str = "/healthz", **options: Any) -> int | None:
    """The status of a call through a Unix socket; None where nobody answers."""
    method = "POST" if options else "GET"
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(door)), base_url="http://door") as client:
        try:
            return client.request(method, path, **options).status_code
        except httpx.TransportError:
            return None


def on_socket(gate: Gate, door: Path) -> subprocess.Popen[str]:
    """A server on a Unix socket that answers."""
    process = launch(gate, "--behind-proxy", "--host", f"unix:{door}")
    try:
        wait_for(lambda: answers(door) == 200 or process.poll() is not None, "no server on the socket")
        assert process.poll() is None, process.communicate()[1]
    except BaseException:
        end(process, signal.SIGKILL)
        raise
    return process


def end(process: subprocess.Popen[str], with_signal: signal.Signals = signal.SIGTERM) -> int:
    """End a launched server, with SIGKILL all of it at once; returns its exit status."""
    with suppress(ProcessLookupError):
        if with_signal is signal.SIGKILL:
            os.killpg(process.pid, with_signal)
        else:
            process.send_signal(with_signal)
    process.communicate(timeout=30)
    return process.returncode


def test_a_unix_socket_behind_a_proxy(prepared: Gate, door: Path) -> None:
    """The same contract again; a reload of certificates that there are none of does no harm."""
    process = on_socket(prepared, door)
    try:
        headers = {"X-API-Key": prepared.keys["s1"]}
        body = {"aggregatorId": "free-0", "customerId": 1}
        assert answers(door, PATH, headers=headers, json=body) == 200
        assert answers(door, PATH, headers={"X-API-Key": "wrong"}, json=body) == 401
        process.send_signal(signal.SIGHUP)
        for _ in range(20):
            assert answers(door, PATH, headers=headers, json=body) == 200
            time.sleep(0.05)
    finally:
        assert end(process) == 0


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_a_unix_socket_left_behind_does_not_matter(prepared: Gate, door: Path, ending: signal.Signals) -> None:
    """However the last server ended, the next one serves on the same path."""
    end(on_socket(prepared, door), ending)
    assert end(on_socket(prepared, door)) == 0


def test_a_unix_socket_in_use_is_not_taken_away(prepared: Gate, empty: Gate, door: Path) -> None:
    """The second server fails in one sentence, the first one serves on."""
    first = on_socket(prepared, door)
    try:
        second = launch(empty, "--behind-proxy", "--host", f"unix:{door}")
        try:
            said = second.communicate(timeout=10)[1]
        finally:
            end(second, signal.SIGKILL)
        assert answers(door) == 200
        assert second.returncode == 1
        assert str(door) in assert_sentence(said)
    finally:
        end(first)


def test_an_admin_port_is_accepted(prepared: Gate) -> None:
    """From the start, so that start scripts need not change later."""
    prepared.start("--admin-port", "8555")
    try:
        assert prepared.checkin("free-0").status_code == 200
    finally:
        assert prepared.stop() == 0


def test_relative_certificate_paths_work_from_the_file(prepared: Gate) -> None:
    """Settings may stand in the configuration; its paths are relative to it."""
    config = prepared.home / "other.toml"
    cert, key = (f"../{path.name}" for path in write_certificate(prepared.folder))
    settings = f'host = "localhost"\nport = {prepared.port}\ntls_cert = "{cert}"\ntls_key = "{key}"\n'
    config.write_text(settings, "utf-8")
    process = launch(prepared, "--config", str(config))
    try:
        wait_for(lambda: listening(prepared) or process.poll() is not None, "no server")
        assert process.poll() is None, process.communicate()[1]
        assert serial_served(prepared) == serial_of(prepared.home / cert)
    finally:
        end(process)


def listening(gate: Gate) -> bool:
    """Whether connections are taken."""
    try:
        socket.create_connection(("localhost", gate.port), timeout=1).close()
    except OSError:
        return False
    return True


# SIGHUP


def reload(gate: Gate) -> str:
    """Have the certificate read again; returns what the log says about it."""
    assert gate.process is not None
    before = len(gate.log.read_text("utf-8"))
    gate.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "certificate" in gate.log.read_text("utf-8")[before:], "nothing happened", gate)
    return gate.log.read_text("utf-8")[before:]


def install(gate: Gate, pair: tuple[Path, Path]) -> None:
    """Put a certificate and its key where the server looks for them; what is missing goes missing."""
    for source, target in zip(pair, (gate.cert, gate.key_file), strict=True):
        if source.exists():
            source.replace(target)
        else:
            target.unlink(missing_ok=True)


def test_sighup_reads_the_certificate_again(server: Gate) -> None:
    """A renewed one is shown to new callers; bad ones are rejected, logged, and the last good one stays."""
    assert serial_served(server) == serial_of(server.cert)
    install(server, write_certificate(server.folder))
    renewed = serial_of(server.cert)
    reload(server)
    wait_for(lambda: serial_served(server) == renewed, "the new certificate is not served", server)
    for bad in BAD_PAIRS:
        install(server, bad(server.folder))
        said = [json.loads(line) for line in reload(server).splitlines()]
        assert [line["level"] for line in said] == ["error"], bad.__name__
        assert str(server.cert) in said[0]["error"] or str(server.key_file) in said[0]["error"], bad.__name__
        assert serial_served(server) == renewed, bad.__name__
    install(server, write_certificate(server.folder, key=rsa.generate_private_key(65537, 2048)))
    again = serial_of(server.cert)
    reload(server)
    wait_for(lambda: serial_served(server) == again, "no more reloads after a bad one", server)
    assert server.checkin("free-0").status_code == 200
    assert "Traceback" not in server.log.read_text("utf-8")
    assert server.stop() == 0


def test_no_call_is_lost_while_certificates_change(server: Gate) -> None:
    """Callers with new connections all the time get their answer, whichever certificate they meet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    data = request(checkin("free-0"), key=server.keys["s1"])
    ended = threading.Event()
    lost: list[BaseException] = []
    answered: list[int] = []

    def call() -> None:
        while not ended.is_set():
            try:
                with Wire(server, context=context) as wire:
                    answered.append(wire.ask(data).status)
            except (OSError, AssertionError) as error:
                lost.append(error)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        for _ in range(6):
            install(server, write_certificate(server.folder))
            reload(server)
            wait_for(lambda: serial_served(server) == serial_of(server.cert), "not reloaded", server)
    finally:
        ended.set()
        for caller in callers:
            caller.join()
    assert set(answered) == {200}
    assert lost == [], f"{len(lost)} of {len(answered) + len(lost)} calls"


def test_a_call_in_flight_outlives_a_reload(server: Gate) -> None:
    """What had begun under the old certificate is answered on its connection."""
    install(server, write_certificate(server.folder))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with Wire(server, context=context) as wire:
        with server.database.connect_writer() as connection, connection.begin():
            wire.send(request(checkin("once-0"), key=server.keys["s1"]))
            assert server.process is not None
            server.process.send_signal(signal.SIGHUP)
            time.sleep(0.15)
        reply = wire.reply()
    assert reply is not None
    assert reply.status == 200


# SIGTERM


@pytest.mark.parametrize(("held_s", "status"), [(0.15, 200), (0.8, 503)], ids=["decided late", "not decided in time"])
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_call_in_flight_is_answered_before_the_end(
    prepared: Gate, held_s: float, status: int, ending: signal.Signals
) -> None:
    """The server takes no new callers, answers those it has, and exits with 0."""
    prepared.start()
    replies: list[Reply] = []
    member = f"once-{'1' if status == 200 else '2'}" if ending is signal.SIGTERM else "free-1"
    data = request(checkin(member), key=prepared.keys["s1"])
    with Wire(prepared) as wire:
        caller = threading.Thread(target=lambda: replies.append(wire.ask(data)))
        with prepared.database.connect_writer() as connection, connection.begin():
            caller.start()
            time.sleep(0.05)  # the call is on its way, and cannot be decided
            assert prepared.process is not None
            prepared.process.send_signal(ending)
            time.sleep(held_s)
        caller.join()
    assert [reply.status for reply in replies] == [status]
    assert prepared.process.wait(timeout=30) == 0
    assert not listening(prepared)
    (row,) = [row for row in prepared.json("decisions") if row["id"] == replies[0].json()["decisionId"]]
    assert (row["http_status"], row["undelivered"]) == (status, False)
    assert row["answer_ms"] <= 400
    assert "Traceback" not in prepared.log.read_text("utf-8")


def test_hanging_callers_do_not_spoil_the_end(prepared: Gate) -> None:
    """Idle, half-finished and vanished ones: what can be answered is, and the exit status is 0."""
    prepared.start()
    key = prepared.keys["s1"]
    data = request(checkin("free-2"), key=key)
    with ExitStack() as stack:
        idle = [stack.enter_context(Wire(prepared)) for _ in range(5)]
        assert {wire.ask(data).status for wire in idle} == {200}
        halves = [stack.enter_context(Wire(prepared)) for _ in range(5)]
        for wire in halves:
            wire.send(data[:-5])
        for half in (data[:-5], request(checkin("free-2"), key=key, chunks=5)[:-9], data[:40]):
            with Wire(prepared) as gone:
                gone.send(half)
        time.sleep(0.05)
        assert prepared.process is not None
        prepared.process.send_signal(signal.SIGTERM)
        replies = [wire.reply() for wire in halves]
    assert [reply and reply.status for reply in replies] == [408] * 5
    assert prepared.process.wait(timeout=30) == 0
    log = prepared.log.read_text("utf-8")
    assert "Traceback" not in log
    assert "panic" not in log


def test_new_callers_are_turned_away_while_it_ends(prepared: Gate) -> None:
    """As soon as the end has begun nobody else is taken, so that a balancer goes elsewhere."""
    prepared.start()
    with Wire(prepared) as wire:
        with prepared.database.connect_writer() as connection, connection.begin():
            wire.send(request(checkin("free-3"), key=prepared.keys["s1"]))
            assert prepared.process is not None
            prepared.process.send_signal(signal.SIGTERM)
            wait_for(lambda: not listening(prepared), "new connections are still taken", prepared)
        wire.reply()
    assert prepared.process.wait(timeout=30) == 0


def test_every_process_of_the_server_ends(prepared: Gate) -> None:
    """Nothing of it stays behind, in whatever way it ends."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        prepared.start()
        assert prepared.process is not None
        session = prepared.process.pid
        assert len(processes(session)) > 1
        prepared.process.send_signal(ending)  # to the listener only: the ledger has to notice
        prepared.process.wait(timeout=30)
        wait_for(lambda session=session: not processes(session), "processes stay behind", prepared)


def processes(session: int) -> list[str]:
    """The processes of a session that have not ended."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, *fields = process.joinpath("stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == session and state != "Z":
                found.append(process.name)
    return found


# Changes while it runs


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A serving installation whose directory tests change."""
    gate = Gate(tmp_path_factory.mktemp("running"))
    prepare(gate)
    gate.start()
    yield gate
    gate.close()


def answer(gate: Gate, member: str, key: str | None = None) -> tuple[int, str]:
    """Status and reason of a check-in."""
    reply = ask(gate, request(checkin(member), key=key or gate.keys["s1"]))
    return reply.status, reply.json().get("reason", "")


def assert_soon(gate: Gate, expected: tuple[int, str], member: str, key: str | None = None) -> None:
    """A change just made is in force within two seconds."""
    wait_for(lambda: answer(gate, member, key) == expected, f"{expected} did not come in time", gate, FOLLOW_S)


def test_a_paused_studio(running: Gate) -> None:
    """Its check-ins are denied, until it is resumed."""
    assert answer(running, "free-0") == (200, "ok")
    running.cli("studio", "pause", "s1")
    assert_soon(running, (403, "studio_inactive"), "free-0")
    running.cli("studio", "resume", "s1")
    assert_soon(running, (200, "ok"), "free-0")


def test_keys_added_and_revoked(running: Gate) -> None:
    """A new key is taken, the old one stays, and a revoked one is not taken any more."""
    token = secrets.token_urlsafe(24)
    assert answer(running, "free-0", token) == (401, "")
    (added,) = running.json("key", "add", "s1", "--key-stdin", input=token)
    assert_soon(running, (200, "ok"), "free-0", token)
    assert answer(running, "free-0") == (200, "ok")
    running.cli("key", "revoke", added["fingerprint"])
    assert_soon(running, (401, ""), "free-0", token)
    assert answer(running, "free-0") == (200, "ok")


def test_a_new_studio(running: Gate) -> None:
    """It can call as soon as it has a key."""
    token = running.studio("s2", timezone="Europe/Lisbon")
    assert_soon(running, (200, "ok"), "free-0", token)


def test_a_tighter_plan(running: Gate) -> None:
    """New limits hold for visits made before them too."""
    assert answer(running, "free-5") == (200, "ok")
    assert answer(running, "free-5") == (200, "ok")
    running.plans(TIGHT)
    assert_soon(running, (403, "limit_reached"), "free-5")
    assert answer(running, "free-4") == (200, "ok")
    assert answer(running, "free-4") == (403, "limit_reached")
    running.plans()
    assert_soon(running, (200, "ok"), "free-5")


def test_a_suspended_member(running: Gate) -> None:
    """And a new one, and one whose time is over."""
    assert answer(running, "free-0") == (200, "ok")
    running.cli("member", "set", "free-0", "--status", "suspended")
    assert_soon(running, (403, "membership_suspended"), "free-0")
    assert answer(running, "newcomer") == (403, "unknown_member")
    running.members("newcomer,free", "free-0,free")
    assert_soon(running, (200, "ok"), "newcomer")
    running.cli("member", "set", "newcomer", "--valid-until", "2020-01-31")
    assert_soon(running, (403, "membership_expired"), "newcomer")


def test_the_log_is_one_event_a_line_without_keys_or_members(running: Gate) -> None:
    """JSON with an instant, a level and an event; nothing about who came."""
    lines = [json.loads(line) for line in running.log.read_text("utf-8").splitlines()]
    assert {line["event"] for line in lines} >= {"serving"}
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", line["timestamp"])
        assert line["level"] == "info"
        assert not any(secret in str(line) for secret in (*running.keys.values(), "free-", "newcomer"))
