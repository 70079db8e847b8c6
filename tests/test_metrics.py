"""`/metrics` and `/readyz`: what they say agrees with what was done; the admin process and its address."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import httpx
import pytest
from callers import Caller, at_once, connected, locked
from gate import Gate, wait_for
from office import admin_pid
from prometheus_client.parser import text_string_to_metric_families

from guestgate import clock, studios
from guestgate.directory import KeyKind
from guestgate.fingerprints import fingerprint, sha256_of
from guestgate.model import Reason

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def client(served: Gate) -> Iterator[httpx.Client]:
    """A viewer; its paths are whole ones."""
    with served.office("viewer") as viewer:
        viewer.base_url = served.admin_url
        yield viewer


def figures(client: httpx.Client) -> Figures:
    """All that `/metrics` says, by name and labels."""
    answer = client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def figure(all_: Figures, name: str, **labels: str) -> float:
    """One of them; 0 for a counter that has not counted yet."""
    return all_.get((f"guestgate_{name}", frozenset(labels.items())), 0.0)


def test_figures_agree_with_what_was_done(served: Gate, client: httpx.Client) -> None:
    """Decisions, other calls, answer times, batches, and the key that was used."""
    key = fingerprint(sha256_of(served.keys["s1"]))
    before = figures(client)
    calls = [("once-3", 200), ("once-3", 403), ("once-3", 403), ("nobody", 403), ("free-3", 200)]
    for member, status in calls:
        assert served.checkin(member).status_code == status
    with served.client() as door:
        for headers, body, status in (
            ({"X-API-Key": "wrong"}, b"{}", 401), ({"X-API-Key": "wrong"}, b"{}", 401),
            ({}, b"not json", 400), ({"Content-Type": "text/plain"}, b"x", 415), ({}, b"x" * 20_000, 413),
        ):  # fmt: skip
            assert door.post(served.url, content=body, headers=headers).status_code == status
        assert door.get(served.url).status_code == 405
    after = figures(client)

    def grown(name: str, **labels: str) -> float:
        return figure(after, name, **labels) - figure(before, name, **labels)

    for outcome, reason, number in (
        ("allowed", "ok", 2), ("denied", "limit_reached", 2), ("denied", "unknown_member", 1),
        ("allowed", "reentry", 0), ("undecided", "unavailable", 0),
    ):  # fmt: skip
        assert grown("decisions_total", outcome=outcome, reason=reason) == number, reason
    for status, number in (("401", 2), ("400", 1), ("415", 1), ("413", 1), ("405", 1)):
        assert grown("other_calls_total", status=status) == number, status
    assert grown("key_calls_total", studio="s1", key=key) == len(calls)
    assert grown("answer_seconds_count") == len(calls)
    assert grown("answer_seconds_bucket", le="0.75") == grown("answer_seconds_bucket", le="+Inf") == len(calls)
    assert grown("batch_size_sum") == len(calls) and grown("batch_size_count") == grown("commit_seconds_count")
    assert grown("undelivered_total") == 0 and figure(after, "queue_depth") == 0
    used = figure(after, "key_last_used_timestamp_seconds", studio="s1", key=key, kind="checkin")
    assert abs(used - clock.now().timestamp()) < 120
    assert grown("recorded_rows") > len(calls)
    assert figure(after, "door_up") == figure(after, "database_up") == 1


def test_every_reason_is_there_from_the_start(client: httpx.Client) -> None:
    """So that a rate over a reason that has never occurred is 0 and not nothing."""
    told = {dict(labels)["reason"] for name, labels in figures(client) if name == "guestgate_decisions_total"}
    assert told == {reason.value for reason in Reason}


def test_batches_of_many(served: Gate, client: httpx.Client) -> None:
    """Check-ins that come together share commits: fewer batches than calls."""
    before = figures(client)
    with connected(served, 24) as callers:
        replies = at_once(callers, [f"free-{number % 10}" for number in range(24)])
    assert all(reply is not None and reply.status == 200 for reply in replies)
    after = figures(client)
    assert figure(after, "batch_size_sum") - figure(before, "batch_size_sum") == 24
    assert 1 <= figure(after, "batch_size_count") - figure(before, "batch_size_count") <= 24


def test_what_ends_when(served: Gate, client: httpx.Client) -> None:
    """A key's end, the certificate's, and the studios by state; a revoked key is not told any more."""
    ends = clock.now() + timedelta(days=3)
    with served.database.write() as connection:
        studios.add(connection, "paused", name="p", timezone="UTC", tags=frozenset(), test=False)
        studios.change(connection, "paused", active=False)
        key = studios.add_key(connection, "paused", "x" * 30, KeyKind.WEBHOOK, ends)
    labels = {"studio": "paused", "key": key, "kind": "webhook"}
    now = figures(client)
    assert figure(now, "key_expires_timestamp_seconds", **labels) == pytest.approx(ends.timestamp(), abs=0.01)
    assert figure(now, "studios", state="paused") == 1 and figure(now, "studios", state="active") >= 1
    assert figure(now, "certificate_expires_timestamp_seconds") > clock.now().timestamp()
    assert figure(now, "database_bytes") > 0
    assert (figure(now, "disk_free_bytes") > 0) == (served.database.engine.name == "sqlite")  # else it is elsewhere
    with served.database.write() as connection:
        studios.revoke_key(connection, key)
    assert figure(figures(client), "key_expires_timestamp_seconds", **labels) == 0


def test_nothing_secret_or_personal(served: Gate, client: httpx.Client) -> None:
    """No member, no customer, no key: labels are studios, reasons, states and fingerprints."""
    served.checkin("free-7", customer=987_654_321)
    text = client.get("/metrics").text
    for secret in ("free-7", "987654321", *served.keys.values(), client.headers["authorization"].split()[1]):
        assert secret not in text
    assert not re.search(r"[0-9a-f]{32,}", text)
    ready = httpx.get(f"{served.admin_url}/readyz").text
    assert not re.search(rf"{re.escape(str(served.home))}|[0-9a-f]{{16,}}", ready)


def test_held_up_and_ready_again(served: Gate, client: httpx.Client) -> None:
    """A foreign program holds the write lock: 503 names the ledger, the undecided are counted; then all is well."""
    assert client.get("/readyz").json()["status"] == "ready"
    before = figures(client)

    def parts() -> dict[str, str]:
        answer = client.get("/readyz")
        content = answer.json()
        assert answer.status_code == (200 if content["status"] == "ready" else 503)
        return dict(content["parts"])

    with locked(served.database):
        assert served.checkin("free-8").status_code == 503
        wait_for(lambda: parts()["ledger"] != "ok", "it is ready while nothing can be written", served)
        assert {name for name, state in parts().items() if state != "ok"} == {"ledger"}
        during = figures(client)
        assert figure(during, "ledger_stalled_seconds") > 1 and figure(during, "database_up") == 1
        labels = {"outcome": "undecided", "reason": "unavailable"}
        assert figure(during, "decisions_total", **labels) - figure(before, "decisions_total", **labels) == 1
    wait_for(lambda: set(parts().values()) == {"ok"}, "it never got ready again", served)
    assert served.checkin("free-8").status_code == 200


def test_undelivered_answers_are_counted(served: Gate, client: httpx.Client) -> None:
    """Callers that hang up while they wait: their decisions are counted as undelivered, each once."""
    before = figure(figures(client), "undelivered_total")
    with locked(served.database):
        for _ in range(3):
            caller = Caller(served)
            caller.connect()
            caller.send("free-9")
            caller.close()
    with served.office("viewer") as office:

        def on_record() -> int:
            found = office.get("/decisions", params={"member": "free-9", "limit": 1000}).json()["items"]
            return sum(decision["undelivered"] is True for decision in found)

        wait_for(lambda: served.checkin("free-8").status_code == 200, "the ledger did not recover", served)
        wait_for(
            lambda: figure(figures(client), "undelivered_total") - before == on_record(), "counted otherwise", served
        )


def test_the_admin_process_dies_and_the_door_goes_on(served: Gate, client: httpx.Client) -> None:
    """SIGKILL: check-ins are answered all the while, and soon another one serves, with the figures of before."""
    before, pid = figures(client), admin_pid(served)
    os.kill(pid, signal.SIGKILL)
    answered = 0

    def serves() -> bool:
        nonlocal answered
        assert served.checkin("free-4").status_code == 200
        answered += 1
        try:
            return httpx.get(f"{served.admin_url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    wait_for(serves, "the admin listener did not come back", served)
    assert admin_pid(served) != pid
    labels = {"outcome": "allowed", "reason": "ok"}
    after = figures(client)
    assert figure(after, "decisions_total", **labels) - figure(before, "decisions_total", **labels) == answered
    assert "it is started again" in served.log.read_text("utf-8")


def refused(gate: Gate, *options: str, status: int) -> str:
    """The sentence with which `serve` ends by itself."""
    done = gate.cli("serve", "--host", "localhost", "--port", str(gate.port), *options, status=status)
    told = [line for line in done.stderr.splitlines() if line.startswith("guestgate: ")]
    assert len(told) == 1 and "Traceback" not in done.stderr, done.stderr
    return told[0]


@pytest.mark.embedded
def test_addresses(home: Gate) -> None:
    """A taken port, no admin listener at all, and another address than loopback, which wants TLS."""
    tls = ("--tls-cert", str(home.cert), "--tls-key", str(home.key_file))
    with socket.create_server(("127.0.0.1", home.admin_port)):
        told = refused(home, *tls, "--admin-port", str(home.admin_port), status=1)
        assert str(home.admin_port) in told and "127.0.0.1" in told
        home.studio()
        home.plans()
        home.members("free-0,free")
        home.start("--admin-port", "0")
        assert home.checkin("free-0").status_code == 200
        assert home.stop() == 0
    told = refused(home, "--behind-proxy", "--admin-host", "0.0.0.0", "--admin-port", str(home.admin_port), status=2)
    assert "0.0.0.0" in told and "tls_cert" in told
    home.start("--admin-host", "0.0.0.0")
    url = f"https://localhost:{home.admin_port}"
    assert httpx.get(f"{url}/readyz", verify=home.tls()).json()["status"] == "ready"
    with httpx.Client(verify=home.tls(), headers={"Authorization": f"Bearer {home.token()}"}) as secure:
        assert secure.get(f"{url}/api/v1/members").json()["items"][0]["member_id"] == "free-0"
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://localhost:{home.admin_port}/readyz")
    assert home.stop() == 0


@pytest.mark.embedded
def test_several_renewals_at_once(home: Gate) -> None:
    """SIGHUP again before the admin listener is back with the new certificate: one process serves in the end."""
    home.start("--admin-host", "0.0.0.0")
    assert home.process is not None
    pid = admin_pid(home)
    for number in range(3):
        home.process.send_signal(signal.SIGHUP)
        told = number + 1
        wait_for(lambda told=told: home.log.read_text("utf-8").count("was reloaded") == told, "no reload", home)

    def serves() -> bool:
        try:
            answer = httpx.get(f"https://localhost:{home.admin_port}/readyz", verify=home.tls())
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and admin_pid(home) != pid

    wait_for(serves, "the admin listener did not come back", home)
    time.sleep(3)  # another start would have been tried by now
    assert serves()
    log = home.log.read_text("utf-8")
    assert log.count("the admin listener serves") == 2 and "could not be started" not in log, log
    assert home.stop() == 0


def test_instants_of_figures(served: Gate, client: httpx.Client) -> None:
    """The key list of the API says the same as the figures."""
    served.checkin("free-0")
    (key,) = client.get("/api/v1/studios/s1/keys").json()["items"]
    labels = {"studio": "s1", "key": key["fingerprint"], "kind": "checkin"}
    at = datetime.fromisoformat(key["last_used_at"]).timestamp()
    assert figure(figures(client), "key_last_used_timestamp_seconds", **labels) == pytest.approx(at, abs=0.01)
