"""Many members at once, from strangers' hands: each hostile line is told, by API and by file, in bounded memory."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from gate import Gate, wait_for
from office import API, admin_pid, items, ndjson, peak_kib, problem
from sqlalchemy import delete

from guestgate import schema

HEADERS = {"Content-Type": "application/x-ndjson"}
MIB = 1024 * 1024
GROWTH_KIB = 60 * 1024
LONG_LINE = 100 * MIB
MANY_LINES = 300_000

# Each with words of what is said about it; None: it is a good one.
LINES: list[tuple[Any, str | None]] = [
    ({"member_id": "first", "plan": "free"}, None),
    (b"", None),
    (b'{"member_id": "x", "plan": "free", "city": "\xff\xfe"}', "UTF-8"),
    (b"\xff\xfe{\x00", "UTF-8"),
    (b"{", "JSON"),
    (b"not json", "JSON"),
    (b"[" * 50_000, "JSON"),
    (b'{"member_id": ' + b'{"a":' * 10_000, "JSON"),
    (b'{"member_id": "x", "plan": "free", "customers": ' + b"[" * 900 + b"]" * 900 + b"}", "customer_id"),
    (b'{"member_id": "x", "plan": "free", "customers": [NaN]}', "NaN"),
    (b'{"member_id": "x", "member_id": "y", "plan": "free"}', "twice"),
    ([], "object"),
    ("text", "object"),
    (None, "object"),
    ({"member_id": "x"}, "plan"),
    ({"plan": "free"}, "member_id"),
    ({"member_id": "x", "plan": "gold"}, "gold"),
    ({"member_id": "x", "plan": "free", "nickname": "x"}, "nickname"),
    ({"member_id": "x", "plan": "free", "valid_from": 20260101}, "valid_from"),
    ({"member_id": "x", "plan": "free", "customers": list(range(1, 102))}, "101"),
    ({"member_id": "x", "plan": "free", "customer_id": "1;x"}, "customer_id"),
    ({"member_id": "x", "plan": "free", "first_name": "=cmd|' /C calc'!A0"}, "formula"),
    ({"member_id": "x", "plan": "free", "last_name": "@SUM(1)"}, "formula"),
    ({"member_id": "x", "plan": "free", "city": "+1"}, "formula"),
    ({"member_id": "second", "plan": "free", "phone_private": "+49 30 1234"}, None),
    (b'{"member_id": "x", "plan": "free", "city": "' + b"y" * 70_000 + b'"}', "longer"),
    (b"x" * 200_000, "longer"),
    ({"member_id": "first", "plan": "once", "customers": [81]}, None),
    ({"member_id": "second", "customers": [81]}, "first"),
    (b"   ", None),
    ({"member_id": "third/3", "plan": "free", "first_name": "Jürgen"}, None),
]
GOOD = ["first", "second", "third/3"]


def text_of(lines: list[tuple[Any, str | None]], end: bytes = b"\n") -> bytes:
    """The lines as they are sent."""
    return ndjson(*(line for line, _ in lines)).replace(b"\n", end)


def check(report: dict[str, Any]) -> None:
    """Every bad line is reported where it stands, in order and in few words; the good ones are stored."""
    wanted = [(number, words) for number, (_, words) in enumerate(LINES, start=1) if words is not None]
    assert [bad["line"] for bad in report["bad"]] == [number for number, _ in wanted]
    for bad, (_, words) in zip(report["bad"], wanted, strict=True):
        assert words in bad["error"] and len(bad["error"]) < 300, bad


@pytest.fixture(scope="module")
def serving(new_gate: Callable[[], Gate]) -> Gate:
    """An installation with plans."""
    gate = new_gate()
    gate.plans()
    gate.start()
    return gate


@pytest.fixture
def gate(serving: Gate) -> Gate:
    """The same without a member."""
    with serving.database.write() as connection:
        connection.execute(delete(schema.customers))
        connection.execute(delete(schema.members))
    return serving


@pytest.fixture
def client(gate: Gate) -> Iterator[httpx.Client]:
    """An operator."""
    with gate.office("operator") as operator:
        yield operator


def bulk(client: httpx.Client, content: Any, **headers: str) -> dict[str, Any]:
    """Send lines; returns the report."""
    answer = client.post("/members/bulk", content=content, headers={**HEADERS, **headers}, timeout=120)
    assert answer.status_code == 200, answer.text
    report: dict[str, Any] = answer.json()
    return report


def numbers(report: dict[str, Any]) -> tuple[int, int, int, int]:
    """Added, updated, unchanged, bad."""
    return report["added"], report["updated"], report["unchanged"], len(report["bad"])


def members(client: httpx.Client) -> list[str]:
    """Who is there."""
    return [member["member_id"] for member in items(client, "/members", limit=1000)]


def test_hostile_lines(gate: Gate, client: httpx.Client) -> None:
    """The report is right for whatever end of lines and way of sending, and the same lines again change nothing."""
    bad = sum(words is not None for _, words in LINES)
    whole = text_of(LINES)
    check(report := bulk(client, whole))
    assert numbers(report) == (3, 1, 0, bad)
    assert members(client) == GOOD
    changes = list(items(client, "/changes"))
    again = [
        bulk(client, text_of(LINES, b"\r\n")),
        bulk(client, whole.removesuffix(b"\n")),
        bulk(client, b"\xef\xbb\xbf" + whole),
        bulk(client, (whole[at : at + 777] for at in range(0, len(whole), 777))),
        bulk(client, (bytes([byte]) for byte in whole[:300])),
    ]
    for report in again[:4]:
        check(report)
    # The first line of `first` sets another plan than the second one does: two updates a time, and nothing else.
    assert [numbers(report) for report in again[:4]] == [(0, 2, 2, bad)] * 4
    assert members(client) == GOOD
    assert client.get("/members/first").json()["customers"] == [81]
    later = [change for change in items(client, "/changes") if change not in changes]
    assert {(change["subject"], *change["after"]) for change in later} == {("first", "plan")}
    assert '"a request failed"' not in gate.log.read_text("utf-8")


def test_hostile_lines_from_a_file(gate: Gate, client: httpx.Client) -> None:
    """`guestgate member import` says of the same lines the same, with the file's name, and exits with 1."""
    file = gate.folder / "hostile.ndjson"
    file.write_bytes(text_of(LINES))
    done = gate.cli("member", "import", str(file), "--json", status=1)
    check(json.loads(done.stdout))
    told = re.findall(rf"^{re.escape(str(file))}:(\d+): ", done.stderr, re.MULTILINE)
    assert list(map(int, told)) == [number for number, (_, words) in enumerate(LINES, start=1) if words]
    assert members(client) == GOOD


