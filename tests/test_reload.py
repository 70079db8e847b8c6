"""What a running server takes up: a new certificate on SIGHUP, and changes to the directory by itself."""

from __future__ import annotations

import json
import re
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import BAD_PAIRS, anybody, serial_of, serial_served, write_certificate
from cryptography.hazmat.primitives.asymmetric import rsa
from gate import Gate, wait_for
from wire import Wire, ask, checkin, request

# A change has to be in force by then.
FOLLOW_S = 2
TIGHT = """\
[plans.free]
name = "Free, but once a day"
reentry_minutes = 0
limits = [{ max = 1, per = "day" }]
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A serving installation that tests change."""
    gate = Gate(tmp_path_factory.mktemp("running"))
    gate.studio("s1")
    gate.plans()
    gate.members(*(f"{plan}-{number},{plan}" for plan in ("free", "once") for number in range(6)))
    gate.start()
    yield gate
    gate.close()


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


def test_sighup_reads_the_certificate_again(running: Gate) -> None:
    """A renewed one is shown to new callers; bad ones are rejected, logged, and the last good one stays."""
    assert serial_served(running) == serial_of(running.cert)
    install(running, write_certificate(running.folder))
    renewed = serial_of(running.cert)
    reload(running)
    wait_for(lambda: serial_served(running) == renewed, "the new certificate is not served", running)
    for bad in BAD_PAIRS:
        install(running, bad(running.folder))
        said = [json.loads(line) for line in reload(running).splitlines() if "certificate" in line]
        assert [line["level"] for line in said] == ["error"], bad.__name__
        assert str(running.cert) in said[0]["error"] or str(running.key_file) in said[0]["error"], bad.__name__
        assert serial_served(running) == renewed, bad.__name__
    install(running, write_certificate(running.folder, key=rsa.generate_private_key(65537, 2048)))
    again = serial_of(running.cert)
    reload(running)
    wait_for(lambda: serial_served(running) == again, "no more reloads after a bad one", running)
    assert running.checkin("free-0").status_code == 200
    assert "Traceback" not in running.log.read_text("utf-8")


def test_hardly_a_call_is_lost_while_certificates_change(running: Gate) -> None:
    """Callers with new connections all the time meet either certificate and are answered.

    A connection that is just being made when the old listener ends may be closed; those are few.
    """
    data = request(checkin("free-0"), key=running.keys["s1"])
    ended = threading.Event()
    lost: list[BaseException] = []
    answered: list[int] = []
    before = len(running.json("decisions", "--member", "free-0"))

    def call() -> None:
        while not ended.is_set():
            try:
                with Wire(running, context=anybody()) as wire:
                    answered.append(wire.ask(data).status)
            except (OSError, AssertionError) as error:
                lost.append(error)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        for _ in range(6):
            install(running, write_certificate(running.folder))
            reload(running)
            wait_for(lambda: serial_served(running) == serial_of(running.cert), "not reloaded", running)
    finally:
        ended.set()
        for caller in callers:
            caller.join()
    assert set(answered) == {200}
    decided = len(running.json("decisions", "--member", "free-0")) - before
    assert len(answered) <= decided <= len(answered) + len(lost)
    assert len(lost) < len(answered) / 10


def test_a_call_in_flight_outlives_a_reload(running: Gate) -> None:
    """What had begun under the old certificate is answered on its connection."""
    install(running, write_certificate(running.folder))
    logged = len(running.log.read_text("utf-8"))
    with Wire(running, context=anybody()) as wire:
        with running.database.connect_writer() as connection, connection.begin():
            wire.send(request(checkin("once-0"), key=running.keys["s1"]))
            assert running.process is not None
            running.process.send_signal(signal.SIGHUP)
            time.sleep(0.15)
        reply = wire.reply()
    assert reply is not None
    assert reply.status == 200
    wait_for(lambda: "was reloaded" in running.log.read_text("utf-8")[logged:], "not reloaded", running)


# Changes while it runs


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
        assert line["level"] == "info" or "certificate" in line["event"] or line["event"] == "expires soon"
        assert not any(secret in str(line) for secret in (*running.keys.values(), "free-", "newcomer"))
