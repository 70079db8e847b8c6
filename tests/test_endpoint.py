"""The public listener as a caller on the wire sees it: statuses, bodies, headers, keys, connections."""

from __future__ import annotations

import hashlib
import itertools
import secrets
import socket
import ssl
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from callers import locked
from gate import PATH, Gate, wait_for
from wire import JSON, Reply, Wire, ask, checkin, request

from guestgate import clock, endpoint, studios
from guestgate.directory import KeyKind

LIMIT = 16 * 1024
OWN_ID = "acme"
OTHER_PATH = "/partners/v2/check-in"
FREE = checkin("free-0")


@pytest.fixture(scope="module")
def keys(served: Gate) -> dict[str, str]:
    """Keys of studio s1 by what became of them, all known to the server."""
    tokens = {name: secrets.token_urlsafe(24) for name in ("later", "revoked", "webhook", "second")}
    options = {"later": ("--expires", in_seconds(3600)), "webhook": ("--kind", "webhook")}
    for name, token in tokens.items():
        (added,) = served.json("key", "add", "s1", "--key-stdin", *options.get(name, ()), input=token)
        if name == "revoked":
            served.cli("key", "revoke", added["fingerprint"])
    wait_for(
        lambda: ask(served, request(FREE, key=tokens["second"])).status == 200, "the second key is unknown", served
    )
    return tokens


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A server with settings of its own: path, company id, 404 for unknown members; some members have customers."""
    gate = Gate(tmp_path_factory.mktemp("other"))
    config = gate.home / "guestgate.toml"
    settings = f'\naggregator_id = "{OWN_ID}"\ncheckin_path = "{OTHER_PATH}"\nunknown_member_status = 404\n'
    config.write_text(config.read_text("utf-8") + settings, "utf-8")
    gate.studio("s1")
    gate.plans()
    rows = ("ada,free,100;101", "bob,free,200", "eve,free,", "one,once,300", "two,once,400", "fay,free,500")
    gate.members(*rows, header="member_id,plan,customer_id")
    gate.start()
    yield gate
    gate.close()


def in_seconds(seconds: int) -> str:
    """An instant in the future, as commands take it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def at(gate: Gate, member: str, customer: int) -> tuple[int, str]:
    """Status and reason that the other server answers a check-in with."""
    reply = ask(gate, request(checkin(member, customer), key=gate.keys["s1"], path=OTHER_PATH))
    return reply.status, reply.json()["reason"]


def recorded(gate: Gate, *replies: Reply) -> list[dict[str, Any]]:
    """What the record says about answered check-ins, once it knows how the answers left."""
    wanted = [reply.json()["decisionId"] for reply in replies]
    found: dict[str, dict[str, Any]] = {}

    def known() -> bool:
        found.update((row["id"], row) for row in gate.json("decisions") if row["http_status"])
        return found.keys() >= set(wanted)

    wait_for(known, "the check-ins are not on record", gate)
    return [found[decision_id] for decision_id in wanted]


def assert_problem(reply: Reply, status: int) -> str:
    """The reply is a problem by RFC 9457 with this status; returns what it says."""
    assert reply.status == status
    assert reply.headers.get_all("content-type") == ["application/problem+json"]
    problem = reply.json()
    assert (problem["type"], problem["status"]) == ("about:blank", status)
    assert problem["title"] and isinstance(problem["title"], str)
    assert problem["detail"] and isinstance(problem["detail"], str)
    return str(problem["detail"])


# The order of the checks

FAULTS = (("path", 404), ("method", 405), ("key", 401), ("content type", 415), ("size", 413), ("body", 400))


@pytest.mark.parametrize("chunks", [None, 1000], ids=["with length", "in chunks"])
def test_of_several_faults_the_first_in_order_is_answered(served: Gate, chunks: int | None) -> None:
    """All 64 combinations of wrong path, method, key, content type, size and body."""
    for wrong in itertools.product((False, True), repeat=len(FAULTS)):
        path, method, key, content_type, size, body = wrong
        content = b"{" if body else FREE
        data = request(
            content + b" " * LIMIT if size else content,
            path="/elsewhere" if path else PATH,
            method="PUT" if method else "POST",
            key="unknown" if key else served.keys["s1"],
            headers=["Content-Type: text/plain" if content_type else JSON],
            chunks=chunks,
        )
        faults = [status for (_, status), there in zip(FAULTS, wrong, strict=True) if there]
        assert ask(served, data).status == (faults[0] if faults else 200), dict(zip(FAULTS, wrong, strict=True))