def test_hostile_cells(gate: Gate, client: httpx.Client) -> None:
    """And so with CSV: wrong encodings, formulas, cells that are missing, a line of 100 MB."""
    rows: list[tuple[bytes, str | None]] = [
        (b"member_id,plan,first_name,customer_id", None),
        (b"first,free,Ada,", None),
        (b"x,free,\xff\xfe,", "UTF-8"),
        (b"x,free,=1+1,", "formula"),
        (b'x,free,"=HYPERLINK(""http://x"")",', "formula"),
        (b"x,free", "cells"),
        (b"x,free,a,b,c", "cells"),
        (b"x,free,Ada," + b";".join(b"%d" % n for n in range(1, 102)), "101"),
        (b"x,free," + b"y" * LONG_LINE, "longer"),
        (b"x\x00y,free,,", "member_id"),
        (b"x,gold,,", "gold"),
        ("second,free,Jürgen,5;6".encode(), None),
    ]
    file = gate.folder / "hostile.csv"
    file.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(row for row, _ in rows))
    report = json.loads(gate.cli("member", "import", str(file), "--json", status=1).stdout)
    wanted = [(number, words) for number, (_, words) in enumerate(rows, start=1) if words]
    assert [bad["line"] for bad in report["bad"]] == [number for number, _ in wanted]
    for bad, (_, words) in zip(report["bad"], wanted, strict=True):
        assert words in bad["error"] and len(bad["error"]) < 300, bad
    assert members(client) == ["first", "second"]
    assert client.get("/members/second").json()["customers"] == [5, 6]


