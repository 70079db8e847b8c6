"""The platform's webhooks in bytes: what is taken as one, and what it tells of whom.

Pure. The envelope is read strictly, since a body that is refused is not lost: its sender learns of it. What stands
inside is read as far as it is understood, since a body that was taken is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, tzinfo
from enum import StrEnum
from typing import Any, NamedTuple, TypeGuard
from uuid import UUID

from guestgate import clock, strict_json
from guestgate.contract import MAX_AGGREGATOR_ID_CHARS, MAX_CUSTOMER_ID, BadBodyError
from guestgate.strict_json import NotJsonError

# An automatic check-out names everybody who was still in, with some 80 bytes each.
MAX_BODY_BYTES = 256 * 1024
MAX_TYPE_CHARS = 64
MAX_DEPTH = 32
# The end of the year 9999.
MAX_TIMESTAMP_MS = 253_402_300_799_999
EXAMPLE = '{"entityId": 293123213, "uuid": "…", "payload": [{"timestamp": 1642779144176, "type": "…"}]}'


class Kind(StrEnum):
    """What happened to a customer."""

    ENTRY = "entry"
    EXIT = "exit"
    CREATED = "created"
    DISABLED = "disabled"
    DELETED = "deleted"


AUTOMATIC_CHECKOUT = "AUTOMATIC_CUSTOMER_CHECKOUT"
KINDS = {
    "CUSTOMER_CHECKIN": Kind.ENTRY,
    "CUSTOMER_CHECKOUT": Kind.EXIT,
    "AGGREGATOR_MEMBER_CREATED": Kind.CREATED,
    "CUSTOMER_ACCESS_DISABLED": Kind.DISABLED,
    "CUSTOMER_DELETED": Kind.DELETED,
}


class Told(NamedTuple):
    """One thing that happened to one customer. ``member_id`` is whom a created customer belongs to."""

    customer_id: int
    kind: Kind
    reference: str
    at_ms: int
    member_id: str | None = None


def parse(body: bytes) -> str:
    """The uuid of a webhook, as it is written everywhere here. Raises BadBodyError."""
    try:
        # What is kept is written again once somebody is forgotten.
        content = strict_json.loads(body, any_number=False)
    except NotJsonError as error:
        raise BadBodyError(f"the body {error}; send {EXAMPLE}") from None
    if not isinstance(content, dict):
        raise BadBodyError(f"the body is not a JSON object; send {EXAMPLE}")
    _check_depth(content)
    payload = content.get("payload")
    if not isinstance(payload, list) or not payload:
        raise BadBodyError("payload should be a list of at least one event")
    for happened in payload:
        _check(happened, content.get("entityId"))
    return _uuid(content.get("uuid"))


def _check_depth(content: Any) -> None:
    level = [content]
    for _ in range(MAX_DEPTH):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [value for values in inner for value in values]
        if not level:
            return
    raise BadBodyError(f"the body is nested more than {MAX_DEPTH} times")


def _uuid(value: Any) -> str:
    try:
        if isinstance(value, str) and len(value) == 36:
            return str(UUID(value))
    except ValueError:
        pass
    raise BadBodyError("uuid should be a UUID, such as 095be615-a8ad-4c33-8e9c-c7612fbf6c9f")


def _check(happened: Any, entity_id: Any) -> None:
    """One element of the payload. Of types that nobody knows nothing more is asked."""
    if not isinstance(happened, dict):
        raise BadBodyError("payload should be a list of objects")
    kind, at_ms = happened.get("type"), happened.get("timestamp")
    if not isinstance(kind, str) or not 1 <= len(kind) <= MAX_TYPE_CHARS:
        raise BadBodyError(f"type should be a string of 1 to {MAX_TYPE_CHARS} characters")
    if type(at_ms) is not int or not 0 <= at_ms <= MAX_TIMESTAMP_MS:
        raise BadBodyError("timestamp should be an integer, milliseconds since 1970")
    if kind in KINDS and not _is_customer(entity_id):
        raise BadBodyError(f"entityId should be an integer from 1 to {MAX_CUSTOMER_ID}")


def _is_customer(value: Any) -> TypeGuard[int]:
    return type(value) is int and 1 <= value <= MAX_CUSTOMER_ID


def told_by(body: str, timezone: tzinfo) -> Iterator[Told]:
    """What a webhook that was taken tells; nothing where nothing is understood.

    `timezone` is the studio's, for times that come without an offset.
    """
    content = strict_json.loads(body.encode())
    uuid = _uuid(content["uuid"])
    for place, happened in enumerate(content["payload"]):
        reference = f"{uuid}/{place}" if place else uuid
        kind, at_ms, more = happened["type"], happened["timestamp"], happened.get("content")
        more = more if isinstance(more, dict) else {}
        if kind == AUTOMATIC_CHECKOUT:
            yield from _checkouts(more.get("checkouts"), reference, at_ms, timezone)
        elif kind in KINDS and _is_customer(content["entityId"]):  # 0 stands where somebody was forgotten
            member_id = more.get("aggregatorId") if KINDS[kind] is Kind.CREATED else None
            if isinstance(member_id, str) and 1 <= len(member_id) <= MAX_AGGREGATOR_ID_CHARS:
                yield Told(content["entityId"], KINDS[kind], reference, at_ms, member_id)
            elif KINDS[kind] is not Kind.CREATED:
                yield Told(content["entityId"], KINDS[kind], reference, at_ms)


def _checkouts(given: Any, reference: str, at_ms: int, timezone: tzinfo) -> Iterator[Told]:
    """Everybody who was still in; of one who is named twice, the first time counts."""
    seen = set()
    for one in given if isinstance(given, list) else ():
        customer_id = one.get("customerId") if isinstance(one, dict) else None
        if _is_customer(customer_id) and customer_id not in seen:
            seen.add(customer_id)
            yield Told(customer_id, Kind.EXIT, reference, _instant_ms(one.get("checkoutTime"), timezone, at_ms))


def _instant_ms(value: Any, timezone: tzinfo, otherwise_ms: int) -> int:
    """Milliseconds since 1970, given as such or as ISO 8601."""
    if type(value) is int and 0 <= value <= MAX_TIMESTAMP_MS:
        return value
    try:
        at = datetime.fromisoformat(value)
        at_ms = clock.to_ms(at if at.tzinfo else at.replace(tzinfo=timezone))
    except (TypeError, ValueError, OverflowError):
        return otherwise_ms
    return at_ms if 0 <= at_ms <= MAX_TIMESTAMP_MS else otherwise_ms


def without(value: Any, names: Mapping[Any, Any]) -> Any:
    """JSON content in which some numbers and texts have others in their place, wherever they stand as a value."""
    if isinstance(value, dict):
        return {name: without(inner, names) for name, inner in value.items()}
    if isinstance(value, list):
        return [without(inner, names) for inner in value]
    return names.get(value, value) if type(value) in (int, str) else value