def test_faulty_calls_are_not_on_record(served: Gate) -> None:
    """What has no valid key, form and body is no check-in."""
    before = len(served.json("decisions"))
    key = served.keys["s1"]
    for data, status in (
        (request(FREE, key=key, path="/elsewhere"), 404),
        (request(FREE, key=key, method="PUT"), 405),
        (request(FREE, key="unknown"), 401),
        (request(FREE, key=key, headers=["Content-Type: text/plain"]), 415),
        (request(FREE + b" " * LIMIT, key=key), 413),
        (request(b"{}", key=key), 400),
    ):
        assert ask(served, data).status == status
    assert len(served.json("decisions")) == before


# 404, paths


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/checkin", "/checkin-validation/x", "/Checkin-Validation", "//checkin-validation", "/healthz/x"),
        *("/checkin-validation.json", "/x/../checkin-validation", "/metrics", "/readyz", "/docs", "/openapi.json"),
        *("/api/v1/members/free-0", "/api/v1/checkin-validation", "/static/", "/?checkin-validation"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_there_is_nothing_at_other_paths(served: Gate, path: str, method: str) -> None:
    """Whatever the method, and never a redirect; nothing of the admin side is here."""
    assert_problem(ask(served, request(FREE, key=served.keys["s1"], path=path, method=method)), 404)


@pytest.mark.parametrize(
    "path", [PATH + "/", PATH + "?", PATH + "?a=1&b=%00", PATH + "/?studio=s2", "https://x" + PATH]
)
def test_slash_and_query_make_no_difference(served: Gate, path: str) -> None:
    """Served alike and at once, without a redirect."""
    assert ask(served, request(FREE, key=served.keys["s1"], path=path)).status == 200


def test_only_the_configured_path_takes_check_ins(other: Gate) -> None:
    """With a path of its own the default one is gone; a slash at its end makes no difference either."""
    key = other.keys["s1"]
    assert ask(other, request(checkin("ada", 100), key=key, path=OTHER_PATH)).status == 200
    assert ask(other, request(checkin("ada", 100), key=key, path=OTHER_PATH + "/")).status == 200
    assert_problem(ask(other, request(checkin("ada", 100), key=key)), 404)


# 405


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "post"])
def test_only_post_is_allowed(served: Gate, method: str) -> None:
    """405 with Allow: POST, and before anybody asks for a key."""
    reply = ask(served, request(b"", key=None, method=method), method)
    assert reply.headers.get_all("allow") == ["POST"]
    if method == "HEAD":
        assert (reply.status, reply.body) == (405, b"")
    else:
        assert_problem(reply, 405)


# 401


def wrong_keys(valid: str) -> dict[str, list[str | bytes]]:
    """Headers that do not identify a studio."""
    return {
        "missing": [],
        "empty": ["X-API-Key:"],
        "white space": ["X-API-Key:   "],
        "unknown": ["X-API-Key: unknown"],
        "begins like a valid one": [f"X-API-Key: {valid[:-1]}"],
        "goes on after a valid one": [f"X-API-Key: {valid}x"],
        "other case": [f"X-API-Key: {valid.swapcase()}"],
        "sent twice": [f"X-API-Key: {valid}", f"X-API-Key: {valid}"],
        "with an unknown one": [f"X-API-Key: {valid}", "X-API-Key: unknown"],
        "after an unknown one": ["X-API-Key: unknown", f"x-api-key: {valid}"],
        "as a list": [f"X-API-Key: {valid}, {valid}"],
        "quoted": [f'X-API-Key: "{valid}"'],
        "not ASCII": [b"X-API-Key: \xe9\xff"],
        "not ASCII, UTF-8": ["X-API-Key: schlüssel".encode()],
        "a valid one and more": [f"X-API-Key: {valid}".encode() + b"\xe9"],
        "long": ["X-API-Key: " + "x" * 20_000],
        "the studio's name": ["X-API-Key: s1"],
        "its fingerprint": [f"X-API-Key: {hashlib.sha256(valid.encode()).hexdigest()[:16]}"],
        "its hash": [f"X-API-Key: {hashlib.sha256(valid.encode()).hexdigest()}"],
        "in another header": [f"Authorization: Bearer {valid}"],
    }


