"""The clauses about answers: which call gets which status.

Each clause is tried with one or more cases, and holds where every case gets one of the statuses it asks for.
A case that fails just as the plain check-in does tells nothing new: its clause is marked as a consequence.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Container
from dataclasses import dataclass, replace

from guestgate.contract import MAX_AGGREGATOR_ID_CHARS, MAX_BODY_BYTES, MAX_CUSTOMER_ID
from guestgate.probe import clauses
from guestgate.probe.calls import Call, Caller, Outcome, Token, checkin
from guestgate.probe.clauses import Clause
from guestgate.probe.report import Finding, Verdict
from guestgate.probe.target import Target
from guestgate.sandbox.door import CONTENT_TYPE

REDIRECTS = range(300, 400)
NO_REDIRECT = {None, *range(100, 300), *range(400, 600)}
DECISIONS = (200, 403, 404)
REFUSALS = range(400, 500)
# The first is the platform's own; the other says the same.
CONTENT_TYPES = (CONTENT_TYPE, "application/json;charset=UTF-8")


@dataclass(frozen=True)
class Check:
    """A clause, the calls it is tried with (by name), and the statuses that each should get."""

    clause: Clause
    cases: dict[str, Call]
    wanted: Container[int | None]


def checks(target: Target) -> list[Check]:
    """Every clause of this kind, in the catalogue's order."""
    plain, refused = checkin(target.allowed, target.key), checkin(target.denied, target.key)
    methods = {method: replace(plain, method=method) for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE")}
    charsets = {content_type: replace(plain, content_type=content_type) for content_type in CONTENT_TYPES}
    return [
        Check(clauses.REDIRECT, {"the allowed card": plain, "the denied card": refused}, NO_REDIRECT),
        Check(clauses.CHARSET, charsets, DECISIONS),
        Check(clauses.ALLOWED, {"": plain}, (200,)),
        Check(clauses.DENIED, {"": refused}, (403,)),
        Check(clauses.KEY_MISSING, {"": replace(plain, token=None)}, (401, 403)),
        Check(clauses.KEY_EMPTY, {"": replace(plain, token=Token("an empty one", ""))}, (401, 403)),
        Check(
            clauses.KEY_WRONG, {token.name: replace(plain, token=token) for token in _wrong(target.key)}, (401, 403)
        ),
        Check(clauses.POST_ONLY, methods, (*REFUSALS, 501)),
        *_bodies(target, plain),
    ]


def _wrong(key: str) -> list[Token]:
    """Tokens that are not the key, however close."""
    swapped = Token("the key with its capitals swapped", key.swapcase())
    return [
        Token("a made-up one", secrets.token_urlsafe(24)),
        Token("the key without its last character", key[:-1]),
        *([swapped] if swapped.value != key else []),
    ]


def _bodies(target: Target, plain: Call) -> list[Check]:
    card = target.allowed
    aggregator, customer = json.dumps(card.aggregator_id), card.customer_id

    def with_(**different: object) -> bytes:
        return card.body(**different)

    def written(aggregator_id: str = aggregator, customer_id: str = str(customer), more: str = "") -> bytes:
        return f'{{"aggregatorId": {aggregator_id}, "customerId": {customer_id}{more}}}'.encode()

    def check(clause: Clause, wanted: Container[int | None], cases: dict[str, bytes]) -> Check:
        return Check(clause, {name: replace(plain, body=body) for name, body in cases.items()}, wanted)

    stricter = {
        "customerId as a text": with_(customerId=str(customer)),
        "customerId with a fraction": with_(customerId=customer + 0.5),
        "customerId true": with_(customerId=True),
        "customerId 0": with_(customerId=0),
        "customerId below 0": with_(customerId=-1),
        "customerId over 64 bits": with_(customerId=MAX_CUSTOMER_ID + 1),
        "customerId NaN": written(customer_id="NaN"),
        "customerId twice": written(more=f', "customerId": {customer}'),
        "aggregatorId empty": with_(aggregatorId=""),
        "aggregatorId of 256 characters": with_(aggregatorId="m" * (MAX_AGGREGATOR_ID_CHARS + 1)),
        "aggregatorId with a NUL character": written(aggregator_id=r'"m\u0000"'),
        "aggregatorId with half a surrogate pair": written(aggregator_id=r'"m\ud800"'),
        "not UTF-8": b'{"aggregatorId": "m\xff", "customerId": 1}',
        "something after the object": written() + b"}",
        "larger than 16 KiB": written() + b" " * MAX_BODY_BYTES,
    }
    strict = check(clauses.STRICTER, REFUSALS, stricter)
    return [
        check(
            clauses.NOT_JSON,
            REFUSALS,
            {
                "a text": b"check in, please",
                "cut off": written()[:-1],
                "a form": f"aggregatorId=m&customerId={customer}".encode(),
                "nothing": b"",
            },
        ),
        check(
            clauses.FIELD_MISSING,
            REFUSALS,
            {
                "no customerId": f'{{"aggregatorId": {aggregator}}}'.encode(),
                "no aggregatorId": f'{{"customerId": {customer}}}'.encode(),
                "neither": b"{}",
            },
        ),
        check(
            clauses.WRONG_TYPE,
            REFUSALS,
            {
                "customerId a word": with_(customerId="somebody"),
                "customerId null": with_(customerId=None),
                "customerId a list": with_(customerId=[customer]),
                "aggregatorId null": with_(aggregatorId=None),
                "aggregatorId an object": with_(aggregatorId={"id": card.aggregator_id}),
                "a list instead of an object": b"[" + written() + b"]",
            },
        ),
        replace(
            strict, cases={**strict.cases, "Content-Type: text/plain": replace(plain, content_type="text/plain")}
        ),
        check(
            clauses.UNKNOWN_PROPERTIES,
            (200,),
            {
                "a text more": with_(requestId="8f14e45f"),
                "an object more": with_(studio={"id": 1, "name": "Berlin Mitte"}),
            },
        ),
        check(
            clauses.CUSTOMER_64_BIT,
            DECISIONS,
            {
                f"customerId {number}": with_(customerId=number)
                for number in (2**31, 2**32 + 1, 2**53 + 1, MAX_CUSTOMER_ID)
            },
        ),
    ]


async def findings(target: Target, caller: Caller, known: dict[Call, Outcome]) -> AsyncIterator[Finding]:
    """Each clause's finding. `known` has what both cards got already, and an answer for the allowed one."""
    outcomes = dict(known)
    plain_call = checkin(target.allowed, target.key)
    plain = outcomes[plain_call]
    bare = await _ask(caller, replace(plain_call, content_type="application/json"))
    root = _root(plain, bare)
    redirected = False
    for check in checks(target):
        for call in check.cases.values():
            if call not in outcomes:
                outcomes[call] = await _ask(caller, call)
        finding = _judge(check, outcomes, plain, root, redirected=redirected)
        redirected |= finding.clause is clauses.REDIRECT and finding.verdict is Verdict.FAILED
        yield finding


async def _ask(caller: Caller, call: Call) -> Outcome:
    """A call; made again on a new connection where the one it went on may have been closed after the call before."""
    outcome = await caller.call(call)
    return await caller.call(call) if outcome.broken_off else outcome


def _root(plain: Outcome, bare: Outcome) -> Clause | None:
    """The clause that is to blame where the plain check-in fails; `bare` went without a charset."""
    if plain.status == 200:
        return None
    if plain.status in REDIRECTS:
        return clauses.REDIRECT
    return clauses.CHARSET if bare.status == 200 else clauses.ALLOWED


def _judge(
    check: Check, outcomes: dict[Call, Outcome], plain: Outcome, root: Clause | None, *, redirected: bool
) -> Finding:
    got = {name: outcomes[call] for name, call in check.cases.items()}
    wrong = {name: outcome for name, outcome in got.items() if outcome.status not in check.wanted}
    sent = _lines({name: call.describe() for name, call in check.cases.items() if name in wrong or not wrong})
    if not wrong:
        received = ", ".join(sorted({str(outcome.status) for outcome in got.values()}))
        return Finding(check.clause, Verdict.PASSED, sent, received)
    received = _lines({name: outcome.text for name, outcome in wrong.items()})
    if check.clause is clauses.STRICTER:
        return Finding(check.clause, Verdict.NOTE, sent, received)

    def cause(outcome: Outcome) -> Clause | None:
        if redirected and outcome.status in REDIRECTS:
            return clauses.REDIRECT
        return root if outcome.status == plain.status else None

    causes = [cause(outcome) for outcome in wrong.values()]
    if None in causes or check.clause in causes:
        return Finding(check.clause, Verdict.FAILED, sent, received)
    return Finding(check.clause, Verdict.CONSEQUENCE, sent, received, causes[0])


def _lines(texts: dict[str, str]) -> str:
    return "\n".join(f"{name}: {text}" if name else text for name, text in texts.items())
