"""What is reported as stored is on disk: seen from outside, by the system calls."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from gate import Gate, environment, wait_for
from sqlalchemy import Connection, event, text

from guestgate.database import Database

# A shell's background jobs inherit that SIGINT is ignored.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from guestgate.cli import main
main()
"""


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
        command = ["strace", "-f", "--seccomp-bpf", "-y", "-qq", "-o", str(trace)]
        command += ["-e", "trace=pwrite64,write,fsync,fdatasync"]
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


def test_an_import_that_is_interrupted_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Ctrl-C: it says which line comes next, and the rows before that are stored; then nothing is missing."""
    gate = Gate(tmp_path)
    gate.plans()
    file, rows = tmp_path / "members.csv", 20_000
    file.write_text("member_id,plan\n" + "".join(f"m-{number:05},free\n" for number in range(rows)), "utf-8")

    def stored() -> list[str]:
        with gate.database.read() as connection:
            return [row[0] for row in connection.exec_driver_sql("SELECT id FROM members ORDER BY id")]

    command = [sys.executable, "-c", INTERRUPTIBLE, "member", "import", str(file)]
    command += ["--config", str(gate.home / "guestgate.toml")]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(stored()) > 500, "the import did not begin", gate)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    (following,) = re.findall(r"stopped; .* go on with --from-line (\d+)", said)
    before = [f"m-{number:05}" for number in range(int(following) - 2)]  # line 1 is the header
    assert 500 < len(before) < rows and set(before) <= set(stored())
    (report,) = gate.json("member", "import", str(file), "--from-line", following)
    assert report["added"] + report["unchanged"] == rows - len(before), "lines before that were taken again"
    assert stored() == [f"m-{number:05}" for number in range(rows)]


def test_an_interruption_within_a_statement_is_told_as_one(tmp_path: Path) -> None:
    """Ctrl-C while the library is at work costs the connection; that must not hide what happened."""
    database = Database.at(f"sqlite:///{tmp_path / 'guestgate.db'}")
    database.upgrade()

    @event.listens_for(database.engine, "do_execute")
    def interrupt(_cursor: object, statement: str, _parameters: object, _context: object) -> None:
        if "3000" in statement:
            raise KeyboardInterrupt

    def write(connection: Connection, numbers: list[int]) -> None:
        for number in numbers:
            connection.execute(text(f"UPDATE feed SET seq = {number}"))

    done = 0
    with pytest.raises(KeyboardInterrupt):
        for done in database.write_many(iter(range(5000)), write):  # noqa: B007
            pass
    with database.read() as connection:
        assert 0 < done == connection.execute(text("SELECT seq FROM feed")).scalar_one() + 1 <= 3000