@pytest.mark.parametrize("wrong", wrong_keys(""))
def test_a_call_without_a_valid_key_is_refused(served: Gate, wrong: str) -> None:
    """401, with a hint how to authenticate that holds no key."""
    valid = served.keys["s1"]
    reply = ask(served, request(FREE, key=None, headers=[JSON, *wrong_keys(valid)[wrong]]))
    assert_problem(reply, 401)
    assert len(reply.headers.get_all("www-authenticate", [])) == 1
    assert valid not in reply.body.decode() + str(reply.headers)


def test_a_key_in_the_query_does_not_count(served: Gate) -> None:
    """Addresses end up in logs; keys do not belong there."""
    assert_problem(ask(served, request(FREE, key=None, path=f"{PATH}?X-API-Key={served.keys['s1']}")), 401)


@pytest.mark.parametrize("name", ["revoked", "webhook"])
def test_a_key_that_is_not_in_force_for_check_ins_is_refused(served: Gate, keys: dict[str, str], name: str) -> None:
    """Revoked or meant for something else: as good as unknown."""
    assert_problem(ask(served, request(FREE, key=keys[name])), 401)


def test_several_keys_of_a_studio_are_valid_at_once(served: Gate, keys: dict[str, str]) -> None:
    """The old one, a new one and one that will expire all stand for the same studio."""
    replies = [ask(served, request(FREE, key=key)) for key in (served.keys["s1"], keys["second"], keys["later"])]
    assert [reply.status for reply in replies] == [200, 200, 200]
    assert {row["studio"] for row in recorded(served, *replies)} == {"s1"}


def test_a_key_ends_at_its_instant(served: Gate) -> None:
    """A valid key is refused once it has expired, without anybody doing anything."""
    token = secrets.token_urlsafe(24)
    with served.database.write() as connection:
        studios.add_key(connection, "s1", token, KeyKind.CHECKIN, datetime.now(UTC) + timedelta(seconds=5))
    with Wire(served) as wire:
        data = request(FREE, key=token)
        wait_for(lambda: wire.ask(data).status == 200, "the key was never valid", served)
        wait_for(lambda: wire.ask(data).status == 401, "the key is valid for ever", served)


# 415


@pytest.mark.parametrize(
    "header",
    [
        None,
        "Content-Type: application/json",
        "Content-Type: application/json; charset=utf-8",
        "content-type: application/json;charset=UTF-8",
        "CONTENT-TYPE: APPLICATION/JSON",
        'Content-Type: Application/Json ; Charset="utf-8"; x=y',
        "Content-Type: application/json; charset=iso-8859-1",
    ],
)
def test_json_is_taken_however_it_is_announced(served: Gate, header: str | None) -> None:
    """A missing type is accepted, case does not matter, parameters are ignored."""
    assert ask(served, request(FREE, key=served.keys["s1"], headers=[header] if header else [])).status == 200


@pytest.mark.parametrize(
    "header",
    [
        *("text/plain", "text/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"),
        *("application/problem+json", "application/jsonp", "application/jso", "json", "*/*"),
        *("application/json, text/plain", "text/plain; application/json", "application/\xe9json"),
    ],
)
def test_other_types_are_refused_and_the_error_says_what_to_send(served: Gate, header: str) -> None:
    """The body may be as right as it will."""
    line = f"Content-Type: {header}".encode("latin-1")
    detail = assert_problem(ask(served, request(FREE, key=served.keys["s1"], headers=[line])), 415)
    assert "application/json" in detail


# 413


