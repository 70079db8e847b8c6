"""The platform's contract in bytes: reading the bodies of its questions, wording the answers.

Pure. The body rules are stricter than a JSON library's own: one object, no duplicate names, no NaN or
Infinity, no NUL characters, no lone surrogates, numbers that are integers and texts that are texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from guestgate import strict_json
from guestgate.model import Ruling
from guestgate.strict_json import NotJsonError

VALIDATION_PATH = "/member-validation"
WEBHOOK_PATH = "/webhook"
MAX_BODY_BYTES = 16 * 1024
MAX_CUSTOMER_ID = 2**63 - 1
MAX_AGGREGATOR_ID_CHARS = 255
CHECKIN_EXAMPLE = '{"aggregatorId": "<your-id>", "customerId": 293123213}'
VALIDATION_EXAMPLE = '{"aggregatorId": "<your-id>"}'


class BadBodyError(ValueError):
    """The body is not what its path takes; the message says why, without repeating what was sent."""


def parse_checkin(body: bytes) -> tuple[str, int]:
    """``aggregatorId`` and ``customerId`` of a body. Raises BadBodyError."""
    content = _object(body, CHECKIN_EXAMPLE)
    aggregator_id, customer_id = _aggregator_id(content), content.get("customerId")
    if type(customer_id) is not int or not 1 <= customer_id <= MAX_CUSTOMER_ID:
        raise BadBodyError(f"customerId should be an integer from 1 to {MAX_CUSTOMER_ID}")
    return aggregator_id, customer_id


def parse_validation(body: bytes) -> str:
    """``aggregatorId`` of a body: a member's id, or an enrolment code. Raises BadBodyError."""
    return _aggregator_id(_object(body, VALIDATION_EXAMPLE))


def _object(body: bytes, example: str) -> dict[str, Any]:
    try:
        content = strict_json.loads(body)
    except NotJsonError as error:
        raise BadBodyError(f"the body {error}; send {example}") from None
    if not isinstance(content, dict):
        raise BadBodyError(f"the body is not a JSON object; send {example}")
    return content


def _aggregator_id(content: dict[str, Any]) -> str:
    aggregator_id = content.get("aggregatorId")
    if not isinstance(aggregator_id, str) or not 1 <= len(aggregator_id) <= MAX_AGGREGATOR_ID_CHARS:
        raise BadBodyError("aggregatorId should be a string of 1 to 255 characters")
    return aggregator_id


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


def member_data(member_id: str, profile: Mapping[str, str]) -> Response:
    """Who registers: the id that counts from now on, and what is known of the member; the rest is left out.

    `profile` has our own names for the contract's fields, ``first_name`` for ``firstName``.
    """
    content = {"aggregatorId": member_id, **{camel_case(name): value for name, value in profile.items()}}
    return Response(200, _JSON, json.dumps(content, ensure_ascii=False).encode())


def camel_case(name: str) -> str:
    """The contract's name of a field: ``firstName`` for ``first_name``."""
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


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
