"""The audit trail: every change by API or command line is in it with who, before and after, and nothing secret."""

from __future__ import annotations

import getpass
import re
import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from gate import Gate
from office import items, ndjson
from terminal import COMMAND, Terminal

from guestgate import clock

PLANS = """\
[plans.free]
name = "Free"
[plans.once]
name = "Once"
limits = [{ max = 1, per = "day" }]
"""
KEY = "kF3v9Qz7Lr2Xw8Tn4Hb6Yc1Pd5Sg0MjA"
OTHER_KEY = "Zx9Rq2Lm7Vb4Nc8Kd1Wf6Hg3Tj5Ps0Qe"
# Commands that change nothing that is on record, or that others test: each is named, so that a new one is looked at.
CHANGES_NOTHING = {
    "backup", "changes", "check", "decisions", "explain", "init", "list", "probe", "quickstart", "register",
    "restore", "serve", "status", "compact", "export", "traffic", "audit", "show", "statement", "test", "upgrade",
    "enrol", "visits",
}  # fmt: skip
ELSEWHERE = {"copy", "prune", "forget", "code", "reconcile", "activate", "create-customer", "new", "reseal"}


def entries(terminal: Terminal) -> list[dict[str, Any]]:
    """The whole trail."""
    return terminal.json("changes")


# What is run, the action and subject of each entry it leaves, and what differs in the last one.
COMMANDS: list[tuple[tuple[str, ...], str, list[str], Any, Any]] = [
    (("plan", "apply", "plans.toml"), "", ["plan.added free", "plan.added once"], None, {"name": "Once"}),
    (("plan", "apply", "plans.toml"), "", [], None, None),
    (("studio", "add", "s1", "--name", "One", "--timezone", "UTC", "--key-stdin"), KEY,
     ["studio.added s1", "key.added FINGERPRINT"], None, {"studio": "s1", "kind": "checkin"}),
    (("studio", "set", "s1", "--name", "Uno", "--tag", "a"), "", ["studio.changed s1"],
     {"name": "One", "tags": []}, {"name": "Uno", "tags": ["a"]}),
    (("studio", "set", "s1", "--name", "Uno"), "", [], None, None),
    (("studio", "pause", "s1"), "", ["studio.changed s1"], {"active": True}, {"active": False}),
    (("studio", "resume", "s1"), "", ["studio.changed s1"], {"active": False}, {"active": True}),
    (("key", "add", "s1", "--key-stdin", "--kind", "webhook"), OTHER_KEY, ["key.added FINGERPRINT"],
     None, {"studio": "s1", "kind": "webhook"}),
    (("member", "import", "members.csv"), "", ["member.added m2", "member.added m1"],
     None, {"plan": "free", "first_name": "Ada", "customers": [5]}),
    (("member", "import", "members.csv"), "", [], None, None),
    (("member", "set", "m1", "--plan", "once", "--valid-from", "2026-01-01"), "", ["member.changed m1"],
     {"plan": "free", "valid_from": None}, {"plan": "once", "valid_from": "2026-01-01"}),
    (("member", "set", "m1", "--plan", "once"), "", [], None, None),
    (("member", "link", "m1", "77"), "", ["customer.linked m1"], None, {"customer_id": 77}),
    (("member", "unlink", "m1", "77"), "", ["customer.unlinked m1"], {"customer_id": 77}, None),
    (("visit", "import", "visits.csv"), "", ["visit.added UUID"], None, {"member": "m1", "source": "import"}),
    (("visit", "import", "visits.csv"), "", [], None, None),
    (("token", "create", "--role", "viewer", "--name", "bi"), "", ["token.created FINGERPRINT"],
     None, {"name": "bi", "role": "viewer"}),
    (("plan", "apply", "other.toml"), "", ["plan.changed once"],
     {"name": "Once"}, {"name": "Once a day"}),
    (("member", "set", "m1", "--plan", "free"), "", ["member.changed m1"], {"plan": "once"}, {"plan": "free"}),
    (("plan", "remove", "once"), "", ["plan.removed once"], {"name": "Once a day"}, None),
]  # fmt: skip