@pytest.mark.parametrize("chunks", [None, 100, 1000, 20_000], ids=lambda chunks: f"chunks of {chunks}")
def test_a_body_may_have_16_kib_and_no_more(served: Gate, chunks: int | None) -> None:
    """Exactly so many bytes are read, one more is too many, with a length and in chunks."""
    key = served.keys["s1"]
    full = FREE.ljust(LIMIT)
    assert ask(served, request(full, key=key, chunks=chunks)).status == 200
    assert "16384" in assert_problem(ask(served, request(full + b" ", key=key, chunks=chunks)), 413)


def test_a_short_announced_length_does_not_let_a_long_body_in(served: Gate) -> None:
    """With chunks, a Content-Length beside them is either refused or does not count."""
    data = request(FREE + b" " * LIMIT, key=served.keys["s1"], headers=[JSON, "Content-Length: 5"], chunks=1000)
    assert ask(served, data).status in (400, 413)


# 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"m"',
        b"\xff",
        b'\xef\xbb\xbf{"aggregatorId":"free-0","customerId":1}',
        '{"aggregatorId":"free-0","customerId":1}'.encode("utf-16"),
        b'{"aggregatorId":"free-0"}',
        b'{"customerId":1}',
        b'{"aggregatorId":"free-0","customerId":"1"}',
        b'{"aggregatorId":"free-0","customerId":1.0}',
        b'{"aggregatorId":"free-0","customerId":true}',
        b'{"aggregatorId":"free-0","customerId":0}',
        b'{"aggregatorId":"free-0","customerId":9223372036854775808}',
        b'{"aggregatorId":"","customerId":1}',
        b'{"aggregatorId":1,"customerId":1}',
        b'{"aggregatorId":"free-0","customerId":1,"customerId":1}',
        b'{"aggregatorId":"free-0","customerId":NaN}',
        rb'{"aggregatorId":"free-0\u0000","customerId":1}',
        rb'{"aggregatorId":"\ud800","customerId":1}',
        b'{"aggregatorId":"free-0","customerId":%b}' % (b"9" * 16_000),
        b"[" * 8_000 + b"]" * 8_000,
    ],
    ids=lambda body: repr(body[:48]),
)
def test_a_bad_body_is_refused(served: Gate, body: bytes) -> None:
    """400 with a sentence; the connection stays usable."""
    with Wire(served) as wire:
        assert_problem(wire.ask(request(body, key=served.keys["s1"])), 400)
        assert wire.ask(request(FREE, key=served.keys["s1"])).status == 200


def test_the_largest_customer_and_long_names_are_taken(served: Gate) -> None:
    """The edges of what is good are good on the wire too, and come out of the record as they went in."""
    reply = ask(served, request(checkin("😀" * 255, 2**63 - 1), key=served.keys["s1"]))
    assert (reply.status, reply.json()["reason"]) == (403, "unknown_member")
    (row,) = recorded(served, reply)
    assert (row["aggregator_id"], row["customer_id"], row["member"]) == ("😀" * 255, 2**63 - 1, None)


@pytest.mark.parametrize(
    ("member", "ending"),
    [("free-4", b"zz\r\n"), ("free-5", b"5\r\nab"), ("free-6", b"-1\r\n\r\n"), ("free-7", b"")],
    ids=["no chunk", "half a chunk", "a negative chunk", "nothing"],
)
def test_a_broken_off_body_is_no_check_in(served: Gate, member: str, ending: bytes) -> None:
    """A message that is not complete does not count, though what came of it looks like a whole body."""
    data = request(checkin(member), key=served.keys["s1"], chunks=100).removesuffix(b"0\r\n\r\n")
    with Wire(served) as wire:
        wire.send(data + ending)
        close_writing(wire)
        reply = wire.reply()
    assert reply is None or reply.status in (400, 408)
    assert served.json("decisions", "--member", member) == []


def test_a_broken_off_body_with_a_length_is_no_check_in(served: Gate) -> None:
    """The same where the length was announced: the rest could have been anything."""
    data = request(checkin("free-9").ljust(100), key=served.keys["s1"])
    with Wire(served) as wire:
        wire.send(data.rstrip())
        close_writing(wire)
        reply = wire.reply()
    assert reply is None or reply.status in (400, 408)
    assert served.json("decisions", "--member", "free-9") == []


