"""`guestgate serve` as a process: what it refuses, ways to serve, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import certificates
import httpx
import pytest
from certificates import serial_of, serial_served, write_certificate
from gate import PATH, Gate, environment, wait_for
from wire import Reply, Wire, checkin, request


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """An installation for servers that must not start."""
    return Gate(tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """An installation that tests start and stop as they like; nothing in it changes but the record."""
    gate = Gate(tmp_path_factory.mktemp("prepared"))
    gate.studio("s1")
    gate.plans()
    gate.members(*(f"free-{number},free" for number in range(6)))
    yield gate
    gate.close()


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


@pytest.mark.parametrize(
    "bad",
    [
        *(certificates.expired, certificates.mismatched, certificates.locked, certificates.no_certificate),
        *(certificates.broken_key, certificates.missing_certificate, certificates.missing_key),
    ],
    ids=lambda bad: bad.__name__,
)
def test_with_a_bad_certificate_it_does_not_start(empty: Gate, bad: certificates.Pair) -> None:
    """The sentence names the file; it never waits for a password."""
    cert, key = bad(empty.folder)
    said = refused(empty, "--tls-cert", str(cert), "--tls-key", str(key))
    assert str(cert) in said or str(key) in said
    assert certificates.PASSWORD not in said


@pytest.mark.parametrize(
    ("options", "about"),
    [
        ((), "loopback"),  # the default is every address
        (("--host", "192.0.2.1"), "loopback"),
        (("--host", "::"), "loopback"),
        (("--host", "unix:relative.sock"), "unix:/"),
        (("--host", "127.0.0.1", "--tls-cert", "cert.pem"), "tls_cert"),
    ],
)
def test_behind_a_proxy_it_is_neither_public_nor_encrypted(empty: Gate, options: tuple[str, ...], about: str) -> None:
    """Plain HTTP stays on this machine; a certificate beside it would be a misunderstanding."""
    said = refused(empty, "--behind-proxy", *options)
    assert "--behind-proxy" in said
    assert about in said


@pytest.mark.parametrize(
    ("options", "about"),
    [
        (("--workers", "2"), "--workers"),
        (("--port", "65536"), "--port"),
        (("--host", "unix:/tmp/door.sock"), "--host"),
        (("--bogus",), "--bogus"),
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


# Ways to serve


def launch(gate: Gate, *options: str) -> subprocess.Popen[str]:
    """Start a server with exactly these options; its log comes through its standard error."""
    command = [sys.executable, "-m", "guestgate", "serve", "--config", str(gate.home / "guestgate.toml"), *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True)


def test_plain_http_on_loopback_behind_a_proxy(prepared: Gate) -> None:
    """The same contract without TLS; the log says where. A port for the admin side is taken from the start."""
    prepared.start("--behind-proxy", "--host", "127.0.0.1", "--admin-port", "8555")
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
    with socket.socket(socket.AF_UNIX) as knock:
        if knock.connect_ex(str(door)):
            return None
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(door)), base_url="http://door") as client:
        return client.request(method, path, **options).status_code


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


def test_a_unix_socket_behind_a_proxy(prepared: Gate, empty: Gate, door: Path) -> None:
    """The same contract again; neither a reload of certificates that there are none of nor a second server harms."""
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
        second = launch(empty, "--behind-proxy", "--host", f"unix:{door}")
        try:
            said = second.communicate(timeout=10)[1]
        finally:
            end(second, signal.SIGKILL)
        assert answers(door) == 200
        assert second.returncode == 1
        assert str(door) in assert_sentence(said)
    finally:
        assert end(process) == 0


def test_a_unix_socket_left_behind_does_not_matter(prepared: Gate, door: Path) -> None:
    """However the last server ended, the next one serves on the same path."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        end(on_socket(prepared, door), ending)
    assert end(on_socket(prepared, door)) == 0


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


@pytest.fixture
def serving(prepared: Gate) -> Iterator[Gate]:
    """It serves, over TLS; where the test ends it, all of its processes end."""
    if prepared.process is None or prepared.process.poll() is not None:
        prepared.start()
    assert prepared.process is not None
    group = prepared.process.pid
    assert len(processes(group)) > 1
    yield prepared
    if prepared.process.poll() is not None:
        wait_for(lambda: not processes(group), "processes stay behind", prepared)


