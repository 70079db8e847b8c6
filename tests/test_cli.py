"""The command line as a whole: exit statuses, sentences, help, JSON, and each command without a file of its own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import queue
import re
import secrets
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from callers import everything
from gate import Gate, environment, free_port, wait_for
from past import uuid7
from sqlalchemy import insert, update
from terminal import COMMAND, Done, Terminal

from guestgate import clock, database, registration, schema, sequence, settings
from guestgate.cli.sandbox import temporary_key
from guestgate.errors import UsageError
from guestgate.sandbox.door import Desk, Door, Tap
from guestgate.self_signed import make_certificate

PLANS = """\
[plans.free]
name = "Free"
reentry_minutes = 0
[plans.once]
name = "Once a day"
reentry_minutes = 0
limits = [{ max = 1, per = "day" }]
"""
DECISION = [
    "id", "received_at", "studio", "member", "aggregator_id", "customer_id", "decision", "reason", "limit",
    "next_allowed_at", "visit", "http_status", "answer_ms", "undelivered", "stand_in", "plan", "plan_version",
]  # fmt: skip
VISIT = [
    "id", "member", "studio", "at", "local_date", "state", "reversed_why", "decision", "source", "payable", "plan",
    "plan_version",
]  # fmt: skip
EXPLAIN = ["decision", "reason", "limit", "next_allowed_at", "rules"]
REASONS = [
    "studio_inactive", "unknown_member", "identity_conflict", "membership_not_started", "membership_expired",
    "membership_suspended", "membership_cancelled", "studio_not_in_plan", "reentry", "outside_hours", "too_soon",
    "limit_reached",
]  # fmt: skip
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
STRONG = "kF3v9Qz7Lr2Xw8Tn4Hb6Yc1Pd5Sg0MjA"
# The command ends before it asks a database anything, wherever that is.
nothing_is_looked_up = pytest.mark.embedded


@pytest.fixture
def desk(terminal: Terminal) -> Terminal:
    """Studios s1 and s2, plans free and once, members free and once."""
    terminal.plans(PLANS)
    terminal.studio("s1")
    terminal.studio("s2", timezone="America/New_York")
    terminal.members(*({"member_id": plan, "plan": plan} for plan in ("free", "once")))
    return terminal


class Running:
    """Commands inside this process, with the configuration of the shared server; and taps on it."""

    def __init__(self, terminal: Terminal, gate: Gate) -> None:
        """Its folder is not the current one."""
        self._terminal = terminal
        self.gate = gate
        self._config = ("--config", str(gate.home / "guestgate.toml"))

    def run(self, *arguments: str, **options: Any) -> Done:
        """One command."""
        return self._terminal.run(*arguments, *self._config, **options)

    def json(self, *arguments: str, **options: Any) -> list[Any]:
        """The objects that a command prints with --json."""
        return self.run(*arguments, "--json", **options).objects

    def tap(self, member: str, *options: str, input: str = "") -> dict[str, Any]:
        """One tap, with what the desk would see."""
        seen: dict[str, Any]
        (seen,) = self.json(*self.tapping(member, *options), input=input)
        assert list(seen) == ["desk", "http_status", "ms", "reason", "note"]
        return seen

    def tapping(self, member: str, *options: str) -> tuple[str, ...]:
        """The command for a tap at studio s1."""
        given = () if "--url" in options else ("--url", self.gate.url)
        trusted = () if "--ca" in options else ("--ca", str(self.gate.cert))
        return ("sandbox", "tap", member, "--studio", "s1", *given, *trusted, *options)

    def all_keys(self) -> list[Any]:
        """All keys that there ever were; not when they were used, which is told a while later."""
        return [{**key, "last_used_at": None} for key in self.json("key", "list", "--all")]


@pytest.fixture
def running(terminal: Terminal, served: Gate) -> Running:
    """The shared server, with commands inside this process."""
    return Running(terminal, served)


def fingerprint(token: str) -> str:
    """What a key is called."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


def visit(desk: Terminal, member: str, at: str, studio: str = "s1") -> None:
    """A visit brought along from an earlier system."""
    desk.run("visit", "import", "-", input=f"member_id,studio_id,at\n{member},{studio},{at}\n")


def decided(desk: Terminal, *ages: timedelta, aggregator_id: str = "free", **different: Any) -> None:
    """Decisions on record, made so long ago."""
    now = clock.now()
    with desk.writing() as connection:
        for age in ages:
            values = {
                "seq": sequence.take(connection, 1)[0],
                "id": uuid7(now - age, secrets.randbits(40)),
                "received_at_ms": clock.to_ms(now - age),
                "studio_id": "s1",
                "member_id": "free",
                "aggregator_id": aggregator_id,
                "customer_id": 1,
                "outcome": "denied",
                "reason": "outside_hours",
                "plan_id": "free",
                "plan_version": 1,
                "stand_in": False,
                "key_fingerprint": "0" * 16,
            }
            connection.execute(insert(schema.decisions).values({**values, **different}))


# Exit statuses and sentences.


