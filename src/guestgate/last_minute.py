"""The last minute's check-ins, from figures that only grow: how many, how many in time, and how soon nearly all."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import isfinite
from typing import NamedTuple

from prometheus_client import Metric

MINUTE_S = 60.0
QUANTILE = 0.99


class Sums(NamedTuple):
    """What was counted so far; of answers, how many took at most so many seconds."""

    in_time: float
    answers: dict[float, float]

    @staticmethod
    def of(figures: Iterable[Metric]) -> Sums:
        """Out of a door's figures."""
        samples = [sample for metric in figures for sample in metric.samples]
        return Sums(
            sum(sample.value for sample in samples if sample.name == "guestgate_in_time_total"),
            {
                float(sample.labels["le"]): sample.value
                for sample in samples
                if sample.name == "guestgate_answer_seconds_bucket"
            },
        )


class LastMinute:
    """Looked at every few seconds; what happened before the first look is not known."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._looks: deque[tuple[float, Sums]] = deque()

    def look(self, figures: Iterable[Metric], now: float) -> None:
        """The figures as they are `now`, by a clock that never jumps. Those without answers say nothing."""
        sums = Sums.of(figures)
        if not sums.answers:
            return
        while len(self._looks) > 1 and self._looks[1][0] <= now - MINUTE_S:
            self._looks.popleft()
        self._looks.append((now, sums))

    @property
    def checkins(self) -> int:
        """How many got an answer."""
        return int(max(self._by_edge().values(), default=0))

    @property
    def in_time(self) -> float | None:
        """The share that got a yes or no in time; None where nobody came."""
        if not self.checkins:
            return None
        (_, before), (_, now) = self._looks[0], self._looks[-1]
        return min(1.0, max(0.0, (now.in_time - before.in_time) / self.checkins))

    @property
    def p99_ms(self) -> float | None:
        """Within which of the histogram's edges 99 of 100 were answered; beyond the last one, that one."""
        if not self.checkins:
            return None
        by_edge = self._by_edge()
        last = max(edge for edge in by_edge if isfinite(edge))
        return 1000 * min(last, *(edge for edge, count in by_edge.items() if count >= QUANTILE * self.checkins))

    def _by_edge(self) -> dict[float, float]:
        if not self._looks:
            return {}
        (_, before), (_, now) = self._looks[0], self._looks[-1]
        # A door that was started again may have been counted less far than it was told.
        return {edge: max(0.0, count - before.answers.get(edge, 0.0)) for edge, count in now.answers.items()}
