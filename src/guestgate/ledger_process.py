"""The ledger in a process of its own, so that deciding and serving do not share one interpreter lock.

One batch at a time: the door sends it, the ledger answers when it is on disk, and whatever has come meanwhile
makes the next one. The ledger also says whether it is behind with what it has to write. If either process
ends, so does the other; nothing is ever answered that was not committed.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe

import structlog

from guestgate import clock
from guestgate.checkpoints import Checkpoints
from guestgate.child_process import ChildProcess, settle_in
from guestgate.database import Database
from guestgate.errors import OperationError
from guestgate.ledger import Answer, DiskFailedError, Ledger, Ticket
from guestgate.log import configure as configure_log
from guestgate.model import CheckIn, Outcome, Reason, Ruling

log = structlog.get_logger()

GC_THRESHOLD = 50_000
# What could not be recorded because of a lock or a full disk is tried again, also when nobody checks in.
NEWS_RETRY_S = 0.25
OUTCOMES = {outcome.value: outcome for outcome in Outcome}
REASONS = {reason.value: reason for reason in Reason}


class LedgerProcess:
    """The door's end. Lives in the event loop."""

    def __init__(
        self,
        url: str,
        own_id: str | None,
        deliver: Callable[[list[Ruling], float], None],
        failed: Callable[[], None],
    ) -> None:
        """`deliver` gets a batch's rulings once they are on disk, with the seconds that the commit took.

        `failed` is called if the process ends.
        """
        self._deliver = deliver
        self._child = ChildProcess(_main, (url, own_id), name="ledger", received=self._receive, lost=failed)
        self.busy = True  # until it says that it is ready
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        self._behind_since: float | None = None

    @property
    def lost(self) -> bool:
        """Whether the process has ended by itself."""
        return self._child.lost

    @property
    def behind(self) -> bool:
        """Whether it could not yet write all that it has to."""
        return self._behind_since is not None

    @property
    def stalled_s(self) -> float:
        """How long the ledger has been held up: at the batch it has, or with what it could not write; else 0."""
        since = [self._sent_at] if self.busy else []
        since += [] if self._behind_since is None else [self._behind_since]
        return self._loop.time() - min(since) if since else 0.0

    async def start(self) -> None:
        """Return once the process is ready to decide. Raises OperationError where it ended instead."""
        first = await self._child.start()
        if first is None:
            raise OperationError("the ledger did not start, see the lines above")
        self._receive(first)

    def send(self, batch: list[Ticket], answers: list[Answer]) -> None:
        """Have a batch decided and recorded. Only while not `busy`."""
        self.busy, self._sent_at = True, self._loop.time()
        # Plain tuples of plain values: a third of the time that pickling the named ones takes.
        tickets = [
            (checkin.id, clock.to_ms(checkin.received_at), *checkin[2:], deadline) for checkin, deadline in batch
        ]
        self._child.send((tickets, [tuple(answer) for answer in answers]))

    def _receive(self, message: tuple[list[tuple[str, str, str]] | None, float, bool]) -> None:
        decisions, commit_s, behind = message
        if not behind:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = self._loop.time()
        if decisions is None:
            return
        self.busy = False
        self._deliver(
            [Ruling(checkin_id, OUTCOMES[outcome], REASONS[reason]) for checkin_id, outcome, reason in decisions],
            commit_s,
        )

    async def stop(self, patience_s: float) -> None:
        """Let the process write what is left and end."""
        await self._child.stop(patience_s)


def _main(pipe: Pipe, url: str, own_id: str | None) -> None:
    """The ledger's end: ends when the door closes the pipe, or with the door."""
    configure_log()
    settle_in("ledger")
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
    try:
        pipe.send(([], 0.0, False))
        while True:
            while ledger.has_news and not pipe.poll(NEWS_RETRY_S):
                ledger.process([], [])
                pipe.send((None, ledger.commit_s, ledger.has_news))
            batch, answers = pipe.recv()
            checkpoints.let_through()
            decisions = ledger.process(
                [
                    Ticket(CheckIn(checkin_id, clock.from_ms(received_at_ms), *rest), deadline)
                    for checkin_id, received_at_ms, *rest, deadline in batch
                ],
                [Answer(*answer) for answer in answers],
            )
            rulings = [(decision.id, decision.outcome.value, decision.reason.value) for decision in decisions]
            pipe.send((rulings, ledger.commit_s, ledger.has_news))
    except DiskFailedError as error:
        log.critical("stopping", error=str(error))
    except (EOFError, ConnectionError):  # the door has closed the pipe, or ended
        ledger.flush()
        checkpoints.stop()
    except Exception as error:
        log.critical("the ledger failed and ends", exc_info=error)
    ledger.close()