@nothing_is_looked_up
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bogus",), "bogus"),
        (("member", "bogus"), "bogus"),
        (("member", "list", "--bogus"), "--bogus"),
        (("member", "show"), "ID"),
        (("member", "show", "m1", "m2"), "m2"),
        (("explain", "m1"), "--studio"),
        (("studio", "add", "s9"), "--name"),
        (("studio", "add", "s9", "--name", "x"), "--timezone"),
        (("visit", "reverse", "v1"), "--why"),
        (("key", "add", "s1", "--kind", "door", "--key-stdin"), "--kind"),
        (("member", "set", "m1", "--status", "paused"), "--status"),
        (("decisions", "--limit", "0"), "--limit"),
        (("decisions", "--limit", "many"), "--limit"),
        (("visits", "--limit", "-1"), "--limit"),
        (("decisions", "--since", "yesterday"), "--since"),
        (("quickstart", "--for", "0"), "--for"),
        (("quickstart", "--for", "soon"), "--for"),
        (("serve", "--port", "http"), "--port"),
        (("sandbox", "tap", "m1", "--studio", "s1", "--customer", "0"), "--customer"),
        (("member", "list", "--config", "nowhere.toml"), "nowhere.toml"),
        (("init", ".", "--config", "guestgate.toml"), "--config"),
        (("register",), "--url"),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(arguments: tuple[str, ...], words: str, desk: Terminal) -> None:
    """It names what is wrong."""
    assert words in desk.complaint(*arguments, status=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("member", "show", "nobody"), "nobody"),
        (("explain", "free", "--studio", "nowhere"), "nowhere"),
        (("explain", "free", "--studio", "s11"), "did you mean s1"),
        (("key", "list", "--studio", "nowhere"), "nowhere"),
        (("plan", "remove", "nothing"), "nothing"),
        (("visit", "reverse", "nothing", "--why", "x"), "nothing"),
        (("studio", "pause", "nowhere"), "nowhere"),
        (("sandbox", "tap", "free", "--studio", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_status_1(
    arguments: tuple[str, ...], words: str, desk: Terminal
) -> None:
    """It names what there is none of."""
    assert words in desk.complaint(*arguments, status=1)


@nothing_is_looked_up
@pytest.mark.parametrize(
    "group", [(), ("member",), ("studio",), ("key",), ("plan",), ("visit",), ("sandbox",), ("db",)]
)
def test_a_group_without_a_command_shows_its_help(group: tuple[str, ...], terminal: Terminal) -> None:
    """And no sentence without words."""
    done = terminal.run(*group, status=None)
    assert "Usage: guestgate" in done.out + done.err
    assert not [line for line in done.err.splitlines() if line.startswith("guestgate:  ")]


@nothing_is_looked_up
def test_the_version_can_be_asked_for(terminal: Terminal) -> None:
    """For a report of a fault."""
    from importlib.metadata import version

    assert version("guestgate") in terminal.run("--version").out


def test_real_processes_end_with_0_1_or_2(home: Gate) -> None:
    """Answers on standard output, one sentence on standard error, no traceback."""
    done = home.cli("member", "list")
    assert done.stderr == "" and "no members" in done.stdout
    for arguments, status in ((("member", "show", "nobody"), 1), (("member", "show"), 2)):
        done = home.cli(*arguments, status=status)
        assert done.stdout == ""
        assert done.stderr.startswith("guestgate: ") and done.stderr.count("\n") == 1
    done = home.cli("member", "import", "-", input="member_id,plan\nm1,gold\n", status=1)
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough_is_no_fault(desk: Terminal) -> None:
    """`guestgate member list --json | head -1`."""
    desk.members(*({"member_id": f"m{number:05}", "plan": "free"} for number in range(5000)))
    command = [sys.executable, "-m", "guestgate", "member", "list", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline())["member_id"] == "free"
        process.stdout.close()
        assert (process.wait(timeout=30), process.stderr.read()) == (0, b"")


@pytest.mark.parametrize("argument", ["member", "studio"])
def test_arguments_that_are_not_utf8_are_unknown(argument: str, desk: Terminal) -> None:
    """Never a traceback."""
    member, studio = ("\udcff", "s1") if argument == "member" else ("free", "\udcff")
    for command in (
        ("explain", member, "--studio", studio),
        ("decisions", "--member", member, "--studio", studio),
        ("visits", "--member", member, "--studio", studio),
        ("sandbox", "tap", member, "--studio", studio, "--url", f"https://localhost:{free_port()}/"),
    ):
        assert desk.run(*command, status=None).status in (0, 1, 2)


def test_nothing_is_named_by_what_is_not_utf8(desk: Terminal) -> None:
    """Rather than by something that only looks like it: an old terminal's "Köln" is refused."""
    odd = "K\udcf6ln"
    for arguments in (
        ("init", "other", "--aggregator-id", odd),
        ("studio", "add", odd, "--name", "x", "--timezone", "UTC"),
        ("studio", "add", "s9", "--name", odd, "--timezone", "UTC"),
        ("studio", "set", "s1", "--tag", odd),
        ("member", "set", odd, "--plan", "free"),
    ):
        assert desk.complaint(*arguments)
    assert not Path("other").exists()
    assert len(desk.json("studio", "list")) == len(desk.json("member", "list")) == 2


# The database.


@pytest.mark.embedded
def test_a_missing_database_is_told_with_what_to_do(desk: Terminal) -> None:
    """And none is created."""
    (desk.home / "guestgate.db").unlink()
    sentence = desk.complaint("member", "list")
    assert str(desk.home / "guestgate.db") in sentence and "guestgate init" in sentence
    assert not (desk.home / "guestgate.db").exists()


@pytest.mark.parametrize(
    "command", [("member", "list"), ("db", "check"), ("db", "upgrade"), ("studio", "pause", "s1")]
)
def test_a_database_of_a_newer_version_is_left_alone(command: tuple[str, ...], desk: Terminal) -> None:
    """Also by an upgrade."""
    with desk.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'zzzz'")
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("UPDATE cluster SET oldest_user = 'zzzz'")
    sentence = desk.complaint(*command, status=2)
    assert "newer" in sentence and "zzzz" in sentence


def test_a_database_of_an_older_version_is_told_with_what_to_do(desk: Terminal) -> None:
    """As soon as there is a second schema."""
    later = [*database.schema_versions(), "9999"]
    desk.monkeypatch.setattr(database, "schema_versions", lambda: later)
    sentence = desk.complaint("member", "list")
    assert "older" in sentence and "guestgate db upgrade" in sentence


@pytest.mark.embedded
@pytest.mark.parametrize("command", [("member", "list"), ("db", "upgrade")])
def test_a_file_that_is_no_database_is_refused(command: tuple[str, ...], desk: Terminal) -> None:
    """A text of a kilobyte under that name; it stays as it is."""
    text = b"not a database\n" * 100
    desk.file("guestgate.db", text)
    assert str(desk.home / "guestgate.db") in desk.complaint(*command)
    assert Path("guestgate.db").read_bytes() == text


@pytest.mark.embedded
def test_a_database_of_another_program_is_left_alone(desk: Terminal) -> None:
    """To the last byte."""
    Path("guestgate.db").unlink()
    with sqlite3.connect("guestgate.db") as connection:
        connection.execute("CREATE TABLE orders (id INTEGER)")
    connection.close()
    before = Path("guestgate.db").read_bytes()
    assert "not a guestgate database" in desk.complaint("member", "list")
    assert Path("guestgate.db").read_bytes() == before


@pytest.mark.embedded
def test_an_empty_database_is_refused(desk: Terminal) -> None:
    """What a failed copy leaves."""
    desk.file("guestgate.db", "")
    assert "not a guestgate database" in desk.complaint("member", "list")


@pytest.mark.embedded
def test_a_folder_is_no_database(desk: Terminal) -> None:
    """`database = "sqlite:////var/lib"`"""
    desk.file("guestgate.toml", f'database = "sqlite:///{desk.home.parent}"\n')
    assert str(desk.home.parent) in desk.complaint("member", "list")


def test_upgrade_and_check_of_a_database_in_order(desk: Terminal) -> None:
    """Nothing to do, nothing wrong."""
    (upgraded,) = desk.json("db", "upgrade")
    assert upgraded["before"] == upgraded["after"]
    assert "up to date" in desk.run("db", "upgrade").out
    assert desk.json("db", "check") == [{"ok": True, "problems": []}]


# Help and JSON.


def commands(command: Any = COMMAND, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group with its words."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


def plain(text: str) -> str:
    """A text without line breaks, frames and markup."""
    text = re.sub(r"\[/?(dim|bold|italic)\]", "", text)
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


@nothing_is_looked_up
@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...], terminal: Terminal) -> None:
    """It says how the command is called, what for, and what each option is."""
    command = dict(commands())[path]
    shown = plain(terminal.run(*path, "--help").out)
    assert f"Usage: {' '.join(('guestgate', *path))}" in shown
    purpose = plain((command.help or "").strip().partition("\n\n")[0])
    assert len(purpose) > 10 and purpose in shown
    for name, child in getattr(command, "commands", {}).items():
        assert name in shown and child.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), parameter.name


@pytest.mark.parametrize(
    "path", [path for path, command in commands() if not hasattr(command, "commands")], ids=" ".join
)
def test_every_command_takes_a_configuration_and_json(path: tuple[str, ...]) -> None:
    """--config and --json belong everywhere; no option takes a key."""
    options = {option for parameter in dict(commands())[path].params for option in parameter.opts}
    assert {"--config", "--json"} <= options
    assert not options & {"--key", "--token", "--password", "--secret", "--api-key"}


