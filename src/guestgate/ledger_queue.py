"""Check-ins and member validations that wait for a ledger, and what it still has to be told of earlier ones.

While the ledger is at work on one batch, the next one gathers. Lives in the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from guestgate.eligibility import Question, Reply, unanswered
from guestgate.ledger import Answer, Ticket
from guestgate.ledger_process import LedgerProcess, LedgerRole
from guestgate.model import Outcome, Reason, Ruling
from guestgate.stand_in.rules import CopyCheck

log = structlog.get_logger()

# Check-ins that may wait for the ledger; more could not be decided within any budget.
MAX_WAITING = 4096
MAX_TURNED_AWAY = 20_000
COMPLAIN_EVERY = 1000
MIN_BATCH, MAX_BATCH = 8, 256
# Member validations: they are rare, and doors come first.
MAX_QUESTIONS, QUESTIONS_AT_ONCE = 256, 16
# How answers left is written with the next batch, or after so long without one.
IDLE_S = 0.25


class LedgerQueue:
    """The way to one ledger and back."""

    def __init__(
        self,
        role: LedgerRole,
        deliver: Callable[[list[Ruling], float], None],
        checked: Callable[[CopyCheck | None, float], None],
        failed: Callable[[], None],
        under_way: Callable[[], int],
    ) -> None:
        """`deliver`, `checked` and `failed` as for `LedgerProcess`; `under_way` counts all calls of the door."""
        self._loop = asyncio.get_running_loop()
        self._role = role
        self._hand_on, self._checked, self._failed = deliver, checked, failed
        self._under_way = under_way
        self._ledger = self._new_process()
        self._queue: deque[Ticket] = deque()
        self._turned_away: deque[Ticket] = deque()
        self._unrecorded = 0
        self._questions: deque[tuple[Question, float]] = deque()
        self._asked: dict[str, tuple[Question, Callable[[Reply], object]]] = {}
        self._answers: list[Answer] = []
        self._flushing = self._to_check = False
        # What the ledger has and has not answered yet.
        self._in_flight: set[str] = set()
        self._answers_in_flight: list[Answer] = []

    def _new_process(self) -> LedgerProcess:
        return LedgerProcess(self._role, self._deliver, self._checked, self._lose)

    def _lose(self) -> None:
        """The ledger has ended: whatever it has written, nobody gets an answer of it."""
        in_flight, self._in_flight = self._in_flight, set()
        self._answers = self._answers_in_flight + self._answers  # told twice is once
        self._answers_in_flight = []
        self._failed()
        self._questions.clear()
        for question in [question for question, _ in self._asked.values()]:
            self._reply(unanswered(question))
        self._hand_on([Ruling(each, Outcome.UNDECIDED, Reason.UNAVAILABLE) for each in in_flight], 0.0)

    async def start(self) -> None:
        """Return once check-ins can be decided."""
        await self._ledger.start()

    async def start_again(self) -> None:
        """Have another process in the place of one that ended; what waits here waits for it."""
        old, self._ledger = self._ledger, self._new_process()
        await old.stop(0.0)
        await self._ledger.start()
        self.flush()

    async def stop(self, patience_s: float) -> None:
        """Let the ledger write what it has, and end it."""
        await self._ledger.stop(patience_s)

    @property
    def lost(self) -> bool:
        """Whether the ledger has ended by itself."""
        return self._ledger.lost

    @property
    def behind(self) -> bool:
        """Whether the ledger could not yet write all that it has to."""
        return self._ledger.behind

    @property
    def stalled_s(self) -> float:
        """How long the ledger has been held up; 0 where it is not."""
        return self._ledger.stalled_s

    @property
    def has_answers(self) -> bool:
        """Whether the ledger is still to be told how answers left, or to answer what it was asked."""
        return bool(self._answers or self._asked)

    def __len__(self) -> int:
        """How many check-ins wait."""
        return len(self._queue) + len(self._turned_away)

    @property
    def is_full(self) -> bool:
        """Whether more could not be decided in time."""
        return len(self._queue) >= MAX_WAITING

    def add(self, ticket: Ticket) -> None:
        """Have a check-in decided; it goes with all that arrive in this turn of the loop."""
        self._queue.append(ticket)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing and not self._ledger.busy:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def ask(self, question: Question, deadline: float, replied: Callable[[Reply], object]) -> None:
        """Have a member validation answered, after the check-ins that wait; `replied` gets the reply."""
        if self._ledger.lost or len(self._asked) >= MAX_QUESTIONS:
            replied(unanswered(question))
            return
        self._asked[question.id] = question, replied
        self._questions.append((question, deadline))
        self._flush_soon()

    def _reply(self, reply: Reply) -> None:
        _, replied = self._asked.pop(reply.id)
        replied(reply)

    def turn_away(self, ticket: Ticket) -> str | None:
        """The queue is full: not to be decided any more, only to be recorded once there is time.

        Returns the id of a check-in that is given up for it, where there are too many of these too.
        """
        given_up = None
        if len(self._turned_away) >= MAX_TURNED_AWAY:
            given_up = self._turned_away.popleft().checkin.id
            if self._unrecorded % COMPLAIN_EVERY == 0:
                log.error("too many calls wait to be recorded; dropping the oldest", dropped=self._unrecorded + 1)
            self._unrecorded += 1
        self._turned_away.append(ticket._replace(deadline=0.0))
        return given_up

    def tell(self, answer: Answer) -> None:
        """Have it recorded how an answer left."""
        if not self._answers:
            self._loop.call_later(IDLE_S, self.flush)
        self._answers.append(answer)

    def check(self) -> None:
        """Have the ledger check whether it could decide, before anything else that it is asked."""
        self._to_check = True
        self.flush()

    def flush(self) -> None:
        """Send what there is, unless the ledger is at work."""
        self._flushing = False
        if self._ledger.busy or self._ledger.lost:
            return
        if self._to_check:
            self._to_check = False
            self._ledger.check()
            return
        if not (self._queue or self._answers or self._turned_away or self._questions):
            return
        # Half of all calls under way: the ledger works on one half while the loop answers the other.
        size = min(len(self._queue), MAX_BATCH, max(MIN_BATCH, self._under_way() // 2))
        batch = [self._queue.popleft() for _ in range(size)]
        if not self._queue:
            spare = min(len(self._turned_away), MAX_BATCH)
            batch += [self._turned_away.popleft() for _ in range(spare)]
        self._answers_in_flight, self._answers = self._answers, []
        questions = [self._questions.popleft() for _ in range(min(len(self._questions), QUESTIONS_AT_ONCE))]
        self._in_flight.update(ticket.checkin.id for ticket in batch)
        self._ledger.send(batch, self._answers_in_flight, questions)

    def _deliver(self, rulings: list[Ruling], commit_s: float, replies: Sequence[Reply] = ()) -> None:
        """Take what the ledger has committed, and first give it more to do."""
        self._in_flight.difference_update(ruling.id for ruling in rulings)
        if not self._ledger.busy:
            self._answers_in_flight = []
        self.flush()
        if rulings:
            self._hand_on(rulings, commit_s)
        for reply in replies:
            self._reply(reply)
