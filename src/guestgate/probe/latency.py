"""The clauses about connections and time: reuse, and answers within 750 ms."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace

from guestgate import clock
from guestgate.probe import clauses
from guestgate.probe.calls import Call, Caller, Outcome, checkin
from guestgate.probe.clauses import Clause
from guestgate.probe.report import Figures, Finding, Verdict
from guestgate.probe.target import Target

LIMIT_MS = 750
TOGETHER = 32
REUSES = 5
# A slow endpoint is measured on the calls that fit into this time.
PASS_S = 60


async def reuse(target: Target, caller: Caller) -> Finding:
    """Whether call after call is answered on one connection. `caller` has one and keeps it."""
    outcomes = [await caller.call(checkin(target.allowed, target.key)) for _ in range(REUSES)]
    connections = len({outcome.connection for outcome in outcomes})
    sent = f"{REUSES} check-ins, one after the other"
    unanswered = [outcome for outcome in outcomes if outcome.status is None]
    if unanswered:
        text = f"{len(unanswered)} of {REUSES} without an answer: {unanswered[0].text}"
        return Finding(clauses.REUSE, Verdict.FAILED, sent, text)
    verdict = Verdict.PASSED if connections == 1 else Verdict.FAILED
    return Finding(clauses.REUSE, verdict, sent, f"answered on {connections} connection{'s' * (connections > 1)}")


async def in_time(clause: Clause, caller: Caller, calls: int, expected: dict[Call, int], what: str) -> Finding:
    """So many calls, one after the other; the first opens the connection.

    `expected` has the calls that are made in turn, and the status that each got before; `what` names them.
    """
    return await _measure(clause, [caller], calls, expected, what)


async def in_time_together(
    callers: Sequence[Caller], calls: int, expected: dict[Call, int], what: str, alone: Finding
) -> Finding:
    """So many calls by 32 callers at a time. Who is late one by one will be late here too.

    A platform has its connections open, and opening 32 of them would measure us more than the endpoint; so they
    are open before the clock starts.
    """
    plain = next(iter(expected))
    await asyncio.gather(*(caller.call(plain) for caller in callers))
    finding = await _measure(clauses.IN_TIME_TOGETHER, callers, calls, expected, what)
    if finding.verdict is Verdict.FAILED and alone.verdict is Verdict.FAILED:
        return replace(finding, verdict=Verdict.CONSEQUENCE, because=alone.clause)
    return finding


async def _measure(
    clause: Clause, callers: Sequence[Caller], calls: int, expected: dict[Call, int], what: str
) -> Finding:
    asked = list(expected)
    outcomes: list[tuple[Call, Outcome]] = []
    numbers = iter(range(calls))
    stop_at = clock.monotonic() + PASS_S

    async def call_on(caller: Caller) -> None:
        for number in numbers:
            if clock.monotonic() > stop_at:
                return
            call = asked[number % len(asked)]
            outcomes.append((call, await caller.call(call)))

    await asyncio.gather(*(call_on(caller) for caller in callers))
    figures = _figures([outcome for _, outcome in outcomes])
    unanswered = [outcome for _, outcome in outcomes if outcome.status is None]
    changed = [outcome for call, outcome in outcomes if outcome.status not in (None, expected[call])]
    late = round(figures.over_750_share * figures.calls)
    texts = [
        f"p50 {figures.p50_ms} ms, p99 {figures.p99_ms} ms, worst {figures.worst_ms} ms; "
        f"{late} of {figures.calls} ({figures.over_750_share:.1%}) over {LIMIT_MS} ms or unanswered"
    ]
    if unanswered:
        texts.append(f"{len(unanswered)} without an answer: {unanswered[0].text}")
    if changed:
        texts.append(f"{len(changed)} answered otherwise than before: {changed[0].text}")
    if figures.calls < calls:
        texts.append(f"ended after {PASS_S} s")
    verdict = Verdict.FAILED if late or changed else Verdict.PASSED
    how = "one after the other" if len(callers) == 1 else f"{len(callers)} at a time"
    sent = f"{calls} {what}, {how}"
    return Finding(clause, verdict, sent, "\n".join(texts), figures=figures)


def _figures(outcomes: Sequence[Outcome]) -> Figures:
    """The figures of at least one outcome; a call without an answer counts as late, however soon it broke."""
    ordered = sorted(outcome.ms for outcome in outcomes)
    late = sum(outcome.status is None or outcome.ms > LIMIT_MS for outcome in outcomes)

    def within(share: float) -> float:
        return round(ordered[math.ceil(share * len(ordered)) - 1], 1)

    return Figures(len(ordered), within(0.5), within(0.99), round(ordered[-1], 1), late / len(ordered))
