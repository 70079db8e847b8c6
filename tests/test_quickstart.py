"""The quickstart, as somebody meets it who has just installed the package."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import httpx
import pytest
from gate import Gate, environment, wait_for

from guestgate import quickstart
from guestgate.sandbox.arrivals import DAY_S, MORNING_H, Load, taps
from guestgate.sandbox.rulebook import Entry, Rulebook, local_date
from guestgate.sandbox.town import Town, TownSpec

# Nothing here differs from one database to another.
pytestmark = pytest.mark.embedded

BODY = '{"aggregatorId": "<your-id>", "customerId": 293123213}'
SUMMARY = re.compile(r"(\d+) check-ins: (\d+) allowed, (\d+) denied, (\d+) errors; .*[\d.]+ ms")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# How the live view goes back to its first line.
REDRAWN = re.compile(r"\r(?:\x1b\[2K\x1b\[1A)+\x1b\[2K")
# Gives the new process the terminal, as a shell does, and Ctrl-C its meaning back.
ON_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.executable, [sys.executable, '-m', 'guestgate', 'quickstart', *sys.argv[1:]])"
)


class Demo:
    """One run of `guestgate quickstart`, in an empty folder and with a temporary folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Nothing runs yet. The temporary folder's name is as short as it is for most users."""
        self.here = folder / "here"
        self.here.mkdir()
        self.temporary = Path(tempfile.mkdtemp(prefix="q", dir="/tmp"))
        self.started: list[subprocess.Popen[Any]] = []
        self.environment = {**environment(), "TMPDIR": str(self.temporary), "TERM": "xterm-256color"}

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Without a terminal."""
        process = subprocess.Popen(
            [sys.executable, "-m", "guestgate", "quickstart", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.here,
            env=self.environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.started.append(process)
        return process

    def run(self, *options: str) -> str:
        """Without a terminal, to its end; returns standard output."""
        process = self.start(*options)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, ""), (out, err)
        return out

    def processes(self) -> list[str]:
        """What still runs of it; its processes hand their environment on."""
        mark = f"TMPDIR={self.temporary}\0".encode()
        found = []
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if folder.name.isdecimal() and mark in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found

    def left_behind(self) -> list[str]:
        """Files and processes."""
        files = [str(path) for folder in (self.here, self.temporary) for path in folder.rglob("*")]
        return files + self.processes()

    def close(self) -> None:
        """End what a failed test has left running."""
        mark = f"TMPDIR={self.temporary}\0".encode()
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if folder.name.isdecimal() and mark in (folder / "environ").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)
        for process in self.started:
            process.wait(timeout=30)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        shutil.rmtree(self.temporary, ignore_errors=True)


@pytest.fixture
def demo(tmp_path: Path) -> Any:
    """A run that is ended whatever happens."""
    demo = Demo(tmp_path)
    yield demo
    demo.close()


@dataclass(frozen=True)
class Guest:
    """A run with --json in the folder of an installation, beside settings that are none of its business."""

    out: str
    left_behind: list[str]
    before: dict[str, bytes]
    after: dict[str, bytes]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """It ended well and said nothing on standard error; several tests look at what came of it."""
    gate, demo = Gate(tmp_path_factory.mktemp("own")), Demo(tmp_path_factory.mktemp("demo"))
    gate.plans('[plans.classic]\nname = "Mine"\n')
    demo.here = gate.home
    demo.environment |= {"GUESTGATE_DATABASE": gate.database_url, "GUESTGATE_CHECKIN_PATH": "/mine"}
    demo.environment |= {"GUESTGATE_PORT": "nonsense", "GUESTGATE_STAND_IN": "refuse"}
    before = contents(gate.home)
    try:
        out = demo.run("--for", "2", "--json")
        left = [name for name in demo.left_behind() if not name.startswith(str(gate.home))]
        yield Guest(out, left, before, contents(gate.home))
    finally:
        demo.close()


def contents(folder: Path) -> dict[str, bytes]:
    """Of each file in it."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def answer_of(command: str) -> dict[str, Any]:
    """What the endpoint says to a pasted command."""
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (command, done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_plain_lines_and_a_command_that_works_when_pasted(demo: Demo) -> None:
    """Without a terminal: the address, the curl line, a line for each check-in, a summary; then nothing is left."""
    process = demo.start("--for", "4")
    assert process.stdout is not None and process.stderr is not None
    seen: list[str] = []
    while not seen or not seen[-1].startswith("curl "):
        seen.append(process.stdout.readline().rstrip("\n"))
        assert process.poll() is None, (seen, process.stderr.read())
    url = re.search(r"https://localhost:\d+/checkin-validation", seen[0])
    assert url is not None and url[0] in seen[-1] and f"-d '{BODY}'" in seen[-1]
    first = answer_of(seen[-1])
    assert (first["decision"], first["reason"]) == ("allowed", "ok")
    again = subprocess.run(
        f"{seen[-1]} -s -w '\\n%{{http_code}}'", shell=True, capture_output=True, text=True, check=True
    )
    assert again.stdout.endswith("\n200") and '"allowed"' in again.stdout
    rest, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "") and "\x1b" not in rest
    *lines, summary, farewell = rest.splitlines()
    figures = SUMMARY.fullmatch(summary.partition(" for half")[0])
    assert figures is not None and int(figures[1]) == len(lines) > 0
    assert int(figures[2]) > 0 and int(figures[1]) == sum(int(figures[number]) for number in (2, 3, 4))
    assert all(re.match(r"\d\d:\d\d:\d\d  \S+ .* ms$", line) for line in lines)
    assert "guestgate init" in farewell
    assert demo.left_behind() == []


