"""Webhooks in bytes: what is taken, what is refused, and what is understood."""

from __future__ import annotations

import json
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestgate.attendance.webhook import MAX_BODY_BYTES, Kind, Told, parse, told_by, without
from guestgate.contract import BadBodyError

UUID = "095be615-a8ad-4c33-8e9c-c7612fbf6c9f"
BERLIN = ZoneInfo("Europe/Berlin")
AT = 1642779144176


def body(*, entity: Any = 7893459, uuid: Any = UUID, payload: Any = None, **happened: Any) -> dict[str, Any]:
    event = {"timestamp": AT, "type": "CUSTOMER_CHECKIN", "content": {}, **happened}
    return {"entityId": entity, "uuid": uuid, "payload": [event] if payload is None else payload}


def told(**given: Any) -> list[Told]:
    """What a body that is taken tells."""
    content = json.dumps(body(**given)).encode()
    assert parse(content) == UUID
    return list(told_by(content.decode(), BERLIN))


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, [Told(7893459, Kind.ENTRY, UUID, AT)]),
        ({"type": "CUSTOMER_CHECKOUT"}, [Told(7893459, Kind.EXIT, UUID, AT)]),
        ({"type": "CUSTOMER_DELETED", "content": None}, [Told(7893459, Kind.DELETED, UUID, AT)]),
        ({"type": "CUSTOMER_ACCESS_DISABLED"}, [Told(7893459, Kind.DISABLED, UUID, AT)]),
        (
            {"type": "AGGREGATOR_MEMBER_CREATED", "content": {"aggregatorId": "m-1", "more": 1}},
            [Told(7893459, Kind.CREATED, UUID, AT, "m-1")],
        ),
        ({"type": "AGGREGATOR_MEMBER_CREATED", "content": {}}, []),
        ({"type": "AGGREGATOR_MEMBER_CREATED", "content": {"aggregatorId": ""}}, []),
        ({"type": "CONTRACT_CREATED", "entity": "anything"}, []),
        ({"uuid": UUID.upper()}, [Told(7893459, Kind.ENTRY, UUID, AT)]),
        (
            {
                "type": "AUTOMATIC_CUSTOMER_CHECKOUT",
                "content": {
                    "checkouts": [
                        {"customerId": 1, "checkoutTime": "2022-01-21T16:32:24.176+01:00"},
                        {"customerId": 2, "checkoutTime": "2022-01-21T16:32:24.176"},
                        {"customerId": 3, "checkoutTime": 5},
                        {"customerId": 4, "checkoutTime": "soon"},
                        {"customerId": 1},
                        {"customerId": "5"},
                        6,
                    ]
                },
            },
            [Told(number, Kind.EXIT, UUID, at) for number, at in ((1, AT), (2, AT), (3, 5), (4, AT))],
        ),
        ({"type": "AUTOMATIC_CUSTOMER_CHECKOUT", "content": {"checkouts": 1}}, []),
        ({"type": "AUTOMATIC_CUSTOMER_CHECKOUT", "content": []}, []),
        (
            {
                "payload": [
                    {"timestamp": 1, "type": "CUSTOMER_CHECKIN"},
                    {"timestamp": 2, "type": "CUSTOMER_CHECKOUT"},
                ]
            },
            [Told(7893459, Kind.ENTRY, UUID, 1), Told(7893459, Kind.EXIT, f"{UUID}/1", 2)],
        ),
    ],
)
def test_what_is_understood(given: dict[str, Any], expected: list[Told]) -> None:
    """Of every type that matters; what is not understood tells nothing and is kept."""
    assert told(**given) == expected


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"uuid": "a", "uuid": "b"}',
        json.dumps(body()).replace("7893459", "NaN").encode(),
        json.dumps(body(content={"a": "\0"})).encode(),
        b'{"a":' * 40 + b"1" + b"}" * 40,
        *(
            json.dumps(body(content={"a": [AT]})).replace(f"[{AT}]", number).encode()
            for number in ("1e999", "-1e999", "9" * 5000, f"[-{'9' * 21}]")
        ),
        b"[" * 100_000,
        *(
            json.dumps(wrong).encode()
            for wrong in (
                body(uuid="none"),
                body(uuid=None),
                body(uuid=5),
                body(uuid=UUID.replace("-", "")),
                body(uuid="{" + UUID[1:]),
                body(payload=[]),
                body(payload={}),
                body(payload=[1]),
                body(payload=[{}]),
                body(type=""),
                body(type="T" * 65),
                body(type=None),
                body(timestamp="1642779144176"),
                body(timestamp=-1),
                body(timestamp=1.5),
                body(timestamp=True),
                body(timestamp=10**18),
                body(entity="7893459"),
                body(entity=0),
                body(entity=2**63),
                body(entity=True),
                {"uuid": UUID},
            )
        ),
    ],
)
def test_what_is_refused(given: bytes) -> None:
    """One sentence that repeats nothing of it."""
    with pytest.raises(BadBodyError) as refused:
        parse(given)
    assert "7893459" not in str(refused.value)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
kinds = st.sampled_from([*("CUSTOMER_CHECKIN", "AGGREGATOR_MEMBER_CREATED", "AUTOMATIC_CUSTOMER_CHECKOUT"), "NEW"])


@given(values, values, values, kinds | values)
def test_anything_is_taken_or_refused(entity: Any, content: Any, timestamp: Any, kind: Any) -> None:
    """No body raises anything else, and one that is taken can be read."""
    if kind == "AUTOMATIC_CUSTOMER_CHECKOUT":
        content = {"checkouts": [{"customerId": entity, "checkoutTime": content}, content]}
    given = json.dumps(body(entity=entity, content=content, timestamp=timestamp, type=kind)).encode()
    try:
        parse(given)
    except BadBodyError:
        return
    for one in told_by(given.decode(), BERLIN):
        assert 1 <= one.customer_id < 2**63
        assert one.at_ms >= 0
    assert len(given) < MAX_BODY_BYTES


def test_names_are_struck_out_wherever_they_stand() -> None:
    """As a number or text by itself, not as a part of one, and not where a name of a property is alike."""
    content = {"entityId": 17, "17": [17, "17", 170, True, None, {"a": "m-1", "b": "m-10"}]}
    left = {"entityId": 0, "17": [0, "17", 170, True, None, {"a": "x", "b": "m-10"}]}
    assert without(content, {17: 0, "m-1": "x"}) == left
