"""Asks every question of a grown record, and finds those that would not stay quick as it grows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from asked import Question
from cluster import Cluster
from grown import SPAN, Grown
from plan_watch import Executed, watched, watching

from guestgate.database import Database

# Often enough that driver and server have prepared the statements and use one plan for all values.
TIMES = 12
# Any table may have so many rows more than was thought.
SLACK = 2_000


@dataclass
class Finding:
    """What the questions of one name came to.

    ``ms`` is how long the slowest of them took by the clock, asked half the time. ``widest`` is the statement
    that looked at most pages. ``faults`` have the statement that each was found in.
    """

    name: str
    walks: str
    ms: float = 0.0
    widest: Executed | None = None
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def is_well(self) -> bool:
        """Whether there is no fault, or a reason for it."""
        return bool(self.walks) or not self.faults


def judge(
    cluster: Cluster, grown: Grown, questions: Iterable[Question], *, times: int = TIMES, clocked: bool = True
) -> list[Finding]:
    """Ask each question some times and look what that made the server do.

    What may walk through everything is asked once. With `clocked` all others are asked again while nobody
    watches.
    """
    findings: dict[str, Finding] = {}
    seen, quiet = (Database.at(url, pooled=True) for url in (watched(grown.url), grown.url))
    try:
        for question in questions:
            finding = findings.setdefault(question.name, Finding(question.name, question.walks))
            most_rows = SLACK + grown.decisions * question.days // SPAN.days
            with watching(cluster) as executed:
                took = [_ms(question, seen, number) for number in range(1 if question.walks else times)]
            for one in executed:
                if finding.widest is None or one.pages > finding.widest.pages:
                    finding.widest = one
                for fault in one.faults(most_rows):
                    finding.faults.setdefault(fault, one.text)
            if clocked and not question.walks:
                took = [_ms(question, quiet, times + number) for number in range(3)]
            finding.ms = max(finding.ms, statistics.median(took))
    finally:
        seen.engine.dispose()
        quiet.engine.dispose()
    return list(findings.values())


def _ms(question: Question, database: Database, number: int) -> float:
    started = time.perf_counter()
    question.ask(database, number)
    return (time.perf_counter() - started) * 1000
