"""When a door stands in: it watches both of its ledgers, and says which one to ask.

The path that is rarely used is checked all the time, as far as a commit on disk, so that it is warm and known to
work when it is needed.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from guestgate import clock
from guestgate.circuit import Circuit
from guestgate.ledger_queue import LedgerQueue
from guestgate.stand_in.recent import RecentVisits
from guestgate.stand_in.rules import CopyCheck

log = structlog.get_logger()

LOOK_EVERY_S = 0.5
CHECK_EVERY_S = 2.0
CHECK_PATIENCE_S = 10.0
# The door hears of a commit a moment after it.
FOLLOW_MARGIN_MS = 1_000
CARRY_OVER_MS = 60_000
RESTART_S = 1.0
# Of the shared ledger's share of the time: a check takes fewer steps than a check-in.
QUICK = 0.7


class Watch:
    """Lives in the event loop, from `start` to `stop`."""

    def __init__(self, shared: LedgerQueue, stand_in: LedgerQueue, share_s: float) -> None:
        """`share_s` is what the shared ledger has for a check-in before the other one is asked."""
        self._shared, self._stand_in = shared, stand_in
        self._quick_s = share_s * QUICK
        self._circuit = Circuit()
        self._loop = asyncio.get_running_loop()
        self._next_check = 0.0
        # Visits that the copy may not have yet, and those that the shared record may not have.
        self.not_copied, self.not_carried_over = RecentVisits(), RecentVisits()
        # Of the copy: whether it could stand in when it was asked last, and how old its oldest waiting decision was.
        self._ready, self._checked_at = False, float("-inf")
        self._oldest_waiting_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._restarting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch from now on."""
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Watch no more."""
        for task in (self._task, self._restarting):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    @property
    def stands_in(self) -> bool:
        """Whether check-ins go to the copy at once."""
        return self._circuit.is_open

    @property
    def ready(self) -> bool:
        """Whether the last check of the copy was good, and is not long ago: a ledger may hang."""
        return self._ready and self._loop.time() - self._checked_at < CHECK_PATIENCE_S

    @property
    def standing_in_s(self) -> float:
        """For how long they have; 0 where they do not."""
        since = self._circuit.open_since
        return 0.0 if since is None else self._loop.time() - since

    def met(self) -> None:
        """The shared ledger decided a check-in in its share of the time."""
        self._circuit.met()

    def missed(self) -> None:
        """It did not."""
        if self._circuit.missed(self._loop.time()):
            self._next_check = 0.0
            log.error("the shared database does not decide in time; standing in for it")

    def shared_checked(self, found: CopyCheck | None, seconds: float) -> None:
        """What a check of the shared ledger found, and how long it took."""
        quick = found is not None and seconds <= self._quick_s
        stood_in_s = self.standing_in_s
        if self._circuit.checked(quick, self._oldest_waiting_s, self._loop.time()):
            log.warning("the shared database decides again", stood_in_s=round(stood_in_s, 1))

    def stand_in_checked(self, found: CopyCheck | None, _seconds: float) -> None:
        """What a check of the copy found."""
        if self._ready and found is None:
            log.error("the copy cannot stand in; without the shared database check-ins would be undecided")
        elif found is not None and not self._ready:
            log.info("the copy can stand in for the shared database")
        self._ready, self._checked_at = found is not None, self._loop.time()
        if found is not None:
            self._oldest_waiting_s = found.oldest_waiting_s
            self.not_copied.forget(found.copied_at_ms - FOLLOW_MARGIN_MS)
            # One that cannot be carried over does not send those after it past the shared ledger for ever.
            self.not_carried_over.forget(max(found.carried_over_ms, clock.now_ms() - CARRY_OVER_MS))

    def lost(self) -> None:
        """The ledger of the copy ended."""
        self._ready = False
        log.error("the ledger that stands in ended; it is started again")

    async def _watch(self) -> None:
        while True:
            if self._stand_in.lost and (self._restarting is None or self._restarting.done()):
                self._restarting = asyncio.create_task(self._restart())
            now = self._loop.time()
            if now >= self._next_check:
                self._stand_in.check()
                self._next_check = now + (LOOK_EVERY_S if self.stands_in else CHECK_EVERY_S)
            if self.stands_in:
                self._shared.check()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _restart(self) -> None:
        await asyncio.sleep(RESTART_S)
        try:
            await self._stand_in.start_again()
        except Exception as error:
            log.error("the ledger that stands in could not be started and will be tried again", error=str(error))
