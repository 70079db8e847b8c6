"""Who answers a check-in, and by when: the ledger while there is time, else nobody (503).

Lives in the event loop. An answer is claimed there once, by whichever comes first: the ledger's decision or
the deadline. What the ledger recorded and how the answer left are joined afterwards, so that an allowed
check-in whose answer never left does not use up a visit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from guestgate.database import Database
from guestgate.directory import Directory
from guestgate.ledger import Answer, Ledger, Results, Ticket
from guestgate.model import CheckIn, Decision, Outcome, undecided

# Check-ins that may wait for the ledger; more could not be decided within any budget.
MAX_WAITING = 4096
SERVICE_UNAVAILABLE = 503


@dataclass(slots=True, eq=False)
class Call:
    """One check-in on its way. ``started`` and ``deadline`` are instants of the event loop's clock."""

    checkin: CheckIn
    started: float
    deadline: float
    claim: asyncio.Future[Decision]
    recorded: Decision | None = None
    answered: tuple[int | None, float] | None = None

    def expire(self) -> None:
        """The deadline has come: whatever the ledger says later, the answer is that nobody could decide."""
        self.take(undecided(self.checkin))

    def take(self, decision: Decision) -> None:
        """Claim the answer, unless that has been done."""
        if not self.claim.done():
            self.claim.set_result(decision)


class Authorizer:
    """Passes check-ins to the ledger and keeps the deadline of each."""

    def __init__(self, database: Database, own_id: str | None, on_failure: Callable[[], None]) -> None:
        """Bind to the running event loop; `on_failure` runs in it when the ledger can go on no longer."""
        self._loop = asyncio.get_running_loop()
        self._waiting = 0
        self._waking = False
        self._ledger = Ledger(
            database,
            own_id,
            deliver=lambda results: self._in_loop(self._deliver, results),
            failed=lambda: self._in_loop(on_failure),
        )

    def _in_loop(self, callback: Callable[..., None], *args: object) -> None:
        self._loop.call_soon_threadsafe(callback, *args)

    @property
    def directory(self) -> Directory:
        """Studios, keys and plans as they are now."""
        return self._ledger.directory

    def start(self) -> None:
        """Start the ledger's thread."""
        self._ledger.start()

    async def stop(self) -> None:
        """Let the ledger finish and write what waits."""
        await asyncio.to_thread(self._ledger.stop)

    def call(self, checkin: CheckIn, started: float, deadline: float) -> Call:
        """A check-in that has to be answered by `deadline`."""
        return Call(checkin, started, deadline, self._loop.create_future())

    async def authorize(self, call: Call) -> Decision:
        """The decision to answer with; undecided once `Call.expire` has been called at the deadline.

        The ledger's decision belongs to nobody's request: it is made and recorded even where the caller has
        hung up. Say afterwards with `left` how the answer left.
        """
        if self._waiting >= MAX_WAITING:
            call.recorded = self._ledger.undecided(call.checkin)
            return call.recorded
        self._waiting += 1
        self._ledger.submit(Ticket(call.checkin, call.deadline, call))
        if not self._waking:  # once for all that arrive in one turn of the loop
            self._waking = True
            self._loop.call_soon(self._wake)
        decision = await call.claim
        if self._loop.time() >= call.deadline:
            return undecided(call.checkin)  # a late yes would open no door, but use up a visit
        return decision

    def _wake(self) -> None:
        self._waking = False
        self._ledger.wake()

    def left(self, call: Call, http_status: int | None) -> None:
        """The answer has been written with this status; None: the caller was gone, nothing was written."""
        call.answered = http_status, round((self._loop.time() - call.started) * 1000, 1)
        self._join(call)

    def _deliver(self, results: Results) -> None:
        """Take what the ledger has committed."""
        self._waiting -= len(results)
        for ticket, decision in results:
            call: Call = ticket.owner
            call.recorded = decision
            call.take(decision)
            self._join(call)

    def _join(self, call: Call) -> None:
        """Once both are known, the record learns how the answer to this decision left."""
        if call.recorded is None or call.answered is None:
            return
        http_status, answer_ms = call.answered
        decided = call.recorded.outcome is not Outcome.UNDECIDED
        undelivered = http_status is None or (decided and http_status == SERVICE_UNAVAILABLE)
        self._ledger.answered(Answer(call.recorded.id, http_status, answer_ms, undelivered))
