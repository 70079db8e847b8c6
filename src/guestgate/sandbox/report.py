"""What came of many calls: counts by what the desk saw, and how long answers took, in text and as a picture."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any
from xml.sax.saxutils import escape

from guestgate.sandbox.door import CANCEL_AFTER_S, Desk, Inquiry, Reception, Tap

LIMIT_MS = round(CANCEL_AFTER_S * 1000)
MAX_MS = 1000
MAX_KINDS = 40
BARS = (1, 2, 5, 10, 20, 50, 100, 200, 400, 600, LIMIT_MS, MAX_MS)


class Latencies:
    """How many answers took how long, to a tenth of a millisecond; its size does not grow with their number."""

    def __init__(self) -> None:
        """Nothing counted yet."""
        self._by_tenth = [0] * (10 * MAX_MS + 1)
        self.count = 0
        self.worst_ms = 0.0

    def add(self, ms: float) -> None:
        """One answer."""
        self._by_tenth[min(round(10 * ms), 10 * MAX_MS)] += 1
        self.count += 1
        self.worst_ms = max(self.worst_ms, ms)

    def percentile_ms(self, share: float) -> float:
        """Milliseconds within which this share of the answers came, at most `MAX_MS`; 0 without answers."""
        left = share * self.count
        for tenth, count in enumerate(self._by_tenth):
            left -= count
            if left <= 0:
                return tenth / 10
        return MAX_MS

    def bars(self) -> list[tuple[int, int, int]]:
        """(from, until, count) in milliseconds, for a histogram; the last bar holds everything beyond."""
        edges = (0, *BARS)
        found = [(start, end, sum(self._by_tenth[10 * start : 10 * end])) for start, end in pairwise(edges)]
        start, end, count = found[-1]
        return [*found[:-1], (start, end, count + self._by_tenth[-1])]


class Report:
    """The figures of one run. Calls that a fault cut or cancelled are counted apart."""

    def __init__(self, webhooks: Counter[str]) -> None:
        """Nothing happened yet; `webhooks` are counted by whoever sends them."""
        self.desks: Counter[Desk] = Counter()
        self.receptions: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.webhooks = webhooks
        self.latencies = Latencies()
        self.undelivered = 0
        self.undelivered_why: Counter[str] = Counter()
        self.not_made = 0
        self.behind_ms = 0.0

    def add(self, tap: Tap, fault: str | None) -> None:
        """One tap."""
        if fault is not None:
            self.faults[fault] += 1
        if tap.status is None and fault is not None:
            return
        self.desks[tap.desk] += 1
        self.latencies.add(tap.ms)
        if tap.reason:
            _count(self.reasons, tap.reason)
        if tap.desk is Desk.ERROR:
            self._undelivered(f"status {tap.status}" if tap.status else (tap.note or "no answer"))

    def enrol(self, inquiry: Inquiry, fault: str | None) -> None:
        """One member at a desk."""
        if fault is not None:
            self.faults[fault] += 1
        if inquiry.status is None and fault is not None:
            return
        self.receptions[inquiry.desk] += 1
        if inquiry.desk is Reception.ERROR:
            told = inquiry.note or "no answer"
            self._undelivered(told if inquiry.status in (None, 200) else f"status {inquiry.status}")

    def _undelivered(self, why: str) -> None:
        self.undelivered += 1
        _count(self.undelivered_why, why)

    def as_dict(self) -> dict[str, Any]:
        """For scripts."""
        shares = {"ms_p50": 0.5, "ms_p99": 0.99}
        return {
            "calls": self.latencies.count,
            "desk": {desk.value: self.desks[desk] for desk in Desk},
            "enrolments": {desk.value: self.receptions[desk] for desk in Reception},
            "reasons": dict(self.reasons.most_common()),
            "undelivered": self.undelivered,
            "undelivered_why": dict(self.undelivered_why),
            "faults": dict(self.faults),
            "webhooks": dict(self.webhooks),
            **{name: self.latencies.percentile_ms(share) for name, share in shares.items()},
            "ms_worst": self.latencies.worst_ms,
            "over_750_ms": sum(count for start, _, count in self.latencies.bars() if start >= LIMIT_MS),
            "histogram": [{"from_ms": a, "until_ms": b, "count": n} for a, b, n in self.latencies.bars()],
            "not_made": self.not_made,
            "behind_ms": round(self.behind_ms, 1),
        }

    def text(self) -> str:
        """For people."""
        figures = self.as_dict()
        lines = [f"{figures['calls']} calls; the desks saw"]
        lines += [f"  {count:>8}  {desk}" for desk, count in figures["desk"].items()]
        lines += [
            f"half answered within {figures['ms_p50']} ms, 99 % within {figures['ms_p99']} ms, "
            f"the slowest after {figures['ms_worst']} ms"
        ]
        if self.receptions:
            lines.append(f"{self.receptions.total()} members at the desks" + _listed(self.receptions))
        most = max((count for _, _, count in self.latencies.bars()), default=0) or 1
        for start, end, count in self.latencies.bars():
            if start == LIMIT_MS:
                lines.append(f"  {'':->22} {LIMIT_MS} ms: the platform waits no longer")
            label = f"{start} – {end} ms" if end < MAX_MS else f"{start} ms –"
            lines.append(f"  {label:>13} {count:>8}  {'█' * round(40 * count / most) or ('▏' if count else '')}")
        lines.append(f"{self.undelivered} undelivered" + _listed(self.undelivered_why))
        if self.undelivered_why["status 401"]:
            lines.append("with status 401 the endpoint says that it does not know the town's keys")
        if self.faults:
            lines.append(f"{sum(self.faults.values())} calls met a fault" + _listed(self.faults))
        if self.webhooks:
            lines.append("webhooks" + _listed(self.webhooks))  # no sum: what was delayed is delivered all the same
        if self.not_made:
            lines.append(f"{self.not_made} calls were not made: too many were under way")
        if self.behind_ms > LIMIT_MS / 3:
            lines.append(f"this machine was up to {self.behind_ms:.0f} ms late with its own calls; lower the rate")
        return "\n".join(lines)

    def svg(self, title: str) -> str:
        """A picture of the histogram with the 750 ms line; readable on dark and on light."""
        return _svg(title, self)


def _count(counts: Counter[str], what: str) -> None:
    """One more. Of texts that an endpoint makes up there may be no end; the last ones are counted as one."""
    counts[what if what in counts or len(counts) < MAX_KINDS else "others"] += 1


def _listed(counts: Counter[str]) -> str:
    return ": " + ", ".join(f"{count} {what}" for what, count in counts.most_common()) if counts else ""


WIDTH, HEIGHT, LEFT, BOTTOM, BAR = 760, 360, 24, 60, 54
STYLE = """\
svg { background: #fff; color: #1b1f24; font: 13px system-ui, sans-serif }
.bar { fill: #2f7d6d } .late { fill: #b3422f } .line { stroke: #b3422f; stroke-width: 2; stroke-dasharray: 5 4 }
.axis { stroke: currentColor; opacity: .35 } .dim { opacity: .65 }
text { fill: currentColor } .limit { fill: #b3422f }
@media (prefers-color-scheme: dark) {
  svg { background: #14171a; color: #e6e9ec } .bar { fill: #58b39f }
  .late, .limit { fill: #e5806c } .line { stroke: #e5806c }
}"""


def _svg(title: str, report: Report) -> str:
    bars = report.latencies.bars()
    most = max((count for _, _, count in bars), default=0) or 1
    floor = HEIGHT - BOTTOM
    room = floor - 76
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text x="{LEFT}" y="26" font-weight="600">{escape(title)}</text>',
        f'<text x="{LEFT}" y="46" class="dim">{escape(_subtitle(report))}</text>',
        f'<line x1="{LEFT}" y1="{floor}" x2="{WIDTH - LEFT}" y2="{floor}" class="axis"/>',
    ]
    for place, (start, end, count) in enumerate(bars):
        x = LEFT + 8 + place * BAR + (30 if start >= LIMIT_MS else 0)
        tall = max(1.5, room * count / most) if count else 0
        kind = "late" if start >= LIMIT_MS else "bar"
        parts.append(
            f'<rect x="{x}" y="{floor - tall:.1f}" width="{BAR - 10}" height="{tall:.1f}" rx="2" class="{kind}"/>'
        )
        middle = x + (BAR - 10) / 2
        if count:
            parts.append(
                f'<text x="{middle}" y="{floor - tall - 6:.1f}" text-anchor="middle" font-size="11">{count}</text>'
            )
        label = f"{start}–{end}" if end < MAX_MS else f"{start}–"
        parts.append(f'<text x="{middle}" y="{floor + 18}" text-anchor="middle" font-size="11">{label}</text>')
        if start == LIMIT_MS:
            parts.append(f'<line x1="{x - 20}" y1="62" x2="{x - 20}" y2="{floor + 6}" class="line"/>')
            parts.append(
                f'<text x="{x - 26}" y="72" text-anchor="end" class="limit">the call is cancelled at 750 ms</text>'
            )
    parts.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 14}" text-anchor="middle" class="dim">'
        "milliseconds until the answer</text></svg>"
    )
    return "\n".join(parts) + "\n"


def _subtitle(report: Report) -> str:
    figures = report.as_dict()
    return (
        f"{figures['calls']} calls, {report.undelivered} undelivered; half within {figures['ms_p50']} ms, "
        f"99 % within {figures['ms_p99']} ms, the slowest {figures['ms_worst']} ms"
    )
