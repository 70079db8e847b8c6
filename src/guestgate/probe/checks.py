"""Clauses about statuses: which call gets which.

Each is tried with one or more cases, and holds where every case gets one of the statuses it asks for. All cases
are variations of one plain call. A case that fails just as the plain one does tells nothing new: its clause is
marked as a consequence.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Container, Iterable
from dataclasses import dataclass, replace

from guestgate.probe.calls import Call, Caller, Outcome, Token
from guestgate.probe.clauses import Clause
from guestgate.probe.report import Finding, Verdict
from guestgate.sandbox.door import CONTENT_TYPE

REDIRECTS = range(300, 400)
NO_REDIRECT = {None, *range(100, 300), *range(400, 600)}
REFUSALS = range(400, 500)
NO_KEY = (401, 403)
NO_METHOD = (*REFUSALS, 501)
# The first is the platform's own; the other says the same.
CONTENT_TYPES = (CONTENT_TYPE, "application/json;charset=UTF-8")


@dataclass(frozen=True)
class Check:
    """A clause, the calls it is tried with (by name), and the statuses that each should get.

    One that is only ``advice`` fails nothing.
    """

    clause: Clause
    cases: dict[str, Call]
    wanted: Container[int | None]
    advice: bool = False


@dataclass(frozen=True)
class Subject:
    """What is asked about: the plain call, the status that is right for it, and who is to blame where it is not.

    That is ``redirect`` where it leads elsewhere, ``charset`` where all is well without one, else ``answered``.
    """

    plain: Call
    right: int
    redirect: Clause
    charset: Clause
    answered: Clause


def charsets(plain: Call) -> dict[str, Call]:
    """A call with each way to say what the platform says."""
    return {content_type: replace(plain, content_type=content_type) for content_type in CONTENT_TYPES}


def methods(plain: Call) -> dict[str, Call]:
    """A call with each method that it should not have."""
    return {method: replace(plain, method=method) for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE")}


def bodies(plain: Call, cases: dict[str, bytes]) -> dict[str, Call]:
    """A call with other bodies."""
    return {name: replace(plain, body=body) for name, body in cases.items()}


def without_key(plain: Call, key: str, missing: Clause, empty: Clause, wrong: Clause) -> list[Check]:
    """A call without a key, with an empty one, and with those that are not the key, however close."""
    swapped = Token("the key with its capitals swapped", key.swapcase())
    tokens = [
        Token("a made-up one", secrets.token_urlsafe(24)),
        Token("the key without its last character", key[:-1]),
        *([swapped] if swapped.value != key else []),
    ]
    return [
        Check(missing, {"": replace(plain, token=None)}, NO_KEY),
        Check(empty, {"": replace(plain, token=Token("an empty one", ""))}, NO_KEY),
        Check(wrong, {token.name: replace(plain, token=token) for token in tokens}, NO_KEY),
    ]


async def findings(
    subject: Subject, checks: Iterable[Check], caller: Caller, outcomes: dict[Call, Outcome]
) -> AsyncIterator[Finding]:
    """Each check's finding. `outcomes` has what calls got already, an answer to the plain one among them, and learns
    what is asked here."""
    plain = outcomes[subject.plain]
    bare = await ask(caller, replace(subject.plain, content_type="application/json"))
    root = _root(subject, plain, bare)
    redirected = False
    for check in checks:
        for call in check.cases.values():
            if call not in outcomes:
                outcomes[call] = await ask(caller, call)
        finding = _judge(check, outcomes, plain, root, subject.redirect if redirected else None)
        redirected |= finding.clause is subject.redirect and finding.verdict is Verdict.FAILED
        yield finding


async def ask(caller: Caller, call: Call) -> Outcome:
    """A call; made again on a new connection where the one it went on may have been closed after the call before."""
    outcome = await caller.call(call)
    return await caller.call(call) if outcome.broken_off else outcome


def _root(subject: Subject, plain: Outcome, bare: Outcome) -> Clause | None:
    """The clause that is to blame where the plain call fails; `bare` went without a charset."""
    if plain.status == subject.right:
        return None
    if plain.status in REDIRECTS:
        return subject.redirect
    return subject.charset if bare.status == subject.right else subject.answered


def _judge(
    check: Check, outcomes: dict[Call, Outcome], plain: Outcome, root: Clause | None, redirect: Clause | None
) -> Finding:
    """What a check has found; `redirect` is the clause that has failed where calls are led elsewhere."""
    got = {name: outcomes[call] for name, call in check.cases.items()}
    wrong = {name: outcome for name, outcome in got.items() if outcome.status not in check.wanted}
    sent = _lines({name: call.describe() for name, call in check.cases.items() if name in wrong or not wrong})
    if not wrong:
        received = ", ".join(sorted({str(outcome.status) for outcome in got.values()}))
        return Finding(check.clause, Verdict.PASSED, sent, received)
    received = _lines({name: outcome.text for name, outcome in wrong.items()})
    if check.advice:
        return Finding(check.clause, Verdict.NOTE, sent, received)

    def cause(outcome: Outcome) -> Clause | None:
        if redirect is not None and outcome.status in REDIRECTS:
            return redirect
        return root if outcome.status == plain.status else None

    causes = [cause(outcome) for outcome in wrong.values()]
    if None in causes or check.clause in causes:
        return Finding(check.clause, Verdict.FAILED, sent, received)
    return Finding(check.clause, Verdict.CONSEQUENCE, sent, received, causes[0])


def _lines(texts: dict[str, str]) -> str:
    return "\n".join(f"{name}: {text}" if name else text for name, text in texts.items())