def close_writing(wire: Wire) -> None:
    """Tell the server that nothing more will come, and go on listening."""
    with socket.socket(fileno=socket.dup(wire.socket.fileno())) as same:
        same.shutdown(socket.SHUT_WR)


# Answers


def said_by(decision_id: str) -> datetime:
    """The instant that a UUIDv7 says."""
    return clock.from_ms(uuid.UUID(decision_id).int >> 80)


def test_ids_say_when_also_after_a_clock_was_put_back() -> None:
    """And two of one millisecond are two."""
    now = clock.from_ms(clock.now_ms())
    for instant in (now + timedelta(days=400), now, now, now - timedelta(days=400)):
        first, second = endpoint._id_of(instant), endpoint._id_of(instant)
        assert said_by(first) == said_by(second) == instant
        assert first != second and uuid.UUID(first).version == 7


def test_allowed_and_denied_have_the_same_form(served: Gate) -> None:
    """Exactly decision, reason and decisionId, as JSON; the id is the record's."""
    data = request(checkin("once-1"), key=served.keys["s1"])
    replies = ask(served, data), ask(served, data)
    expected = ((200, "allowed", "ok"), (403, "denied", "limit_reached"))
    for reply, row, (status, decision, reason) in zip(replies, recorded(served, *replies), expected, strict=True):
        assert reply.status == status
        assert str(reply.headers["content-type"]).partition(";")[0] == "application/json"
        content = reply.json()
        assert set(content) == {"decision", "reason", "decisionId"}
        assert (content["decision"], content["reason"]) == (decision, reason)
        assert str(uuid.UUID(content["decisionId"])) == content["decisionId"]
        assert said_by(content["decisionId"]) == datetime.fromisoformat(row["received_at"])
        assert (row["decision"], row["reason"], row["http_status"]) == (decision, reason, status)
        assert (row["member"], row["studio"], row["customer_id"]) == ("once-1", "s1", 1)


def test_an_unknown_member_is_denied(served: Gate) -> None:
    """403 unless set otherwise; so is the company's id where none is set."""
    for member in ("nobody", "<your-id>", "FREE-0", " free-0", "free-0 "):
        reply = ask(served, request(checkin(member), key=served.keys["s1"]))
        assert (reply.status, reply.json()["decision"], reply.json()["reason"]) == (403, "denied", "unknown_member")


def test_an_unknown_member_is_404_where_so_set(other: Gate) -> None:
    """Only the status differs: it is a decision like any other, in form and on record."""
    reply = ask(other, request(checkin("nobody", 999), key=other.keys["s1"], path=OTHER_PATH))
    assert reply.status == 404
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json()) == {"decision", "reason", "decisionId"}
    assert (reply.json()["decision"], reply.json()["reason"]) == ("denied", "unknown_member")
    (row,) = recorded(other, reply)
    assert row["http_status"] == 404


def test_other_denials_stay_403_where_unknown_is_404(other: Gate) -> None:
    """404 says that somebody is not known, nothing else."""
    assert at(other, "one", 300) == (200, "ok")
    assert at(other, "one", 300) == (403, "limit_reached")


def test_every_error_is_a_problem(served: Gate) -> None:
    """RFC 9457: type, title, status and detail, and never what was sent."""
    key = served.keys["s1"]
    secret = b"hunter2-secret"
    for status, data in {
        404: request(secret, key=key, path=f"/{secret.decode()}"),
        405: request(secret, key=key, method="PUT"),
        401: request(secret, key=secret),
        415: request(secret, key=key, headers=["Content-Type: text/" + secret.decode()]),
        413: request(secret * 2000, key=key),
        400: request(secret, key=key),
        408: request(secret, key=key).replace(b"Content-Length: 14", b"Content-Length: 15"),
    }.items():
        reply = ask(served, data)
        assert_problem(reply, status)
        assert secret.decode() not in reply.body.decode() + str(reply.headers)


# /healthz


