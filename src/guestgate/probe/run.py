"""The probe from beginning to end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

from guestgate import clock
from guestgate.probe import answers, checks, clauses, latency, members, transport
from guestgate.probe.calls import MIN_ECHO_CHARS, Caller, checkin
from guestgate.probe.clauses import Clause
from guestgate.probe.report import Finding, Report, Verdict, consequence
from guestgate.probe.target import Target

DEFAULT_CALLS = 100
MAX_CALLS = 10_000
CERTIFICATE = (clauses.CERTIFICATE_CHAIN, clauses.CERTIFICATE_NAME, clauses.CERTIFICATE_DAYS)


async def probe(target: Target, calls: int, told: Callable[[int], object] = lambda _: None) -> Report:
    """Ask every clause; `calls` is how many check-ins each of the two time measurements makes.

    `told` hears how many clauses are done. Never raises for what the endpoint does.
    """
    started_at, started = clock.now(), clock.monotonic()
    found = []
    async for finding in _findings(target, calls):
        found.append(finding)
        told(len(found))
    return Report(str(target.url), started_at, clock.monotonic() - started, tuple(found))


async def _findings(target: Target, calls: int) -> AsyncIterator[Finding]:
    asked = clauses.asked(of_members=target.member_validation is not None)
    http = asked[asked.index(clauses.REDIRECT) :]
    barrier: Clause | None = None
    async for finding in transport.findings(target):
        yield finding
        barrier = barrier or _barrier(finding)
    if barrier is not None:
        for clause in http:
            yield consequence(clause, barrier, "the key goes only to a server whose certificate is trusted")
        return
    echoes: set[str] = set()
    allowed, denied = checkin(target.allowed, target.key), checkin(target.denied, target.key)
    async with Caller(target, echoes) as caller:
        plain = await caller.call(allowed)
    if plain.status is None:
        for clause in http:
            if clause is clauses.ALLOWED:
                yield Finding(clause, Verdict.FAILED, allowed.describe(), plain.text)
            else:
                yield consequence(clause, clauses.ALLOWED, "the plain check-in got no answer")
        return
    async with Caller(target, echoes) as caller:
        reuse = await latency.reuse(target, caller)
    # Who closes connections without a word would lose some of the calls below; that has been told then.
    keep_alive = reuse.verdict is Verdict.PASSED
    opened = partial(Caller, target, echoes, keep_alive=keep_alive)
    async with opened() as caller:
        known = {allowed: plain, denied: await caller.call(denied)}
        expected = {call: outcome.status for call, outcome in known.items() if outcome.status is not None}
        async for finding in checks.findings(answers.subject(target), answers.checks(target), caller, known):
            yield finding
    yield reuse
    what = "check-ins of both cards in turn" if len(expected) > 1 else "check-ins of the allowed card"
    async with opened() as caller:
        alone = await latency.in_time(clauses.IN_TIME, caller, calls, expected, what)
        yield alone
    async with AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(opened()) for _ in range(latency.TOGETHER)]
        yield await latency.in_time_together(callers, calls, expected, what, alone)
    if target.member_validation is not None:
        desk = replace(target, url=target.member_validation.url)
        async with Caller(desk, echoes, keep_alive=keep_alive) as caller:
            async for finding in members.findings(target.member_validation, target.key, caller, calls):
                yield finding
    yield _not_echoed(target, echoes)


def _barrier(finding: Finding) -> Clause | None:
    """The clause that keeps us from sending the key, as far as this finding tells."""
    if finding.clause in CERTIFICATE and finding.verdict is Verdict.CONSEQUENCE:
        return finding.because
    return finding.clause if finding.clause in CERTIFICATE and finding.verdict is Verdict.FAILED else None


def _not_echoed(target: Target, echoes: set[str]) -> Finding:
    if echoes:
        return Finding(clauses.NOT_ECHOED, Verdict.FAILED, "\n".join(sorted(echoes)), "an answer with a key in it")
    if len(target.key) < MIN_ECHO_CHARS:
        text = f"not asked: fewer than {MIN_ECHO_CHARS} characters can stand in an answer by chance"
        return Finding(clauses.NOT_ECHOED, Verdict.NOTE, "every call above", text)
    return Finding(clauses.NOT_ECHOED, Verdict.PASSED, "every call above", "no answer with a key in it")
