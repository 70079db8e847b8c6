"""Studios, keys, plans, decisions, visits, explain and statements by API: what they do, and each error."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from gate import Gate, wait_for
from office import items, problem

from guestgate import clock, settings
from guestgate.platform import accounts
from guestgate.platform.secret_keys import SecretKeys, add_to, new_key


@pytest.fixture(scope="module")
def client(served: Gate) -> Iterator[httpx.Client]:
    """An administrator."""
    with served.office(name="head-office") as admin:
        yield admin


def visit(client: httpx.Client, member: str, at: str, studio: str = "s1", status: int = 201) -> dict[str, Any]:
    """Add a visit by hand."""
    answer = client.post("/visits", json={"member": member, "studio": studio, "at": at})
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_studio_and_its_keys(served: Gate, client: httpx.Client) -> None:
    """Added, given a key, used, paused, changed, given another key, and the first one revoked: the door follows."""
    body = {"id": "new/1", "name": "Neu", "timezone": "Europe/Berlin", "tags": ["b", "a"]}
    answer = client.post("/studios", json=body)
    assert answer.status_code == 201
    assert answer.json() == {**body, "tags": ["a", "b"], "active": True, "test": False, "keys": 0}
    assert "new/1" in problem(client.post("/studios", json=body), 409)
    first, second = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    made = client.post("/studios/new%2F1/keys", json={"key": first})
    assert made.status_code == 201 and first not in made.text
    assert (made.json()["kind"], made.json()["state"]) == ("checkin", "valid")
    served.keys["new/1"] = first
    wait_for(lambda: served.checkin("free-1", studio_id="new/1").status_code == 200, "the key never worked", served)
    assert client.patch("/studios/new%2F1", json={"active": False}).json()["active"] is False
    wait_for(lambda: served.checkin("free-1", studio_id="new/1").json()["reason"] == "studio_inactive", "not paused")
    changed = client.patch("/studios/new%2F1", json={"active": True, "tags": [], "timezone": "Asia/Tokyo"}).json()
    assert (changed["tags"], changed["timezone"], changed["name"], changed["keys"]) == ([], "Asia/Tokyo", "Neu", 1)
    ends = clock.iso(clock.now() + timedelta(days=9))
    client.post("/studios/new%2F1/keys", json={"key": second, "expires_at": ends})
    assert client.delete(f"/keys/{made.json()['fingerprint']}").status_code == 204
    problem(client.delete(f"/keys/{made.json()['fingerprint']}"), 404)
    wait_for(lambda: served.checkin("free-1", studio_id="new/1").status_code == 401, "the old key still works")
    keys = client.get("/studios/new%2F1/keys").json()["items"]
    assert [key["state"] for key in keys] == ["revoked", "valid"] and keys[1]["expires_at"] == ends
    assert client.get("/studios/new%2F1").json() == changed
    assert "new/1" in [studio["id"] for studio in items(client, "/studios", limit=1)]
    assert "held by studio new/1" in problem(client.post("/studios/s1/keys", json={"key": second}), 409)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"id": ""}, "id"),
        ({"id": "a\tb"}, "id"),
        ({"name": "  "}, "name"),
        ({"timezone": "Europe/Berln"}, "Europe/Berlin"),
        ({"tags": ["a", ""]}, "tags"),
        ({"tags": "a"}, "tags"),
        ({"test": "yes"}, "test"),
        ({"active": False}, "active"),
    ],
)
def test_a_studio_that_cannot_be(client: httpx.Client, body: dict[str, Any], word: str) -> None:
    """422 names the field."""
    whole = {"id": "wrong", "name": "N", "timezone": "UTC", **body}
    assert word in problem(client.post("/studios", json=whole), 422)
    problem(client.get("/studios/wrong"), 404)


def test_an_open_api_key(served: Gate, client: httpx.Client) -> None:
    """Kept sealed, with its address, and only where there is something to seal it with."""
    key = secrets.token_urlsafe(24)
    body = {"key": key, "kind": "openapi", "tenant": "fitwerk"}
    assert "tenant: an Open API key needs" in problem(
        client.post("/studios/s1/keys", json={**body, "tenant": None}), 422
    )
    assert "guestgate secret new" in problem(client.post("/studios/s1/keys", json=body), 422)
    add_to(served.home / "guestgate.secret", new_key())
    made = client.post("/studios/s1/keys", json=body)
    assert made.status_code == 201 and (made.json()["kind"], made.json()["state"]) == ("openapi", "valid")
    secret_keys = SecretKeys.of(settings.load(served.home / "guestgate.toml"))
    with served.database.read() as connection:
        account = accounts.load(connection, secret_keys, "s1")
    assert (account.key, account.base_url) == (key, "https://fitwerk.open-api.perfectgym.com/v1")
    with served.client() as caller:
        caller.headers["X-API-Key"] = key
        assert caller.post(served.url, json={"aggregatorId": "free-1", "customerId": 1}).status_code == 401
    assert client.delete(f"/keys/{made.json()['fingerprint']}").status_code == 204


def test_what_is_wrong_with_keys_and_changes_of_studios(client: httpx.Client) -> None:
    """404 for studios and keys that are not there, 422 for what is no key, no fingerprint, no instant to come."""
    assert "nowhere" in problem(client.patch("/studios/nowhere", json={"name": "x"}), 404)
    for call in (client.get("/studios/nowhere/keys"), client.post("/studios/nowhere/keys", json={"key": "x" * 20})):
        problem(call, 404)
    problem(client.delete("/keys/0123456789abcdef"), 404)
    for wrong in ("x", "0123", "0123456789ABCDEF"):
        problem(client.delete(f"/keys/{wrong}"), 422)
    for body in ({"key": ""}, {"key": "a b"}, {"key": "x" * 513}, {"key": "ü"}, {"key": "x", "kind": "door"}, {}):
        answer = client.post("/studios/s1/keys", json=body)
        problem(answer, 422)
    for instant in ("2020-01-01T00:00:00Z", "2030-01-01T00:00:00", "soon", 1900000000):
        answer = client.post("/studios/s1/keys", json={"key": secrets.token_urlsafe(), "expires_at": instant})
        assert "expires" in problem(answer, 422)
    problem(client.patch("/studios/s1", json={"active": 0}), 422)


def test_plans(client: httpx.Client) -> None:
    """With rules, version and number of members."""
    plans = {plan["id"]: plan for plan in client.get("/plans").json()["items"]}
    assert set(plans) == {"free", "once"} and plans["once"]["limits"][0]["max"] == 1


def test_decisions(served: Gate, client: httpx.Client) -> None:
    """The check-ins of a member, in both orders, page by page, since when, and each by its id."""
    ids = [served.checkin("once-1").json()["decisionId"] for _ in range(5)]
    wait_for(lambda: client.get(f"/decisions/{ids[-1]}").json()["answer_ms"] is not None, "no answer on record")
    found = list(items(client, "/decisions", member="once-1", limit=2))
    assert [decision["id"] for decision in found] == ids
    assert [decision["reason"] for decision in found] == ["ok", *["limit_reached"] * 4]
    assert found[1]["limit"] == {"max": 1, "per": "day", "scope": "network", "used": 1}
    newest = list(items(client, "/decisions", member="once-1", order="desc", limit=2))
    assert newest == found[::-1]
    later = items(client, "/decisions", member="once-1", since=found[3]["received_at"])
    assert [decision["id"] for decision in later] == ids[3:]
    assert client.get(f"/decisions/{ids[0]}").json() == found[0]
    assert list(items(client, "/decisions", studio="s1", limit=3, member="once-1")) == found
    assert list(items(client, "/decisions", studio="elsewhere")) == []
    problem(client.get("/decisions/nothing"), 404)


def test_a_list_while_more_is_recorded(served: Gate, client: httpx.Client) -> None:
    """Reading on reaches what came meanwhile, and nothing twice."""
    seen, after = [], None
    for _ in range(6):
        served.checkin("free-2")
        part = client.get(
            "/decisions", params={"member": "free-2", "limit": 2, **({"after": after} if after else {})}
        )
        seen += [decision["id"] for decision in part.json()["items"]]
        after = part.json()["next"] or after
    assert len(seen) > 4
    whole = [decision["id"] for decision in items(client, "/decisions", member="free-2")]
    assert list(dict.fromkeys(seen)) == whole[: len(set(seen))]


@pytest.mark.parametrize("path", ["/decisions", "/visits", "/changes"])
def test_parameters_that_cannot_be(client: httpx.Client, path: str) -> None:
    """422 names the parameter."""
    for parameter, value in (
        ("after", "x"), ("after", "-1"), ("after", "9" * 30), ("after", "١"), ("limit", "0"), ("limit", "1001"),
        ("since", "0"), ("since", "1700000000"), ("since", "2026-01-01T00:00:00"), ("since", "yesterday"),
        ("since", "9999-12-31T23:59:59-12:00"), ("order", "up"),
    ):  # fmt: skip
        assert parameter in problem(client.get(path, params={parameter: value}), 422), (parameter, value)


def test_a_visit_by_hand(client: httpx.Client) -> None:
    """201, and 200 for the same member, studio and millisecond; it counts, and can be reversed once."""
    made = visit(client, "once-2", "2026-03-10T23:30:00+00:00")
    assert (made["local_date"], made["source"], made["state"], made["payable"]) == (
        "2026-03-11", "manual", "authorized", True,
    )  # fmt: skip
    assert visit(client, "once-2", "2026-03-11T00:30:00+01:00", status=200) == made
    question = {"member": "once-2", "studio": "s1", "at": "2026-03-11T10:00:00+01:00"}
    assert client.post("/explain", json=question).json()["reason"] == "limit_reached"
    path = f"/visits/{made['id']}"
    reversed_ = client.post(f"{path}/reverse", json={"why": "was somebody else"}).json()
    assert (reversed_["state"], reversed_["reversed_why"], reversed_["payable"]) == (
        "reversed", "was somebody else", False,
    )  # fmt: skip
    assert client.get(path).json() == reversed_
    assert client.post("/explain", json=question).json()["reason"] == "ok"
    assert "was somebody else" in problem(client.post(f"{path}/reverse", json={"why": "again"}), 409)
    problem(client.post("/visits/nothing/reverse", json={"why": "x"}), 404)
    problem(client.get("/visits/nothing"), 404)
    for body in ({}, {"why": ""}, {"why": "a\nb"}, {"why": "x" * 256}):
        problem(client.post(f"{path}/reverse", json=body), 422)


@pytest.mark.parametrize("route", ["/visits", "/explain"])
def test_questions_that_cannot_be(client: httpx.Client, route: str) -> None:
    """Who and where have to be known for a visit; when has to be an instant with offset."""
    good = {"member": "free-3", "studio": "s1", "at": "2026-03-01T10:00:00Z"}
    for wrong in ("2026-03-01T10:00:00", "0", 0, "1969-12-31T00:00:00Z", "9001-01-01T00:00:00Z", "x"):
        assert "at" in problem(client.post(route, json={**good, "at": wrong}), 422)
    assert "nowhere" in problem(client.post(route, json={**good, "studio": "nowhere"}), 404)
    problem(client.post(route, json={**good, "more": 1}), 422)
    problem(client.post(route, json={"member": "free-3"}), 422)
    nobody = client.post(route, json={**good, "member": "nobody"})
    if route == "/visits":
        assert "nobody" in problem(nobody, 404)
        future = clock.iso(clock.now() + timedelta(minutes=1))
        assert "future" in problem(client.post(route, json={**good, "at": future}), 422)
    else:
        assert nobody.json()["reason"] == "unknown_member"


def test_explain_records_nothing(client: httpx.Client) -> None:
    """However often it is asked."""
    before = client.get("/events", params={"after": "latest"}).json()["next"]
    for _ in range(3):
        answer = client.post("/explain", json={"member": "free-3", "studio": "s1"}).json()
        assert answer["decision"] == "allowed" and answer["rules"][0]["rule"] == "studio_inactive"
    assert client.get("/events", params={"after": "latest"}).json()["next"] == before


def test_statements_agree_with_visits(served: Gate, client: httpx.Client) -> None:
    """Totals are the sums of the month's visits, by local date; test studios are left out; corrections are told."""
    for name, timezone in (("st-a", "Europe/Berlin"), ("st-b", "America/New_York")):
        client.post("/studios", json={"id": name, "name": name, "timezone": timezone})
    client.post("/studios", json={"id": "st-t", "name": "t", "timezone": "UTC", "test": True})
    made = [
        visit(client, member, at, studio)
        for member in ("free-4", "once-4")
        for studio in ("st-a", "st-b", "st-t")
        for at in ("2026-01-31T23:30:00Z", "2026-02-01T03:00:00Z", "2026-02-14T10:00:00Z", "2026-02-14T12:00:00Z")
    ]
    one = next(visit for visit in made if visit["studio"] == "st-a" and visit["local_date"] == "2026-02-14")
    client.post(f"/visits/{one['id']}/reverse", json={"why": "not there"})
    for month in ("2026-01", "2026-02"):
        statement = client.get(f"/statements/{month}").json()
        totals = {total["studio"]: total for total in statement["totals"]}
        assert "st-t" not in totals and statement["month"] == month and statement["open"] is False
        for studio in ("st-a", "st-b"):
            found = list(items(client, "/visits", month=month, studio=studio, limit=3))
            kept = [visit for visit in found if visit["state"] != "reversed"]
            wanted = {"visits": len(kept), "payable": sum(visit["payable"] for visit in found)}
            wanted |= {"studio": studio, "reversed": len(found) - len(kept), "adjustments": 0}
            assert totals.get(studio) == (wanted if found else None), (month, studio)
            assert client.get(f"/statements/{month}", params={"studio": studio}).json()["totals"] == (
                [wanted] if found else []
            )
    # Berlin's evening of 31 January is February there already; New York's night of 1 February is still January.
    assert [visit["local_date"] for visit in items(client, "/visits", month="2026-01", member="free-4")] == [
        "2026-01-31", "2026-01-31", "2026-01-31",
    ]  # fmt: skip
    (correction,) = client.get("/statements/2026-02", params={"studio": "st-a"}).json()["corrections"]
    assert (correction["visit"], correction["why"], correction["state"]) == (one["id"], "not there", "reversed")
    assert correction["who"] == "token:head-office"
    told = served.json("statement", "2026-02")[0]
    assert told == client.get("/statements/2026-02").json()


