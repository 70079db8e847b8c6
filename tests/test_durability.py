"""What is reported as stored is on disk: seen from outside, by the system calls."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from gate import Gate, environment


@pytest.mark.parametrize("bad_rows", [False, True])
def test_an_import_is_on_disk_before_it_is_reported(tmp_path: Path, bad_rows: bool) -> None:
    """After the last write to the log comes a sync of it, and only then the report."""
    gate = Gate(tmp_path)
    gate.plans()
    file, trace = tmp_path / "members.csv", tmp_path / "trace"
    rows = [f"m-{number},{'gold' if bad_rows and number % 7 == 0 else 'free'}\n" for number in range(2000)]
    file.write_text("member_id,plan\n" + "".join(rows), "utf-8")
    # Somebody else has the database open, as the server would: the log stays when the import ends.
    with gate.database.read():
        command = ["strace", "-f", "-y", "-qq", "-o", str(trace), "-e", "trace=pwrite64,write,fsync,fdatasync"]
        command += [sys.executable, "-m", "guestgate", "member", "import", str(file)]
        command += ["--config", str(gate.home / "guestgate.toml")]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == bad_rows, done.stderr
    lines = trace.read_text("utf-8", "replace").splitlines()
    log = [number for number, line in enumerate(lines) if re.search(r"write64\(\d+<[^>]*guestgate\.db-wal>", line)]
    synced = [n for n, line in enumerate(lines) if re.search(r"f(data)?sync\(\d+<[^>]*guestgate\.db-wal>", line)]
    (told,) = (number for number, line in enumerate(lines) if "write(1<" in line and " added, " in line)
    assert len(log) > 10, "the import wrote nothing to the log"
    assert any(log[-1] < number < told for number in synced), "reported before it was on disk"
