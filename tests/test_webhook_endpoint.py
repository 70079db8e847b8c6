"""`POST /webhook` on the wire, and what the server makes of it by itself."""

from __future__ import annotations

import json
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from attending import Webhook, entry, webhook
from callers import problems, rows
from gate import Gate, wait_for
from test_attendance import START, outcome
from wire import JSON, ask, request

from guestgate import clock, studios
from guestgate.attendance.webhook import MAX_BODY_BYTES
from guestgate.contract import WEBHOOK_PATH
from guestgate.directory import KeyKind

LARGE = json.dumps(webhook("NEW", START, 1, content={"a": "b" * (MAX_BODY_BYTES - 500)}).body).encode()


def furnished(gate: Gate) -> str:
    """A studio with a key for webhooks; returns that."""
    gate.studio("s1")
    gate.plans()
    gate.members("ada,free", "bob,free")
    token = secrets.token_urlsafe(24)
    with gate.database.write() as connection:
        studios.add_key(connection, "s1", token, KeyKind.WEBHOOK)
    return token


@pytest.fixture(scope="module")
def gate(new_gate: Callable[[], Gate]) -> Gate:
    """A serving installation; its key for webhooks is `key`."""
    gate = new_gate()
    gate.keys["webhook"] = furnished(gate)
    with (gate.home / "guestgate.toml").open("a", encoding="utf-8") as file:
        file.write("reconcile_every_s = 1\n")
    gate.start()
    return gate


def send(gate: Gate, one: Webhook) -> int:
    """Tell it; returns the status."""
    return post(gate, json.dumps(one.body).encode())


def post(gate: Gate, body: bytes, **options: Any) -> int:
    options = {"key": gate.keys["webhook"], "path": WEBHOOK_PATH} | options
    return ask(gate, request(body, **options)).status


def kept(gate: Gate) -> list[Any]:
    return rows(gate.database, "SELECT uuid, studio_id, body FROM webhooks ORDER BY seq")


def wait_until_read(gate: Gate) -> None:
    """What webhooks tell is written down before it is followed, and they count as read after that."""
    unread = "SELECT count(*) FROM webhooks WHERE seq > coalesce((SELECT seq FROM attendance_progress), 0)"
    wait_for(lambda: rows(gate.database, unread) == [(0,)], "webhooks are not read", gate)


def test_a_webhook_is_kept_once_and_confirms_its_visit(gate: Gate) -> None:
    """200 each time; soon the visit is confirmed, and the feed tells of it."""
    visit = gate.checkin("ada", 7).json()["decisionId"]
    told = entry(clock.now(), 7)
    assert [send(gate, told) for _ in range(3)] == [200, 200, 200]
    assert [row.body for row in kept(gate) if row.uuid == told.uuid] == [json.dumps(told.body)]
    state = "SELECT state FROM visits WHERE id = :id"
    wait_for(lambda: rows(gate.database, state, id=visit) == [("confirmed",)], "nothing confirms the visit", gate)
    with gate.office("viewer") as office:

        def told_in_the_feed() -> list[Any]:
            events = office.get("/events").json()["events"]
            return [event for event in events if event["type"] == "confirmation"]

        wait_for(told_in_the_feed, "the feed does not tell of it", gate)
        (confirmation,) = told_in_the_feed()
        wait_until_read(gate)
        metrics = office.get(f"{gate.admin_url}/metrics").text
    assert (confirmation["data"]["visit"], confirmation["data"]["why"]) == (
        visit,
        f"entry told by webhook {told.uuid}",
    )
    assert 'guestgate_webhooks_total{outcome="kept"}' in metrics
    assert "guestgate_webhooks_waiting 0.0" in metrics
    assert "guestgate_entries_without_visit 0.0" in metrics
    wait_for(
        lambda: rows(gate.database, "SELECT 1 FROM attendance_progress WHERE reconciled_at_ms > 0"),
        "nothing is reconciled",
        gate,
    )
    (key,) = [key for key in gate.json("key", "list") if key["kind"] == "webhook"]
    assert key["last_used_at"] is not None


