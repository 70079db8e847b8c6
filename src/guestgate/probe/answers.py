"""The clauses about check-ins' answers: which card gets which, and what is no check-in."""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import replace

from guestgate.contract import MAX_AGGREGATOR_ID_CHARS, MAX_BODY_BYTES, MAX_CUSTOMER_ID
from guestgate.probe import clauses
from guestgate.probe.calls import Call, checkin
from guestgate.probe.checks import (
    NO_METHOD,
    NO_REDIRECT,
    REFUSALS,
    Check,
    Subject,
    bodies,
    charsets,
    methods,
    without_key,
)
from guestgate.probe.clauses import Clause
from guestgate.probe.target import Target

DECISIONS = (200, 403, 404)


def subject(target: Target) -> Subject:
    """The allowed card, which should open the door."""
    plain = checkin(target.allowed, target.key)
    return Subject(plain, 200, clauses.REDIRECT, clauses.CHARSET, clauses.ALLOWED)


def checks(target: Target) -> list[Check]:
    """Every clause of this kind, in the catalogue's order."""
    plain, refused = checkin(target.allowed, target.key), checkin(target.denied, target.key)
    return [
        Check(clauses.REDIRECT, {"the allowed card": plain, "the denied card": refused}, NO_REDIRECT),
        Check(clauses.CHARSET, charsets(plain), DECISIONS),
        Check(clauses.ALLOWED, {"": plain}, (200,)),
        Check(clauses.DENIED, {"": refused}, (403,)),
        *without_key(plain, target.key, clauses.KEY_MISSING, clauses.KEY_EMPTY, clauses.KEY_WRONG),
        Check(clauses.POST_ONLY, methods(plain), NO_METHOD),
        *_bodies(target, plain),
    ]


def _bodies(target: Target, plain: Call) -> list[Check]:
    card = target.allowed
    aggregator, customer = json.dumps(card.aggregator_id), card.customer_id

    def with_(**different: object) -> bytes:
        return card.body(**different)

    def written(aggregator_id: str = aggregator, customer_id: str = str(customer), more: str = "") -> bytes:
        return f'{{"aggregatorId": {aggregator_id}, "customerId": {customer_id}{more}}}'.encode()

    def check(clause: Clause, wanted: Container[int | None], cases: dict[str, bytes]) -> Check:
        return Check(clause, bodies(plain, cases), wanted)

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
    odd = {**bodies(plain, stricter), "Content-Type: text/plain": replace(plain, content_type="text/plain")}
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
        Check(clauses.STRICTER, odd, REFUSALS, advice=True),
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