@pytest.mark.embedded  # such lines are refused as they come, before any database is asked
def test_memory_is_bounded(gate: Gate, client: httpx.Client) -> None:
    """A line of 100 MB and 300,000 small bad ones: each is told, and the process hardly grows."""
    pid = admin_pid(gate)
    bulk(client, ndjson({"member_id": "first", "plan": "free"}))
    before = peak_kib(pid)

    def long_line() -> Iterator[bytes]:
        yield b'{"member_id": "long", "plan": "free", "city": "'
        for _ in range(LONG_LINE // MIB):
            yield b"y" * MIB
        yield b'"}\n'
        yield ndjson({"member_id": "second", "plan": "free"})

    report = bulk(client, long_line())
    assert numbers(report) == (1, 0, 0, 1) and report["bad"][0]["line"] == 1
    assert peak_kib(pid) - before < GROWTH_KIB

    block = b"\xff\n" * 1000
    with client.stream(
        "POST", "/members/bulk", content=(block for _ in range(MANY_LINES // 1000)), headers=HEADERS, timeout=120
    ) as answer:
        text = b"".join(answer.iter_bytes())
    report = json.loads(text)
    assert numbers(report) == (0, 0, 0, MANY_LINES)
    assert [bad["line"] for bad in report["bad"]] == list(range(1, MANY_LINES + 1))
    assert peak_kib(pid) - before < GROWTH_KIB
    assert admin_pid(gate) == pid


def test_many_customers_hold_nobody_up(gate: Gate, client: httpx.Client) -> None:
    """The most that rows can ask for: a thousand of them with a hundred customers each. Both are stored."""
    rows = [
        {"member_id": f"m{number}", "plan": "free", "customers": list(range(number * 100 + 1, number * 100 + 101))}
        for number in range(1000)
    ]
    assert numbers(bulk(client, ndjson(*rows))) == (1000, 0, 0, 0)
    assert len(client.get("/members/m999").json()["customers"]) == 100


@pytest.mark.parametrize("way", ["close", "half-close"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_half_a_body(gate: Gate, client: httpx.Client, way: str, chunked: bool) -> None:
    """What came before the caller hung up is stored, half a line is not; whoever still listens is told."""
    whole, half = (
        ndjson({"member_id": "one", "plan": "free"}, {"member_id": "two", "plan": "free"}),
        b'{"member_id": "th',
    )
    head = f"POST {API}/members/bulk HTTP/1.1\r\nHost: x\r\nAuthorization: {client.headers['authorization']}\r\n"
    if chunked:
        head += "Transfer-Encoding: chunked\r\n\r\n"
        body = b"%x\r\n%b\r\n" % (len(whole + half), whole + half)
    else:
        head += "Content-Length: 5000\r\n\r\n"
        body = whole + half
    with socket.create_connection(("127.0.0.1", gate.admin_port), timeout=20) as stream:
        stream.sendall(head.encode() + body)
        if way == "half-close":
            stream.shutdown(socket.SHUT_WR)
            answer = stream.recv(65536)
            assert b"broken off" in answer and answer.startswith(b"HTTP/1.1 400 "), answer
    wait_for(lambda: members(client) == ["one", "two"], "what came is not stored", gate)
    assert '"a request failed"' not in gate.log.read_text("utf-8")
    # Sent again as a whole it goes on from there.
    report = bulk(client, whole + ndjson({"member_id": "three", "plan": "free"}))
    assert numbers(report) == (1, 0, 2, 0)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json"},
        {"Content-Type": "text/csv"},
        {"Content-Encoding": "gzip"},
        {"Content-Encoding": "br"},
    ],
)
def test_what_is_not_read(gate: Gate, client: httpx.Client, headers: dict[str, str]) -> None:
    """Other types and compressed bodies are refused, not read as lines."""
    answer = client.post("/members/bulk", content=b"{}\n", headers={**HEADERS, **headers})
    assert next(iter(headers)) in problem(answer, 415)


def test_no_lines_at_all(gate: Gate, client: httpx.Client) -> None:
    """Nothing, a line break, a byte order mark: nothing to do, and nothing wrong."""
    for body in (b"", b"\n", b"\r\n\n", b"\xef\xbb\xbf"):
        assert numbers(bulk(client, body)) == (0, 0, 0, 0), body