@pytest.mark.parametrize("path", ["/healthz", "/healthz/", "/healthz?x=1"])
def test_health_needs_no_key_and_tells_nothing(served: Gate, path: str) -> None:
    """200 while the process serves, without a word about what it serves."""
    reply = ask(served, request(b"", key=None, method="GET", path=path, headers=()), "GET")
    assert reply.status == 200
    told = (reply.body.decode() + str(reply.headers)).lower()
    for secret in (served.keys["s1"], "s1", "free", str(served.home), "sqlite", "granian", "python", PATH):
        assert secret.lower() not in told


def test_health_is_only_read(served: Gate) -> None:
    """HEAD has no body; other methods are told which ones there are."""
    head = ask(served, request(b"", key=None, method="HEAD", path="/healthz"), "HEAD")
    assert (head.status, head.body) == (200, b"")
    reply = ask(served, request(FREE, key=served.keys["s1"], path="/healthz"))
    assert_problem(reply, 405)
    assert "GET" in str(reply.headers["allow"])


# Two readings of aggregatorId, and customers


def test_the_companys_own_id_means_the_member_linked_to_the_customer(other: Gate) -> None:
    """Each of a member's customers leads to that member."""
    customers = {100: "ada", 101: "ada", 200: "bob"}
    key = other.keys["s1"]
    replies = [ask(other, request(checkin(OWN_ID, customer), key=key, path=OTHER_PATH)) for customer in customers]
    assert [(reply.status, reply.json()["reason"]) for reply in replies] == [(200, "ok")] * 3
    rows = recorded(other, *replies)
    assert {row["customer_id"]: row["member"] for row in rows} == customers
    assert {row["aggregator_id"] for row in rows} == {OWN_ID}


def test_the_companys_own_id_with_a_customer_of_nobody_is_unknown(other: Gate) -> None:
    """Without a link there is nobody to answer for."""
    assert at(other, OWN_ID, 999) == (404, "unknown_member")


def test_other_ids_are_members_ids_all_the_same(other: Gate) -> None:
    """With a company id set both readings work side by side; only exactly that id is the company's."""
    assert at(other, "ada", 100) == (200, "ok")
    assert at(other, "eve", 998) == (200, "ok")
    assert at(other, OWN_ID.upper(), 100) == (404, "unknown_member")


def test_both_readings_are_one_member_with_one_limit(other: Gate) -> None:
    """A visit through one reading counts in the other."""
    assert at(other, "two", 400) == (200, "ok")
    assert at(other, OWN_ID, 400) == (403, "limit_reached")


def test_a_customer_of_another_member_is_an_identity_conflict(other: Gate) -> None:
    """403; but a member nobody knows is unknown first."""
    assert at(other, "ada", 200) == (403, "identity_conflict")
    assert at(other, "eve", 100) == (403, "identity_conflict")
    assert at(other, "nobody", 100) == (404, "unknown_member")
    assert at(other, "ada", 101) == (200, "ok")


def test_a_check_in_never_creates_a_link(other: Gate) -> None:
    """A customer that came with one member is still nobody's afterwards."""
    customer = 777
    assert at(other, "eve", customer) == (200, "ok")
    assert at(other, "bob", customer) == (200, "ok")
    assert at(other, OWN_ID, customer) == (404, "unknown_member")
    (eve,) = other.json("member", "show", "eve")
    assert str(customer) not in str(eve)


def test_links_made_and_ended_are_seen_at_once(other: Gate) -> None:
    """The very next check-in follows the operator's word."""
    assert at(other, OWN_ID, 501) == (404, "unknown_member")
    other.cli("member", "link", "fay", "501")
    assert at(other, OWN_ID, 501) == (200, "ok")
    assert at(other, "ada", 501) == (403, "identity_conflict")
    other.cli("member", "unlink", "fay", "501")
    assert at(other, OWN_ID, 501) == (404, "unknown_member")
    assert at(other, "ada", 501) == (200, "ok")


