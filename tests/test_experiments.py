"""The longer experiments, in a short form: they run, and what they count comes out right."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from gate import environment

ROOT = Path(__file__).parents[1]


def experiment(name: str, *options: str) -> str:
    """What it prints; it has to end well."""
    command = [sys.executable, str(ROOT / "scripts" / "experiment.d" / f"{name}.py"), *options]
    env = environment() | {"PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_changes_by_api_are_in_force_at_once() -> None:
    """Members, studios' keys: each within two seconds, while doors are open."""
    said = experiment("changes", "--changes", "80", "--rate", "30")
    assert "88 changes" in said and " 0 after 2 s" in said and " 0 failed" in said


@pytest.mark.parametrize("where", [(), ("--postgresql",)])
def test_a_replay_of_what_the_ledger_recorded(where: tuple[str, ...]) -> None:
    """Under the plans as they were, every answer is the recorded one."""
    said = experiment("replay", "--checkins", "2000", "--members", "100", "--rounds", "1", *where)
    assert "0 answers changed by the plans as they were, 0 unexplained" in said
    assert len(re.findall(r"^replay, ", said, re.MULTILINE)) == 3


@pytest.mark.parametrize("where", [(), ("--postgresql",)])
def test_a_month_is_closed_beside_open_doors(where: tuple[str, ...]) -> None:
    """Every visit pays once, by its file as well; no call without its answer, a record that agrees with itself."""
    said = experiment("statements", "--visits", "2000", "--rate", "30", "--seconds", "1", *where)
    assert "2,000 visits, 2,000 pay: closed in " in said and "0 problems in the record" in said
    assert len(re.findall(r", 0 failed", said)) == 2


def test_members_in_bulk_beside_open_doors() -> None:
    """By command line and by API: all there, no call without its answer, a record that agrees with itself."""
    said = experiment("million", "--members", "1000", "--rate", "30", "--seconds", "1")
    assert "1000 added, 0 updated, 0 unchanged, 0 bad" in said
    assert "0 added, 0 updated, 1000 unchanged, 0 bad" in said
    assert "0 added, 1000 updated, 0 bad" in said
    assert len(re.findall(r", 0 failed", said)) == 6
    assert "'ok': True" in said


@pytest.mark.alone
@pytest.mark.parametrize("where", [(), ("--postgresql",)])
def test_the_last_days_of_a_month(where: tuple[str, ...]) -> None:
    """Webhooks lost, answers late, the server killed: what pays is what the auditor counts, to the visit."""
    said = experiment("month", "--days", "3", "--kill", "2", "--seconds", "1", "--rate", "12", *where)
    assert re.search(r"^0 differences$", said, re.MULTILINE), said
    assert re.search(r"^webhooks .*'lost': [1-9]", said, re.MULTILINE), said
    assert len(re.findall(r"^payable .* [1-9][0-9]* by the auditor, 0 differences$", said, re.MULTILINE)) == 2


@pytest.mark.alone
def test_outages_under_load() -> None:
    """Two kinds of them, the others stand in test_outages: all promises kept, and some members let in meanwhile."""
    short = ("--rate", "60", "--freeze", "2", "--network", "2", "--turned-away", "0.02")
    said = experiment("outages", *short, "--only", "freeze", "--only", "delay")
    assert "BROKEN" not in said and len(re.findall(r" kept$", said, re.MULTILINE)) == 2


@pytest.mark.alone
def test_pages_beside_doors() -> None:
    """All of them on both databases; none reads through the record, and live pages get something while doors open."""
    few = ("--decisions", "30000", "--members", "3000", "--starts", "1", "--times", "1")
    said = experiment("pages", *few, "--rounds", "1", "--seconds", "1", "--live", "2", "--untimed")
    for kind in ("sqlite", "postgresql"):
        assert re.search(rf"^43 pages on {kind}, [0-9]+ over 300 ms, 0 with faults$", said, re.MULTILINE), said
    assert (
        len(re.findall(r"^    (?:no live page: |2 live pages:) [0-9]+ answers.* 0 failed", said, re.MULTILINE)) == 4
    )
    assert len(re.findall(r"^    p99 [+-][0-9.]+ ms", said, re.MULTILINE)) == 2
