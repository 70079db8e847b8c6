"""The last hour minute by minute: what check-ins were told, and whether the answers left in time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, case, func, literal_column, select

from guestgate import clock, partitions, record, schema
from guestgate.model import Outcome

MINUTE_MS = 60_000
MINUTES = 60

_d, _a = schema.decisions.c, schema.answers.c


@dataclass
class Minute:
    """What was received within a minute. Of ``answered`` check-ins it is known how the answer left."""

    allowed: int = 0
    denied: int = 0
    undecided: int = 0
    stand_in: int = 0
    answered: int = 0
    in_time: int = 0
    total_ms: float = 0.0
    slowest_ms: float = 0.0

    def add(self, told: Mapping[str, int], total_ms: float, slowest_ms: float) -> None:
        """Count some more."""
        for name, count in told.items():
            setattr(self, name, getattr(self, name) + count)
        self.total_ms += total_ms
        self.slowest_ms = max(self.slowest_ms, slowest_ms)

    @property
    def mean_ms(self) -> float | None:
        """The mean time to an answer."""
        return self.total_ms / self.answered if self.answered else None


class Pulse:
    """The minutes so far. Whoever follows the record adds each decision once."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._minutes: defaultdict[int, Minute] = defaultdict(Minute)

    def read(self, connection: Connection) -> None:
        """Begin again with what the record says of the last hour."""
        self._minutes.clear()
        first = clock.now_ms() // MINUTE_MS - MINUTES + 1
        since = clock.from_ms(first * MINUTE_MS)
        # Each decision's answer is looked up by its id: as a join, the planner may prefer to read all of a month's.
        # The bound says nothing new, but it says in which month to look.
        at_least = partitions.first_id(since)

        def of_answer(column: ColumnElement[Any]) -> ColumnElement[Any]:
            return select(column).where(_a.decision_id == _d.id, _a.decision_id >= at_least).scalar_subquery()

        received = (
            select(
                (_d.received_at_ms // literal_column(str(MINUTE_MS), Integer)).label("minute"),
                _d.outcome,
                _d.stand_in,
                of_answer(_a.answer_ms).label("answer_ms"),
                of_answer(_a.undelivered).label("undelivered"),
            )
            .where(*record.received(connection, since))
            .subquery()
        )
        one = received.c
        query = (
            select(
                one.minute,
                one.outcome,
                func.count().label("told"),
                func.count(case((one.stand_in.is_(True), 1))).label("stand_in"),
                func.count(one.answer_ms).label("answered"),
                func.count(case((one.undelivered.is_(False), 1))).label("in_time"),
                func.coalesce(func.sum(one.answer_ms), 0.0).label("total_ms"),
                func.coalesce(func.max(one.answer_ms), 0.0).label("slowest_ms"),
            )
            .where(one.minute >= first)
            .group_by(one.minute, one.outcome)
        )
        for row in connection.execute(query):
            told = {
                row.outcome: row.told,
                "stand_in": row.stand_in,
                "answered": row.answered,
                "in_time": row.in_time,
            }
            self._minutes[row.minute].add(told, row.total_ms, row.slowest_ms)

    def add(self, decision: dict[str, Any]) -> None:
        """One more decision, as users see it."""
        minute = clock.to_ms(datetime.fromisoformat(decision["received_at"])) // MINUTE_MS
        answer_ms, undelivered = decision["answer_ms"], decision["undelivered"]
        told = {
            Outcome(decision["decision"]).value: 1,
            "stand_in": int(decision["stand_in"]),
            "answered": int(answer_ms is not None),
            "in_time": int(undelivered is False),
        }
        self._minutes[minute].add(told, answer_ms or 0.0, answer_ms or 0.0)

    def minutes(self) -> list[Minute]:
        """The last sixty, the oldest first; the last one is not over."""
        now = clock.now_ms() // MINUTE_MS
        for gone in [minute for minute in self._minutes if minute <= now - MINUTES]:
            del self._minutes[gone]
        return [self._minutes.get(minute, Minute()) for minute in range(now - MINUTES + 1, now + 1)]
