"""The aggregator's own systems for tests: what they read from the admin listener, and its process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from callers import children
from gate import Gate

API = "/api/v1"


def items(client: httpx.Client, path: str, **parameters: Any) -> Iterator[dict[str, Any]]:
    """Everything in a list, page by page."""
    after: dict[str, str] = {}
    while True:
        answer = client.get(path, params={**parameters, **after})
        assert answer.status_code == 200, answer.text
        yield from answer.json()["items"]
        if answer.json()["next"] is None:
            return
        after = {"after": answer.json()["next"]}


def problem(answer: httpx.Response, status: int) -> str:
    """The sentence of an error, which is a problem document as it should be."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    content = answer.json()
    assert content["status"] == status and content["type"] == "about:blank" and content["title"]
    assert isinstance(content["detail"], str) and "\n" not in content["detail"]
    return str(content["detail"])


def ndjson(*rows: Any) -> bytes:
    """A line each; bytes are a line as it is."""
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def admin_pid(gate: Gate) -> int:
    """The admin listener's process: the one of the server's that listens on its port."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text("ascii").splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and int(local.rpartition(":")[2], 16) == gate.admin_port:
                inodes.add(f"socket:[{inode}]")
    assert gate.process is not None
    for pid in children(gate.process.pid, "guestgate-admin"):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if str(descriptor.readlink()) in inodes:
                    return pid
            except FileNotFoundError:
                continue
    raise AssertionError(f"nobody listens on port {gate.admin_port}")


def peak_kib(pid: int) -> int:
    """The most memory that a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