def test_months(client: httpx.Client) -> None:
    """The present one is open; what is no month is 422."""
    assert client.get(f"/statements/{clock.iso(clock.now())[:7]}").json()["open"] is True
    for wrong in ("2026-13", "2026-00", "26-01", "2026-1", "2026-01-01", "２０２６-01"):
        problem(client.get(f"/statements/{wrong}"), 422)
        problem(client.get("/visits", params={"month": wrong}), 422)


def test_a_statement_leaves_corrections_at_test_studios_out(tmp_path: Path) -> None:
    """They are of visits that are in no statement."""
    gate = Gate(tmp_path)
    gate.studio("real")
    gate.studio("trial", test=True)
    gate.plans()
    gate.members("m1,free")
    rows = ("member_id,studio_id,at", "m1,real,2026-01-05T10:00:00Z", "m1,trial,2026-01-06T10:00:00Z")
    gate.cli("visit", "import", "-", input="\n".join(rows) + "\n")
    for visit in gate.json("visits"):
        gate.cli("visit", "reverse", visit["id"], "--why", "a mistake")
    (statement,) = gate.json("statement", "2026-01")
    assert [total["studio"] for total in statement["totals"]] == ["real"]
    assert [correction["studio"] for correction in statement["corrections"]] == ["real"]
