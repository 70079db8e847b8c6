"""Traffic on the command line: open loop, reports, webhooks and their faults, wrong usage."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
from gate import Gate, environment, free_port, wait_for
from receiver import Receiver
from terminal import Terminal
from towns import log_of, recorded, run

from guestgate.cli.town import faults_of
from guestgate.sandbox.arrivals import FAULTS, MORNING_H, Load, taps
from guestgate.sandbox.door import CANCEL_AFTER_S, Desk, Inquiry, Reception, Tap
from guestgate.sandbox.journal import Journal
from guestgate.sandbox.platform import Endpoints, Platform
from guestgate.sandbox.report import LIMIT_MS, Latencies, Report
from guestgate.sandbox.town import Town, TownSpec
from guestgate.sandbox.traffic import Traffic

TOWN = Town(TownSpec(members=200))
# No key of the town's is known, or the command ends before it looks: the record is empty, wherever it is kept.
nothing_is_recorded = pytest.mark.embedded
# A shell's background jobs inherit that Ctrl-C is ignored.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from guestgate.cli import main
main()
"""


def test_a_silent_endpoint_slows_nobody_down(tmp_path: Path) -> None:
    """Everybody comes when they are due, and every call is cancelled after 750 ms."""
    load = Load(40, 3, seed=3)
    with Receiver(tmp_path) as receiver:
        receiver.answers["/checkin-validation"] = hang
        report = run(TOWN, Endpoints(f"{receiver.base}/checkin-validation", ca=receiver.cert), load, tmp_path / "log")
    planned = list(taps(TOWN, load))
    assert report.latencies.count == len(planned) == report.undelivered and report.not_made == 0
    calls = sorted(log_of(tmp_path / "log").calls, key=lambda call: call.number)
    started = calls[0].began.timestamp() - planned[0].due_s
    late = sorted(call.began.timestamp() - started - tap.due_s for call, tap in zip(calls, planned, strict=True))
    one_by_one_s = len(planned) * CANCEL_AFTER_S
    assert late[len(late) // 2] < one_by_one_s / 8  # half of it, were anybody waited for


def test_a_run_that_is_ended_waits_for_its_calls(tmp_path: Path) -> None:
    """They may be decided, so the log has to know what came of them; none is broken off."""

    async def end_early() -> Report:
        with Journal(tmp_path / "log") as journal:
            endpoints = Endpoints(f"{receiver.base}/checkin-validation", ca=receiver.cert)
            async with Platform(TOWN, endpoints, journal) as platform:
                traffic = Traffic(platform, Load(40, 60, seed=3, from_h=MORNING_H))
                running = asyncio.create_task(traffic.run())
                await asyncio.sleep(0.4)
                running.cancel()
                await asyncio.wait([running])
                assert running.cancelled()
                return traffic.report

    with Receiver(tmp_path) as receiver:
        receiver.answers["/checkin-validation"] = hang
        report = asyncio.run(end_early())
    assert len(log_of(tmp_path / "log").calls) == report.latencies.count > 3
    assert set(report.undelivered_why) == {"no answer within 750 ms; the call was cancelled"}


def hang(_: object) -> tuple[int, dict[str, str]]:
    """Longer than anybody waits."""
    time.sleep(1.2)
    return 200, {}


def test_webhooks_follow_the_visits(tmp_path: Path) -> None:
    """One for each customer who was let in, with faults from the seed: some lost, doubled, late or overtaken."""
    load = Load(60, 5, seed=2, faults=frozenset({"webhooks"}))
    with Receiver(tmp_path) as receiver:
        report = run(
            TOWN,
            Endpoints(f"{receiver.base}/checkin-validation", None, f"{receiver.base}/webhook", receiver.cert),
            load,
            tmp_path / "log",
        )
        came = Counter(one.body["uuid"] for one in receiver.of("/webhook"))
        order = [one.body["payload"][0]["timestamp"] for one in receiver.of("/webhook")]
    lines = [json.loads(line) for line in (tmp_path / "log").read_text("utf-8").splitlines()]
    sent = {line["uuid"]: line["fate"] for line in lines if line["kind"] == "webhook"}
    times = {"lost": 0, "doubled": 2}
    assert came == +Counter({uuid: times.get(fate, 1) for uuid, fate in sent.items()})
    assert set(sent.values()) == {"on time", "lost", "doubled", "delayed", "overtaken"}
    assert order != sorted(order) and report.webhooks["delivered"] == came.total()
    entries = [line for line in lines if line["kind"] == "entry"]
    assert [(line["studio"], line["customer_id"]) for line in entries] == [
        (line["studio"], line["entity_id"]) for line in lines if line["kind"] == "webhook"
    ]
    assert log_of(tmp_path / "log").came_in_on == {line["decision_id"] for line in entries}


@nothing_is_recorded
def test_a_run_on_the_command_line(served: Gate, tmp_path: Path) -> None:
    """Any endpoint: this one knows none of the keys, which the report says; picture and log are written."""
    options = ["--url", served.url, "--ca", str(served.cert), "--rate", "30", "--for", "2"]
    files = ["--log", str(tmp_path / "run.jsonl"), "--svg", str(tmp_path / "run.svg")]
    (report,) = served.json("sandbox", "traffic", *options, *files)
    assert report["calls"] > 20 and report["undelivered"] == report["calls"] == report["desk"][Desk.ERROR.value]
    assert set(report["undelivered_why"]) == {"status 401"}
    picture = ElementTree.fromstring((tmp_path / "run.svg").read_text("utf-8"))
    assert "750 ms" in "".join(picture.itertext())
    lines = (tmp_path / "run.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == report["calls"] + 1
    shown = served.cli("sandbox", "traffic", *options, "--seed", "2").stdout
    assert (
        "does not know the town's keys" in shown
        and "communication error" in shown
        and "the platform waits no longer" in shown
    )
    full = served.cli("sandbox", "traffic", *options, "--svg", "/dev/full", status=1)
    assert "the desks saw" in full.stdout and "--svg: /dev/full: No space left" in full.stderr
    done = served.cli("sandbox", "audit", str(tmp_path / "run.jsonl"), status=1)
    assert re.search(r"was answered 401, without a decision", done.stdout) and "differences" in done.stdout


@nothing_is_recorded
def test_a_log_goes_on_where_it_ended(served: Gate, tmp_path: Path) -> None:
    """A second run, and one that comes to nothing, take away nothing that an audit needs."""
    log = tmp_path / "run.jsonl"
    options = ["--url", served.url, "--ca", str(served.cert), "--rate", "30", "--for", "1", "--log", str(log)]
    calls = [served.json("sandbox", "traffic", *options, "--seed", seed)[0]["calls"] for seed in ("1", "2")]
    served.cli("sandbox", "traffic", *options, "--ca", "nowhere.pem", status=2)
    assert len(log_of(log).calls) == sum(calls) > max(calls) > 0


@nothing_is_recorded
def test_a_day_that_is_broken_off_has_its_report(served: Gate, tmp_path: Path) -> None:
    """Ctrl-C: what was seen so far, each call in the log, and exit status 130."""
    log = tmp_path / "run.jsonl"
    command = [sys.executable, "-c", INTERRUPTIBLE, "sandbox", "traffic", "--url", served.url, "--json"]
    process = subprocess.Popen(
        [*command, "--ca", str(served.cert), "--rate", "100", "--for", "600", "--log", str(log)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: log.exists() and len(log.read_text("utf-8").splitlines()) > 10, "nobody came")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert len(log_of(log).calls) == json.loads(out)["calls"] > 5


@nothing_is_recorded
def test_a_log_that_cannot_be_written_ends_the_day(served: Gate) -> None:
    """Rather than a report of the calls that happened to be logged."""
    options = ["--url", served.url, "--ca", str(served.cert), "--for", "60", "--rate", "100"]
    done = served.cli("sandbox", "traffic", *options, "--log", "/dev/full", status=1)
    assert done.stderr == "guestgate: --log: /dev/full: No space left on device\n" and done.stdout == ""


@nothing_is_recorded
@pytest.mark.parametrize(
    "line",
    [
        *("[]", "{}", "7", '{"kind": "run"}', '{"kind": "call"}', '{"kind": "call", "at": 5}'),
        '{"kind": "enrolment"}',
        *('{"kind": "clock", "at": 5, "ahead_s": 1}', '{"kind": "entry"}', '{"kind": "ca'),
        '{"kind": "clock", "at": "2026-01-01T00:00:00Z", "ahead_s": 1e300}',
    ],
)
def test_a_line_that_is_none_is_named(line: str, terminal: Terminal) -> None:
    """By file and number, whatever is wrong with it."""
    file = terminal.file("run.jsonl", f"{json.dumps({'kind': 'run', 'town': TOWN.spec.as_dict()})}\n{line}\n")
    assert "run.jsonl:2: this is no line of a sandbox's log" in terminal.complaint("sandbox", "audit", file)


def test_all_faults_are_those_that_can_happen() -> None:
    """However they are listed."""
    assert faults_of(None, {}) == faults_of("", {}) == frozenset()
    assert faults_of("all", {}) == faults_of("cut, all,", {}) == set(FAULTS)
    assert faults_of("all", {"clock": "needs a file"}) == set(FAULTS) - {"clock"}
    assert faults_of("cut,cancel", {"clock": "needs a file"}) == {"cut", "cancel"}


def test_an_audit_of_nothing(home: Gate, tmp_path: Path) -> None:
    """A log of a town where nobody came agrees with an empty record."""
    endpoints = Endpoints(f"https://localhost:{free_port()}/checkin-validation")
    run(TOWN, endpoints, Load(0.01, 0.1), tmp_path / "log")
    (found,) = home.json("sandbox", "audit", str(tmp_path / "log"))
    assert found["agrees"] and found["calls"] == found["decisions"] == 0
    assert recorded(home) == ([], [])


@nothing_is_recorded
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("traffic", "--faults", "rain"), "--faults: there is no fault 'rain'"),
        (("traffic", "--faults", "clock"), "--faults clock: give --clock-file"),
        (("traffic", "--faults", "cut,clock"), "--faults clock: give --clock-file"),
        (("traffic", "--faults", "webhooks"), "--faults webhooks: give --webhook-url"),
        (("serve", "--url", "https://localhost/", "--faults", "clock"), "--faults clock: only sandbox traffic"),
        (("traffic", "--town", "nowhere"), "--town: nowhere/town.json"),
        (("traffic", "--url", "gate"), "--url: "),
        (("traffic", "--url", "https://localhost/", "--codes"), "--codes: give --member-validation-url"),
        (("serve", "--url", "https://localhost/", "--codes"), "--codes: give --member-validation-url"),
        (("enrol", "m", "--studio", "s1", "--url", "gate"), "--url: "),
        (("traffic", "--rate", "0"), "--rate"),
        (("serve", "--url", "gate"), "--url: "),
        (("serve", "--url", "https://localhost/", "--ca", "nowhere.pem"), "--ca: nowhere.pem"),
        (("audit", "nowhere"), "nowhere: No such file"),
        (("audit", "guestgate.toml"), "guestgate.toml:1: this is no line of a sandbox's log"),
        (("traffic", "--svg", "nowhere/run.svg"), "--svg: nowhere/run.svg: "),
        (("export", "guestgate.toml"), "guestgate.toml: "),
        (("export", "."), "plans.toml is there already"),
        (("export", "town", "--studios", "0"), "--studios"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: tuple[str, ...], complaint: str, terminal: Terminal) -> None:
    """And exit status 2."""
    assert complaint in terminal.complaint("sandbox", *arguments)


def test_latencies_are_counted_in_bounded_space() -> None:
    """Percentiles to a tenth of a millisecond; everything beyond a second in the last bar."""
    found = Latencies()
    assert found.percentile_ms(0.5) == 0 and sum(count for *_, count in found.bars()) == 0
    for ms in range(1000):
        found.add(ms + 0.5)
    found.add(5000)
    assert (found.percentile_ms(0.5), found.percentile_ms(0.99), found.worst_ms) == (500.5, 990.5, 5000)
    assert found.bars()[-1] == (LIMIT_MS, 1000, 251) and sum(count for *_, count in found.bars()) == 1001


def test_endless_reasons_are_counted_in_bounded_space() -> None:
    """An endpoint may say something else each time."""
    report = Report(Counter())
    for number in range(1000):
        report.add(Tap(Desk.ERROR, None, 5.0, reason=f"reason {number}", note=f"note {number}"), None)
    for counts in (report.reasons, report.undelivered_why):
        assert counts.total() == 1000 and len(counts) < 50 and counts["others"] > 900


def test_what_a_fault_met_is_counted_apart() -> None:
    """Undelivered is what nobody meant to lose."""
    report = Report(Counter())
    lost = Tap(Desk.ERROR, None, 10.0, note="no answer: the connection was cut")
    report.add(lost, "cut")
    report.add(Tap(Desk.OPEN, 200, 5.0, reason="ok"), "cancel")
    report.add(Tap(Desk.ERROR, 503, 400.0, reason="unavailable"), None)
    report.add(lost, None)
    figures = report.as_dict()
    assert (figures["calls"], figures["undelivered"], figures["faults"]) == (3, 2, {"cut": 1, "cancel": 1})
    assert figures["undelivered_why"] == {"status 503": 1, "no answer: the connection was cut": 1}
    assert "2 undelivered: 1 status 503" in report.text() and "desks:" not in report.text()
    assert "&lt;&amp;&gt;" in report.svg("<&>")


def test_what_desks_saw_is_counted_apart() -> None:
    """An answer that is no use is undelivered, like a fault; one that a fault met is not."""
    report = Report(Counter())
    report.enrol(Inquiry(Reception.REGISTERED, 200, 5.0, {"aggregatorId": "m"}), None)
    report.enrol(Inquiry(Reception.NOT_FOUND, 404, 5.0, {}, "this member may not register here"), None)
    report.enrol(Inquiry(Reception.ERROR, 200, 5.0, {}, "email is null; what is not known is left out"), None)
    report.enrol(Inquiry(Reception.ERROR, 503, 5.0, {}, "try again"), None)
    report.enrol(Inquiry(Reception.ERROR, None, 5.0, {}, "no answer: the connection was cut"), "cut")
    figures = report.as_dict()
    assert list(figures["enrolments"].values()) == [1, 1, 2] and figures["calls"] == 0
    assert (figures["undelivered"], figures["faults"]) == (2, {"cut": 1})
    assert set(figures["undelivered_why"]) == {"email is null; what is not known is left out", "status 503"}
    assert "4 members at the desks: 2 communication error" in report.text()
