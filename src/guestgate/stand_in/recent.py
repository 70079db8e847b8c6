"""Visits of the last moments, by who made them: what the other ledger cannot know of yet.

The copy is a moment behind the shared record when that goes away, and the shared record is a moment behind the copy
when it is back. In between the door remembers for both, so that nobody's visit counts twice or not at all.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from guestgate import clock
from guestgate.model import CheckIn

# Some seconds of a busy door, half a minute of most. Beyond that the oldest are forgotten.
MOST = 20_000

Person = tuple[str, int]


class RecentVisit(NamedTuple):
    """A visit as the door knows it: its id, the studio's, and when it was, in milliseconds since the Unix epoch."""

    id: str
    studio_id: str
    at_ms: int


class RecentVisits:
    """Lives in the event loop."""

    def __init__(self) -> None:
        """There are none yet."""
        self._visits: dict[Person, tuple[RecentVisit, ...]] = {}
        self._order: deque[tuple[int, Person, str]] = deque()

    def add(self, checkin: CheckIn) -> None:
        """This check-in has just made a visit."""
        person = checkin.aggregator_id, checkin.customer_id
        visit = RecentVisit(checkin.id, checkin.studio_id, clock.to_ms(checkin.received_at))
        self._visits[person] = (*self._visits.get(person, ()), visit)
        self._order.append((clock.now_ms(), person, visit.id))
        if len(self._order) > MOST:
            self._drop_oldest()

    def remove(self, checkin: CheckIn) -> None:
        """Its answer did not leave: the visit does not count."""
        person = checkin.aggregator_id, checkin.customer_id
        if person in self._visits:  # an empty entry goes with its place in the order
            self._visits[person] = tuple(visit for visit in self._visits[person] if visit.id != checkin.id)

    def of(self, checkin: CheckIn) -> tuple[RecentVisit, ...]:
        """Those of the person who checks in, oldest first."""
        return self._visits.get((checkin.aggregator_id, checkin.customer_id), ())

    def forget(self, before_ms: int) -> None:
        """Whoever is to know of those that were added before that instant does."""
        while self._order and self._order[0][0] < before_ms:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, person, visit_id = self._order.popleft()
        left = tuple(visit for visit in self._visits[person] if visit.id != visit_id)
        if left:
            self._visits[person] = left
        else:
            self._visits.pop(person)
