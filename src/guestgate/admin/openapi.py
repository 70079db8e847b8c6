"""One OpenAPI 3.1 document for both listeners.

The admin listener's part is made from its routes. The public listener's is written here, since it is the
platform's contract, not ours to choose.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from guestgate.admin.shapes import Problem
from guestgate.attendance import webhook
from guestgate.contract import MAX_CUSTOMER_ID, VALIDATION_PATH, WEBHOOK_PATH, camel_case
from guestgate.members import PROFILE_FIELDS
from guestgate.model import Reason
from guestgate.settings import Settings

PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
DESCRIPTION = (
    "The public listener answers the gym platform; the admin listener is for the aggregator's own systems. "
    "Errors are RFC 9457 problems with one plain sentence in `detail`."
)


def document(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """The document, as JSON values."""
    content = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
        separate_input_output_schemas=False,
    )
    schemas = content["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = Problem.model_json_schema()
    content["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "guestgate token create --role ROLE"},
        "studioKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "one for each studio"},
    }
    for operations in content["paths"].values():
        for method, operation in operations.items():
            _describe_errors(operation, method)
            if "x-role" in operation:
                operation["description"] += f"\n\nRole: {operation['x-role']}."
    content["paths"] |= _public(settings)
    return content


def _describe_errors(operation: dict[str, Any], method: str) -> None:
    responses = operation["responses"]
    problems = {}
    if "x-role" in operation:
        problems = {"401": "No valid token", "403": "A token of another role", "503": "The database cannot be used"}
    if operation.get("parameters"):
        problems |= {"404": "There is no such thing", "422": "A field or parameter cannot be so"}
    if "requestBody" in operation:
        problems |= {"400": "Not JSON", "404": "There is no such thing", "408": "The body did not arrive in time"}
        problems |= {"413": "Too large", "415": "Another content type", "422": "A field or parameter cannot be so"}
    if method != "get":
        problems |= {"409": "What is there stands in the way", "412": "If-Match does not hold"}
    for status, what in problems.items():
        responses[status] = {"description": what, "content": PROBLEM}
    for status, response in responses.items():
        if status >= "400":
            response.setdefault("content", PROBLEM)


def _public(settings: Settings) -> dict[str, Any]:
    answer = {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["decision", "reason", "decisionId"],
                "properties": {
                    "decision": {"enum": ["allowed", "denied", "undecided"]},
                    "reason": {"enum": list(Reason)},
                    "decisionId": {"type": "string", "format": "uuid"},
                },
            }
        }
    }
    body: dict[str, Any] = {
        "type": "object",
        "required": ["aggregatorId", "customerId"],
        "properties": {
            "aggregatorId": {"type": "string", "minLength": 1, "maxLength": 255},
            "customerId": {"type": "integer", "minimum": 1, "maximum": MAX_CUSTOMER_ID},
        },
        "example": {"aggregatorId": "m-1042", "customerId": 293123213},
    }
    problems = {
        "400": "The body is not what is asked here",
        "401": "No valid key",
        "408": "The body did not arrive in time",
        "413": "More than 16 KiB",
        "415": "Another content type",
    }
    responses: dict[str, Any] = {
        "200": {"description": "May enter", "content": answer},
        "403": {"description": "May not enter", "content": answer},
        "404": {"description": "Unknown member, where so set", "content": answer},
        "503": {"description": "Could not be decided in time", "content": answer},
        **{status: {"description": what, "content": PROBLEM} for status, what in problems.items()},
    }
    names = ["aggregatorId", *map(camel_case, PROFILE_FIELDS)]
    member = {
        "type": "object",
        "required": ["aggregatorId"],
        "properties": {name: {"type": "string"} for name in names},
    }
    validated: dict[str, Any] = {
        "200": {
            "description": "May register; `aggregatorId` is the one that counts from now on",
            "content": {"application/json": {"schema": member}},
        },
        "404": {"description": "May not register", "content": PROBLEM},
        "503": {"description": "Could not be found out in time", "content": PROBLEM},
        **{status: {"description": what, "content": PROBLEM} for status, what in problems.items()},
    }
    question = {
        "type": "object",
        "required": ["aggregatorId"],
        "properties": {"aggregatorId": body["properties"]["aggregatorId"]},
        "example": {"aggregatorId": "m-1042"},
    }
    servers = [{"url": "https://api.aggregator.example.com", "description": "the public listener"}]
    healthy = {"application/json": {"schema": {"type": "object", "properties": {"status": {"const": "ok"}}}}}
    return {
        settings.checkin_path: {
            "servers": servers,
            "post": {
                "summary": "May this person enter?",
                "operationId": "checkin_validation",
                "security": [{"studioKey": []}],
                "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
                "responses": responses,
            },
        },
        VALIDATION_PATH: {
            "servers": servers,
            "post": {
                "summary": "Who is this person, who wants to register at the studio?",
                "operationId": "member_validation",
                "security": [{"studioKey": []}],
                "requestBody": {"required": True, "content": {"application/json": {"schema": question}}},
                "responses": validated,
            },
        },
        WEBHOOK_PATH: {
            "servers": servers,
            "post": {
                "summary": "This happened at the studio",
                "operationId": "webhook",
                "security": [{"studioKey": []}],
                "requestBody": {"required": True, "content": {"application/json": {"schema": _event()}}},
                "responses": _kept(problems),
            },
        },
        "/healthz": {
            "servers": servers,
            "get": {
                "summary": "Does the process serve?",
                "operationId": "healthz",
                "responses": {"200": {"description": "It does", "content": healthy}},
            },
        },
    }


def _event() -> dict[str, Any]:
    """A webhook's body."""
    happened = {
        "type": "object",
        "required": ["timestamp", "type"],
        "properties": {
            "timestamp": {"type": "integer", "minimum": 0, "maximum": webhook.MAX_TIMESTAMP_MS},
            "type": {"type": "string", "minLength": 1, "maxLength": webhook.MAX_TYPE_CHARS},
            "content": {},
        },
    }
    uuid = "095be615-a8ad-4c33-8e9c-c7612fbf6c9f"
    example = {"timestamp": 1642779144176, "type": "CUSTOMER_CHECKIN", "content": {}}
    return {
        "type": "object",
        "required": ["uuid", "payload"],
        "properties": {
            "entityId": {"description": "the customer's or studio's number, where it is one's"},
            "uuid": {"type": "string", "format": "uuid"},
            "payload": {"type": "array", "minItems": 1, "items": happened},
        },
        "example": {"entityId": 7893459, "uuid": uuid, "payload": [example]},
    }


def _kept(problems: dict[str, str]) -> dict[str, Any]:
    """How a webhook is answered."""
    kept = {"application/json": {"schema": {"type": "object", "properties": {"kept": {"const": True}}}}}
    found = problems | {"400": "The body is not a webhook", "413": "More than 256 KiB", "503": "Could not be kept"}
    return {
        "200": {"description": "On disk", "content": kept},
        **{status: {"description": what, "content": PROBLEM} for status, what in found.items()},
    }