def test_two_servers_do_not_share_a_port(serving: Gate, empty: Gate) -> None:
    """The second one fails, rather than to take half of the first one's calls with another record."""
    second = launch(empty, "--host", "localhost", "--port", str(serving.port), *with_tls(empty))
    try:
        said = second.communicate(timeout=5)[1]
    except subprocess.TimeoutExpired:
        second.terminate()
        said = second.communicate(timeout=30)[1]
        raise AssertionError(f"the second server serves on the first one's port: {said}") from None
    assert second.returncode == 1
    assert str(serving.port) in assert_sentence(said)


# SIGTERM


@pytest.mark.parametrize(
    ("ending", "held_s", "status"),
    [(signal.SIGTERM, 0.15, 200), (signal.SIGINT, 0.8, 503)],
    ids=["decided late", "not decided in time"],
)
def test_a_call_in_flight_is_answered_before_the_end(
    serving: Gate, ending: signal.Signals, held_s: float, status: int
) -> None:
    """The server takes no new callers, answers those it has, and exits with 0."""
    replies: list[Reply] = []
    data = request(checkin("free-1"), key=serving.keys["s1"])
    with Wire(serving) as wire:
        caller = threading.Thread(target=lambda: replies.append(wire.ask(data)))
        with serving.database.connect_writer() as connection, connection.begin():
            caller.start()
            time.sleep(0.05)  # the call is on its way, and cannot be decided
            assert serving.process is not None
            serving.process.send_signal(ending)
            time.sleep(held_s)
        caller.join()
    assert [reply.status for reply in replies] == [status]
    assert serving.process.wait(timeout=30) == 0
    assert not listening(serving)
    (row,) = [row for row in serving.json("decisions") if row["id"] == replies[0].json()["decisionId"]]
    assert (row["http_status"], row["undelivered"]) == (status, False)
    assert "Traceback" not in serving.log.read_text("utf-8")


def test_hanging_callers_do_not_spoil_the_end(serving: Gate) -> None:
    """Idle, half-finished and vanished ones: what can be answered is, and the exit status is 0."""
    key = serving.keys["s1"]
    data = request(checkin("free-2"), key=key)
    with ExitStack() as stack:
        idle = [stack.enter_context(Wire(serving)) for _ in range(5)]
        assert {wire.ask(data).status for wire in idle} == {200}
        halves = [stack.enter_context(Wire(serving)) for _ in range(5)]
        for wire in halves:
            wire.send(data[:-5])
        for half in (data[:-5], request(checkin("free-2"), key=key, chunks=5)[:-9], data[:40]):
            with Wire(serving) as gone:
                gone.send(half)
        time.sleep(0.05)
        assert serving.process is not None
        serving.process.send_signal(signal.SIGTERM)
        replies = [wire.reply() for wire in halves]
    assert [reply and reply.status for reply in replies] == [408] * 5
    assert serving.process.wait(timeout=30) == 0
    log = serving.log.read_text("utf-8")
    assert "Traceback" not in log
    assert "panic" not in log


def test_new_callers_are_turned_away_while_it_ends(serving: Gate) -> None:
    """As soon as the end has begun nobody else is taken, so that a balancer goes elsewhere."""
    with Wire(serving) as wire:
        with serving.database.connect_writer() as connection, connection.begin():
            wire.send(request(checkin("free-3"), key=serving.keys["s1"]))
            assert serving.process is not None
            serving.process.send_signal(signal.SIGTERM)
            wait_for(lambda: not listening(serving), "new connections are still taken", serving)
        wire.reply()
    assert serving.process.wait(timeout=30) == 0


def test_every_process_of_a_server_that_is_killed_ends(serving: Gate) -> None:
    """Only the listener is: the others have to notice."""
    assert serving.process is not None
    group = serving.process.pid
    serving.process.kill()
    serving.process.wait(timeout=30)
    wait_for(lambda: not processes(group), "processes stay behind", serving)


def processes(group: int) -> list[str]:
    """The processes of a group that have not ended."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, *fields = process.joinpath("stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == group and state != "Z":
                found.append(process.name)
    return found
