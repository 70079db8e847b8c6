"""`POST /member-validation` as the platform sees it: who may register, and with which data."""

from __future__ import annotations

import json
import os
import secrets
import signal
import time
from typing import Any

import pytest
from callers import ledger_of
from gate import Gate, wait_for
from wire import JSON, Reply, Wire, ask, checkin, request

PATH = "/member-validation"
PROFILE = {
    "first_name": "Ada",
    "last_name": "Lovelace",
    "date_of_birth": "1952-05-04",
    "email": "ada@example.com",
    "gender": "FEMALE",
    "street": "Straße",
    "house_number": "7a",
    "zip_code": "10115",
    "city": "Berlin",
    "country": "DE",
    "phone_private": "+49 30 1",
    "phone_private_mobile": "+49 170 2",
    "phone_business": "+49 30 3",
    "phone_business_mobile": "+49 170 4",
}
CONTRACT = {
    "aggregatorId": "ada",
    "firstName": "Ada",
    "lastName": "Lovelace",
    "dateOfBirth": "1952-05-04",
    "email": "ada@example.com",
    "gender": "FEMALE",
    "street": "Straße",
    "houseNumber": "7a",
    "zipCode": "10115",
    "city": "Berlin",
    "country": "DE",
    "phonePrivate": "+49 30 1",
    "phonePrivateMobile": "+49 170 2",
    "phoneBusiness": "+49 30 3",
    "phoneBusinessMobile": "+49 170 4",
}
BUDGET_S = 0.4


@pytest.fixture(scope="module")
def gate(served: Gate) -> Gate:
    """Ada, of whom all is known, Bob, of whom something is, and Eve, who is suspended."""
    with served.office("operator") as office:
        for member, fields in {
            "ada": PROFILE,
            "bob": {"city": "Köln"},
            "eve": {**PROFILE, "status": "suspended"},
        }.items():
            assert office.put(f"/members/{member}", json={"plan": "free", **fields}).status_code == 201
    return served


def validate(gate: Gate, body: Any, **options: Any) -> Reply:
    """One call with s1's key."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ask(gate, request(content, **{"path": PATH, "key": gate.keys["s1"], **options}))


def listed(gate: Gate, count: int, **query: Any) -> list[dict[str, Any]]:
    """The latest of the record, once it is known how their answers left."""
    found: list[dict[str, Any]] = []

    def known() -> bool:
        with gate.office("viewer") as office:
            items = office.get("/validations", params={"order": "desc", "limit": count, **query}).json()["items"]
        found[:] = items[::-1]
        return len(found) == count and all(item["http_status"] for item in found)

    wait_for(known, "the member validations are not on record", gate)
    return found


def test_the_members_data(gate: Gate) -> None:
    """All that is known under the contract's names, and nothing that is not."""
    reply = validate(gate, {"aggregatorId": "ada", "unknown": [1]})
    assert (reply.status, reply.json()) == (200, CONTRACT)
    assert reply.headers.get_all("content-type") == ["application/json"]
    assert reply.headers.get_all("cache-control") == ["no-store"]
    assert validate(gate, {"aggregatorId": "bob"}, path=f"{PATH}/").json() == {"aggregatorId": "bob", "city": "Köln"}


def test_codes(gate: Gate) -> None:
    """From the admin API or the command line: a code stands for the id, and whatever does not is one and the same."""
    with gate.office("operator") as office:
        issued = office.post("/members/ada/codes", json={"valid": "1h"})
        assert issued.status_code == 201 and set(issued.json()) == {"code", "expires_at"}
        assert office.post("/members/nobody/codes", json={}).status_code == 404
        assert office.post("/members/ada/codes", json={"valid": "2d"}).status_code == 422
    with gate.office("viewer") as office:
        assert office.post("/members/ada/codes", json={}).status_code == 403
    code = issued.json()["code"]
    assert validate(gate, {"aggregatorId": code}).json() == CONTRACT
    assert validate(gate, {"aggregatorId": code}).json() == CONTRACT
    other = gate.studio("s2")
    wait_for(lambda: validate(gate, {"aggregatorId": "ada"}, key=other).status == 200, "the key is unknown", gate)
    (short,) = gate.json("member", "code", "ada", "--valid", "1s")
    time.sleep(1.1)
    refused = [
        validate(gate, {"aggregatorId": code}, key=other),
        validate(gate, {"aggregatorId": short["code"]}, key=other),
        validate(gate, {"aggregatorId": "nobody"}, key=other),
        validate(gate, {"aggregatorId": "eve"}, key=other),
    ]
    assert {(reply.status, reply.body) for reply in refused} == {(404, refused[0].body)}
    assert refused[0].headers.get_all("content-type") == ["application/problem+json"]
    record = listed(gate, 4, studio="s2")
    assert [(row["outcome"], row["reason"], row["http_status"]) for row in record] == [
        ("denied", "code_used", 404),
        ("denied", "code_expired", 404),
        ("denied", "unknown_member", 404),
        ("denied", "membership_suspended", 404),
    ]
    assert [row["member"] for row in record] == ["ada", "ada", None, "eve"]
    # What comes back is what the platform sends from then on.
    assert ask(gate, request(checkin("ada"), key=gate.keys["s1"])).status == 200


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"method": "GET"}, 405),
        ({"key": "unknown"}, 401),
        ({"headers": ["Content-Type: text/plain"]}, 415),
        ({"body": b"{}" + b" " * 16384}, 413),
        ({"body": b"{}"}, 400),
        ({"body": b'{"aggregatorId": ""}'}, 400),
        ({"body": b'{"aggregatorId": 7}'}, 400),
        ({"body": b'{"aggregatorId": "a", "aggregatorId": "b"}'}, 400),
        ({"body": b'{"aggregatorId": "a\\u0000"}'}, 400),
        ({"body": b'["ada"]'}, 400),
    ],
)
def test_what_is_no_question(gate: Gate, options: dict[str, Any], status: int) -> None:
    """The same checks as for check-ins, in the same order."""
    reply = validate(gate, **{"body": b'{"aggregatorId": "ada"}', "headers": [JSON], **options})
    assert reply.status == status
    assert reply.headers.get_all("content-type") == ["application/problem+json"]