# Connections


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_body_in_chunks_is_a_body(served: Gate, size: int) -> None:
    """However it is cut; chunk extensions do no harm."""
    key = served.keys["s1"]
    assert ask(served, request(FREE, key=key, chunks=size)).status == 200
    extended = request(FREE, key=key, chunks=size).replace(b"\r\n0\r\n\r\n", b"\r\n0;a=b\r\n\r\n")
    assert ask(served, extended).status == 200


def test_one_connection_serves_many_calls(served: Gate) -> None:
    """Good and bad ones in turn; a small refused body does not cost the connection."""
    key = served.keys["s1"]
    calls = [
        (request(FREE, key=key), 200),
        (request(b"{}", key=key), 400),
        (request(FREE, key="unknown"), 401),
        (request(FREE, key=None), 401),
        (request(checkin("nobody"), key=key), 403),
        (request(FREE, key=key, path="/elsewhere"), 404),
        (request(FREE, key=key, method="PUT"), 405),
        (request(FREE, key=key, headers=["Content-Type: text/plain"]), 415),
        (request(FREE, key=key, chunks=5), 200),
        (request(FREE, key="unknown", chunks=5), 401),
    ]
    with Wire(served) as wire:
        for _ in range(20):
            assert [wire.ask(data).status for data, _ in calls] == [status for _, status in calls]


def test_calls_sent_at_once_are_answered_in_turn(served: Gate) -> None:
    """Pipelining: every request has its answer, in the order of the requests."""
    key = served.keys["s1"]
    calls = [
        (request(checkin("once-2"), key=key), 200),
        (request(checkin("once-2"), key=key), 403),
        (request(FREE, key="unknown"), 401),
        (request(b"{}", key=key), 400),
        (request(FREE, key=key, path="/elsewhere"), 404),
        (request(FREE, key=key, chunks=3), 200),
    ]
    with Wire(served) as wire:
        wire.send(b"".join(data for data, _ in calls))
        for _, status in calls:
            reply = wire.reply()
            assert reply is not None
            assert reply.status == status


def test_connection_close_is_honoured(served: Gate) -> None:
    """Who asks for the end of the connection gets the answer and the end."""
    with Wire(served) as wire:
        assert wire.ask(request(FREE, key=served.keys["s1"], headers=[JSON, "Connection: close"])).status == 200
        assert wire.reply() is None


@pytest.mark.parametrize(("valid", "status"), [(True, 200), (False, 401)])
def test_a_caller_may_wait_to_be_told_to_go_on(served: Gate, valid: bool, status: int) -> None:
    """Expect: 100-continue is answered, with 100 or with the final status."""
    key = served.keys["s1"] if valid else "unknown"
    data = request(FREE, key=key, headers=[JSON, "Expect: 100-continue"])
    with Wire(served) as wire:
        wire.send(data.removesuffix(FREE))
        reply = wire.reply()
        assert reply is not None
        if reply.status == 100:
            reply = wire.ask(FREE)
        assert reply.status == status


@pytest.mark.parametrize("lines", [["X-Large: " + "x" * 65_536], [f"X-{n}: {'x' * 600}" for n in range(100)]])
def test_too_large_a_header_ends_that_connection_only(served: Gate, lines: list[str]) -> None:
    """4xx or the end; a caller who was there before goes on."""
    key = served.keys["s1"]
    with Wire(served) as before:
        assert before.ask(request(FREE, key=key)).status == 200
        with Wire(served) as wire:
            with suppress(ConnectionError, ssl.SSLEOFError):  # it need not read all of that
                wire.send(request(FREE, key=key, headers=[JSON, *lines]))
            reply = wire.reply()
            assert reply is None or 400 <= reply.status < 500
        assert before.ask(request(FREE, key=key)).status == 200
    assert ask(served, request(FREE, key=key)).status == 200


def test_the_end_of_a_late_body_is_not_taken_for_a_request(served: Gate) -> None:
    """After a 408 the rest of the body is thrown away or the connection closed."""
    body = request(checkin("free-8"), key=served.keys["s1"])  # a body that looks like a check-in
    with Wire(served) as wire:
        data = request(body, key=served.keys["s1"])
        assert wire.ask(data.removesuffix(body)).status == 408
        late = [wire.ask(body + request(FREE, key=served.keys["s1"], path="/elsewhere"))] if still_open(wire) else []
        assert [reply.status for reply in late] in ([], [404])
    assert served.json("decisions", "--member", "free-8") == []


