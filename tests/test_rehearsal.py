"""The rehearsal in short: the exported script, a server whose clock jumps, every fault, and the audit."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

from gate import environment

SCRIPT = Path(__file__).parents[1] / "scripts" / "rehearsal.d" / "rehearsal.py"


def test_a_short_rehearsal_holds(tmp_path: Path) -> None:
    """A town put in by its own script; the clock passes a month's end and a change of clocks; nothing differs."""
    command = [sys.executable, str(SCRIPT), "--rate", "40", "--for", "9", "--members", "300", "--studios", "3"]
    done = subprocess.run(
        [*command, "--json", "--keep", str(tmp_path / "kept")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert len(result["bars"]) == 4 and result["well"] == all(result["bars"].values())
    assert done.returncode == (0 if result["well"] else 1)
    told = (result["bars"], result["audit"]["problems"][:5], result["traffic"]["undelivered_why"])
    assert result["bars"]["the auditor finds no difference"], told
    assert result["bars"]["the record agrees with itself"], told
    assert result["audit"]["decisions"] > 100 and result["audit"]["visits"] > 20
    assert {"cut", "cancel"} == set(result["traffic"]["faults"])
    assert "<svg" in (tmp_path / "kept" / "run.svg").read_text("utf-8")
    lines = [json.loads(line) for line in (tmp_path / "kept" / "run.jsonl").read_text("utf-8").splitlines()]
    ahead = [line["ahead_s"] for line in lines if line["kind"] == "clock"]
    assert len(ahead) == 3 and ahead == sorted(ahead)
    began = datetime.fromisoformat(lines[0]["at"])
    command = [sys.executable, "-m", "guestgate", "decisions", "--json", "--limit", "1"]
    last = subprocess.run(
        command, cwd=tmp_path / "kept", env=environment(), capture_output=True, text=True, check=True
    )
    received_at = datetime.fromisoformat(json.loads(last.stdout)["received_at"])
    assert received_at - began > timedelta(seconds=ahead[-1] - 5)


def test_memory_is_flat_or_it_is_not() -> None:
    """Once caches have filled, it stays where it is but for a little; a leak is found."""
    memory = runpy.run_path(str(SCRIPT))["Memory"]()
    mib = 1024
    memory.kib = {
        "flat": [40 * mib, 90 * mib, *[100 * mib] * 7],
        "moves": [*[100 * mib] * 6, 110 * mib, 117 * mib, 100 * mib],
        "grows": [(100 + 5 * look) * mib for look in range(12)],
        "jumps": [*[100 * mib] * 8, 140 * mib],
    }
    assert {name: memory.is_flat(name) for name in memory.kib} == {
        "flat": True,
        "moves": True,
        "grows": False,
        "jumps": False,
    }
    assert memory.summary("jumps") == {"warm": 100.0, "most_later": 140.0}
