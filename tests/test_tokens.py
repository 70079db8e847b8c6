"""Tokens by command line, and what the logs keep to themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256

import httpx
import pytest
from callers import everything
from gate import Gate, wait_for
from office import ndjson, problem
from terminal import Terminal

from guestgate import clock
from guestgate.fingerprints import fingerprint, sha256_of


def test_a_token_from_its_making_to_its_end(terminal: Terminal) -> None:
    """Printed once, listed by fingerprint, revoked once; afterwards only ``--all`` lists it."""
    (made,) = terminal.json("token", "create", "--role", "operator", "--name", "back-office")
    assert list(made) == ["token"] and re.fullmatch(r"ggt_[\w-]{43}", made["token"])
    assert terminal.run("token", "create", "--role", "viewer").out.strip() != made["token"]
    rows = terminal.json("token", "list")
    assert [(row["name"], row["role"], row["state"]) for row in rows] == [
        ("back-office", "operator", "valid"), ("", "viewer", "valid"),
    ]  # fmt: skip
    assert made["token"] not in terminal.run("token", "list", "--all").out
    first = rows[0]["fingerprint"]
    assert terminal.json("token", "revoke", first.upper()[:10]) == [
        {"fingerprint": first.upper()[:10], "revoked": True}
    ]
    assert "in force" in terminal.complaint("token", "revoke", first, status=1)
    assert [row["fingerprint"] for row in terminal.json("token", "list")] == [rows[1]["fingerprint"]]
    states = {row["fingerprint"]: row["state"] for row in terminal.json("token", "list", "--all")}
    assert states[first] == "revoked" and len(states) == 2


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "--role"),
        (("--role", "root"), "root"),
        (("--role", "viewer", "--expires", "2020-01-01T00:00:00Z"), "past"),
        (("--role", "viewer", "--expires", "2030-01-01"), "offset"),
        (("--role", "viewer", "--name", "a\tb"), "--name"),
        (("--role", "viewer", "--name", "x" * 201), "--name"),
    ],
)
def test_a_token_that_cannot_be(terminal: Terminal, arguments: tuple[str, ...], word: str) -> None:
    """2, one sentence, and no token."""
    assert word in terminal.complaint("token", "create", *arguments)
    assert terminal.json("token", "list", "--all") == []


def test_what_is_no_fingerprint(terminal: Terminal) -> None:
    """A token itself, too few digits, nothing of the kind."""
    (made,) = terminal.json("token", "create", "--role", "admin")
    for wrong in (made["token"], "0123", "xyz", ""):
        assert "fingerprint" in terminal.complaint("token", "revoke", wrong)


@pytest.fixture(scope="module")
def telling(new_gate: Callable[[], Gate]) -> Gate:
    """A server that logs all it can."""
    gate = new_gate()
    config = gate.home / "guestgate.toml"
    config.write_text(f'log_level = "debug"\n{config.read_text("utf-8")}', "utf-8")
    gate.studio()
    gate.plans()
    gate.start()
    return gate


def test_only_the_hash_is_kept(telling: Gate) -> None:
    """Neither token nor key stands in any file or table, and an expired token ends by itself."""
    token = telling.json("token", "create", "--role", "admin")[0]["token"]
    ends = clock.now() + timedelta(seconds=3)
    brief = telling.token("viewer", expires_at=ends)
    with httpx.Client(base_url=f"{telling.admin_url}/api/v1") as client:
        assert client.get("/plans", headers={"Authorization": f"Bearer {token}"}).status_code == 200

        def ended() -> bool:
            answer = client.get("/plans", headers={"Authorization": f"Bearer {brief}"})
            if answer.status_code == 401:
                problem(answer, 401)
            return answer.status_code == 401 and clock.now() >= ends

        wait_for(ended, "the token never expired")
    states = {row["fingerprint"]: row["state"] for row in telling.json("token", "list", "--all")}
    assert states[fingerprint(sha256_of(brief))] == "expired"
    files = {path: path.read_bytes() for path in [*telling.home.rglob("*"), telling.log] if path.is_file()}
    recorded = {name: repr(rows).encode() for name, rows in everything(telling.database).items()}
    assert sha256(token.encode()).hexdigest().encode() in recorded["tokens"]
    for place, content in [*files.items(), *recorded.items()]:
        for secret in (token, brief, telling.keys["s1"]):
            assert secret.encode() not in content, place


def test_the_log_tells_answers_and_no_secrets(telling: Gate) -> None:
    """At level debug every answer is there with its decision's id; no key, token, name or address ever is."""
    secrets = {
        "first_name": "Wolfeschlegel", "last_name": "Steinhausen", "email": "wolfe@example.com",
        "street": "Bergerdorffallee", "phone_private": "+49 30 5550123",
    }  # fmt: skip
    with telling.office("admin") as office:
        token = office.headers["authorization"].split()[1]
        assert office.put("/members/m1", json={"plan": "free", **secrets}).status_code == 201
        problem(office.put("/members/m2", json={"plan": "free", "valid_from": secrets["last_name"]}), 422)
        office.post(
            "/members/bulk",
            content=ndjson({"member_id": "m3", "plan": "gold", **secrets}, b"{" + secrets["email"].encode()),
            headers={"Content-Type": "application/x-ndjson"},
        )
        office.get("/members/nobody", headers={"Authorization": f"Bearer {token}x"})
    with telling.client() as door:
        ids = [
            door.post(telling.url, json={"aggregatorId": member, "customerId": 987_654_321}).json()["decisionId"]
            for member in ("m1", "m1", secrets["email"])
        ]
        door.post(telling.url, content=json.dumps(secrets), headers={"X-API-Key": secrets["email"]})
        door.post(telling.url, content=json.dumps(secrets))
    assert telling.stop() == 0
    lines = [json.loads(line) for line in telling.log.read_text("utf-8").splitlines()]
    answered = [line for line in lines if line["event"] == "answered"]
    assert [line["decision"] for line in answered] == ids
    assert [(line["outcome"], line["reason"]) for line in answered] == [
        ("allowed", "ok"), ("allowed", "ok"), ("denied", "unknown_member"),
    ]  # fmt: skip
    assert all(line["http_status"] in (200, 403) and line["answer_ms"] > 0 for line in answered)
    text = telling.log.read_text("utf-8")
    for secret in (token, telling.keys["s1"], "987654321", *secrets.values()):
        assert secret not in text
    assert not re.search(r"[0-9a-f]{40,}", text)