def still_open(wire: Wire) -> bool:
    """Whether the server has not closed the connection, as far as one can see."""
    wire.socket.settimeout(0.2)
    try:
        return wire.socket.recv(1) != b""
    except TimeoutError:
        return True
    except (ConnectionError, ssl.SSLError):
        return False
    finally:
        wire.socket.settimeout(10)


# Transport


def test_plain_http_is_not_served(served: Gate) -> None:
    """Who does not speak TLS gets no HTTP, not even an error or a redirect."""
    with socket.create_connection(("localhost", served.port), timeout=10) as connection:
        connection.sendall(request(FREE, key=served.keys["s1"]))
        answer = b""
        try:
            while chunk := connection.recv(4096):
                answer += chunk
        except ConnectionError:
            pass
    assert b"HTTP" not in answer


def tls(gate: Gate, version: ssl.TLSVersion) -> ssl.SSLContext:
    """A client that speaks one version of TLS and nothing else, old ones included."""
    context = gate.tls()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_of_today_is_spoken(served: Gate, version: ssl.TLSVersion) -> None:
    """1.2, which is what the platform asks for at least, and 1.3."""
    with Wire(served, context=tls(served, version)) as wire:
        assert wire.socket.version() == version.name.replace("_", ".")
        assert wire.ask(request(FREE, key=served.keys["s1"])).status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_tls_of_yesterday_is_refused(served: Gate, version: ssl.TLSVersion) -> None:
    """The refusal is the server's: an alert."""
    with pytest.raises(ssl.SSLError) as caught:
        Wire(served, context=tls(served, version))
    assert "ALERT" in str(caught.value.reason)


# Time


def test_a_locked_database_is_a_503_in_time(served: Gate) -> None:
    """Undecided within the budget, and on record as such once that can be written again."""
    data = request(checkin("once-3"), key=served.keys["s1"])
    with locked(served.database, "once-3"):
        replies = [ask(served, data) for _ in range(3)]
    for reply in replies:
        assert reply.status == 503
        assert reply.headers["content-type"] == "application/json"
        assert set(reply.json()) == {"decision", "reason", "decisionId"}
        assert (reply.json()["decision"], reply.json()["reason"]) == ("undecided", "unavailable")
    rows = recorded(served, *replies)
    for row in rows:
        assert (row["decision"], row["reason"], row["http_status"]) == ("undecided", "unavailable", 503)
        assert row["visit"] is None
    assert min(row["answer_ms"] for row in rows) <= 400  # one of them undisturbed by what else the machine does
    assert ask(served, data).status == 200  # those calls have used up nothing


def test_a_lock_of_a_moment_is_waited_for(served: Gate) -> None:
    """The answer comes late and right, rather than early and undecided."""
    replies: list[Reply] = []
    caller = threading.Thread(
        target=lambda: replies.append(ask(served, request(checkin("once-4"), key=served.keys["s1"])))
    )
    with locked(served.database, "once-4"):
        caller.start()
        caller.join(0.1)
    caller.join()
    assert [reply.status for reply in replies] == [200]


def test_a_caller_who_hangs_up_has_used_up_nothing(served: Gate) -> None:
    """The decision is made and recorded all the same, but as undelivered, and the visit is taken back."""
    data = request(checkin("once-5"), key=served.keys["s1"])
    with locked(served.database, "once-5"):
        with Wire(served) as wire:
            wire.send(data)
            time.sleep(0.1)
        time.sleep(0.1)  # the server sees that nobody waits any more, while the database keeps it waiting
    wait_for(lambda: served.json("visits", "--member", "once-5"), "there was no visit", served)
    wait_for(
        lambda: [row["state"] for row in served.json("visits", "--member", "once-5")] == ["reversed"],
        "the visit still counts",
        served,
    )
    (row,) = served.json("decisions", "--member", "once-5")
    assert (row["decision"], row["http_status"], row["undelivered"]) == ("allowed", None, True)
    assert ask(served, data).status == 200
