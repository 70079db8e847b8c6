"""Whether the shared database is away, as this machine's copy tells it without asking the database.

Whoever asks a database that says nothing waits for very long; whoever watches a server must not.
"""

from __future__ import annotations

from guestgate import clock
from guestgate.errors import GuestgateError
from guestgate.settings import Settings
from guestgate.stand_in.copy import CopyState, StandInCopy

# The follower is level every quarter of a second.
AWAY_S = 5.0
LOOK_EVERY_S = 1.0


class OutageWatch:
    """Any thread may ask."""

    def __init__(self, settings: Settings) -> None:
        """Where the machine does not stand in, there is no copy, and nobody can tell."""
        self._copy = StandInCopy(settings.stand_in_file) if settings.stands_in else None
        self._max_age_s = settings.stand_in_max_age_s
        self._looked_at = float("-inf")
        self._state: CopyState | None = None

    @property
    def copy(self) -> StandInCopy | None:
        """The machine's copy."""
        return self._copy

    def state(self) -> CopyState | None:
        """How the copy is, or was a second ago; None where there is none, or where it cannot be read."""
        now = clock.monotonic()
        if self._copy is not None and now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            try:
                self._state = self._copy.read_state(self._max_age_s)
            except GuestgateError:
                self._state = None
        return self._state

    def database_is_away(self) -> bool:
        """Whether nobody has heard of the database for some seconds."""
        state = self.state()
        return state is not None and state.age_s is not None and state.age_s >= AWAY_S