def test_json_is_all_there_is_on_standard_output(desk: Terminal) -> None:
    """One object, or for lists one a line; also where nothing is found."""
    now = clock.iso(clock.now())
    single: list[tuple[tuple[str, ...], str]] = [
        (("studio", "add", "s3", "--name", "S", "--timezone", "Europe/Berlin", "--key-stdin"), "weak"),
        (("studio", "set", "s3", "--name", "T"), ""),
        (("studio", "pause", "s3"), ""),
        (("studio", "resume", "s3"), ""),
        (("key", "add", "s1", "--key-stdin", "--kind", "webhook"), STRONG),
        (("key", "revoke", fingerprint(STRONG)), ""),
        (("member", "set", "m1", "--plan", "free"), ""),
        (("member", "link", "m1", "5"), ""),
        (("member", "show", "m1"), ""),
        (("member", "unlink", "m1", "5"), ""),
        (("member", "import", "-"), "member_id,plan\nm2,free\n"),
        (("member", "import", "-", "--dry-run"), "member_id,plan\nm2,free\n"),
        (("visit", "import", "-"), f"member_id,studio_id,at\nm1,s1,{now}\n"),
        (("explain", "m1", "--studio", "s1"), ""),
        (("explain", "nobody", "--studio", "s1"), ""),
        (("register", "--url", "https://gate.example.com", "--print"), ""),
        (("db", "upgrade"), ""),
        (("db", "check"), ""),
        (("init", "other"), ""),
    ]
    for arguments, given in single:
        (found,) = desk.json(*arguments, input=given)
        assert isinstance(found, dict) and found, arguments
    for arguments, number in (
        (("studio", "list"), 3),
        (("key", "list"), 1),
        (("key", "list", "--all"), 2),
        (("plan", "list"), 2),
        (("member", "list"), 4),
        (("member", "list", "--limit", "1"), 1),
        (("member", "list", "--status", "cancelled"), 0),
        (("visits",), 1),
        (("decisions",), 0),
        (("plan", "apply", "plans.toml"), 3),
    ):
        assert len(desk.json(*arguments)) == number, arguments


def test_json_is_unicode_and_one_line_whatever_is_in_it(desk: Terminal) -> None:
    """No escapes, no colours, no wrapping."""
    name = "Łódź [red] :x: " + "x" * 200
    desk.run("studio", "set", "s1", "--name", name)
    shown = desk.run("studio", "list", "--json").out
    assert name in shown and len(shown.splitlines()) == 2


# The record.


def test_a_decision_has_the_documented_shape(running: Running) -> None:
    """An allowed, a denied and an unknown one, in the order they came."""
    for member in ("once-1", "once-1"):
        running.gate.checkin(member, customer=2**63 - 1)
    wait_for(lambda: all(row["http_status"] for row in running.json("decisions", "--member", "once-1")), "no answers")
    allowed, denied = running.json("decisions", "--member", "once-1")
    assert list(allowed) == list(denied) == DECISION
    assert UUID.fullmatch(allowed["id"]) and INSTANT.fullmatch(allowed["received_at"])
    assert isinstance(allowed["answer_ms"], float) and allowed["answer_ms"] > 0
    assert allowed == {
        **dict.fromkeys(("limit", "next_allowed_at")),
        **{name: allowed[name] for name in ("id", "received_at", "answer_ms")},
        "studio": "s1",
        "member": "once-1",
        "aggregator_id": "once-1",
        "customer_id": 2**63 - 1,
        "decision": "allowed",
        "reason": "ok",
        "visit": allowed["id"],
        "http_status": 200,
        "undelivered": False,
        "stand_in": False,
        "plan": "once",
        "plan_version": 1,
    }
    assert (denied["decision"], denied["reason"], denied["http_status"]) == ("denied", "limit_reached", 403)
    assert denied["limit"] == {"max": 1, "per": "day", "scope": "network", "used": 1}
    assert denied["visit"] is None and INSTANT.fullmatch(denied["next_allowed_at"])
    assert running.gate.checkin("nobody-there").status_code == 403
    (unknown,) = [row for row in running.json("decisions") if row["aggregator_id"] == "nobody-there"]
    assert list(unknown) == DECISION
    assert (unknown["member"], unknown["plan"], unknown["plan_version"]) == (None, None, None)
    assert (unknown["decision"], unknown["reason"]) == ("denied", "unknown_member")


def test_a_visit_has_the_documented_shape(running: Running) -> None:
    """And names its decision."""
    decision = running.gate.checkin("once-2").json()["decisionId"]
    (made,) = running.json("visits", "--member", "once-2")
    assert list(made) == VISIT
    assert made["id"] == made["decision"] == decision and INSTANT.fullmatch(made["at"])


def test_lists_for_people_have_a_line_for_each_row(running: Running) -> None:
    """With what a person at the desk asks for."""
    running.gate.checkin("once-3")
    running.gate.checkin("once-3")
    allowed, denied = running.run("decisions", "--member", "once-3").out.splitlines()
    assert "allowed" in allowed and "ok" in allowed and "once-3" in allowed and "s1" in allowed
    assert "denied" in denied and "limit_reached" in denied
    (made,) = running.run("visits", "--member", "once-3").out.splitlines()
    assert "authorized" in made and "checkin" in made and "payable" in made


@pytest.mark.parametrize("odd", ["[/b]", "\\[/b]", "[red]x", "gym:m:1", "a\\", "%s"])
def test_ids_that_callers_send_are_shown_as_they_are(odd: str, desk: Terminal) -> None:
    """Nothing in them is read as colours or pictures."""
    decided(desk, timedelta(0), aggregator_id=odd, member_id=None)
    assert odd in desk.run("decisions").out


@pytest.mark.parametrize("odd", ["a\x1b[2Jb", "a\nb", "a\rb", "a\x07b", "a\x9b31mb"])
def test_ids_that_callers_send_do_not_steer_the_terminal(odd: str, desk: Terminal) -> None:
    """A decision is one line, without control characters."""
    decided(desk, timedelta(0), aggregator_id=odd, member_id=None)
    shown = desk.run("decisions").out
    assert shown.count("\n") == 1 and not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)