def test_a_key_of_another_kind(gate: Gate) -> None:
    """A webhook's key asks nothing here."""
    token = secrets.token_urlsafe(24)
    gate.cli("key", "add", "s1", "--key-stdin", "--kind", "webhook", input=token)
    assert validate(gate, {"aggregatorId": "ada"}, key=token).status == 401


def test_the_sandbox_s_desk(gate: Gate) -> None:
    """One real call with a key of its own: a code or an id is typed, and who may register becomes a customer."""
    words = ("--studio", "s1", "--ca", str(gate.cert), "--url", gate.url.replace("/checkin-validation", PATH))
    (issued,) = gate.json("member", "code", "ada", "--valid", "15m")
    typed = f"{issued['code'][:4]}-{issued['code'][4:]}".lower()
    (said,) = gate.json("sandbox", "enrol", typed, *words)
    assert list(said) == ["desk", "http_status", "ms", "member", "customer_id", "note"]
    assert (said["desk"], said["http_status"], said["note"]) == ("registered", 200, None)
    assert said["member"] == CONTRACT and 0 < said["ms"] < 750
    assert [(row["member"], row["reason"]) for row in listed(gate, 1)] == [("ada", "ok")]
    shown = gate.cli("sandbox", "enrol", "ada", "--key-stdin", *words, input=gate.keys["s1"]).stdout
    assert "The desk sees: registered" in shown and "dateOfBirth: 1952-05-04" in shown
    assert f"ada is customer {said['customer_id']} now" in shown
    refused = gate.json("sandbox", "enrol", "eve", "--key-stdin", *words, input=gate.keys["s1"])[0]
    assert (refused["desk"], refused["http_status"]) == ("not found in partner system", 404)
    assert (refused["member"], refused["customer_id"]) == ({}, None)
    stranger = gate.json("sandbox", "enrol", "ada", "--key-stdin", *words, input="unknown")[0]
    assert (stranger["desk"], stranger["http_status"]) == ("communication error, please try again", 401)
    # What the platform then sends is that customer, with the permanent id.
    tap = ("sandbox", "tap", "ada", "--studio", "s1", "--ca", str(gate.cert), "--url", gate.url, "--key-stdin")
    assert gate.json(*tap, input=gate.keys["s1"])[0]["desk"] == "open"
    assert gate.json("decisions", "--limit", "1")[0]["customer_id"] == said["customer_id"]


def test_in_time_whatever_the_ledger_does(gate: Gate) -> None:
    """503 within the budget; what it records later says that this was not what was sent. Check-ins go on."""
    ledger = ledger_of(gate)
    with Wire(gate) as wire:
        question = request(b'{"aggregatorId": "ada"}', path=PATH, key=gate.keys["s1"])
        assert wire.ask(question).status == 200
        os.kill(ledger, signal.SIGSTOP)
        try:
            began = time.monotonic()
            reply = wire.ask(question)
            took_s = time.monotonic() - began
        finally:
            os.kill(ledger, signal.SIGCONT)
    assert reply.status == 503 and BUDGET_S / 2 < took_s < 0.75
    wait_for(lambda: validate(gate, {"aggregatorId": "ada"}).status == 200, "no more answers", gate)
    with gate.office("viewer") as office:
        items = office.get("/validations", params={"order": "desc", "limit": 5}).json()["items"]
    assert ("undecided", "unavailable") in {(item["outcome"], item["reason"]) for item in items}


def test_what_is_told_of_it(gate: Gate) -> None:
    """Metrics count findings; neither they nor the log have anything personal, nor a code or id that was sent."""
    with gate.office("operator") as office:
        code = office.post("/members/eve/codes", json={}).json()["code"]
    for text in (code, "somebody@example.com"):
        assert validate(gate, {"aggregatorId": text}).status == 404
    with gate.office("viewer") as office:
        metrics = office.get(f"{gate.admin_url}/metrics").text
    assert 'guestgate_validations_total{outcome="denied",reason="membership_suspended"}' in metrics
    assert "guestgate_validation_seconds_bucket" in metrics
    told = metrics + gate.log.read_text("utf-8")
    for secret in ("Lovelace", "ada@example.com", code, "somebody@example.com"):
        assert secret not in told
    assert gate.json("db", "check")[0]["problems"] == []