@pytest.mark.parametrize(
    "status, options",
    [
        (404, {"path": "/webhooks"}),
        (405, {"method": "PUT"}),
        (401, {"key": None}),
        (401, {"key": "unknown"}),
        (415, {"headers": ["Content-Type: text/plain"]}),
        (400, {"body": b"{}"}),
        (400, {"body": b"\xff"}),
        (400, {"body": b"[" * 10_000}),
        (413, {"body": b" " * (MAX_BODY_BYTES + 1)}),
        (413, {"body": b" " * (MAX_BODY_BYTES + 1), "chunks": 16_384}),
        (200, {"path": f"{WEBHOOK_PATH}/"}),
        (200, {"headers": []}),
        (200, {"body": LARGE}),
        (200, {"body": json.dumps(webhook("NEWER", START, 1).body).encode(), "chunks": 10}),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_else(gate: Gate, status: int, options: dict[str, Any]) -> None:
    """4xx and nothing is kept, or 200 and it is."""
    before = len(kept(gate))
    sound = json.dumps(webhook("CUSTOMER_DELETED", clock.now(), 5).body).encode()
    assert post(gate, **{"body": sound, "headers": (JSON,), **options}) == status
    assert len(kept(gate)) == before + (status == 200)


def test_each_route_takes_only_its_own_kind_of_key(gate: Gate) -> None:
    """401 for the other one's."""
    assert post(gate, b"{}", key=gate.keys["s1"]) == 401
    assert post(gate, b"{}", path="/checkin-validation") == 401


def test_one_uuid_of_two_studios_is_two_webhooks(gate: Gate) -> None:
    """No studio can keep another one's from being taken."""
    gate.studio("s2")
    token = secrets.token_urlsafe(24)
    with gate.database.write() as connection:
        studios.add_key(connection, "s2", token, KeyKind.WEBHOOK)
    told = webhook("NEWEST", START, 1)
    body = json.dumps(told.body).encode()
    wait_for(lambda: post(gate, body, key=token) == 200, "the key is unknown", gate)
    assert send(gate, told) == 200
    assert {row.studio_id for row in kept(gate) if row.uuid == told.uuid} == {"s1", "s2"}


def test_a_check_in_is_answered_while_webhooks_stream_in(gate: Gate) -> None:
    """All webhooks are kept, and doors open in between."""
    told = [entry(clock.now() + timedelta(milliseconds=number), 99) for number in range(200)]
    statuses: list[int] = []

    def tell(some: list[Webhook]) -> None:
        headers = {"X-API-Key": gate.keys["webhook"]}
        with httpx.Client(verify=gate.tls(), headers=headers, timeout=10) as client:
            statuses.extend(
                client.post(gate.url.replace("/checkin-validation", WEBHOOK_PATH), json=one.body).status_code
                for one in some
            )

    threads = [threading.Thread(target=tell, args=(told[first::4],)) for first in range(4)]
    for thread in threads:
        thread.start()
    assert {gate.checkin("bob", 8).status_code for _ in range(10)} == {200}
    for thread in threads:
        thread.join()
    assert statuses == [200] * len(told)
    assert {row.uuid for row in kept(gate)} >= {one.uuid for one in told}


@contextmanager
def shut(gate: Gate) -> Iterator[None]:
    """Nobody else can write webhooks."""
    with gate.database.write() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("LOCK TABLE webhooks IN SHARE MODE")
        yield


def test_without_the_database_a_webhook_is_to_be_sent_again(gate: Gate) -> None:
    """503 within the platform's five seconds, and then it is taken."""
    told = webhook("LAST", START, 1)
    with shut(gate):
        assert send(gate, told) == 503
    assert send(gate, told) == 200


@pytest.mark.alone
def test_killed_while_webhooks_stream_in(home: Gate) -> None:
    """The platform goes on, and the server was killed and started again and again: nothing is missing or doubled."""
    home.keys["webhook"] = furnished(home)
    home.start()
    times = []
    for number in range(12):
        answer = home.checkin("ada", 7) if number % 2 else home.checkin("bob", 8)
        assert answer.status_code == 200
        times.append((clock.now(), 8 - number % 2))
    told = [entry(at, customer) for at, customer in times]
    told += [webhook("CUSTOMER_CHECKOUT", at + timedelta(seconds=1), customer) for at, customer in times]
    for number, one in enumerate([*told, *told[::3]]):
        if number % 9 == 4:
            home.stop(signal.SIGKILL)
            home.start()
        assert send(home, one) == 200
    home.stop(signal.SIGKILL)
    home.start()
    wait_until_read(home)
    assert home.stop() == 0
    visits, _, sightings = outcome(home.database)
    assert {state for _, state, _ in visits} == {"confirmed"}
    assert len(sightings) == len(told) and all(row[-1] for row in sightings if row[2] == "entry")
    assert problems(home.database) == []
