"""The ledger in a process of its own, so that deciding and serving do not share one interpreter lock.

One message at a time: the door sends a batch, the ledger answers when it is on disk, and whatever has come
meanwhile makes the next batch. If either process ends, so does the other; nothing is ever answered that was
not committed.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe

import structlog

from guestgate import clock
from guestgate.checkpoints import Checkpoints
from guestgate.database import Database
from guestgate.ledger import Answer, DiskFailedError, Ledger, Ticket
from guestgate.log import configure as configure_log
from guestgate.model import CheckIn, Outcome, Reason, Ruling

log = structlog.get_logger()

GC_THRESHOLD = 50_000
# What could not be recorded because of a lock or a full disk is tried again, also when nobody checks in.
NEWS_RETRY_S = 0.25
OUTCOMES = {outcome.value: outcome for outcome in Outcome}
REASONS = {reason.value: reason for reason in Reason}
# Spawned, not forked: the door's process has threads.
_context = multiprocessing.get_context("spawn")


class LedgerProcess:
    """The door's end. Lives in the event loop."""

    def __init__(
        self,
        url: str,
        own_id: str | None,
        deliver: Callable[[list[Ruling]], None],
        failed: Callable[[], None],
    ) -> None:
        """`deliver` gets a batch's rulings once they are on disk; `failed` is called if the process ends."""
        self._pipe, theirs = _context.Pipe()
        self._deliver = deliver
        self._failed = failed
        self._process = _context.Process(target=_main, args=(theirs, url, own_id), name="ledger", daemon=True)
        self._process.start()
        theirs.close()
        self._loop = asyncio.get_running_loop()
        self.busy = True  # until it says that it is ready
        self.lost = False

    async def start(self) -> None:
        """Return once the process is ready to decide."""
        ready = self._loop.create_future()
        self._loop.add_reader(self._pipe.fileno(), ready.set_result, None)
        await ready
        self._loop.remove_reader(self._pipe.fileno())
        self._receive()
        self._loop.add_reader(self._pipe.fileno(), self._receive)

    def send(self, batch: list[Ticket], answers: list[Answer]) -> None:
        """Have a batch decided and recorded. Only while not `busy`."""
        self.busy = True
        try:
            # Plain tuples of plain values: a third of the time that pickling the named ones takes.
            tickets = [
                (checkin.id, clock.to_ms(checkin.received_at), *checkin[2:], deadline) for checkin, deadline in batch
            ]
            self._pipe.send((tickets, [tuple(answer) for answer in answers]))
        except OSError:
            self._lost()

    def _receive(self) -> None:
        try:
            rulings = [
                Ruling(checkin_id, OUTCOMES[outcome], REASONS[reason])
                for checkin_id, outcome, reason in self._pipe.recv()
            ]
        except (EOFError, OSError):
            self._lost()
            return
        self.busy = False
        self._deliver(rulings)

    def _lost(self) -> None:
        if not self.lost:
            self.lost = True
            self._loop.remove_reader(self._pipe.fileno())
            self._failed()

    async def stop(self, patience_s: float) -> None:
        """Let the process finish and end; kill it where it does not."""
        self._loop.remove_reader(self._pipe.fileno())
        self._pipe.close()
        await asyncio.to_thread(self._process.join, patience_s)
        if self._process.is_alive():
            log.error("the ledger did not end by itself")
            self._process.kill()
            await asyncio.to_thread(self._process.join)


def _main(pipe: Pipe, url: str, own_id: str | None) -> None:
    """The ledger's end: ends when the door closes the pipe, or with the door."""
    configure_log()
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    database = Database(url, patience_ms=0, checkpoints=False)
    with database.in_use():  # also when the door is gone and what is left is being written
        _decide(pipe, database, own_id)


def _decide(pipe: Pipe, database: Database, own_id: str | None) -> None:
    ledger = Ledger(database, own_id)
    checkpoints = Checkpoints(database)
    checkpoints.start()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    pipe.send([])
    try:
        while True:
            while ledger.has_news and not pipe.poll(NEWS_RETRY_S):
                ledger.process([], [])
            batch, answers = pipe.recv()
            checkpoints.let_through()
            decisions = ledger.process(
                [
                    Ticket(CheckIn(checkin_id, clock.from_ms(received_at_ms), *rest), deadline)
                    for checkin_id, received_at_ms, *rest, deadline in batch
                ],
                [Answer(*answer) for answer in answers],
            )
            pipe.send([(decision.id, decision.outcome.value, decision.reason.value) for decision in decisions])
    except DiskFailedError as error:
        log.critical("stopping", error=str(error))
    except (EOFError, OSError):
        ledger.flush()
        checkpoints.stop()
    ledger.close()
