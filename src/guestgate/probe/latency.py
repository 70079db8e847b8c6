"""The clauses about connections and time: reuse, and answers within 750 ms."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace

from guestgate import clock
from guestgate.probe import clauses
from guestgate.probe.calls import Caller, Outcome, checkin
from guestgate.probe.clauses import Clause
from guestgate.probe.report import Figures, Finding, Verdict
from guestgate.probe.target import Card, Target

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


async def in_time(target: Target, caller: Caller, calls: int, expected: dict[Card, int]) -> Finding:
    """So many calls, one after the other; the first opens the connection.

    `expected` is the status that each card got before; a card that got none is left out.
    """
    return await _measure(clauses.IN_TIME, target, [caller], calls, expected)


async def in_time_together(
    target: Target, callers: Sequence[Caller], calls: int, expected: dict[Card, int], alone: Finding
) -> Finding:
    """So many calls by 32 callers at a time. Who is late one by one will be late here too.

    A platform has its connections open, and opening 32 of them would measure us more than the endpoint; so they
    are open before the clock starts.
    """
    plain = checkin(target.allowed, target.key)
    await asyncio.gather(*(caller.call(plain) for caller in callers))
    finding = await _measure(clauses.IN_TIME_TOGETHER, target, callers, calls, expected)
    if finding.verdict is Verdict.FAILED and alone.verdict is Verdict.FAILED:
        return replace(finding, verdict=Verdict.CONSEQUENCE, because=alone.clause)
    return finding


async def _measure(
    clause: Clause, target: Target, callers: Sequence[Caller], calls: int, expected: dict[Card, int]
) -> Finding:
    cards = list(expected)
    outcomes: list[tuple[Card, Outcome]] = []
    numbers = iter(range(calls))
    stop_at = clock.monotonic() + PASS_S

    async def call_on(caller: Caller) -> None:
        for number in numbers:
            if clock.monotonic() > stop_at:
                return
            card = cards[number % len(cards)]
            outcomes.append((card, await caller.call(checkin(card, target.key))))

    await asyncio.gather(*(call_on(caller) for caller in callers))
    figures = _figures([outcome for _, outcome in outcomes])
    unanswered = [outcome for _, outcome in outcomes if outcome.status is None]
    changed = [outcome for card, outcome in outcomes if outcome.status not in (None, expected[card])]
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
    sent = f"{calls} check-ins, {how}, of {'both cards in turn' if len(cards) > 1 else 'the allowed card'}"
    return Finding(clause, verdict, sent, "\n".join(texts), figures=figures)


def _figures(outcomes: Sequence[Outcome]) -> Figures:
    """The figures of at least one outcome; a call without an answer counts as late, however soon it broke."""
    ordered = sorted(outcome.ms for outcome in outcomes)
    late = sum(outcome.status is None or outcome.ms > LIMIT_MS for outcome in outcomes)

    def within(share: float) -> float:
        return round(ordered[math.ceil(share * len(ordered)) - 1], 1)

    return Figures(len(ordered), within(0.5), within(0.99), round(ordered[-1], 1), late / len(ordered))
