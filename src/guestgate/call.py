"""One call on its way to its answer: it is claimed once, by whichever comes first, a ledger or the deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from guestgate.ledger_queue import LedgerQueue

Asked = TypeVar("Asked")
Said = TypeVar("Said")


@dataclass(slots=True, eq=False)
class Call(Generic[Asked, Said]):
    """What was asked. ``started`` and ``deadline`` are instants of the event loop's clock.

    ``unanswered`` words what is said where nobody could tell in time. ``ledgers`` is how many are at it; ``found``
    has those that are still to be told how the answer left, each with what it has recorded. ``answered`` is what was
    written with which status (None: the caller was gone), and after how many milliseconds.
    """

    asked: Asked
    started: float
    deadline: float
    unanswered: Callable[[Asked], Said]
    claim: asyncio.Future[Said]
    ledgers: int = 0
    handed_over: bool = False
    found: list[tuple[LedgerQueue, Said]] = field(default_factory=list)
    answered: tuple[Said, int | None, float] | None = None

    def expire(self) -> None:
        """The deadline has come: whatever a ledger says later, the answer is that nobody could tell."""
        self.take(self.unanswered(self.asked))

    def take(self, said: Said) -> None:
        """Claim the answer, unless that has been done."""
        if not self.claim.done():
            self.claim.set_result(said)
