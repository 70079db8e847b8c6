"""Who answers a check-in, and by when: the ledger while there is time, else nobody (503).

Lives in the event loop. An answer is claimed there once, by whichever comes first: the ledger's decision or
the deadline. What the ledger recorded and how the answer left are joined afterwards, so that an allowed
check-in whose answer never left does not use up a visit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from guestgate.ledger import Answer, Ticket
from guestgate.ledger_process import LedgerProcess
from guestgate.log import Throttle
from guestgate.metrics import DoorMetrics
from guestgate.model import CheckIn, Outcome, Reason, Ruling

# Check-ins that may wait for the ledger; more could not be decided within any budget.
MAX_WAITING = 4096
MAX_TURNED_AWAY = 20_000
COMPLAIN_EVERY = 1000
MIN_BATCH, MAX_BATCH = 8, 256
# How answers left is written with the next batch, or after so long without one.
IDLE_S = 0.25
SERVICE_UNAVAILABLE = 503
STOP_S = 5.0
UNDELIVERED_LINES_PER_S = 10

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Call:
    """One check-in on its way. ``started`` and ``deadline`` are instants of the event loop's clock."""

    checkin: CheckIn
    started: float
    deadline: float
    claim: asyncio.Future[Ruling]
    recorded: Ruling | None = None
    answered: tuple[int | None, float] | None = None

    def expire(self) -> None:
        """The deadline has come: whatever the ledger says later, the answer is that nobody could decide."""
        self.take(_undecided(self.checkin))

    def take(self, ruling: Ruling) -> None:
        """Claim the answer, unless that has been done."""
        if not self.claim.done():
            self.claim.set_result(ruling)


class Authorizer:
    """Passes check-ins to the ledger and joins its decisions with what became of the answers."""

    def __init__(
        self, url: str, own_id: str | None, budget_ms: int, on_failure: Callable[[], None], metrics: DoorMetrics
    ) -> None:
        """Bind to the running event loop; `on_failure` is called when the ledger can go on no longer."""
        self._loop = asyncio.get_running_loop()
        self._metrics = metrics
        self._metrics.queue_depth.set_function(lambda: len(self._queue) + len(self._turned_away))
        self._undelivered_log = Throttle(UNDELIVERED_LINES_PER_S)
        self._ledger = LedgerProcess(url, own_id, budget_ms, self._deliver, on_failure)
        self._calls: dict[str, Call] = {}
        self._queue: deque[Ticket] = deque()
        self._turned_away: deque[Ticket] = deque()
        self._unrecorded = 0
        self._answers: list[Answer] = []
        self._flushing = False

    async def start(self) -> None:
        """Return once check-ins can be decided."""
        await self._ledger.start()

    async def stop(self) -> None:
        """Have everything recorded that is still waiting, then end the ledger."""
        give_up_at = self._loop.time() + STOP_S
        while (self._calls or self._answers) and not self._ledger.lost:
            if self._loop.time() > give_up_at:
                log.error("the ledger does not end; some calls are not recorded", calls=len(self._calls))
                break
            self._flush()
            await asyncio.sleep(0.01)
        await self._ledger.stop(STOP_S)

    def call(self, checkin: CheckIn, started: float, deadline: float) -> Call:
        """A check-in that has to be answered by `deadline`."""
        return Call(checkin, started, deadline, self._loop.create_future())

    async def authorize(self, call: Call) -> Ruling:
        """The ruling to answer with; undecided once `Call.expire` has been called at the deadline.

        The ledger's decision belongs to nobody's request: it is made and recorded even where the caller has
        hung up. Say afterwards with `left` how the answer left.
        """
        self._calls[call.checkin.id] = call
        full = len(self._queue) >= MAX_WAITING
        if full:
            self._turn_away(call)
        else:
            self._queue.append(Ticket(call.checkin, call.deadline))
        self._flush_soon()
        ruling = _undecided(call.checkin) if full else await call.claim
        if self._loop.time() >= call.deadline:
            return _undecided(call.checkin)  # a late yes would open no door, but use up a visit
        return ruling

    def _turn_away(self, call: Call) -> None:
        """The queue is full: not to be decided any more, only to be recorded once there is time."""
        if len(self._turned_away) >= MAX_TURNED_AWAY:
            self._calls.pop(self._turned_away.popleft().checkin.id, None)
            if self._unrecorded % COMPLAIN_EVERY == 0:
                log.error("too many calls wait to be recorded; dropping the oldest", dropped=self._unrecorded + 1)
            self._unrecorded += 1
        self._turned_away.append(Ticket(call.checkin, 0.0))

    def left(self, call: Call, ruling: Ruling, http_status: int | None) -> None:
        """The answer has been written with this status; None: the caller was gone, nothing was written."""
        call.answered = http_status, round((self._loop.time() - call.started) * 1000, 1)
        self._metrics.answered(ruling, call.checkin, call.answered[1] / 1000)
        log.debug(
            "answered",
            decision=ruling.id,
            outcome=ruling.outcome.value,
            reason=ruling.reason.value,
            studio=call.checkin.studio_id,
            http_status=http_status,
            answer_ms=call.answered[1],
        )
        self._join(call)

    @property
    def stalled_s(self) -> float:
        """How long the ledger has been held up; 0 where it is not."""
        return self._ledger.stalled_s

    def _deliver(self, rulings: list[Ruling], commit_s: float) -> None:
        """Take what the ledger has committed, and first give it more to do."""
        self._flush()
        if rulings and not self._ledger.behind:
            self._metrics.committed(len(rulings), commit_s)
        for ruling in rulings:
            call = self._calls.pop(ruling.id)
            call.recorded = ruling
            call.take(ruling)
            self._join(call)

    def _join(self, call: Call) -> None:
        """Once both are known, the record learns how the answer to this decision left."""
        if call.recorded is None or call.answered is None:
            return
        http_status, answer_ms = call.answered
        decided = call.recorded.outcome is not Outcome.UNDECIDED
        undelivered = http_status is None or (decided and http_status == SERVICE_UNAVAILABLE)
        if undelivered:
            self._metrics.undelivered.inc()
            if self._undelivered_log.lets_through():
                log.warning(
                    "an answer was not delivered",
                    decision=call.recorded.id,
                    studio=call.checkin.studio_id,
                    http_status=http_status,
                    answer_ms=answer_ms,
                )
        if not self._answers:
            self._loop.call_later(IDLE_S, self._flush)
        self._answers.append(Answer(call.recorded.id, http_status, answer_ms, undelivered))

    def _flush_soon(self) -> None:
        """Send once all that arrives in this turn of the loop is here."""
        if self._queue and not self._flushing and not self._ledger.busy:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._ledger.busy or not (self._queue or self._answers or self._turned_away):
            return
        # Half of all calls under way: the ledger works on one half while the loop answers the other.
        size = min(len(self._queue), MAX_BATCH, max(MIN_BATCH, len(self._calls) // 2))
        batch = [self._queue.popleft() for _ in range(size)]
        if not self._queue:
            spare = min(len(self._turned_away), MAX_BATCH)
            batch += [self._turned_away.popleft() for _ in range(spare)]
        answers, self._answers = self._answers, []
        self._ledger.send(batch, answers)


def _undecided(checkin: CheckIn) -> Ruling:
    return Ruling(checkin.id, Outcome.UNDECIDED, Reason.UNAVAILABLE)
