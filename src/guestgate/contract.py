"""The platform's contract in bytes: reading a check-in's body, wording the answers.

Pure. The body rules are stricter than a JSON library's own: one object, no duplicate names, no NaN or
Infinity, no NUL characters, no lone surrogates, numbers that are integers and texts that are texts.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any, NamedTuple, NoReturn

from guestgate.model import Ruling

MAX_BODY_BYTES = 16 * 1024
MAX_CUSTOMER_ID = 2**63 - 1
MAX_DIGITS = 20
MAX_AGGREGATOR_ID_CHARS = 255
EXAMPLE = '{"aggregatorId": "<your-id>", "customerId": 293123213}'


class BadBodyError(ValueError):
    """The body is not a check-in; the message says why, without repeating what was sent."""


def parse_checkin(body: bytes) -> tuple[str, int]:
    """``aggregatorId`` and ``customerId`` of a body. Raises BadBodyError."""
    try:
        content = _decoder.decode(body.decode("utf-8"))
    except BadBodyError:
        raise
    except UnicodeDecodeError:
        raise BadBodyError("the body is not UTF-8") from None
    except (ValueError, RecursionError):
        raise BadBodyError(f"the body is not JSON; send {EXAMPLE}") from None
    if not isinstance(content, dict):
        raise BadBodyError(f"the body is not a JSON object; send {EXAMPLE}")
    if b"\\u" in body:  # only an escape can bring in what UTF-8 and JSON themselves keep out
        _check_texts(content)
    aggregator_id, customer_id = content.get("aggregatorId"), content.get("customerId")
    if not isinstance(aggregator_id, str) or not 1 <= len(aggregator_id) <= MAX_AGGREGATOR_ID_CHARS:
        raise BadBodyError("aggregatorId should be a string of 1 to 255 characters")
    if type(customer_id) is not int or not 1 <= customer_id <= MAX_CUSTOMER_ID:
        raise BadBodyError(f"customerId should be an integer from 1 to {MAX_CUSTOMER_ID}")
    return aggregator_id, customer_id


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise BadBodyError("the body names a property twice")
    return content


def _no_constant(name: str) -> NoReturn:
    raise BadBodyError(f"the body contains {name}, which is not JSON")


def _int(digits: str) -> int:
    """Python refuses to read integers of thousands of digits; any that long is as good as too large."""
    return int(digits) if len(digits) <= MAX_DIGITS else MAX_CUSTOMER_ID + 1


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_int)


def _check_texts(value: Any) -> None:
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending += value.keys()
            pending += value.values()
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, str) and ("\0" in value or not _encodable(value)):
            raise BadBodyError("the body contains a NUL character or half a surrogate pair")


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class Response(NamedTuple):
    """A status, headers and a body, ready to be written."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


_JSON = [("content-type", "application/json"), ("cache-control", "no-store"), ("server", "guestgate")]
_PROBLEM = [("content-type", "application/problem+json"), *_JSON[1:]]


def answer(ruling: Ruling, status: int) -> Response:
    """The answer to a check-in that was decided, or that could not be."""
    body = f'{{"decision":"{ruling.outcome.value}","reason":"{ruling.reason.value}","decisionId":"{ruling.id}"}}'
    return Response(status, _JSON, body.encode())


def problem(status: int, detail: str, *headers: tuple[str, str]) -> Response:
    """An error of the call itself (RFC 9457)."""
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return Response(status, [*_PROBLEM, *headers], json.dumps(content).encode())


def healthy() -> Response:
    """The process serves; nothing else is told."""
    return Response(200, _JSON, b'{"status":"ok"}')