@pytest.mark.parametrize(
    ("since", "number"),
    [("60s", 1), ("30m", 2), ("24h", 3), ("3d", 4), ("2w", 5), ("0s", 0), ("100000d", 5), ("iso", 4), ("offset", 4)],
)
def test_since_takes_spans_and_instants(since: str, number: int, desk: Terminal) -> None:
    """How long ago, or an ISO instant with offset."""
    ages = [timedelta(days=10), timedelta(days=2), timedelta(hours=3), timedelta(minutes=10), timedelta(seconds=5)]
    decided(desk, *ages)
    three_days_ago = clock.now() - timedelta(days=3)
    offset = (three_days_ago + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S+01:00")
    given = {"iso": clock.iso(three_days_ago), "offset": offset}.get(since, since)
    assert len(desk.json("decisions", "--since", given)) == number


@nothing_is_looked_up
@pytest.mark.parametrize(
    "since", ["", "yesterday", "24", "h", "1.5h", "-1h", "24 h", "2026-01-01", "2026-01-01T00:00:00", "9" * 30 + "d"]
)
def test_other_beginnings_are_refused(since: str, desk: Terminal) -> None:
    """By both lists."""
    for name in ("decisions", "visits"):
        assert desk.complaint(name, f"--since={since}").startswith("--since: ")


def test_the_advice_about_an_instant_works(desk: Terminal) -> None:
    """Who writes a date only is told something that is taken."""
    sentence = desk.complaint("decisions", "--since", "2026-01-01")
    for advice in re.findall(r"2026-01-01\S+", sentence.partition("write ")[2]):
        desk.run("decisions", "--since", advice)


def test_decisions_can_be_chosen(desk: Terminal) -> None:
    """By member, studio and number; of a number the latest, still the oldest first."""
    decided(desk, *(timedelta(minutes=minutes) for minutes in (4, 3, 2)))
    decided(desk, timedelta(minutes=1), studio_id="s2", member_id="once", aggregator_id="once")
    assert [row["member"] for row in desk.json("decisions")] == ["free", "free", "free", "once"]
    assert [row["studio"] for row in desk.json("decisions", "--studio", "s2")] == ["s2"]
    assert [row["member"] for row in desk.json("decisions", "--member", "once")] == ["once"]
    latest = desk.json("decisions", "--limit", "2")
    assert [row["member"] for row in latest] == ["free", "once"]
    assert latest == desk.json("decisions")[-2:]
    assert "nothing recorded" in desk.run("decisions", "--member", "nobody").out


class Follower:
    """A command that goes on until Ctrl-C, and what it prints."""

    def __init__(self, gate: Gate, *arguments: str) -> None:
        """Start it."""
        command = [sys.executable, "-m", "guestgate", *arguments, "--config", str(gate.home / "guestgate.toml")]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            # Whoever runs the tests in the background may have had it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def line(self) -> str:
        """The next line."""
        return self._lines.get(timeout=30)

    def interrupt(self) -> tuple[int, str, list[str]]:
        """Ctrl-C; returns exit status, standard error and the lines not seen yet."""
        self._process.send_signal(signal.SIGINT)
        status = self._process.wait(timeout=30)
        self._thread.join(timeout=30)
        assert self._process.stderr is not None and self._process.stdout is not None
        errors = self._process.stderr.read()
        self._process.stderr.close()
        self._process.stdout.close()
        return status, errors, [self._lines.get() for _ in range(self._lines.qsize())]


def test_following_prints_what_comes_until_ctrl_c(running: Running) -> None:
    """Decisions and visits, as JSON and for people, each row once and with its answer."""
    running.gate.checkin("once-4")
    followers = {
        (name, options): Follower(running.gate, name, "--follow", "--member", "once-4", *options)
        for name in ("decisions", "visits")
        for options in ((), ("--json",))
    }
    for follower in followers.values():
        assert "once-4" in follower.line()
    decisions = [running.gate.checkin("once-4").json()["decisionId"] for _ in range(2)]
    seen = [json.loads(followers["decisions", ("--json",)].line()) for _ in decisions]
    assert [row["id"] for row in seen] == decisions
    assert [row["http_status"] for row in seen] == [403, 403]
    assert (
        "limit_reached" in followers["decisions", ()].line() and "limit_reached" in followers["decisions", ()].line()
    )
    first = running.json("visits", "--member", "once-4")[0]["id"]
    running.run("visit", "reverse", first, "--why", "so that another one can come")
    running.gate.checkin("once-4")
    made = json.loads(followers["visits", ("--json",)].line())
    assert made["id"] == json.loads(followers["decisions", ("--json",)].line())["visit"]
    assert "once-4" in followers["visits", ()].line() and "allowed" in followers["decisions", ()].line()
    for follower in followers.values():
        status, errors, rest = follower.interrupt()
        assert status in (0, 130) and errors == "" and rest == []


# init


@pytest.mark.embedded
def test_init_writes_what_it_says(terminal: Terminal) -> None:
    """Configuration, plans and database; in a folder that it makes, or here."""
    (written,) = terminal.json("init", "deep/down")
    assert set(written) == {"config", "plans", "database"}
    assert sorted(
        path.name for path in Path("deep/down").iterdir() if not path.name.endswith(("-wal", "-shm", ".lock"))
    ) == [
        "guestgate.db",
        "guestgate.toml",
        "plans.toml",
    ]
    here = terminal.home / "here"
    here.mkdir()
    terminal.monkeypatch.chdir(here)
    assert "guestgate.toml" in terminal.run("init").out
    assert terminal.json("member", "list") == []


@pytest.mark.embedded
def test_the_configuration_of_init_is_the_default_one(terminal: Terminal) -> None:
    """Every setting is mentioned, and what stands in the comments is what holds."""
    terminal.run("init", "fresh")
    text = Path("fresh/guestgate.toml").read_text("utf-8")
    for name in settings.Settings.model_fields:
        assert re.search(rf"^(# )?{name} = ", text, re.MULTILINE), name
    loaded = settings.load(Path("fresh/guestgate.toml"))
    defaults = settings.Settings()
    files = {"database", "stand_in_file", "secret_key_file"}  # beside the configuration
    for name in set(settings.Settings.model_fields) - files:
        assert getattr(loaded, name) == getattr(defaults, name)
    assert loaded.stand_in_file == Path("fresh").absolute() / defaults.stand_in_file


@pytest.mark.embedded
@pytest.mark.parametrize("name", ["guestgate.toml", "plans.toml"])
def test_init_overwrites_nothing(name: str, terminal: Terminal) -> None:
    """Either file is enough to refuse; then nothing else is written."""
    Path("used").mkdir()
    terminal.file(f"used/{name}", "# mine\n")
    assert name in terminal.complaint("init", "used")
    assert [path.name for path in Path("used").iterdir()] == [name]
    assert Path(f"used/{name}").read_text("utf-8") == "# mine\n"


def test_init_keeps_a_database_that_is_there(desk: Terminal) -> None:
    """Its members included."""
    for name in ("guestgate.toml", "plans.toml"):
        Path(name).unlink(missing_ok=True)
    desk.run("init", "--database", desk.database_url)
    assert len(desk.json("member", "list")) == 2


@pytest.mark.embedded
def test_init_beside_a_file_that_is_no_database_leaves_nothing(terminal: Terminal) -> None:
    """So that it can be tried again."""
    Path("used").mkdir()
    terminal.file("used/guestgate.db", "not a database\n" * 100)
    terminal.complaint("init", "used", status=2)
    assert {path.name for path in Path("used").iterdir()} == {"guestgate.db", "guestgate.db.lock"}


@pytest.mark.parametrize(
    "odd",
    [
        "acme",
        'a"b',
        "a'b",
        "a\\b",
        "a\\u0041",
        'quote"#',
        "# not a comment",
        "{aggregator_id}",
        "Łódź 🏋",
        " spaces ",
        "<your-id>",
        "x" * 255,
        "\\",
        '"""',
        "\x85\u2028",
    ],
)
def test_any_aggregator_id_survives_the_configuration(odd: str, terminal: Terminal) -> None:
    """However odd its characters."""
    terminal.run("init", "other", "--aggregator-id", odd)
    assert settings.load(Path("other/guestgate.toml")).aggregator_id == odd


@pytest.mark.parametrize("bad", ["", "x" * 256, "a\nb", "a\x00b", "a\x7fb"])
def test_an_impossible_aggregator_id_is_refused(bad: str, terminal: Terminal) -> None:
    """And nothing is written."""
    assert "--aggregator-id" in terminal.complaint("init", "other", "--aggregator-id", bad)
    assert not Path("other").exists()


def test_init_where_nothing_can_be_written(terminal: Terminal) -> None:
    """A file where a folder should be."""
    terminal.file("taken", "")
    assert terminal.complaint("init", "taken").startswith("taken")
    assert terminal.complaint("init", "taken/below").startswith("taken")


# Studios


def studio(desk: Terminal, studio_id: str = "s1") -> dict[str, Any]:
    """One studio of the list."""
    found: dict[str, Any]
    (found,) = [row for row in desk.json("studio", "list") if row["id"] == studio_id]
    return found


def test_a_studio_is_added_with_its_key(desk: Terminal) -> None:
    """And shown with what it was given."""
    options = ("--name", "Berlin Mitte", "--timezone", "Europe/Berlin", "--tag", "b", "--tag", "a", "--test")
    (added,) = desk.json("studio", "add", "mitte", *options, "--key-stdin", input=f"{STRONG}\n")
    assert added == {"id": "mitte", "fingerprint": fingerprint(STRONG)}
    assert studio(desk, "mitte") == {
        "id": "mitte",
        "name": "Berlin Mitte",
        "timezone": "Europe/Berlin",
        "tags": ["a", "b"],
        "active": True,
        "test": True,
        "keys": 1,
    }
    (added,) = desk.json("studio", "add", "bare", "--name", "Bare", "--timezone", "UTC")
    assert added == {"id": "bare", "fingerprint": None} and studio(desk, "bare")["keys"] == 0
    assert "mitte" in desk.run("studio", "list").out


def test_a_studio_is_added_once(desk: Terminal) -> None:
    """The second time fails and changes nothing, its key included."""
    before = studio(desk)
    arguments = ("studio", "add", "s1", "--name", "Other", "--timezone", "UTC", "--key-stdin")
    assert "s1" in desk.complaint(*arguments, status=1, input=STRONG)
    assert studio(desk) == before and desk.json("key", "list") == []


@pytest.mark.parametrize(
    ("timezone", "meant"),
    [
        ("Europe/Berln", "Europe/Berlin"),
        ("europe/berlin", "Europe/Berlin"),
        ("EUROPE/BERLIN", "Europe/Berlin"),
        ("Berlin", "Europe/Berlin"),
        ("america/new york", "America/New_York"),
    ],
)
def test_a_misspelt_time_zone_is_met_with_a_suggestion(timezone: str, meant: str, desk: Terminal) -> None:
    """Exit status 2, and no studio."""
    sentence = desk.complaint("studio", "add", "s9", "--name", "x", "--timezone", timezone)
    assert (
        timezone in sentence
        and "did you mean" in sentence
        and meant in sentence.partition("did you mean")[2].partition(")")[0]
    )
    assert len(desk.json("studio", "list")) == 2


@pytest.mark.parametrize(
    "timezone", ["", " ", "Mars/Olympus", "+01:00", "Europe", "../../etc/passwd", "/etc/localtime", "a" * 5000]
)
def test_an_impossible_time_zone_is_refused(timezone: str, desk: Terminal) -> None:
    """For new studios and for a change."""
    before = desk.json("studio", "list")
    assert desk.complaint("studio", "add", "s9", "--name", "x", "--timezone", timezone).startswith("--timezone: ")
    assert desk.complaint("studio", "set", "s1", "--timezone", timezone).startswith("--timezone: ")
    assert desk.json("studio", "list") == before


@pytest.mark.parametrize("name", ["", "  ", "x" * 256])
def test_an_impossible_name_is_refused(name: str, desk: Terminal) -> None:
    """For new studios and for a change."""
    before = desk.json("studio", "list")
    assert desk.complaint("studio", "add", "s9", "--name", name, "--timezone", "UTC").startswith("--name: ")
    assert desk.complaint("studio", "set", "s1", "--name", name).startswith("--name: ")
    assert desk.json("studio", "list") == before


@pytest.mark.parametrize("studio_id", ["", "x" * 256, "a\nb", "a\x00b"])
def test_an_impossible_studio_id_is_refused(studio_id: str, desk: Terminal) -> None:
    """Exit status 2."""
    assert "id" in desk.complaint("studio", "add", "--name", "x", "--timezone", "UTC", "--", studio_id)


@pytest.mark.parametrize("tag", ["", "x" * 256, "a\tb"])
def test_an_impossible_tag_is_refused(tag: str, desk: Terminal) -> None:
    """For new studios and for a change."""
    assert "--tag" in desk.complaint("studio", "add", "s9", "--name", "x", "--timezone", "UTC", "--tag", tag)
    assert "--tag" in desk.complaint("studio", "set", "s1", "--tag", tag)


@pytest.mark.parametrize("odd", ["[/b]", "[red]x", "Gym :x: Süd", "a\\", "100 %"])
def test_names_and_tags_are_shown_as_they_are(odd: str, desk: Terminal) -> None:
    """Nothing in them is read as colours or pictures."""
    desk.run("studio", "set", "s1", "--name", odd, "--tag", odd)
    assert desk.run("studio", "list").out.count(odd) == 2


def test_a_studio_can_be_changed(desk: Terminal) -> None:
    """What is not given stays; tags are replaced; past visits keep their date."""
    visit(desk, "free", "2026-03-04T23:30:00Z")
    assert desk.json("visits")[0]["local_date"] == "2026-03-05"
    desk.run("studio", "set", "s1", "--tag", "a", "--tag", "b")
    desk.run("studio", "set", "s1", "--name", "New", "--timezone", "UTC")
    changed = studio(desk)
    assert (changed["name"], changed["timezone"], changed["tags"]) == ("New", "UTC", ["a", "b"])
    desk.run("studio", "set", "s1", "--tag", "c")
    assert studio(desk)["tags"] == ["c"]
    desk.run("studio", "set", "s1", "--no-tags")
    assert studio(desk)["tags"] == []
    assert desk.json("visits")[0]["local_date"] == "2026-03-05"
    assert "did you mean s1" in desk.complaint("studio", "set", "s1x", "--name", "x", status=1)


def test_a_change_of_nothing_is_wrong_usage(desk: Terminal) -> None:
    """As it is for members."""
    assert "nothing" in desk.complaint("studio", "set", "s1")


def test_a_paused_studio_denies_until_it_is_resumed(desk: Terminal) -> None:
    """With the first of all reasons."""
    desk.run("studio", "pause", "s1")
    assert studio(desk)["active"] is False
    (answer,) = desk.json("explain", "free", "--studio", "s1")
    assert (answer["decision"], answer["reason"]) == ("denied", "studio_inactive")
    desk.run("studio", "resume", "s1")
    assert desk.json("explain", "free", "--studio", "s1")[0]["decision"] == "allowed"
    assert studio(desk)["active"] is True


# Keys


def keys(desk: Terminal, *options: str) -> list[tuple[str, str, str, str]]:
    """Keys as listed: fingerprint, studio, kind, state."""
    rows = desk.json("key", "list", *options)
    return [(row["fingerprint"], row["studio"], row["kind"], row["state"]) for row in rows]


@pytest.mark.parametrize(
    "arguments", [("studio", "add", "s9", "--name", "x", "--timezone", "UTC"), ("key", "add", "s2")]
)
def test_a_key_that_another_studio_holds_is_refused(arguments: tuple[str, ...], desk: Terminal) -> None:
    """All or nothing: no studio is added, no key changes hands, and the key is not repeated."""
    desk.run("key", "add", "s1", "--key-stdin", input=STRONG)
    sentence = desk.complaint(*arguments, "--key-stdin", status=1, input=STRONG)
    assert "s1" in sentence and STRONG not in sentence
    assert len(desk.json("studio", "list")) == 2
    assert keys(desk, "--all") == [(fingerprint(STRONG), "s1", "checkin", "valid")]


def test_keys_come_from_standard_input_only(desk: Terminal) -> None:
    """Without --key-stdin nothing is read, and a key as an argument is wrong usage."""
    assert "--key-stdin" in desk.complaint("key", "add", "s1", input=STRONG)
    assert desk.complaint("key", "add", "s1", STRONG)
    assert desk.complaint("studio", "add", "s9", "--name", "x", "--timezone", "UTC", "--key", STRONG)
    desk.run("studio", "add", "s9", "--name", "x", "--timezone", "UTC", input=STRONG)
    assert keys(desk) == []


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\nsecond line\n", " \n"])
def test_the_key_is_the_first_line(end: str, desk: Terminal) -> None:
    """Its end does not matter."""
    desk.run("key", "add", "s1", "--key-stdin", input=STRONG + end)
    assert keys(desk)[0][0] == fingerprint(STRONG)


@pytest.mark.parametrize(
    "key",
    [b"", b"\n", b"  \n", b"two words", b"x" * 513, "schlüssel".encode(), b"\xff\xfe\x00", b"a\x00b", b"x" * 100_000],
)
def test_an_impossible_key_is_refused(key: bytes, desk: Terminal) -> None:
    """In one sentence that does not repeat it."""
    assert "key" in desk.run("key", "add", "s1", "--key-stdin", input=key, status=2).err
    assert (
        "key"
        in desk.run("studio", "add", "s9", "--name", "x", "--timezone", "UTC", "--key-stdin", input=key, status=2).err
    )
    assert keys(desk) == [] and len(desk.json("studio", "list")) == 2


@pytest.mark.parametrize(
    "weak", ["1234", "12345678901234567890", "a" * 64, "abababababababababababababababababab", "secret"]
)
def test_a_weak_key_is_taken_with_a_warning(weak: str, desk: Terminal) -> None:
    """On standard error; a script that reads the answer is not disturbed."""
    done = desk.run("key", "add", "s1", "--key-stdin", "--json", input=weak)
    assert done.err.startswith("guestgate: warning: ") and done.err.count("\n") == 1 and weak not in done.err
    assert done.objects[0]["fingerprint"] == fingerprint(weak)


@pytest.mark.parametrize("length", [16, 24, 32])
def test_a_random_key_is_taken_without_a_warning(length: int, desk: Terminal) -> None:
    """As hexadecimal and as base64, from 128 bits on."""
    for token in (secrets.token_hex(length), secrets.token_urlsafe(length)):
        assert desk.run("key", "add", "s1", "--key-stdin", input=token).err == ""


def test_a_token_may_serve_several_kinds(desk: Terminal) -> None:
    """Each is listed; revoking ends all of them."""
    for kind in ("checkin", "webhook"):
        (added,) = desk.json("key", "add", "s1", "--key-stdin", "--kind", kind, input=STRONG)
        assert added == {"fingerprint": fingerprint(STRONG), "studio": "s1", "kind": kind}
    assert sorted(row[2] for row in keys(desk)) == ["checkin", "webhook"]
    assert studio(desk)["keys"] == 2
    desk.run("key", "revoke", fingerprint(STRONG))
    assert keys(desk) == [] and studio(desk)["keys"] == 0
    assert sorted(row[2:] for row in keys(desk, "--all")) == [("checkin", "revoked"), ("webhook", "revoked")]


def test_several_keys_at_once(desk: Terminal) -> None:
    """So that a change of key loses no check-in; lists can be for one studio."""
    tokens = [secrets.token_urlsafe(24) for _ in range(3)]
    for token, where in zip(tokens, ("s1", "s1", "s2"), strict=True):
        desk.run("key", "add", where, "--key-stdin", input=token)
    assert [row[0] for row in keys(desk, "--studio", "s1")] == [fingerprint(token) for token in tokens[:2]]
    assert fingerprint(tokens[2]) in desk.run("key", "list").out
    for token in tokens:
        assert token not in desk.run("key", "list", "--all", "--json").out
    assert "did you mean s1" in desk.complaint("key", "add", "s1x", "--key-stdin", status=1, input=STRONG)


def test_a_revoked_key_can_be_given_again(desk: Terminal) -> None:
    """To the same studio or to another."""
    desk.run("key", "add", "s1", "--key-stdin", input=STRONG)
    desk.run("key", "revoke", fingerprint(STRONG))
    desk.run("key", "add", "s2", "--key-stdin", input=STRONG)
    assert keys(desk) == [(fingerprint(STRONG), "s2", "checkin", "valid")]


@pytest.mark.parametrize("form", ["fingerprint", "prefix", "upper", "sha256"])
def test_a_key_is_revoked_by_the_beginning_of_its_fingerprint(form: str, desk: Terminal) -> None:
    """Eight digits are enough."""
    desk.run("key", "add", "s1", "--key-stdin", input=STRONG)
    full = hashlib.sha256(STRONG.encode()).hexdigest()
    given = {"fingerprint": full[:16], "prefix": full[:8], "upper": full[:16].upper(), "sha256": full}[form]
    (revoked,) = desk.json("key", "revoke", given)
    assert revoked["revoked"] is True
    assert keys(desk) == [] and keys(desk, "--all")[0][3] == "revoked"


def test_a_beginning_that_fits_several_keys_revokes_none(desk: Terminal) -> None:
    """Exit status 1, with what to do."""
    with desk.writing() as connection:
        for rest in ("a", "b"):
            values = {"sha256": "01234567" + rest * 56, "kind": "checkin", "studio_id": "s1", "created_at_ms": 0}
            connection.execute(insert(schema.keys).values(values))
    assert "more digits" in desk.complaint("key", "revoke", "01234567", status=1)
    assert len(keys(desk)) == 2
    desk.run("key", "revoke", "01234567a")
    assert len(keys(desk)) == 1


@pytest.mark.parametrize(("given", "status"), [("abc", 2), ("", 2), ("%%%%%%%%", 2), (STRONG, 2), ("0" * 16, 1)])
def test_an_unknown_fingerprint_revokes_nothing(given: str, status: int, desk: Terminal) -> None:
    """Also a key itself, given by mistake."""
    desk.run("key", "add", "s1", "--key-stdin", input=STRONG)
    assert "key list" in desk.complaint("key", "revoke", "--", given, status=status)
    assert len(keys(desk)) == 1


def test_a_key_may_end_by_itself(desk: Terminal) -> None:
    """In the future, with offset; then the list hides it."""
    desk.run("key", "add", "s1", "--key-stdin", "--expires", "2999-01-01T00:00:00+01:00", input=STRONG)
    assert desk.json("key", "list")[0]["expires_at"] == "2998-12-31T23:00:00.000Z"
    with desk.writing() as connection:
        connection.execute(update(schema.keys).values(expires_at_ms=clock.now_ms() - 1))
    assert keys(desk) == [] and keys(desk, "--all")[0][3] == "expired" and studio(desk)["keys"] == 0


@pytest.mark.parametrize(
    "expires",
    ["", "2020-01-01T00:00:00Z", "2999-01-01T00:00:00", "2999-01-01", "tomorrow", "90d", "9999-12-31T23:59:59-12:00"],
)
def test_an_impossible_end_is_refused(expires: str, desk: Terminal) -> None:
    """Past, without offset or no instant at all; no key is added."""
    assert desk.complaint("key", "add", "s1", "--key-stdin", "--expires", expires, input=STRONG).startswith(
        "--expires: "
    )
    assert keys(desk, "--all") == []


# register


def test_the_registration_names_the_endpoint(desk: Terminal) -> None:
    """The address that the platform will call, with our id where there is one."""
    shown = desk.run("register", "--url", "https://gate.example.com/checkin-validation", "--print").out
    assert "To: info@perfectgym.com" in shown and "https://gate.example.com/checkin-validation" in shown
    desk.file("guestgate.toml", 'aggregator_id = "acme"\ncheckin_path = "/door"\n')
    (email,) = desk.json("register", "--url", "https://gate.example.com:8443", "--print")
    assert set(email) == {"to", "subject", "body"}
    assert "https://gate.example.com:8443/door" in email["body"] and "acme" in email["body"]


@pytest.mark.parametrize(
    "url",
    [
        "http://gate.example.com/checkin-validation",
        "gate.example.com/checkin-validation",
        "ftp://gate.example.com",
        "https://",
        "",
        "https://localhost/checkin-validation",
        "https://LOCALHOST:8443",
        "https://127.0.0.1/",
        "https://127.0.0.2/",
        "https://10.1.2.3/",
        "https://0.0.0.0/checkin-validation",
        "https://[::1]/",
        "https://[::1",
        "https://gate.example.com:port/",
        "https://gate.example.com:99999/",
        "https://gate.example.com/wrong",
        "https://gate.example.com/checkin-validation/more",
        "https://gate.example.com/checkin-validation?studio=1",
        "https://user:password@gate.example.com/checkin-validation",
        "https://:password@gate.example.com/checkin-validation",
        "https://gate example.com/",
        "https://gate.example.com/\r\nBcc: x@example.com",
    ],
)
def test_an_address_the_platform_cannot_call_is_refused(url: str, desk: Terminal) -> None:
    """In one sentence."""
    with pytest.raises(UsageError) as caught:
        registration.email(url, settings.load())
    assert str(caught.value).startswith("--url: ") and "\n" not in str(caught.value)


# explain


def test_an_explanation_has_the_documented_shape(desk: Terminal) -> None:
    """Every rule in order of precedence, with verdict and words."""
    visit(desk, "once", "2026-03-04T08:00:00Z")
    (answer,) = desk.json("explain", "once", "--studio", "s1", "--at", "2026-03-04T10:00:00Z")
    assert list(answer) == EXPLAIN
    assert [rule["rule"] for rule in answer["rules"]] == REASONS
    assert all(list(rule) == ["rule", "verdict", "detail"] and rule["detail"] for rule in answer["rules"])
    assert (answer["decision"], answer["reason"]) == ("denied", "limit_reached")
    assert answer["limit"] == {"max": 1, "per": "day", "scope": "network", "used": 1}
    assert answer["next_allowed_at"] == "2026-03-04T23:00:00.000Z"
    assert [rule["verdict"] for rule in answer["rules"]] == ["passes"] * 11 + ["denies"]
    shown = desk.run("explain", "once", "--studio", "s1", "--at", "2026-03-04T10:00:00Z").out
    assert "denied" in shown and "limit_reached" in shown and all(reason in shown for reason in REASONS)


def test_an_explanation_records_nothing(desk: Terminal) -> None:
    """Neither an allowed nor a denied one."""
    before = everything(desk.database)
    for member in ("once", "once", "nobody"):
        desk.run("explain", member, "--studio", "s1")
    assert desk.json("decisions") == [] and desk.json("visits") == []
    assert everything(desk.database) == before


def test_an_unknown_member_is_an_answer(desk: Terminal) -> None:
    """Exit status 0; the rules about members are not asked."""
    (answer,) = desk.json("explain", "nobody", "--studio", "s1")
    assert (answer["decision"], answer["reason"], answer["limit"]) == ("denied", "unknown_member", None)
    assert [rule["verdict"] for rule in answer["rules"]] == ["passes", "denies"] + ["not_evaluated"] * 10


def test_visits_after_that_instant_are_ignored(desk: Terminal) -> None:
    """Those at the instant itself are not."""
    visit(desk, "once", "2026-03-04T08:00:00Z")
    for at, decision in (("07:59:59.999Z", "allowed"), ("08:00:00Z", "denied"), ("23:59:59Z", "allowed")):
        assert desk.json("explain", "once", "--studio", "s1", "--at", f"2026-03-04T{at}")[0]["decision"] == decision


@pytest.mark.parametrize("at", ["", "now", "2026-03-04", "2026-03-04T08:00:00", "08:00", "1772618400", "9" * 40])
def test_an_instant_without_offset_is_refused(at: str, desk: Terminal) -> None:
    """Exit status 2."""
    assert desk.complaint("explain", "once", "--studio", "s1", "--at", at).startswith("--at: ")


@pytest.mark.parametrize(
    "at", ["0001-01-01T00:00:00Z", "0001-01-02T00:00:00Z", "9999-12-31T23:59:59Z", "9999-12-01T00:00:00Z"]
)
@pytest.mark.parametrize("where", ["s1", "s2"])
def test_the_ends_of_the_calendar_are_no_traceback(at: str, where: str, desk: Terminal) -> None:
    """An answer, or one sentence."""
    visit(desk, "once", "2026-03-04T08:00:00Z")
    done = desk.run("explain", "once", "--studio", where, "--at", at, status=None)
    assert done.status == 0 or (done.status == 2 and done.complaint.startswith("--at: "))


# sandbox tap


def test_a_tap_opens_the_door_once(running: Running) -> None:
    """A real check-in, on record as any other; the second is not allowed."""
    seen = running.tap("once-6")
    assert (seen["desk"], seen["http_status"], seen["reason"]) == ("open", 200, "ok") and seen["ms"] > 0
    seen = running.tap("once-6")
    assert (seen["desk"], seen["http_status"], seen["reason"]) == ("not allowed", 403, "limit_reached")
    seen = running.tap("a stranger")
    assert (seen["desk"], seen["http_status"], seen["reason"]) == ("not allowed", 403, "unknown_member")
    outcomes = [row["decision"] for row in running.json("decisions", "--member", "once-6")]
    assert outcomes == ["allowed", "denied"]


def test_a_temporary_key_is_revoked_afterwards(running: Running) -> None:
    """Also where the tap came to nothing; it would have ended by itself within minutes."""
    before = running.all_keys()
    running.tap("free-1")
    running.tap("free-1", "--url", f"https://localhost:{free_port()}/checkin-validation")
    running.run(*running.tapping("free-1", "--ca", "nowhere.pem"), status=2)
    made = [key for key in running.all_keys() if key not in before]
    assert 2 <= len(made) <= 3 and {key["state"] for key in made} == {"revoked"}
    assert all(key["expires_at"] and key["studio"] == "s1" and key["kind"] == "checkin" for key in made)


def test_a_temporary_key_that_somebody_revoked_spoils_no_tap(running: Running) -> None:
    """What the desk saw is told all the same."""
    before = running.all_keys()
    with temporary_key(running.gate.database, "s1"):
        (made,) = [key for key in running.all_keys() if key not in before]
        running.run("key", "revoke", made["fingerprint"])


def test_a_key_from_standard_input_is_used_as_it_is(running: Running) -> None:
    """No other key is made; a wrong one keeps the door shut, as the platform's would."""

    def keys() -> list[dict[str, Any]]:
        return [{**key, "last_used_at": None} for key in running.all_keys()]  # that is written now and then

    before = keys()
    seen = running.tap("free-2", "--key-stdin", input=f"{running.gate.keys['s1']}\n")
    assert (seen["desk"], seen["http_status"]) == ("open", 200)
    seen = running.tap("free-2", "--key-stdin", input="wrong\n")
    assert (seen["desk"], seen["http_status"]) == ("communication error, please try again", 401)
    assert "X-API-Key" in seen["note"]
    assert keys() == before


@pytest.mark.parametrize("key", ["", "schlüssel\n", "a b\n", "a\x01b\n"])
def test_an_impossible_key_is_no_traceback(key: str, running: Running) -> None:
    """One sentence, or what the desk would see."""
    done = running.run(*running.tapping("free-2", "--key-stdin"), input=key, status=None)
    assert (done.status == 2 and done.complaint) or (done.status == 0 and "communication error" in done.out)


def test_a_tap_brings_the_members_customer(running: Running) -> None:
    """The one that is linked, the one that was asked for, or one made up that stays the same."""
    running.run("member", "link", "free-3", "4711")
    running.tap("free-3")
    running.tap("free-3", "--customer", "4712")
    running.tap("free-4")
    running.tap("free-4")
    customers = [row["customer_id"] for row in running.json("decisions") if row["member"] in ("free-3", "free-4")]
    assert customers[:2] == [4711, 4712] and customers[2] == customers[3] > 0


def test_a_tap_for_people(running: Running) -> None:
    """What the desk sees, and then our own side of it."""
    shown = running.run(*running.tapping("free-5")).out
    assert "The desk sees: open" in shown and "status 200" in shown and "ms" in shown and "ok" in shown


def test_a_server_that_is_not_there_is_a_communication_error(running: Running) -> None:
    """As the platform would show it; the command itself did its work."""
    seen = running.tap("free-6", "--url", f"https://localhost:{free_port()}/checkin-validation")
    assert (seen["desk"], seen["http_status"]) == ("communication error, please try again", None)
    assert seen["note"].startswith("no answer: ")


def test_a_certificate_that_is_not_trusted_is_a_communication_error(running: Running, tmp_path: Path) -> None:
    """With a word on what to do."""
    other, _ = make_certificate(tmp_path)
    seen = running.tap("free-6", "--ca", str(other))
    assert (seen["desk"], seen["http_status"]) == ("communication error, please try again", None)
    assert "not trusted" in seen["note"] and "--ca" in seen["note"]
    assert running.json("decisions", "--member", "free-6") == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "gate",
        "localhost:8443/checkin-validation",
        "ftp://localhost/",
        "https://",
        "https://[::1",
        "https://a b/",
        "https://localhost:port/",
    ],
)
def test_what_is_no_address_is_wrong_usage(url: str, desk: Terminal) -> None:
    """Rather than a door that stays shut."""
    assert desk.complaint("sandbox", "tap", "free", "--studio", "s1", "--url", url).startswith("--url: ")


