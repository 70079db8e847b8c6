"""docs/SANDBOX.md: its worked example runs as it stands, only shorter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from gate import environment, free_port

TEXT = (Path(__file__).parents[1] / "docs" / "SANDBOX.md").read_text("utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_the_worked_example(tmp_path: Path) -> None:
    """From nothing to an audited day."""
    setup, start, day, audit = BLOCKS[:4]
    assert "sandbox traffic" in day and "sandbox audit" in audit
    port = str(free_port())
    start = start.replace("guestgate serve", f"guestgate serve --admin-port {free_port()}")
    serves = f"until curl -skf https://localhost:{port}/healthz; do kill -0 %1 || exit 9; sleep 0.1; done\n"
    script = f"{setup}{start}{serves}{day.replace('--for 60', '--for 3')}sleep 1\n{audit}"
    env = environment() | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "GUESTGATE_PORT": port}
    done = subprocess.run(
        ["bash", "-uc", script + "status=$?; kill %1; wait %1; exit $status"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    assert "the desks saw" in done.stdout and "everything agrees" in done.stdout
    assert "<svg" in (tmp_path / "my-gate" / "run.svg").read_text("utf-8")
