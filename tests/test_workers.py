"""Several doors on one machine: all of them answer, one that dies is replaced, and they count as one."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from backends import Server
from callers import Crowd, at_once, children, connected, gone, missing, problems, rows
from certificates import expired, serial_of, serial_served, write_certificate
from gate import Gate, wait_for
from prometheus_client.parser import text_string_to_metric_families
from terminal import Terminal
from test_reload import install, reload

from guestgate import settings
from guestgate.door import DoorState
from guestgate.workers import _Worker

pytestmark = pytest.mark.alone


@pytest.fixture
def gate(tmp_path: Path, postgres: Server) -> Iterator[Gate]:
    """An installation on PostgreSQL, with three workers once it is started."""
    url = postgres.new(tmp_path)
    gate = Gate(tmp_path, "--workers", "3", database_url=url, furnished=True)
    gate.studio()
    gate.plans()
    gate.members(*(f"{plan}-{number},{plan}" for number in range(20) for plan in ("free", "once")))
    yield gate
    gate.close()
    postgres.drop(url)


def doors(gate: Gate) -> list[int]:
    """The workers' processes."""
    assert gate.process is not None
    return children(gate.process.pid, "guestgate-door")


def counted(gate: Gate, name: str) -> float:
    """The sum of a counter over all its labels."""
    with gate.office("viewer") as office:
        text = office.get(f"{gate.admin_url}/metrics").text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"guestgate_{name}"
    )


def test_workers_decide_as_one(gate: Gate) -> None:
    """Calls are spread over all of them, a limit holds across them, and their figures are added up."""
    gate.start()
    assert len(doors(gate)) == 3
    with connected(gate, 60) as callers:
        for member in ("once-1", "once-2"):
            replies = at_once(callers, [member] * 60)
            assert [reply.decision for reply in replies if reply].count("allowed") == 1
            assert len(replies) == 60 and None not in replies
    wait_for(lambda: counted(gate, "decisions_total") == 120, "the figures are not those of all", gate)
    assert len(rows(gate.database, "SELECT 1 FROM visits")) == 2
    assert gate.stop() == 0
    assert problems(gate.database) == []


def test_a_worker_that_dies_is_replaced(gate: Gate) -> None:
    """The others answer meanwhile, nothing that was answered is lost, and no counter falls."""
    gate.start()
    members = [f"free-{number}" for number in range(20)]
    with Crowd(gate, members, "workers", size=6) as crowd:
        wait_for(lambda: len(crowd.replies) > 200, "nobody is answered", gate)
        before = counted(gate, "decisions_total")
        old = doors(gate)
        os.kill(old[0], signal.SIGKILL)
        wait_for(lambda: len(set(doors(gate)) - set(old)) == 1, "no worker took its place", gate)
        seen = len(crowd.replies)
        wait_for(lambda: len(crowd.replies) > seen + 200, "nobody is answered any more", gate)
        assert counted(gate, "decisions_total") >= before
        crowd.end()
    assert missing(gate.database, crowd.replies) == []
    assert "it is started again" in gate.log.read_text("utf-8")
    assert gate.stop() == 0
    assert problems(gate.database) == []


def test_the_server_ends_while_a_worker_starts(gate: Gate) -> None:
    """SIGTERM in the middle of a restart: nobody has to be killed, and no worker is left."""
    gate.start()
    old = doors(gate)
    os.kill(old[0], signal.SIGKILL)
    wait_for(lambda: deciding(set(doors(gate)) - set(old)), "no worker is started", gate)
    left = doors(gate)
    assert gate.stop() == 0
    assert all(gone(pid) for pid in left)
    assert "did not end by itself" not in gate.log.read_text("utf-8")


def deciding(workers: set[int]) -> bool:
    """Whether one of them has come so far that it has a ledger."""
    return any(children(worker, "guestgate-ledger") for worker in workers)


def test_a_worker_that_does_not_answer_is_asked_once(gate: Gate) -> None:
    """Its pipe does not fill up, which would hold up the server; it is told as held up until it answers."""

    sent: list[object] = []

    class Silent:
        def send(self, message: object) -> None:
            sent.append(message)

    async def ask() -> None:
        worker = _Worker(settings.load(gate.home / "guestgate.toml"), 1, lambda figures: None)
        worker._process = SimpleNamespace(child=Silent())  # type: ignore[assignment]
        states = [await worker.state(False) for _ in range(3)]
        assert len(sent) == 1 and all(state.stalled_s > 0 for state in states)
        worker._received((1, DoorState(0.0, [])))
        await worker.state(False)
        assert len(sent) == 2

    asyncio.run(ask())


def test_workers_end_with_their_server(gate: Gate) -> None:
    """Also where that is killed: no door is left open behind it."""
    gate.start()
    assert gate.process is not None
    left = doors(gate)
    gate.process.kill()
    gate.process.wait()
    wait_for(lambda: all(gone(pid) for pid in left), "a worker outlived its server", gate)


def test_workers_take_a_renewed_certificate(gate: Gate) -> None:
    """All of them; a bad one leaves all as they are."""
    gate.start()
    install(gate, write_certificate(gate.folder))
    renewed = serial_of(gate.cert)
    reload(gate)

    def all_renewed() -> bool:
        try:
            return {serial_served(gate) for _ in range(12)} == {renewed}
        except (ssl.SSLError, ConnectionError):  # a worker that was just changing over
            return False

    wait_for(all_renewed, "some serve the old certificate", gate)
    install(gate, expired(gate.folder))
    assert "not reloaded" in reload(gate)
    assert {serial_served(gate) for _ in range(12)} == {renewed}


@pytest.mark.embedded
def test_one_process_on_sqlite(terminal: Terminal) -> None:
    """More than one is refused, with the reason."""
    said = terminal.complaint("serve", "--workers", "2", "--behind-proxy", "--host", "127.0.0.1")
    assert "--workers" in said and "PostgreSQL" in said
