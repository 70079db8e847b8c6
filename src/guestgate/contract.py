"""The platform's contract in bytes: reading a check-in's body, wording the answers.

Pure. The body rules are stricter than a JSON library's own: one object, no duplicate names, no NaN or
Infinity, no NUL characters, no lone surrogates, numbers that are integers and texts that are texts.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import NamedTuple

from guestgate import strict_json
from guestgate.model import Ruling
from guestgate.strict_json import NotJsonError

MAX_BODY_BYTES = 16 * 1024
MAX_CUSTOMER_ID = 2**63 - 1
MAX_AGGREGATOR_ID_CHARS = 255
EXAMPLE = '{"aggregatorId": "<your-id>", "customerId": 293123213}'


class BadBodyError(ValueError):
    """The body is not what its path takes; the message says why, without repeating what was sent."""


def parse_checkin(body: bytes) -> tuple[str, int]:
    """``aggregatorId`` and ``customerId`` of a body. Raises BadBodyError."""
    try:
        content = strict_json.loads(body)
    except NotJsonError as error:
        raise BadBodyError(f"the body {error}; send {EXAMPLE}") from None
    if not isinstance(content, dict):
        raise BadBodyError(f"the body is not a JSON object; send {EXAMPLE}")
    aggregator_id, customer_id = content.get("aggregatorId"), content.get("customerId")
    if not isinstance(aggregator_id, str) or not 1 <= len(aggregator_id) <= MAX_AGGREGATOR_ID_CHARS:
        raise BadBodyError("aggregatorId should be a string of 1 to 255 characters")
    if type(customer_id) is not int or not 1 <= customer_id <= MAX_CUSTOMER_ID:
        raise BadBodyError(f"customerId should be an integer from 1 to {MAX_CUSTOMER_ID}")
    return aggregator_id, customer_id


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


def kept() -> Response:
    """A webhook is on disk."""
    return Response(200, _JSON, b'{"kept":true}')


def healthy() -> Response:
    """The process serves; nothing else is told."""
    return Response(200, _JSON, b'{"status":"ok"}')
