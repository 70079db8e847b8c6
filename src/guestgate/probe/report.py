"""What the probe found, as values."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from guestgate import clock
from guestgate.probe.clauses import Clause


class Verdict(StrEnum):
    """What became of a clause. A consequence fails only because another clause does."""

    PASSED = "passed"
    FAILED = "failed"
    NOTE = "note"
    CONSEQUENCE = "consequence"


@dataclass(frozen=True)
class Figures:
    """How long calls took. ``over_750_share`` is from 0 to 1 and counts calls that got no answer."""

    calls: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    over_750_share: float


@dataclass(frozen=True)
class Finding:
    """One clause's verdict. ``because`` is the clause that a consequence follows from.

    Where a clause was tried in several ways, ``sent`` and ``received`` have a line for each; where it failed,
    for each that failed. Neither holds a key, or anything that would steer a terminal.
    """

    clause: Clause
    verdict: Verdict
    sent: str
    received: str
    because: Clause | None = None
    figures: Figures | None = None

    def as_dict(self) -> dict[str, Any]:
        """As ``--json`` shows it."""
        return {
            "id": self.clause.id,
            "title": self.clause.title,
            "verdict": self.verdict.value,
            "because": self.because.id if self.because else None,
            "sent": self.sent,
            "received": self.received,
            "rests_on": self.clause.rests_on,
            "section": self.clause.section,
            "figures": asdict(self.figures) if self.figures else None,
        }


def consequence(clause: Clause, because: Clause, why: str) -> Finding:
    """A clause that could not be asked."""
    return Finding(clause, Verdict.CONSEQUENCE, "–", f"not asked: {why}", because)


@dataclass(frozen=True)
class Report:
    """Everything about one endpoint. ``seconds`` is how long the probe took."""

    url: str
    started_at: datetime
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> Counter[Verdict]:
        """How many clauses got each verdict."""
        return Counter(finding.verdict for finding in self.findings)

    @property
    def holds(self) -> bool:
        """Whether the endpoint keeps the contract."""
        return not self.counts[Verdict.FAILED] and not self.counts[Verdict.CONSEQUENCE]

    def summary(self) -> str:
        """``27 clauses: 26 passed, 1 note``"""
        named = {
            "passed": self.counts[Verdict.PASSED],
            "failed": self.counts[Verdict.FAILED],
            "failed as a consequence": self.counts[Verdict.CONSEQUENCE],
        }
        parts = [f"{number} {name}" for name, number in named.items() if number]
        notes = self.counts[Verdict.NOTE]
        parts += [f"{notes} note{'' if notes == 1 else 's'}"] if notes else []
        return f"{len(self.findings)} clauses: {', '.join(parts)}"

    def as_dict(self) -> dict[str, Any]:
        """As ``--json`` shows it."""
        return {
            "url": self.url,
            "holds": self.holds,
            "started_at": clock.iso(self.started_at),
            "seconds": round(self.seconds, 1),
            "counts": {verdict.value: self.counts[verdict] for verdict in Verdict},
            "clauses": [finding.as_dict() for finding in self.findings],
        }
