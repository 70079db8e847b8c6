"""`guestgate probe`: what it prints, its exit status, JSON, JUnit, wrong usage, and that no key is ever shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import endpoints
import pytest
from authority import Authority
from endpoints import ALLOWED, KEY, Endpoint, serving
from gate import Gate, environment, free_port
from terminal import Done, Terminal

from guestgate.probe.clauses import CLAUSES

# Nothing here differs from one database to another.
pytestmark = pytest.mark.embedded

CARDS = ("--allowed", f"{ALLOWED.aggregator_id}:{ALLOWED.customer_id}", "--denied", "m:1043:293123214")
CLAUSE = ["id", "title", "verdict", "because", "sent", "received", "rests_on", "section", "figures"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """What `--ca` trusts."""
    return Authority(tmp_path_factory.mktemp("authority"))


def probe(terminal: Terminal, authority: Authority, endpoint: Endpoint, *options: str, **more: Any) -> Done:
    """Probe an endpoint."""
    with serving(endpoint, endpoints.context(authority.issue("localhost"))) as url:
        arguments = ("probe", url, "--key-stdin", *CARDS, "--ca", str(authority.file), "--calls", "8")
        return terminal.run(*arguments, *options, input=f"{KEY}\n", **more)


@pytest.mark.quiet
def test_guestgate_keeps_the_contract(served: Gate) -> None:
    """A real process against the real server: a row for each clause, a summary, exit status 0."""
    arguments = ("--key-stdin", "--allowed", "free-1:1", "--denied", "nobody:2", "--ca", str(served.cert))
    done = served.cli("probe", served.url, *arguments, input=served.keys["s1"])
    rows = [line for line in done.stdout.splitlines() if line.startswith(("passed", "note", "failed"))]
    assert [row.split()[1] for row in rows] == [clause.id for clause in CLAUSES]
    assert f"{len(CLAUSES)} clauses: {len(CLAUSES) - 2} passed, 2 notes" in done.stdout
    assert served.keys["s1"] not in done.stdout + done.stderr and done.stderr == ""


def test_what_failed_is_shown_whole(terminal: Terminal, authority: Authority) -> None:
    """What was sent, what came back and what it rests on; its consequences name it; exit status 1."""
    shown = probe(terminal, authority, endpoints.Decides(for_allowed=404), status=1)
    row = next(line for line in shown.out.splitlines() if line.startswith("failed"))
    assert row.split()[1] == "allowed"
    below = shown.out[shown.out.index(row) :]
    assert "sent" in below and "POST, X-API-Key: (the key)" in below and '"aggregatorId": "m:1042"' in below
    assert 'received  404 {"status": 404}' in below
    assert "rests on  200 means: may enter. (docs/CONTRACT.md, The call)" in below
    assert "because allowed failed" in below
    assert "1 failed, 1 failed as a consequence" in shown.out.splitlines()[-1] and shown.err == ""


def test_json_is_one_object(terminal: Terminal, authority: Authority) -> None:
    """With every clause in order, and figures where there are some."""
    (report,) = probe(terminal, authority, Endpoint(), "--json").objects
    assert list(report) == ["url", "holds", "started_at", "seconds", "counts", "clauses"]
    assert report["holds"] is True and report["seconds"] > 0
    assert report["counts"] == {"passed": len(CLAUSES) - 1, "failed": 0, "note": 1, "consequence": 0}
    assert [clause["id"] for clause in report["clauses"]] == [clause.id for clause in CLAUSES]
    for clause in report["clauses"]:
        assert list(clause) == CLAUSE and clause["sent"] and clause["received"] and clause["rests_on"]
    measured = {clause["id"]: clause["figures"] for clause in report["clauses"] if clause["figures"]}
    assert list(measured) == ["in-time", "in-time-together"]
    for figures in measured.values():
        assert list(figures) == ["calls", "p50_ms", "p99_ms", "worst_ms", "over_750_share"]
        assert figures["calls"] == 8 and 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["worst_ms"]


def test_json_of_a_failure(terminal: Terminal, authority: Authority) -> None:
    """The same shape, and exit status 1."""
    (report,) = probe(terminal, authority, endpoints.WantsBareJson(), "--json", status=1).objects
    assert report["holds"] is False and report["counts"]["failed"] == 1
    because = {clause["id"]: clause["because"] for clause in report["clauses"] if clause["verdict"] == "consequence"}
    assert because["allowed"] == "charset" and set(because.values()) == {"charset"}


def test_junit_is_what_ci_systems_read(terminal: Terminal, authority: Authority) -> None:
    """A test for each clause; a consequence is skipped, so that each cause fails once."""
    probe(terminal, authority, endpoints.WantsBareJson(), "--junit", "probe.xml", status=1)
    text = Path("probe.xml").read_text("utf-8")
    root = ElementTree.fromstring(text)
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    cases = suite.findall("testcase")
    assert [case.attrib["name"].partition(":")[0] for case in cases] == [clause.id for clause in CLAUSES]
    assert all(case.attrib["classname"] and "time" in case.attrib for case in cases)
    failed = [case for case in cases if case.find("failure") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    for counted in (root.attrib, suite.attrib):
        assert int(counted["tests"]) == len(cases) and counted["errors"] == "0"
        assert (int(counted["failures"]), int(counted["skipped"])) == (len(failed), len(skipped)) == (1, 4)
    (failure,) = failed[0].findall("failure")
    assert failed[0].attrib["name"].startswith("charset") and "415" in failure.attrib["message"]
    assert failure.text is not None and all(word in failure.text for word in ("sent:", "received:", "rests on:"))
    assert KEY not in text


def test_a_full_disk_spoils_no_report(terminal: Terminal, authority: Authority) -> None:
    """The JUnit file is what cannot be written, and it is named; what was found is told first."""
    done = probe(terminal, authority, Endpoint(), "--junit", "/dev/full", status=1)
    assert f"{len(CLAUSES)} clauses" in done.out
    assert done.err == "guestgate: --junit: /dev/full: No space left on device\n"


@pytest.mark.parametrize("options", [(), ("--json",), ("--junit", "probe.xml")])
def test_no_key_is_ever_shown(options: tuple[str, ...], terminal: Terminal, authority: Authority) -> None:
    """Not even where the endpoint itself repeats it, nor the wrong one that is almost the key."""

    class RepeatsAll(Endpoint):
        def answer(self, call: endpoints.Call) -> None:
            key = call.headers.get("x-api-key") or ""
            call.reply(302, f"{key} {json.dumps(key)} {KEY}".encode(), Location=f"/login?key={key}")

    done = probe(terminal, authority, RepeatsAll(), *options, status=1)
    seen = done.out + done.err + "".join(path.read_text("utf-8") for path in Path().glob("probe.xml"))
    assert "(a key)" in seen and "key-not-echoed" in done.out
    assert KEY[:-1].lower() not in seen.lower() and json.dumps(KEY)[1:-2] not in seen.replace("\\\\", "\\")


@pytest.mark.parametrize("options", [(), ("--junit", "probe.xml")])
def test_an_endpoint_does_not_steer_the_terminal(
    options: tuple[str, ...], terminal: Terminal, authority: Authority
) -> None:
    """Nor does it break the XML, or write markup of ours."""

    class Steers(Endpoint):
        def answer(self, call: endpoints.Call) -> None:
            call.reply(500, "\x1b]0;owned\x07\x00\ufffe\u202e[bold]</failure>[/nothing]".encode())

    done = probe(terminal, authority, Steers(), "--allowed", "\x1b[31mm:5", *options, status=1)
    assert not any(character in done.out for character in "\x1b\x07\x00\ufffe\u202e")
    assert "[bold]</failure>[/nothing]" in done.out
    for file in Path().glob("probe.xml"):
        ElementTree.fromstring(file.read_bytes())


def test_the_last_colon_counts(terminal: Terminal, authority: Authority) -> None:
    """An aggregatorId has any characters: colons, spaces, those of other scripts."""
    seen = set()

    class Listens(Endpoint):
        def reads(self, content: bytes) -> tuple[Any, Any]:
            seen.add(super().reads(content))
            return super().reads(content)

    options = ("--allowed", "urn:m: 1 ßμ:7", "--denied", "::9")
    probe(terminal, authority, Listens(), *options, status=1)
    assert {("urn:m: 1 ßμ", 7), (":", 9)} <= seen


@pytest.mark.parametrize("number", [1, 40])
def test_calls_are_as_many_as_asked_for(number: int, terminal: Terminal, authority: Authority) -> None:
    """Also fewer than are made at a time."""
    (report,) = probe(terminal, authority, Endpoint(), "--json", "--calls", str(number)).objects
    assert [clause["figures"]["calls"] for clause in report["clauses"] if clause["figures"]] == [number, number]


def test_a_short_key_is_not_looked_for(terminal: Terminal, authority: Authority) -> None:
    """It may stand in an answer by chance: a note."""

    class KnowsAShortKey(Endpoint):
        def refuses_key(self, key: str | None) -> int | None:
            return None if key == "k200" else 401

    with serving(KnowsAShortKey(), endpoints.context(authority.issue("localhost"))) as url:
        arguments = ("probe", url, "--key-stdin", *CARDS, "--ca", str(authority.file), "--calls", "8")
        (report,) = terminal.json(*arguments, input="k200")
    assert report["holds"] and report["clauses"][-1]["verdict"] == "note"


URL = "https://localhost:1/checkin-validation"


@pytest.mark.parametrize(
    ("arguments", "key", "words"),
    [
        ((URL, *CARDS), KEY, "--key-stdin"),
        ((URL, "--key-stdin", *CARDS), "", "--key-stdin"),
        ((URL, "--key-stdin", *CARDS), "schlüssel", "key"),
        ((URL, "--key-stdin", *CARDS[2:]), KEY, "--allowed"),
        ((URL, "--key-stdin", *CARDS[:2]), KEY, "--denied"),
        ((URL, "--key-stdin", *CARDS[:2], "--denied", CARDS[1]), KEY, "--denied"),
        ((URL, "--key-stdin", *CARDS[:2], "--denied", "m-1043"), KEY, "--denied"),
        ((URL, "--key-stdin", *CARDS[:2], "--denied", ":5"), KEY, "--denied"),
        ((URL, "--key-stdin", *CARDS[:2], "--denied", "m:0"), KEY, "--denied"),
        ((URL, "--key-stdin", *CARDS[:2], "--denied", f"m:{2**63}"), KEY, "--denied"),
        ((URL, "--key-stdin", *CARDS[:2], "--denied", "m:1_0"), KEY, "--denied"),
        ((URL, "--key-stdin", *CARDS[:2], "--denied", f"{'m' * 256}:1"), KEY, "--denied"),
        ((URL, "--key-stdin", *CARDS, "--calls", "0"), KEY, "--calls"),
        ((URL, "--key-stdin", *CARDS, "--calls", "10001"), KEY, "--calls"),
        ((URL, "--key-stdin", *CARDS, "--ca", "nowhere.pem"), KEY, "nowhere.pem"),
        ((URL, "--key-stdin", *CARDS, "--ca", "guestgate.toml"), KEY, "guestgate.toml"),
        ((URL, "--key-stdin", *CARDS, "--junit", "nowhere/probe.xml"), KEY, "nowhere/probe.xml"),
        ((URL, "--key-stdin", *CARDS, "--junit", "."), KEY, "--junit"),
        ((URL, "--key-stdin", *CARDS, "--config", "nowhere.toml"), KEY, "nowhere.toml"),
        (("--key-stdin", *CARDS), KEY, "URL"),
        (("", "--key-stdin", *CARDS), KEY, "URL"),
        (("gate.example.com", "--key-stdin", *CARDS), KEY, "URL"),
        (("http://gate.example.com/", "--key-stdin", *CARDS), KEY, "https"),
        (("https://user@gate.example.com/", "--key-stdin", *CARDS), KEY, "URL"),
        (("https://256.256.256.256/", "--key-stdin", *CARDS), KEY, "URL"),
        (("https://gate.example.com:99999/", "--key-stdin", *CARDS), KEY, "URL"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: tuple[str, ...], key: str, words: str, terminal: Terminal) -> None:
    """Exit status 2, and nothing is called; no sentence has the key in it."""
    sentence = terminal.complaint("probe", *arguments, input=key)
    assert words in sentence and KEY not in sentence


def test_nobody_there_is_a_report_too(terminal: Terminal) -> None:
    """Exit status 1, and no traceback."""
    done = terminal.run("probe", f"https://localhost:{free_port()}/", "--key-stdin", *CARDS, input=KEY, status=1)
    assert "failed as a consequence" in done.out and "reachable" in done.out


def test_it_needs_no_installation(authority: Authority, tmp_path: Path) -> None:
    """Any aggregator can use it: no configuration, no database, and none is made."""
    command = [sys.executable, "-m", "guestgate", "probe"]
    with serving(Endpoint(), endpoints.context(authority.issue("localhost"))) as url:
        done = subprocess.run(
            [*command, url, "--key-stdin", *CARDS, "--ca", str(authority.file), "--calls", "8"],
            input=KEY,
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