def test_the_pages_can_be_seen(demo: Demo) -> None:
    """At the address that is printed, with the token; and what is denied there can be looked into."""
    process = demo.start("--for", "30")
    assert process.stdout is not None
    printed = "".join(process.stdout.readline() for _ in range(3))
    found = re.search(r"in the browser: (http://127.0.0.1:\d+)/\nToken: (ggt_[\w-]+)\n", printed)
    assert found is not None, printed
    with httpx.Client(base_url=found[1], timeout=30) as browser:

        def signed_in() -> bool:
            with suppress(httpx.TransportError):  # it may serve a moment later than the door
                return browser.post("/login", data={"token": found[2]}).status_code == 303
            return False

        wait_for(signed_in, "nobody is let in", seconds=20)
        wait_for(
            lambda: "/decision/" in browser.get("/decisions", params={"answer": "denied"}).text, "nobody is denied"
        )
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert demo.left_behind() == []


def test_json_is_one_object(guest: Guest) -> None:
    """The summary, and nothing else."""
    (figures,) = [json.loads(line) for line in guest.out.splitlines()]
    assert figures["check_ins"] == figures["allowed"] + figures["denied"] + figures["errors"] > 0
    assert 0 < figures["ms_p50"] <= figures["ms_p99"] <= figures["ms_worst"]
    assert guest.left_behind == []


def test_without_a_terminal_it_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """After thirty seconds, which are shortened here."""
    assert quickstart.DEFAULT_SECONDS == 30
    monkeypatch.setattr(quickstart, "DEFAULT_SECONDS", 1)
    assert quickstart.run(None, quiet=True)["allowed"] > 0


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Nobody else can serve on it; another test's quickstart that does is waited for."""
    with ExitStack() as stack:

        def take() -> bool:
            with suppress(OSError):
                stack.enter_context(socket.create_server(("localhost", port)))
                return True
            return False

        wait_for(take, f"port {port} does not become free", seconds=120)
        yield


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda ending: ending.name)
def test_nothing_is_left_behind_however_it_ends(ending: signal.Signals, demo: Demo) -> None:
    """Ctrl-C, `timeout`, a window that is closed; a port in use is no hindrance."""
    with taken(8443):
        process = demo.start("--for", "60")
        assert process.stdout is not None
        assert ":8443/" not in process.stdout.readline()
    wait_for(lambda: " ms\n" in process.stdout.readline(), "no check-in came")  # type: ignore[union-attr]
    process.send_signal(ending)
    out, _ = process.communicate(timeout=60)
    if ending is signal.SIGINT:
        assert process.returncode == 0 and SUMMARY.search(out)
    wait_for(lambda: not demo.processes(), "something still runs", seconds=10)
    assert demo.left_behind() == []


def test_an_installation_of_ones_own_is_not_touched(guest: Guest) -> None:
    """Neither by the environment's settings nor by the folder's configuration."""
    assert guest.after == guest.before
    assert "guestgate.db" in guest.before and "guestgate.toml" in guest.before


def test_settings_around_do_not_matter(guest: Guest) -> None:
    """Right or wrong, they are somebody else's: people are let in all the same."""
    assert json.loads(guest.out)["allowed"] > 0


def test_the_command_can_be_pasted_from_odd_folders() -> None:
    """A temporary folder with a space in its name."""
    ca = Path("/tmp/my folder/it's/cert.pem")
    url, pages = "https://localhost:8443/checkin-validation", "http://127.0.0.1:8444/"
    gate = quickstart.Gate(Town(TownSpec(members=1)), url, ca, pages, "ggt_token")
    words = shlex.split(gate.curl())
    assert words[words.index("--cacert") + 1] == str(ca)
    assert words[words.index("-d") + 1] == BODY


