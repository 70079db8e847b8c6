"""Whether the shared database is away, without waiting for it.

Whoever asks a database that says nothing waits for very long; whoever watches a server must not. As long as this
machine's copy is young, somebody has just heard of the database. Else it is asked beside the request, for a moment.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError

import structlog

from guestgate import clock, sequence
from guestgate.database import Database, is_postgres
from guestgate.errors import GuestgateError
from guestgate.settings import Settings
from guestgate.stand_in.copy import CopyState, StandInCopy

log = structlog.get_logger()

# The follower is level every quarter of a second, unless it is comparing everything or a transaction stays open.
YOUNG_S = 2.0
LOOK_EVERY_S = 1.0
ANSWER_S = 1.0


class OutageWatch:
    """Any thread may ask, but not the event loop's."""

    def __init__(self, settings: Settings) -> None:
        """Where the machine does not stand in there is no copy. A file of its own counts as there."""
        self._copy = StandInCopy(settings.stand_in_file) if settings.stands_in else None
        self._settings = settings
        self._is_shared = is_postgres(settings.database)
        self._looked_at = float("-inf")
        self._state: CopyState | None = None
        self._asking = ThreadPoolExecutor(1, "database-there")
        self._lock = threading.Lock()
        self._question: Future[bool] | None = None
        self._asked_at = 0.0
        self._away_since_ms: int | None = None

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
                self._state = self._copy.read_state(self._settings.stand_in_max_age_s)
            except GuestgateError:
                self._state = None
        return self._state

    @property
    def away_since_ms(self) -> int | None:
        """When the database was heard of last, as far as anybody here knows; None while it answers."""
        return self._away_since_ms

    def database_is_away(self) -> bool:
        """Whether the database does not answer. Takes a second at most."""
        if not self._is_shared:
            return False
        state = self.state()
        is_young = state is not None and state.age_s is not None and state.age_s < YOUNG_S
        answers = is_young or self._is_there()
        self.note(answers, "it says nothing")
        return not answers

    def note(self, answers: bool, why: object = "") -> None:
        """Whoever has asked the database says whether it answers, and `why` not."""
        if answers:
            self._away_since_ms = None
        elif self._away_since_ms is None:
            copied_at_ms = None if self._state is None else self._state.copied_at_ms
            self._away_since_ms = copied_at_ms or clock.now_ms()
            log.error("the database does not answer; pages say so", error=str(why))

    def _is_there(self) -> bool:
        """One question at a time; while that is not answered, the database is away."""
        with self._lock:
            now = clock.monotonic()
            if self._question is None or (self._question.done() and now - self._asked_at >= LOOK_EVERY_S):
                self._question, self._asked_at = self._asking.submit(self._ask), now
            question, left_s = self._question, self._asked_at + ANSWER_S - now
        try:
            return question.result(max(0.0, left_s))
        except NotYetError:
            return False

    def _ask(self) -> bool:
        database = Database.at(self._settings.database, door=True, fence=self._settings.fence)
        try:
            with database.read() as connection:
                sequence.position(connection)
        except GuestgateError:
            return False
        return True