@pytest.mark.parametrize("content", [None, "not a certificate\n"])
def test_a_bad_certificate_file_is_wrong_usage(content: str | None, desk: Terminal) -> None:
    """Missing, or something else."""
    if content:
        desk.file("ca.pem", content)
    url = f"https://localhost:{free_port()}/"
    arguments = ("sandbox", "tap", "free", "--studio", "s1", "--url", url, "--ca", "ca.pem")
    assert desk.complaint(*arguments).startswith("--ca: ca.pem: ")


def test_the_configuration_says_where_and_what_an_unknown_member_is_told(home: Gate) -> None:
    """Without --url and --ca the server of this configuration is called; it may answer 404."""
    home.studio()
    text = (home.home / "guestgate.toml").read_text("utf-8")
    text += f'unknown_member_status = 404\nhost = "localhost"\nport = {home.port}\n'
    text += f'tls_cert = "{home.cert}"\ntls_key = "{home.key_file}"\n'
    (home.home / "guestgate.toml").write_text(text, "utf-8")
    home.start()
    (seen,) = home.json("sandbox", "tap", "nobody", "--studio", "s1")
    assert (seen["desk"], seen["http_status"]) == ("not found in partner system", 404)
    assert seen["reason"] == "unknown_member"


@contextmanager
def silent_server(cert: Path, key: Path, *, speaks_tls: bool = True) -> Iterator[tuple[int, threading.Event]]:
    """Takes one connection and never says a word, over TLS or not even that; the event: the caller hung up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    gone = threading.Event()

    def swallow(listener: socket.socket) -> None:
        stream, _ = listener.accept()
        stream.settimeout(10)
        try:
            if speaks_tls:
                stream = context.wrap_socket(stream, server_side=True)
            while stream.recv(4096):
                pass
            gone.set()
        except TimeoutError:
            pass  # the caller is still there
        except (ConnectionError, ssl.SSLError):
            gone.set()  # without a goodbye
        stream.close()

    with socket.create_server(("localhost", 0)) as listener:
        thread = threading.Thread(target=swallow, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1], gone
        thread.join(timeout=30)


@pytest.mark.parametrize("speaks_tls", [True, False])
def test_a_call_without_an_answer_is_cancelled_after_750_ms(speaks_tls: bool, tmp_path: Path) -> None:
    """Handshake included, and the connection is closed while the door goes on."""
    cert, key = make_certificate(tmp_path)

    async def one_tap(port: int, gone: threading.Event) -> tuple[Tap, bool]:
        async with Door(f"https://localhost:{port}/checkin-validation", "key", cert) as door:
            return await door.tap("m1", 1), await asyncio.to_thread(gone.wait, 5)

    with silent_server(cert, key, speaks_tls=speaks_tls) as (port, gone):
        seen, closed = asyncio.run(one_tap(port, gone))
    assert (seen.desk, seen.status) == (Desk.ERROR, None)
    assert seen.ms >= 700 and "cancelled" in (seen.note or "")
    assert closed


def test_a_cancelled_tap_is_what_the_desk_would_see(running: Running) -> None:
    """The command's own words for it; its key is revoked all the same."""
    with silent_server(running.gate.cert, running.gate.key_file) as (port, _):
        seen = running.tap("free-7", "--url", f"https://localhost:{port}/checkin-validation")
    assert seen["desk"] == "communication error, please try again" and "cancelled" in seen["note"]
    assert {key["state"] for key in running.all_keys() if key["expires_at"]} == {"revoked"}