@pytest.mark.parametrize(("day_s", "watched_s"), [(quickstart.DEFAULT_SECONDS, 4), (30, 30), (DAY_S, 4), (DAY_S, 60)])
def test_there_is_something_to_see_at_any_hour(day_s: int, watched_s: int) -> None:
    """Soon after the start and later: people who are let in, people who are not, and several reasons."""
    for hour in range(0, 7 * 24, 3):
        reasons = shown(datetime(2026, 11, 23, 0, 30, tzinfo=UTC) + timedelta(hours=hour), day_s, watched_s)
        allowed = (reasons["ok"] + reasons["reentry"]) / reasons.total()
        assert reasons.total() >= 20 and 0.4 <= allowed <= 0.9, (hour, reasons)
        assert len(reasons) >= 5, (hour, reasons)


@cache
def town_of(day: date) -> Town:
    """The quickstart's on that day."""
    return Town(TownSpec(quickstart.SEED, members=quickstart.MEMBERS, day=day.isoformat()))


def shown(now: datetime, day_s: int, watched_s: int) -> Counter[str]:
    """The reasons that the quickstart's doors are given in its first seconds, by the sandbox's own rules."""
    town = town_of(now.date())
    load = Load(quickstart.PEOPLE_A_SECOND, day_s, quickstart.SEED, from_h=MORNING_H)
    rules, inside, reasons = Rulebook(town), defaultdict[str, list[Entry]](list), Counter[str]()
    for tap in takewhile(lambda tap: tap.due_s < watched_s, taps(town, load)):
        at = now + timedelta(seconds=tap.due_s)
        member = rules.member_of(tap.aggregator_id, tap.customer_id)
        entries = inside[member.id if member else ""]
        verdict = rules.verdict(at, tap.studio, member, tap.customer_id, entries)
        if verdict.reason == "ok":
            entries.append(Entry(str(tap.number), tap.studio, at, local_date(at, tap.studio)))
        reasons[verdict.reason] += 1
    return reasons


class Window:
    """A terminal window with the quickstart in it."""

    def __init__(self, demo: Demo, columns: int, rows: int, *options: str) -> None:
        """Open it, and start."""
        self._master, slave = pty.openpty()
        self.resize(columns, rows)
        hidden = ("COLUMNS", "LINES", "NO_COLOR")
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_TERMINAL, *options],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=demo.here,
            env={name: value for name, value in demo.environment.items() if name not in hidden},
            start_new_session=True,
        )
        os.close(slave)
        demo.started.append(self.process)
        self.out = ""

    def resize(self, columns: int, rows: int) -> None:
        """Drag its corner."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read_until(self, condition: Callable[[str], object]) -> None:
        """Take in what is shown until it is so, or the program has ended."""
        give_up_at = time.monotonic() + 60
        while not condition(self.out):
            assert time.monotonic() < give_up_at, self.out[-3000:]
            if select.select([self._master], [], [], 1)[0]:
                try:
                    self.out += os.read(self._master, 65536).decode("utf-8", "replace")
                except OSError:  # the other side has closed
                    return

    def frames(self) -> list[str]:
        """What the screen has shown, one view after the other, as plain text; the last may be incomplete."""
        return [CONTROL.sub("", frame).replace("\r\n", "\n") for frame in REDRAWN.split(self.out)]

    def ctrl_c(self) -> int:
        """Press it; returns the exit status after the last output."""
        os.write(self._master, b"\x03")
        self.read_until(lambda _: False)
        status = self.process.wait(timeout=60)
        os.close(self._master)
        return status


def test_the_live_view_on_a_terminal(demo: Demo) -> None:
    """It moves, fits the window, its command can be pasted from there, and Ctrl-C ends it with a summary."""
    window = Window(demo, 80, 24)
    window.read_until(lambda out: len(REDRAWN.findall(out)) >= 12 and " ok " in out)
    for columns, rows in ((80, 24), (120, 40), (60, 30)):
        window.resize(columns, rows)
        window.read_until(lambda _, columns=columns: max(map(len, window.frames()[-2].splitlines())) == columns)
        view = window.frames()[-2]
        assert "guestgate quickstart" in view and "Ctrl-C" in view and "allowed" in view
        assert len(view.splitlines()) <= rows and all(len(line) <= columns for line in view.splitlines())
        _, found, command = view.partition("Try it from another terminal:\n")
        assert found
        assert answer_of(command.replace("^C", ""))["decision"] == "allowed"
    assert len(set(window.frames())) > 1
    assert window.ctrl_c() == 0
    last = CONTROL.sub("", window.out).replace("\r\n", "\n").splitlines()[-2:]
    figures = SUMMARY.match(" ".join(last))
    assert figures is not None and int(figures[2]) > 0
    assert window.out.rindex("\x1b[?25h") > window.out.rindex("\x1b[?25l")  # the cursor is back
    assert demo.left_behind() == []
