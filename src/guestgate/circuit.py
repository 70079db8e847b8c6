"""Whether the shared ledger is asked at all: not while it keeps missing its share of the time.

It opens by what check-ins meet, and closes by checks: while it is open no check-in waits to find out.
"""

from __future__ import annotations

# So long only misses, and check-ins wait for it no more.
OPEN_AFTER_S = 0.5
# As many quick checks in a row, and it may be asked again.
QUICK_CHECKS = 2
# What was decided meanwhile should be carried over by then, since the shared ledger does not know of it. But that
# may be held up by a single member, and is not waited for any longer than that.
LEVEL_S = 2.0
CARRY_OVER_PATIENCE_S = 10.0


class Circuit:
    """Instants are those of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        """Closed: the shared ledger is asked."""
        self.open_since: float | None = None
        self._missing_since: float | None = None
        self._quick_checks = 0
        self._quick_since = 0.0

    @property
    def is_open(self) -> bool:
        """Whether check-ins go past the shared ledger."""
        return self.open_since is not None

    def met(self) -> None:
        """The shared ledger decided in time."""
        self._missing_since = None

    def missed(self, now: float) -> bool:
        """It did not; True where that opens the circuit."""
        if self.is_open:
            return False
        if self._missing_since is None:
            self._missing_since = now
        if now - self._missing_since < OPEN_AFTER_S:
            return False
        self.open_since, self._missing_since, self._quick_checks = now, None, 0
        return True

    def checked(self, quick: bool, oldest_waiting_s: float, now: float) -> bool:
        """A check of the shared ledger came back, quick enough or not; True where that closes the circuit.

        `oldest_waiting_s` is the age of the oldest decision that is still to be carried over.
        """
        if not quick or not self.is_open:
            self._quick_checks = 0
            return False
        if self._quick_checks == 0:
            self._quick_since = now
        self._quick_checks += 1
        carried_over = oldest_waiting_s < LEVEL_S or now - self._quick_since >= CARRY_OVER_PATIENCE_S
        if self._quick_checks < QUICK_CHECKS or not carried_over:
            return False
        self.open_since = None
        return True
