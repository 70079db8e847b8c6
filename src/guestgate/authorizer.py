"""Who answers a check-in, and by when: the ledger while there is time, then who stands in for it, else nobody (503).

Lives in the event loop. An answer is claimed there once, by whichever comes first: a ledger's decision or
the deadline. What the ledgers recorded and how the answer left are joined afterwards, so that an allowed
check-in whose answer never left does not use up a visit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from guestgate.call import Call
from guestgate.ledger import Answer, Ticket
from guestgate.ledger_process import LedgerRole
from guestgate.ledger_queue import LedgerQueue
from guestgate.log import Throttle
from guestgate.metrics import DoorMetrics
from guestgate.model import CheckIn, Outcome, Reason, Ruling
from guestgate.stand_in.recent import RecentVisits
from guestgate.stand_in.rules import CopyCheck
from guestgate.stand_in.watch import Watch
from guestgate.validator import Validator

STOP_S = 5.0
UNDELIVERED_LINES_PER_S = 10
# Of the time until the deadline: what the shared ledger has before the one that stands in is asked.
SHARE = 0.5

log = structlog.get_logger()


CheckInCall = Call[CheckIn, Ruling]


class Authorizer:
    """Passes check-ins to the ledgers and joins their decisions with what became of the answers."""

    def __init__(
        self,
        shared: LedgerRole,
        stand_in: LedgerRole | None,
        on_failure: Callable[[], None],
        metrics: DoorMetrics,
    ) -> None:
        """Bind to the running event loop; `on_failure` is called when the ledger can go on no longer.

        Where there is a ledger to `stand_in`, it records what cannot be decided, too.
        """
        self._loop = asyncio.get_running_loop()
        self._metrics = metrics
        self._metrics.queue_depth.set_function(lambda: sum(len(queue) for queue in self._queues))
        self._undelivered_log = Throttle(UNDELIVERED_LINES_PER_S)
        self._calls: dict[str, CheckInCall] = {}
        self._shared = LedgerQueue(shared, self._deliver, self._shared_checked, on_failure, self._under_way)
        self._queues = [self._shared]
        # Who answers member validations; they have no other ledger.
        self.validator = Validator(self._shared, metrics)
        self._stand_in: LedgerQueue | None = None
        self._watch: Watch | None = None
        self._share_s = shared.budget_ms / 1000 * SHARE
        if stand_in is not None:
            self._stand_in = LedgerQueue(
                stand_in, self._deliver_stand_in, self._stand_in_checked, self._stand_in_lost, self._under_way
            )
            self._queues.append(self._stand_in)
            self._watch = Watch(self._shared, self._stand_in, self._share_s)

    async def start(self) -> None:
        """Return once check-ins can be decided."""
        await asyncio.gather(*(queue.start() for queue in self._queues))
        if self._watch is not None:
            self._watch.start()

    async def stop(self) -> None:
        """Have everything recorded that is still waiting, then end the ledgers."""
        if self._watch is not None:
            await self._watch.stop()
        give_up_at = self._loop.time() + STOP_S
        while (self._calls or any(queue.has_answers for queue in self._queues)) and not self._shared.lost:
            if self._loop.time() > give_up_at:
                log.error("a ledger does not end; what it was asked last is not recorded", calls=len(self._calls))
                break
            for queue in self._queues:
                queue.flush()
            await asyncio.sleep(0.01)
        await asyncio.gather(*(queue.stop(STOP_S) for queue in self._queues))

    @property
    def share_s(self) -> float | None:
        """When to `hand_over`, in seconds after a call's start; None where nobody stands in."""
        return None if self._stand_in is None else self._share_s

    def call(self, checkin: CheckIn, started: float, deadline: float) -> CheckInCall:
        """A check-in that has to be answered by `deadline`."""
        return Call(checkin, started, deadline, _undecided, self._loop.create_future())

    async def authorize(self, call: CheckInCall) -> Ruling:
        """The ruling to answer with; undecided once `Call.expire` has been called at the deadline.

        A ledger's decision belongs to nobody's request: it is made and recorded even where the caller has
        hung up. Say afterwards with `left` how the answer left.
        """
        self._calls[call.asked.id] = call
        share_ends = call.started + self._share_s
        if self._watch is None:
            self._ask(self._shared, Ticket(call.asked, call.deadline), call)
        elif self._past_shared(call, share_ends):
            self._hand_over(call)
        else:
            self._ask(self._shared, Ticket(call.asked, share_ends), call)
        ruling = await call.claim
        if self._loop.time() >= call.deadline:
            return _undecided(call.asked)  # a late yes would open no door, but use up a visit
        return ruling

    def _past_shared(self, call: CheckInCall, share_ends: float) -> bool:
        """Whether not to ask the shared ledger: it is of no use, or does not know yet of the person's last visit."""
        assert self._watch is not None
        return (
            self._watch.stands_in
            or self._shared.is_full
            or self._loop.time() >= share_ends
            or bool(self._watch.not_carried_over.of(call.asked))
        )

    def share_over(self, call: CheckInCall) -> None:
        """The shared ledger has had its share of the time."""
        if self._watch is not None and not call.claim.done() and not call.handed_over:
            self._watch.missed()
            self._hand_over(call)

    def _hand_over(self, call: CheckInCall) -> None:
        """Ask the ledger that stands in."""
        assert self._watch is not None and self._stand_in is not None
        call.handed_over = True
        self._ask(self._stand_in, Ticket(call.asked, call.deadline, self._watch.not_copied.of(call.asked)), call)

    def _ask(self, queue: LedgerQueue, ticket: Ticket, call: CheckInCall) -> None:
        call.ledgers += 1
        if not queue.is_full:
            queue.add(ticket)
            return
        given_up = queue.turn_away(ticket)
        if given_up is not None:
            self._calls.pop(given_up, None)
        call.take(_undecided(call.asked))

    def left(self, call: CheckInCall, ruling: Ruling, http_status: int | None) -> None:
        """The answer has been written with this status; None: the caller was gone, nothing was written."""
        answer_ms = round((self._loop.time() - call.started) * 1000, 1)
        call.answered = ruling, http_status, answer_ms
        self._metrics.answered(ruling, call.asked, answer_ms / 1000, arrived=http_status is not None)
        log.debug(
            "answered",
            decision=ruling.id,
            outcome=ruling.outcome.value,
            reason=ruling.reason.value,
            studio=call.asked.studio_id,
            http_status=http_status,
            answer_ms=answer_ms,
        )
        self._join(call)

    @property
    def stalled_s(self) -> float:
        """How long the ledger has been held up; 0 where it is not."""
        return self._shared.stalled_s

    @property
    def watch(self) -> Watch | None:
        """Whether and how somebody stands in; None where nobody does."""
        return self._watch

    def _under_way(self) -> int:
        return len(self._calls)

    def _deliver(self, rulings: list[Ruling], commit_s: float) -> None:
        """What the ledger has committed."""
        if not self._shared.behind:
            self._metrics.committed(len(rulings), commit_s)
        for ruling in rulings:
            call = self._calls.get(ruling.id)
            if call is None:
                continue
            if ruling.outcome is not Outcome.UNDECIDED or self._stand_in is None:
                call.found.append((self._shared, ruling))
                if self._watch is not None:
                    _remember(call, ruling, self._watch.not_copied)
                    if not call.handed_over:
                        self._watch.met()
            else:  # the other ledger records it, whatever comes of it there
                self.share_over(call)
            self._claim(call, ruling)

    def _deliver_stand_in(self, rulings: list[Ruling], _commit_s: float) -> None:
        """What the ledger that stands in has committed."""
        assert self._stand_in is not None and self._watch is not None
        for ruling in rulings:
            call = self._calls.get(ruling.id)
            if call is None:
                continue
            call.found.append((self._stand_in, ruling))
            _remember(call, ruling, self._watch.not_carried_over)
            if self._claim(call, ruling):
                self._metrics.stood_in.labels(ruling.outcome).inc()

    def _claim(self, call: CheckInCall, ruling: Ruling) -> bool:
        """Answer with a decision; that there is none is the answer only once nobody else is at it.

        False where this is not what is answered.
        """
        call.ledgers -= 1
        is_first = not call.claim.done() and (ruling.outcome is not Outcome.UNDECIDED or not call.ledgers)
        if is_first:
            call.take(ruling)
        if not call.ledgers:
            del self._calls[ruling.id]
        self._join(call)
        return is_first

    def _shared_checked(self, found: CopyCheck | None, seconds: float) -> None:
        if self._watch is not None:
            self._watch.shared_checked(found, seconds)

    def _stand_in_checked(self, found: CopyCheck | None, seconds: float) -> None:
        assert self._watch is not None
        self._watch.stand_in_checked(found, seconds)

    def _stand_in_lost(self) -> None:
        assert self._watch is not None
        self._watch.lost()

    def _join(self, call: CheckInCall) -> None:
        """Once both are known, the record learns how the answer to this decision left."""
        if call.answered is None or not call.found:
            return
        sent, http_status, answer_ms = call.answered
        for queue, ruling in call.found:
            undelivered = http_status is None or ruling.outcome is not sent.outcome
            if undelivered and (http_status is None or sent.outcome is Outcome.UNDECIDED):
                self._not_delivered(call, http_status, answer_ms)
            queue.tell(Answer(ruling.id, http_status, answer_ms, undelivered))
            if undelivered and ruling.reason is Reason.OK and self._watch is not None:
                recent = self._watch.not_copied if queue is self._shared else self._watch.not_carried_over
                recent.remove(call.asked)
        call.found.clear()

    def _not_delivered(self, call: CheckInCall, http_status: int | None, answer_ms: float) -> None:
        self._metrics.undelivered.inc()
        if self._undelivered_log.lets_through():
            log.warning(
                "an answer was not delivered",
                decision=call.asked.id,
                studio=call.asked.studio_id,
                http_status=http_status,
                answer_ms=answer_ms,
            )


def _remember(call: CheckInCall, ruling: Ruling, recent: RecentVisits) -> None:
    if ruling.reason is Reason.OK:
        recent.add(call.asked)


def _undecided(checkin: CheckIn) -> Ruling:
    return Ruling(checkin.id, Outcome.UNDECIDED, Reason.UNAVAILABLE)
