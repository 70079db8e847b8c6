"""`/api/v1/members`: whole and partial changes, ETags, ids of every kind, lists, and each error."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from gate import Gate
from office import items, problem

IDS = [
    "a/b", "/", "//x/", "a b", "100%", "%2F", "Jürgen", "会員", "a+b", "a?b#c", "a&b=c", "keys", "bulk", "x/keys",
    "a;b", "'\"", "👋", "x" * 255,
]  # fmt: skip
WHOLE = {
    "plan": "free",
    "status": "suspended",
    "valid_from": "2026-01-01",
    "valid_until": "2026-12-31",
    "cycle_anchor": "2026-01-15",
    "first_name": "Ada",
    "email": "ada@example.com",
}
BARE = {"status": "active", "valid_from": None, "valid_until": None, "cycle_anchor": None, "customers": []}


@pytest.fixture(scope="module")
def client(served: Gate) -> Iterator[httpx.Client]:
    """An operator."""
    with served.office("operator", name="back-office") as operator:
        yield operator


def path(member_id: str) -> str:
    """Where a member is."""
    return f"/members/{quote(member_id, safe='')}"


def put(client: httpx.Client, member_id: str, **fields: Any) -> httpx.Response:
    """Add or replace a member."""
    answer = client.put(path(member_id), json={"plan": "free", **fields})
    assert answer.status_code in (200, 201), answer.text
    return answer


@pytest.mark.parametrize("member_id", IDS)
def test_any_id_that_a_file_can_have(served: Gate, client: httpx.Client, member_id: str) -> None:
    """Slashes, spaces, percent signs and words of our own paths: written, read, changed, listed, and let in."""
    answer = put(client, member_id, first_name="Ada")
    assert answer.json() == {"member_id": member_id, "plan": "free", **BARE, "first_name": "Ada"}
    assert client.get(path(member_id)).json() == answer.json()
    assert client.patch(path(member_id), json={"status": "suspended"}).json()["status"] == "suspended"
    assert client.patch(path(member_id), json={"status": None}).json()["status"] == "active"
    assert member_id in {member["member_id"] for member in items(client, "/members", limit=7)}
    assert served.checkin(member_id).status_code == 200


@pytest.mark.parametrize("member_id", ["", " x", "x ", "a\x00b", "a\nb", "x" * 256])
def test_an_id_that_cannot_be(client: httpx.Client, member_id: str) -> None:
    """Nothing is added; what cannot exist is not found either."""
    answer = client.put(path(member_id), json={"plan": "free"})
    problem(answer, 404 if "\n" in member_id else 422)  # no path has a line break
    assert client.get(path(member_id)).status_code in (404, 422)


@pytest.mark.parametrize("query", ["/members?plan=", "/decisions?member=", "/visits?studio=", "/changes?subject="])
def test_a_search_for_what_cannot_be(client: httpx.Client, query: str) -> None:
    """No stored text has a NUL character, and no database is asked for one."""
    assert "NUL" in problem(client.get(f"{query}a%00b"), 422)


def test_put_is_whole(client: httpx.Client) -> None:
    """201 for a new member, 200 afterwards; what is left out is gone, customers as well."""
    answer = client.put("/members/whole", json={**WHOLE, "customers": [70001, 70002]})
    assert answer.status_code == 201
    assert answer.json() == {"member_id": "whole", **WHOLE, "customers": [70001, 70002]}
    again = client.put("/members/whole", json={**WHOLE, "customers": [70002, 70001, 70001]})
    assert again.status_code == 200 and again.json() == answer.json()
    assert again.headers["etag"] == answer.headers["etag"] == client.get("/members/whole").headers["etag"]
    smaller = client.put("/members/whole", json={"plan": "once", "customers": [70003]})
    assert smaller.json() == {"member_id": "whole", "plan": "once", **BARE, "customers": [70003]}
    assert smaller.headers["etag"] != answer.headers["etag"]
    assert client.put("/members/whole", json={"plan": "once", "first_name": None}).json()["customers"] == []


def test_patch_is_a_merge(client: httpx.Client) -> None:
    """What is left out stays, null takes away (RFC 7396), customers are exactly those given."""
    put(client, "merge", **{**WHOLE, "customers": [71001]})
    one = client.patch("/members/merge", json={"status": "cancelled"})
    assert one.json() == {"member_id": "merge", **WHOLE, "status": "cancelled", "customers": [71001]}
    nulls = {"valid_from": None, "valid_until": None, "cycle_anchor": None, "status": None}
    two = client.patch("/members/merge", json={**nulls, "first_name": None, "email": ""})
    assert two.json() == {"member_id": "merge", "plan": "free", **BARE, "customers": [71001]}
    assert client.patch("/members/merge", json={"customers": [71002, 71003]}).json()["customers"] == [71002, 71003]
    assert client.patch("/members/merge", json={"customers": None}).json()["customers"] == []
    assert client.patch("/members/merge", json={}).json() == client.get("/members/merge").json()
    merge_patch = {"Content-Type": "application/merge-patch+json; charset=utf-8"}
    answer = client.patch("/members/merge", content=b'{"plan": "once"}', headers=merge_patch)
    assert answer.json()["plan"] == "once"


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"plan": "gold"}, "gold"),
        ({"plan": None}, "plan"),
        ({"plan": ""}, "plan"),
        ({"plan": 5}, "plan"),
        ({"status": "paused"}, "status"),
        ({"status": True}, "status"),
        ({"valid_from": "2026-02-30"}, "valid_from"),
        ({"valid_from": "23.11.2026"}, "valid_from"),
        ({"valid_from": 0}, "valid_from"),
        ({"valid_from": "0"}, "valid_from"),
        ({"valid_from": "2026-01-02", "valid_until": "2026-01-01"}, "valid_until"),
        ({"date_of_birth": "yesterday"}, "date_of_birth"),
        ({"gender": "X"}, "gender"),
        ({"country": "Germany"}, "country"),
        ({"first_name": "=HYPERLINK()"}, "first_name"),
        ({"last_name": "x" * 256}, "last_name"),
        ({"city": ["Berlin"]}, "city"),
        ({"city": "a\tb"}, "city"),
        ({"customers": [0]}, "customers"),
        ({"customers": [2**63]}, "customers"),
        ({"customers": ["5"]}, "customers"),
        ({"customers": [1.0]}, "customers"),
        ({"customers": 5}, "customers"),
        ({"customers": list(range(1, 102))}, "customers"),
        ({"customer_id": 5}, "customer_id"),
        ({"member_id": "other"}, "member_id"),
        ({"nickname": "x"}, "nickname"),
    ],
)
def test_a_field_that_cannot_be(client: httpx.Client, fields: dict[str, Any], word: str) -> None:
    """422 names the field; neither PUT nor PATCH changes anything."""
    put(client, "careful", first_name="Ada")
    before = client.get("/members/careful").json()
    assert word in problem(client.patch("/members/careful", json=fields), 422)
    assert word in problem(client.put("/members/careful", json={"plan": "free", **fields}), 422)
    assert client.get("/members/careful").json() == before
    problem(client.put("/members/careful-new", json={"plan": "free", **fields}), 422)
    problem(client.get("/members/careful-new"), 404)


def test_errors_do_not_repeat_what_was_sent(client: httpx.Client) -> None:
    """It may be personal: neither the sentence nor the list of errors has it."""
    secret = "Wolfeschlegelsteinhausenbergerdorff"
    for fields in ({"last_name": [secret]}, {"valid_from": secret + "0"}, {"customers": [secret]}):
        answer = client.put("/members/x", json={"plan": "free", **fields})
        problem(answer, 422)
        assert secret not in answer.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 400),
        (b"\xff", 400),
        (b'{"plan": "\xff"}', 400),
        (b'{"plan": "free", "plan": "once"}', 400),
        (b'{"plan": "free", "customers": [NaN]}', 400),
        (b'{"plan": "free", "city": "\\ud800"}', 400),
        (b'{"plan": "free", "\\ud800": 1}', 400),
        (b'{"plan": "free", "city": "\\u0000"}', 400),
        (b"[" * 100_000, 400),
        (b'{"plan": "free", "customers": [' + b"9" * 5000 + b"]}", 422),
        (b"[]", 422),
        (b"null", 422),
        (b'"free"', 422),
    ],
)
def test_a_body_that_is_no_member(client: httpx.Client, body: bytes, status: int) -> None:
    """400 where it is not JSON, 422 where it is something else."""
    headers = {"Content-Type": "application/json"}
    for method in ("PUT", "PATCH"):
        problem(client.request(method, "/members/free-9", content=body, headers=headers), status)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/x-ndjson"}, 415),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "Application/JSON;charset=UTF-8", "Content-Encoding": "identity"}, 200),
        ({}, 200),
    ],
)
def test_content_types(client: httpx.Client, headers: dict[str, str], status: int) -> None:
    """JSON and nothing else, as it is; a missing content type is taken for JSON, as at the door."""
    answer = client.put("/members/free-9", content=b'{"plan": "free"}', headers=headers)
    assert answer.status_code == status, answer.text
    if status != 200:
        problem(answer, status)


def test_who_is_not_there(client: httpx.Client) -> None:
    """404 for reading, changing and forgetting; PUT adds."""
    for method in ("GET", "PATCH", "DELETE"):
        answer = client.request(method, "/members/nobody", **({"json": {}} if method == "PATCH" else {}))
        assert "nobody" in problem(answer, 404)


def test_customers_of_somebody_else(client: httpx.Client) -> None:
    """409 names whose it is, and nothing of the call is done."""
    put(client, "owner", customers=[72001])
    put(client, "other", customers=[72002], city="Kiel")
    for method in ("PUT", "PATCH"):
        body = {"plan": "once", "city": "Bonn", "customers": [72003, 72001]}
        assert "owner" in problem(client.request(method, "/members/other", json=body), 409)
    assert client.get("/members/other").json() == {
        "member_id": "other", "plan": "free", **BARE, "customers": [72002], "city": "Kiel",
    }  # fmt: skip
    assert [member["member_id"] for member in items(client, "/members", customer=72001)] == ["owner"]
    assert list(items(client, "/members", customer=72003)) == []


def test_if_match(client: httpx.Client) -> None:
    """The present ETag, one in a list and * go through; others are 412 and change nothing."""
    etag = put(client, "match").headers["etag"]
    stale = '"0123456789abcdef"'
    for method in ("PUT", "PATCH", "DELETE"):
        options = {} if method == "DELETE" else {"json": {"plan": "once"}}
        for wrong in (stale, f'{stale}, "x"', f"W/{etag}", etag.strip('"'), ""):
            answer = client.request(method, "/members/match", headers={"If-Match": wrong}, **options)
            problem(answer, 412)
    assert client.get("/members/match").json()["plan"] == "free"
    for right in (f"{stale}, {etag}", "*", etag):
        etag = client.get("/members/match").headers["etag"] if right == "*" else etag
        answer = client.patch("/members/match", json={}, headers={"If-Match": right})
        assert answer.status_code == 200, (right, answer.text)
    for wanted in ("*", etag):
        problem(client.put("/members/match-new", json={"plan": "free"}, headers={"If-Match": wanted}), 412)
    problem(client.get("/members/match-new"), 404)


def test_etags_see_everything(client: httpx.Client) -> None:
    """Whatever is changed, by whatever way, makes another ETag; the same state has the same one."""
    first = put(client, "tagged", customers=[73001], city="Kiel").headers["etag"]
    seen = {first}
    for change in ({"customers": [73002]}, {"city": None}, {"status": "suspended"}, {"valid_until": "2030-01-01"}):
        seen.add(client.patch("/members/tagged", json=change).headers["etag"])
    assert len(seen) == 5
    line = json.dumps({"member_id": "tagged", "email": "t@example.com"}).encode()
    client.post("/members/bulk", content=line, headers={"Content-Type": "application/x-ndjson"})
    assert client.get("/members/tagged").headers["etag"] not in seen
    assert put(client, "tagged", customers=[73001], city="Kiel").headers["etag"] == first


def test_no_update_is_lost(served: Gate, client: httpx.Client) -> None:
    """Writers that read, change and write with If-Match, all at once: every change is there in the end."""
    put(client, "counted", house_number="0")
    writers, rounds = 6, 5
    refused: list[int] = []

    def write() -> None:
        with served.office("operator") as own:
            done = 0
            while done < rounds:
                read = own.get("/members/counted")
                number = int(read.json()["house_number"])
                answer = own.patch(
                    "/members/counted",
                    json={"house_number": str(number + 1)},
                    headers={"If-Match": read.headers["etag"]},
                )
                done += answer.status_code == 200
                refused.extend([answer.status_code] if answer.status_code != 200 else [])

    threads = [threading.Thread(target=write) for _ in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert client.get("/members/counted").json()["house_number"] == str(writers * rounds)
    assert set(refused) == {412}


def test_paging_while_others_write(client: httpx.Client) -> None:
    """Each member that was there all the time is seen once, in order, whatever comes and goes meanwhile."""
    lines = [{"member_id": f"page-{number:03}", "plan": "once"} for number in range(0, 100, 2)]
    body = "\n".join(map(json.dumps, lines))
    client.post("/members/bulk", content=body, headers={"Content-Type": "application/x-ndjson"})
    seen, after = [], "page-"
    while after is not None:
        part = client.get("/members", params={"after": after, "limit": 7}).json()
        assert len(part["items"]) <= 7
        seen += [member["member_id"] for member in part["items"]]
        last = seen[-1]
        put(client, f"{last}-behind")
        put(client, "page-!before")
        after = part["next"]
    assert seen == sorted(set(seen))
    assert [line["member_id"] for line in lines] == [name for name in seen if name in {x["member_id"] for x in lines}]


def test_what_a_list_shows(client: httpx.Client) -> None:
    """No customers and no personal data; filters by plan, state and customer."""
    put(client, "listed", status="suspended", email="l@example.com", customers=[74001])
    (found,) = items(client, "/members", customer=74001)
    bare = {name: value for name, value in BARE.items() if name != "customers"}
    assert found == {"member_id": "listed", "plan": "free", **bare, "status": "suspended"}
    assert found in list(items(client, "/members", plan="free", status="suspended", limit=3))
    assert all(member["status"] == "suspended" for member in items(client, "/members", status="suspended"))
    assert {member["plan"] for member in items(client, "/members", plan="once", limit=1000)} == {"once"}
    problem(client.get("/members", params={"plan": "gold"}), 404)
    for parameter, value in (("status", "x"), ("customer", "x"), ("customer", 2**63), ("limit", 0), ("limit", 1001)):
        assert parameter in problem(client.get("/members", params={parameter: value}), 422)
    problem(client.get("/members", params={"after": "x" * 256}), 422)
    assert client.get("/members", params={"after": "\U0010ffff"}).json() == {"items": [], "next": None}


def test_a_change_is_in_force_at_once(served: Gate, client: httpx.Client) -> None:
    """The door reads members for each check-in: the next tap after the answer sees the change."""
    put(client, "tap")
    for status, code in (("suspended", 403), ("active", 200), ("cancelled", 403)):
        client.patch("/members/tap", json={"status": status})
        assert served.checkin("tap").status_code == code
