"""What is shipped for running it: systemd units, alert rules, the container file."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from backends import Server
from gate import Gate, wait_for

ROOT = Path(__file__).parents[1]
UNITS = ROOT / "examples" / "systemd"


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """An installation, not yet serving."""
    gate = Gate(tmp_path_factory.mktemp("deployment"))
    gate.studio("s1")
    gate.plans()
    gate.members("free-1,free")
    yield gate
    gate.close()


@pytest.mark.parametrize("unit", ["guestgate.service", "guestgate-backup.service"])
def test_units_are_closed_in(unit: str) -> None:
    """systemd's own judgement: an exposure of 2 at most, on a scale that ends at 10."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(UNITS / unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_units_are_understood(tmp_path: Path) -> None:
    """Every line of them is one that systemd knows, and the programs they start exist where they are installed."""
    program = tmp_path / "guestgate"
    program.write_text("#!/bin/sh\n", "utf-8")
    program.chmod(0o755)
    for file in UNITS.iterdir():
        text = file.read_text("utf-8").replace("/opt/guestgate/bin/guestgate", str(program))
        (tmp_path / file.name).write_text(text, "utf-8")
    files = [str(tmp_path / file.name) for file in UNITS.iterdir()]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True, check=False
    )
    assert str(tmp_path) not in done.stderr.replace(f"{tmp_path}/guestgate ", ""), done.stderr
    assert done.returncode == 0, done.stderr


def allowed_calls(unit: str) -> set[str]:
    """The system calls that a unit's filter lets through."""
    allowed: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", (UNITS / unit).read_text("utf-8"), re.MULTILINE):
        for name in line.removeprefix("~").split():
            calls = members_of(name) if name.startswith("@") else {name}
            allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


def members_of(group: str) -> set[str]:
    """The system calls of one of systemd's groups, and of the groups in it."""
    command = ["systemd-analyze", "syscall-filter", "--no-pager", group]
    lines = [
        line.strip()
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    ]
    names = [line for line in lines[1:] if line and not line.startswith("#")]
    return {call for name in names for call in (members_of(name) if name.startswith("@") else {name})}


def test_the_server_needs_no_more_than_its_unit_allows(gate: Gate, tmp_path: Path) -> None:
    """Traced from start to end with check-ins, API calls and a command: no other system call, no writable code."""
    trace = tmp_path / "trace"
    gate.start(wrapper=("strace", "-f", "-qq", "-o", str(trace)))
    assert gate.checkin("free-1").status_code == 200
    with gate.office() as office:
        wait_for(lambda: office.get("/events").json()["events"], "no events", gate)
        assert office.put("/members/free-2", json={"plan": "free"}).status_code == 201
        assert office.get(f"{gate.admin_url}/metrics").status_code == 200
        assert office.get(f"{gate.admin_url}/readyz").status_code == 200
    traced = gate.process
    assert traced is not None
    (server,) = Path(f"/proc/{traced.pid}/task/{traced.pid}/children").read_text("utf-8").split()
    subprocess.run(["kill", "-TERM", server], check=True)
    assert traced.wait(60) == 0
    text = trace.read_text("utf-8", "replace")
    used = set(re.findall(r"^\d+ +(\w+)\(", text, re.MULTILINE))
    assert {"fdatasync", "accept4"} & used and "execve" in used
    # SQLite gives its files to their folder's owner where it runs as root, and only there.
    assert used - allowed_calls("guestgate.service") - {"fchown"} == set()
    assert not re.search(r"PROT_WRITE\|PROT_EXEC|PROT_EXEC\|PROT_WRITE", text)


@pytest.fixture(scope="module")
def several_machines(tmp_path_factory: pytest.TempPathFactory, postgres: Server) -> Iterator[Gate]:
    """A serving installation on PostgreSQL that would stand in for it."""
    folder = tmp_path_factory.mktemp("several")
    url = postgres.new(folder)
    gate = Gate(folder, database_url=url, stand_in="snapshot", furnished=True)
    gate.start()
    yield gate
    gate.close()
    postgres.drop(url)


def scrape(gate: Gate) -> str:
    """What Prometheus would get."""
    with gate.office("viewer") as office:
        return office.get(f"{gate.admin_url}/metrics").text


@pytest.fixture(scope="module")
def scraped(gate: Gate, several_machines: Gate) -> str:
    """What Prometheus gets of a server that has been called, and of one that would stand in."""
    if gate.process is None or gate.process.poll() is not None:
        gate.start()
    gate.checkin("free-1")
    with gate.client() as client:
        assert client.post(gate.url, headers={"X-API-Key": "wrong"}).status_code == 401
    wait_for(lambda: "copy_age" in scrape(several_machines), "there is no copy", several_machines)
    return scrape(gate) + scrape(several_machines)


def metrics(scraped: str) -> set[str]:
    """Their names."""
    known = set(re.findall(r"^(\w+)(?:\{| )", scraped, re.MULTILINE))
    return known | set(re.findall(r"^# TYPE (\w+) gauge$", scraped, re.MULTILINE))


def test_alerts_speak_of_metrics_that_exist(scraped: str) -> None:
    """Names and labels in the rules are those of a real scrape."""
    known = metrics(scraped)
    rules = yaml.safe_load((ROOT / "examples" / "prometheus-alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 5
    for rule in rules:
        asked = set(re.findall(r"guestgate_\w+", rule["expr"]))
        assert asked <= known, rule["alert"]
        assert asked, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        for label, value in re.findall(r"(\w+)=\"([^\"]+)\"", rule["expr"]):
            assert label == "job" or f'{label}="{value}"' in scraped or (label, value) == ("status", "401"), rule[
                "alert"
            ]
    assert 'guestgate_answer_seconds_bucket{le="0.75"}' in scraped


def test_the_dashboard_for_grafana_shows_metrics_that_exist(scraped: str) -> None:
    """With the labels that they have."""
    dashboard = json.loads((ROOT / "examples" / "grafana-dashboard.json").read_text("utf-8"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len({panel["title"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) > 8
    for expression in asked:
        assert set(re.findall(r"guestgate_\w+", expression)) <= metrics(scraped), expression
        for label, value in re.findall(r"(\w+)=\"([^\"]+)\"", expression):
            assert f'{label}="{value}"' in scraped, expression
    labels = {label for one in asked for group in re.findall(r"by \(([^)]*)\)", one) for label in group.split(", ")}
    assert labels <= set(re.findall(r'(\w+)="', scraped))


def test_the_container_file_copies_and_runs_what_exists() -> None:
    """Its files and commands are those of the project; building it takes a container engine and a registry."""
    text = (ROOT / "Containerfile").read_text("utf-8")
    for source in re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE):
        assert (ROOT / source).exists()
    assert "--require-hashes" in text
    assert re.search(r"^USER guestgate$", text, re.MULTILINE)
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    assert entry == '["guestgate"]'
    assert all(shlex.split(line) for line in re.findall(r"^RUN (.*)$", text, re.MULTILINE))
