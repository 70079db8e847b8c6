"""The clauses about member validation: who may register, how that is worded, and what is no question.

Everything is asked about the member who was given, since an endpoint may rightly tell nothing more to a studio that
asks after nobody again and again. Without a member it is asked about nobody.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Container
from dataclasses import replace

from guestgate.contract import MAX_AGGREGATOR_ID_CHARS, MAX_BODY_BYTES
from guestgate.probe import checks, clauses, latency
from guestgate.probe.calls import Call, Caller, Outcome, question
from guestgate.probe.checks import NO_METHOD, NO_REDIRECT, REFUSALS, Check, Subject, bodies, charsets, methods
from guestgate.probe.clauses import MEMBER_CLAUSES, Clause
from guestgate.probe.report import Finding, Verdict, consequence
from guestgate.probe.target import MemberValidation
from guestgate.sandbox import member_data

FINDINGS = (200, 404)
# Nobody is asked after more often, to be timed: guessing looks like that.
MOST_AFTER_NOBODY = 5


async def findings(validation: MemberValidation, key: str, caller: Caller, calls: int) -> AsyncIterator[Finding]:
    """Each clause's finding; `calls` is how many questions the measurement of time makes."""
    nobody = question(f"nobody-{secrets.token_hex(8)}", key)
    plain = nobody if validation.member is None else question(validation.member, key)
    outcomes = {plain: await caller.call(plain)}
    status = outcomes[plain].status
    known = clauses.MEMBER_UNKNOWN if validation.member is None else clauses.MEMBER_KNOWN
    if status is None:
        for clause in MEMBER_CLAUSES:
            if clause is known:
                yield Finding(clause, Verdict.FAILED, plain.describe(), outcomes[plain].text)
            else:
                yield consequence(clause, known, "the plain question got no answer")
        return
    right = 404 if validation.member is None else 200
    subject = Subject(plain, right, clauses.MEMBER_REDIRECT, clauses.MEMBER_CHARSET, known)
    async for finding in checks.findings(subject, _checks(subject, nobody, key), caller, outcomes):
        if finding.clause is not clauses.MEMBER_KNOWN:
            yield finding
        elif validation.member is None:
            for clause in (clauses.MEMBER_KNOWN, clauses.MEMBER_DATA):
                yield Finding(clause, Verdict.NOTE, "–", "not asked: --member names nobody who may register")
        else:
            yield finding
            yield _data(plain, outcomes[plain], finding)
    number = min(calls, MOST_AFTER_NOBODY) if validation.member is None else calls
    after = "nobody" if validation.member is None else "the member"
    yield await latency.in_time(clauses.MEMBER_IN_TIME, caller, number, {plain: status}, f"questions after {after}")


def _data(plain: Call, outcome: Outcome, known: Finding) -> Finding:
    """How the member's data is worded; nothing of it is repeated."""
    clause, sent = clauses.MEMBER_DATA, plain.describe()
    if outcome.status != 200:
        return consequence(clause, known.because or known.clause, "nothing was told of the member")
    if outcome.content is None:
        return Finding(clause, Verdict.FAILED, sent, "200 with a body that is no JSON object")
    problems = member_data.problems(outcome.content)
    if problems:
        return Finding(clause, Verdict.FAILED, sent, "\n".join(problems))
    missing = [name for name in member_data.NAMES if name not in outcome.content]
    if missing:
        return Finding(clause, Verdict.NOTE, sent, f"{' and '.join(missing)} left out: staff see nobody's name")
    told = [name for name in outcome.content if name in (*member_data.NAMES, *member_data.OPTIONAL)]
    return Finding(clause, Verdict.PASSED, sent, f"aggregatorId and {len(told)} more")


def _checks(subject: Subject, nobody: Call, key: str) -> list[Check]:
    """Every clause about statuses, in the catalogue's order."""
    plain = subject.plain
    return [
        Check(clauses.MEMBER_REDIRECT, {"": plain}, NO_REDIRECT),
        Check(clauses.MEMBER_CHARSET, charsets(plain), FINDINGS),
        Check(clauses.MEMBER_KNOWN, {"": plain}, (200,)),
        Check(clauses.MEMBER_UNKNOWN, {"": nobody}, (404,)),
        *checks.without_key(
            plain, key, clauses.MEMBER_KEY_MISSING, clauses.MEMBER_KEY_EMPTY, clauses.MEMBER_KEY_WRONG
        ),
        Check(clauses.MEMBER_POST_ONLY, methods(plain), NO_METHOD),
        *_bodies(subject),
    ]


def _bodies(subject: Subject) -> list[Check]:
    plain = subject.plain
    fields = json.loads(plain.body)
    id_ = json.dumps(fields["aggregatorId"])

    def with_(**different: object) -> bytes:
        return json.dumps({**fields, **different}).encode()

    def check(clause: Clause, wanted: Container[int | None], cases: dict[str, bytes]) -> Check:
        return Check(clause, bodies(plain, cases), wanted)

    stricter = {
        "aggregatorId empty": with_(aggregatorId=""),
        "aggregatorId of 256 characters": with_(aggregatorId="m" * (MAX_AGGREGATOR_ID_CHARS + 1)),
        "aggregatorId with a NUL character": rb'{"aggregatorId": "m\u0000"}',
        "aggregatorId with half a surrogate pair": rb'{"aggregatorId": "m\ud800"}',
        "aggregatorId twice": f'{{"aggregatorId": {id_}, "aggregatorId": {id_}}}'.encode(),
        "not UTF-8": b'{"aggregatorId": "m\xff"}',
        "something after the object": plain.body + b"}",
        "larger than 16 KiB": plain.body + b" " * MAX_BODY_BYTES,
    }
    odd = {**bodies(plain, stricter), "Content-Type: text/plain": replace(plain, content_type="text/plain")}
    not_json = {"a text": b"who is that?", "cut off": plain.body[:-1], "a form": b"aggregatorId=m", "nothing": b""}
    return [
        check(clauses.MEMBER_NOT_JSON, REFUSALS, not_json),
        check(clauses.MEMBER_FIELD_MISSING, REFUSALS, {"": b"{}"}),
        check(
            clauses.MEMBER_WRONG_TYPE,
            REFUSALS,
            {
                "aggregatorId null": with_(aggregatorId=None),
                "aggregatorId a number": with_(aggregatorId=1042),
                "aggregatorId an object": with_(aggregatorId={"id": fields["aggregatorId"]}),
                "a list instead of an object": b"[" + plain.body + b"]",
            },
        ),
        Check(clauses.MEMBER_STRICTER, odd, REFUSALS, advice=True),
        check(
            clauses.MEMBER_UNKNOWN_PROPERTIES,
            (subject.right,),
            {"a text more": with_(requestId="8f14e45f"), "an object more": with_(studio={"id": 1})},
        ),
    ]
