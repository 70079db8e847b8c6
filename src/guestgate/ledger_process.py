"""The ledger in a process of its own, so that deciding and serving do not share one interpreter lock.

One batch at a time: the door sends it, the ledger answers when it is on disk, and whatever has come meanwhile
makes the next one. The ledger also says whether it is behind with what it has to write. If either process
ends, so does the other; nothing is ever answered that was not committed.

On PostgreSQL a door has two of them: one for the shared record, and one that stands in on the node's copy.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import NamedTuple

import structlog

from guestgate import clock
from guestgate.checkpoints import Checkpoints
from guestgate.child_process import ChildProcess, settle_in
from guestgate.database import Database, DiskFailedError
from guestgate.eligibility import Finding, Question, Reply
from guestgate.errors import OperationError
from guestgate.ledger import Answer, Ledger, Ticket
from guestgate.log import configure as configure_log
from guestgate.model import CheckIn, Decision, Outcome, Reason, Ruling
from guestgate.sqlite import SqliteDatabase
from guestgate.stand_in.rules import CopyCheck, StandInRules
from guestgate.validations import Validations

log = structlog.get_logger()

GC_THRESHOLD = 50_000
# What could not be recorded because of a lock or a full disk is tried again, also when nobody checks in.
NEWS_RETRY_S = 0.25
# Another server's transaction takes milliseconds.
WAITING_RETRY_S = 0.001
OUTCOMES = {outcome.value: outcome for outcome in Outcome}
REASONS = {reason.value: reason for reason in Reason}


class LedgerRole(NamedTuple):
    """Which ledger: what its process is called, and what it works with (see `Ledger`).

    ``copy_max_age_s`` is None for a ledger of the record itself; else its database is a copy, which may be so old.
    ``fence`` is for `Database.at`.
    """

    name: str
    url: str
    own_id: str | None
    budget_ms: int
    copy_max_age_s: int | None = None
    keep_undecided: bool = True
    fence: Path | None = None


class LedgerProcess:
    """The door's end. Lives in the event loop."""

    def __init__(
        self,
        role: LedgerRole,
        deliver: Callable[[list[Ruling], float, list[Reply]], None],
        checked: Callable[[CopyCheck | None, float], None],
        failed: Callable[[], None],
    ) -> None:
        """`deliver` gets a batch's rulings once they are on disk, with the seconds that the commit took, or replies.

        `checked` gets what a check found (see `Ledger.check`), and the seconds that it took. `failed` is called if
        the process ends.
        """
        self._deliver, self._checked = deliver, checked
        self._child = ChildProcess(_main, role, name=role.name, received=self._receive, lost=failed)
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

    def check(self) -> None:
        """Have it find out whether a check-in could be decided. Only while not `busy`."""
        self.busy, self._sent_at = True, self._loop.time()
        self._child.send(None)

    def send(self, batch: list[Ticket], answers: list[Answer], questions: list[tuple[Question, float]]) -> None:
        """Have a batch decided and recorded, and then questions answered. Only while not `busy`."""
        self.busy, self._sent_at = True, self._loop.time()
        # Plain tuples of plain values: a third of the time that pickling the named ones takes.
        tickets = [
            (checkin.id, clock.to_ms(checkin.received_at), *checkin[2:], deadline, recent)
            for checkin, deadline, recent in batch
        ]
        asked = [
            (question.id, clock.to_ms(question.received_at), *question[2:], deadline)
            for question, deadline in questions
        ]
        self._child.send((tickets, [tuple(answer) for answer in answers], asked))

    def _receive(self, message: _Message) -> None:
        """Rulings, of the batch or of earlier ones, or what a check found; and whether it takes the next batch."""
        decisions, commit_s, behind, takes_more, check, replies = message
        if not behind:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = self._loop.time()
        if takes_more:
            self.busy = False
        if check is not None:
            self._checked(check[0], self._loop.time() - self._sent_at)
        if takes_more or decisions or replies:
            self._deliver(
                [Ruling(checkin_id, OUTCOMES[outcome], REASONS[reason]) for checkin_id, outcome, reason in decisions],
                commit_s,
                [Reply(question_id, Finding(finding), *known) for question_id, finding, known in replies],
            )

    async def stop(self, patience_s: float) -> None:
        """Let the process write what is left and end."""
        await self._child.stop(patience_s)


# Rulings, how long the commit took, whether there is more to write, whether the next batch may come, of a check
# what it found, and replies.
_Message = tuple[
    list[tuple[str, str, str]],
    float,
    bool,
    bool,
    tuple[CopyCheck | None] | None,
    list[tuple[str, str, tuple[str | None, dict[str, str]]]],
]


def _main(
    pipe: Pipe,
    name: str,
    url: str,
    own_id: str | None,
    budget_ms: int,
    copy_max_age_s: int | None,
    keep_undecided: bool,
    fence: Path | None,
) -> None:
    """The ledger's end: ends when the door closes the pipe, or with the door."""
    configure_log()
    settle_in(name)
    database = Database.at(url, door=True, fence=fence)
    stand_in = None if copy_max_age_s is None else StandInRules(copy_max_age_s)
    with database.in_use():  # also when the door is gone and what is left is being written
        ledger = Ledger(database, own_id, budget_ms, stand_in=stand_in, keep_undecided=keep_undecided)
        _decide(pipe, database, ledger, Validations(database, own_id, budget_ms))


def _decide(pipe: Pipe, database: Database, ledger: Ledger, validations: Validations) -> None:
    checkpoints = Checkpoints(database) if isinstance(database, SqliteDatabase) else None
    if checkpoints is not None:
        checkpoints.start()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)

    def tell(
        decisions: list[Decision],
        takes_more: bool,
        check: tuple[CopyCheck | None] | None = None,
        replies: Iterable[Reply] = (),
    ) -> None:
        rulings = [(decision.id, decision.outcome.value, decision.reason.value) for decision in decisions]
        told = [(reply.id, reply.finding.value, reply[2:]) for reply in replies]
        message: _Message = (rulings, ledger.commit_s, ledger.has_news, takes_more, check, told)
        pipe.send(message)

    try:
        ledger.check()  # the first check-in finds everything read and prepared
        tell([], True)
        while True:
            while (ledger.waiting or ledger.has_news or validations.waiting) and not pipe.poll(
                WAITING_RETRY_S if ledger.waiting or validations.waiting else NEWS_RETRY_S
            ):
                tell(ledger.process([], []), False, replies=validations.process([]))
            message = pipe.recv()
            if message is None:
                tell([], True, (ledger.check(),))
                continue
            batch, answers, questions = message
            if checkpoints is not None:
                checkpoints.let_through()
            decisions = ledger.process(
                [
                    Ticket(CheckIn(checkin_id, clock.from_ms(received_at_ms), *rest), deadline, recent)
                    for checkin_id, received_at_ms, *rest, deadline, recent in batch
                ],
                [Answer(*answer) for answer in answers],
            )
            if not questions and not validations.waiting:
                tell(decisions, True)
                continue
            tell(decisions, False)  # doors first
            asked = [
                (Question(question_id, clock.from_ms(received_at_ms), *rest), deadline)
                for question_id, received_at_ms, *rest, deadline in questions
            ]
            tell([], True, replies=validations.process(asked))
    except DiskFailedError as error:
        log.critical("stopping", error=str(error))
    except (EOFError, ConnectionError):  # the door has closed the pipe, or ended
        ledger.flush()
        validations.flush()
        if checkpoints is not None:
            checkpoints.stop()
    except Exception as error:
        log.critical("the ledger failed and ends", exc_info=error)
    validations.close()
    ledger.close()