def plainly(entry: dict[str, Any]) -> str:
    """An entry's action and subject, with a word for what is made anew each time."""
    subject = re.sub(r"^[0-9a-f]{16}$", "FINGERPRINT", entry["subject"])
    subject = re.sub(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", "UUID", subject)
    return f"{entry['action']} {subject}"


def within(part: Any, whole: Any) -> bool:
    """Whether one is the other, or each of its fields is in the other."""
    return part == whole if part is None or whole is None else part.items() <= whole.items()


def test_every_command_that_changes_something(terminal: Terminal) -> None:
    """One after the other; each leaves exactly its entries, and running it again leaves none."""
    terminal.file("plans.toml", PLANS)
    terminal.file("other.toml", PLANS.replace('"Once"', '"Once a day"'))
    terminal.file("members.csv", "member_id,plan,first_name,customer_id\nm2,free,Bea,\nm1,free,Ada,5\n")
    terminal.file("visits.csv", "member_id,studio_id,at\nm1,s1,2026-01-05T10:00:00Z\n")
    seen: list[dict[str, Any]] = []
    tokens = []
    for command, given, wanted, before, after in COMMANDS:
        done = terminal.run(*command, input=given)
        tokens += re.findall(r"ggt_\S+", done.out)
        trail = entries(terminal)
        assert trail[: len(seen)] == seen
        fresh, seen = trail[len(seen) :], trail
        assert sorted(map(plainly, fresh)) == sorted(wanted), command
        for entry in fresh:
            assert entry["who"] == f"cli:{getpass.getuser()}" and entry["at"] <= clock.iso(clock.now())
        if fresh:
            last = next(entry for entry in fresh if plainly(entry) == wanted[-1])
            assert within(before, last["before"]) and within(after, last["after"]), last
    for kind in ("token", "key"):
        for row in terminal.json(kind, "list"):
            terminal.run(kind, "revoke", row["fingerprint"])
            (entry,) = entries(terminal)[len(seen) :]
            seen.append(entry)
            assert (entry["action"], entry["subject"]) == (f"{kind}.revoked", row["fingerprint"])
            assert entry["after"] is None and entry["before"]
    nothing_secret(seen, KEY, OTHER_KEY, *tokens)
    assert len(tokens) == 1
    assert entries_of(terminal, "m1") == [entry for entry in seen if entry["subject"] == "m1"]
    personal = [entry["subject"] for entry in seen if "Ada" in str(entry) or "Bea" in str(entry)]
    assert sorted(personal) == ["m1", "m2"]


def entries_of(terminal: Terminal, subject: str) -> list[dict[str, Any]]:
    """One member's part of it."""
    return terminal.json("changes", "--subject", subject)


def nothing_secret(trail: list[dict[str, Any]], *tokens: str) -> None:
    """No key, no token, no whole hash of one."""
    text = str(trail)
    assert not re.search(r"[0-9a-f]{32,}", text)
    for token in tokens:
        assert token not in text


def test_every_command_is_known_here() -> None:
    """A new command that changes something has to leave an entry, and to be tested here."""
    tested = {command[:2] for command, *_ in COMMANDS} | {("token", "revoke"), ("key", "revoke")}
    tested |= {("visit", "reverse"), ("sandbox", "tap")}  # below
    for noun, group in COMMAND.commands.items():  # type: ignore[attr-defined]
        for verb in getattr(group, "commands", None) or [None]:
            words = (noun, verb) if verb else (noun,)
            assert words in tested or words[-1] in CHANGES_NOTHING | ELSEWHERE, words


def test_commands_that_fail_leave_nothing(terminal: Terminal) -> None:
    """Wrong usage, things that are not there, conflicts, and a dry run."""
    terminal.plans(PLANS)
    terminal.studio("s1")
    terminal.members({"member_id": "m1", "plan": "free"}, {"member_id": "m2", "plan": "free"})
    terminal.run("member", "link", "m1", "5")
    before = entries(terminal)
    terminal.file("members.csv", "member_id,plan\nm9,free\n")
    terminal.run("member", "import", "members.csv", "--dry-run")
    for command in (
        ("member", "set", "m1", "--plan", "gold"),
        ("member", "link", "m2", "5"),
        ("member", "unlink", "m2", "5"),
        ("studio", "add", "s1", "--name", "x", "--timezone", "UTC"),
        ("studio", "pause", "s9"),
        ("plan", "remove", "free"),
        ("key", "revoke", "0123456789abcdef"),
        ("token", "revoke", "0123456789abcdef"),
        ("token", "create", "--role", "viewer", "--expires", "2020-01-01T00:00:00Z"),
    ):
        assert terminal.run(*command, status=None).status in (1, 2), command
    assert entries(terminal) == before


@pytest.fixture(scope="module")
def client(served: Gate) -> Iterator[httpx.Client]:
    """An administrator by name."""
    with served.office(name="head-office") as admin:
        yield admin


def test_every_route_that_changes_something(served: Gate, client: httpx.Client) -> None:
    """The same by API, in the name of the token; what fails or is denied leaves nothing, and neither does asking."""
    key = secrets.token_urlsafe(24)
    at = "2026-01-05T10:00:00Z"
    studio = {"id": "a1", "name": "A", "timezone": "UTC"}
    lines = {"Content-Type": "application/x-ndjson"}
    member = {"plan": "free", "first_name": "Ada", "customers": [90001]}
    steps: list[tuple[str, str, dict[str, Any], list[str]]] = [
        ("POST", "/studios", {"json": studio}, ["studio.added a1"]),
        ("PATCH", "/studios/a1", {"json": {"name": "B"}}, ["studio.changed a1"]),
        ("PATCH", "/studios/a1", {"json": {"name": "B"}}, []),
        ("POST", "/studios", {"json": studio}, []),
        ("POST", "/studios/a1/keys", {"json": {"key": key}}, ["key.added FINGERPRINT"]),
        ("PUT", "/members/m1", {"json": member}, ["customer.linked m1", "member.added m1"]),
        ("PUT", "/members/m1", {"json": member}, []),
        ("PUT", "/members/m1", {"json": member, "headers": {"If-Match": '"stale"'}}, []),
        ("PUT", "/members/m1", {"json": {"plan": "gold"}}, []),
        ("PATCH", "/members/m1", {"json": {"first_name": None}}, ["member.changed m1"]),
        ("PUT", "/members/m1", {"json": {"plan": "free"}}, ["customer.unlinked m1"]),
        ("PATCH", "/members/m2", {"json": {"plan": "free"}}, []),
        ("DELETE", "/members/m2", {}, []),
        ("POST", "/members/bulk", {"content": ndjson({"member_id": "m3", "plan": "free"}, "x"), "headers": lines},
         ["member.added m3"]),
        ("POST", "/members/bulk", {"content": ndjson({"member_id": "m3", "plan": "free"}), "headers": lines}, []),
        ("POST", "/visits", {"json": {"member": "m3", "studio": "a1", "at": at}}, ["visit.added UUID"]),
        ("POST", "/visits", {"json": {"member": "m3", "studio": "a1", "at": at}}, []),
        ("POST", "/explain", {"json": {"member": "m3", "studio": "a1"}}, []),
        ("GET", "/members/m3", {}, []),
    ]  # fmt: skip
    seen = list(items(client, "/changes"))
    with served.office("viewer") as viewer:
        seen = list(items(client, "/changes"))
        for method, path, options, wanted in steps:
            viewer.request(method, path, **options)
            client.request(method, path, **options)
            trail = list(items(client, "/changes", limit=50))
            fresh, seen = trail[len(seen) :], trail
            assert sorted(map(plainly, fresh)) == wanted, (method, path)
            assert {entry["who"] for entry in fresh} <= {"token:head-office"}
    changed = [entry for entry in seen if entry["action"] == "member.changed" and entry["subject"] == "m1"]
    assert (changed[-1]["before"], changed[-1]["after"]) == ({"first_name": "Ada"}, {"first_name": None})
    (fingerprint,) = [
        entry["subject"]
        for entry in seen
        if (entry["after"] or {}).get("studio") == "a1" and "kind" in entry["after"]
    ]
    client.delete(f"/keys/{fingerprint}")
    trail = list(items(client, "/changes"))
    assert [plainly(entry) for entry in trail[len(seen) :]] == ["key.revoked FINGERPRINT"]
    nothing_secret(trail, key, client.headers["authorization"].split()[1])
    assert list(items(client, "/changes", order="desc", limit=3)) == trail[::-1]
    assert [change["subject"] for change in items(client, "/changes", subject="m3")] == ["m3"]
    assert served.json("changes") == trail


def test_corrections_have_a_trail_of_their_own(served: Gate, client: httpx.Client) -> None:
    """Who took a visit back and why, by command and by API: in the statement and in the feed, once each."""
    here = client.get("/events", params={"after": "latest"}).json()["next"]
    made = [served.checkin("free-5").json()["decisionId"] for _ in range(2)]
    served.cli("visit", "reverse", made[0], "--why", "by command")
    client.post(f"/visits/{made[1]}/reverse", json={"why": "by token"})
    served.cli("visit", "reverse", made[1], "--why", "again", status=None)
    told: list[dict[str, Any]] = []
    while part := client.get("/events", params={"after": here, "wait": 5}).json():
        told += [event["data"] for event in part["events"] if event["type"] == "reversal"]
        here = part["next"]
        if len(told) >= 2:
            break
    assert [(one["visit"], one["who"], one["why"]) for one in told] == [
        (made[0], f"cli:{getpass.getuser()}", "by command"),
        (made[1], "token:head-office", "by token"),
    ]


def test_a_tap_leaves_its_key_in_the_trail(served: Gate) -> None:
    """`sandbox tap` makes a key and revokes it; both are told, the key itself is not."""
    before = served.json("changes")
    served.cli("sandbox", "tap", "free-6", "--studio", "s1", "--url", served.url, "--ca", str(served.cert))
    fresh = served.json("changes")[len(before) :]
    assert [entry["action"] for entry in fresh] == ["key.added", "key.revoked"]
    nothing_secret(fresh)
