"""`/api/v1/members`: who may stand at the door."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Annotated, Any

from fastapi import Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from guestgate import enrolment, forget, members
from guestgate.admin import shapes
from guestgate.admin.access import Streaming, router
from guestgate.admin.body_stream import BodyStream
from guestgate.admin.context import In, Office
from guestgate.admin.paging import After, Size, page
from guestgate.admin.problems import ProblemError
from guestgate.errors import UsageError
from guestgate.instants import parse_span
from guestgate.members import MemberRow, Upsert
from guestgate.model import Status
from guestgate.rows import BadRowError, SpooledRows, lines_of, ndjson, parsed
from guestgate.tokens import Role

reading, writing, streaming = router(Role.VIEWER), router(Role.OPERATOR), router(Role.OPERATOR, Streaming)

# Each part of an answer that is made by and by costs a change of threads.
LINES_AT_ONCE = 500

Id = Annotated[str, Path(description="The member's id: the platform's aggregatorId.", max_length=255)]
IfMatch = Annotated[
    str | None, Header(alias="If-Match", description="Only if the member is still as this ETag says.")
]


@reading.get("/members", response_model=shapes.Page[shapes.Member], summary="List members, without personal data")
def member_list(
    office: In,
    after: After = None,
    limit: Size = 100,
    plan: Annotated[str | None, Query(max_length=255)] = None,
    status: Status | None = None,
    customer: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
) -> dict[str, Any]:
    """Members by id."""
    with office.read() as connection:
        found = members.member_list(
            connection, plan=plan, status=status, customer=customer, after=after or "", limit=limit + 1
        )
        return page([(member["member_id"], member) for member in found], limit)


@reading.get(
    "/members/{member_id:path}",
    response_model=shapes.WholeMember,
    response_model_exclude_unset=True,
    summary="Show a member with customers and personal data",
)
def member_show(office: In, member_id: Id) -> Response:
    """The ETag is what If-Match takes."""
    with office.read() as connection:
        return _represented(members.member_dict(connection, member_id))


@writing.put(
    "/members/{member_id:path}",
    response_model=shapes.WholeMember,
    response_model_exclude_unset=True,
    responses={201: {"model": shapes.WholeMember, "description": "Added"}},
    summary="Add a member, or replace what is stored",
)
def member_put(office: In, member_id: Id, body: shapes.MemberBody, if_match: IfMatch = None) -> Response:  # type: ignore[valid-type]
    """Fields that are left out are taken away, customers as well."""
    fields = dict.fromkeys((*members.DATE_FIELDS, *members.PROFILE_FIELDS, "status"))
    given = body.model_dump(mode="json", exclude_none=True)  # type: ignore[attr-defined]
    return _save(office, member_id, {**fields, **given}, if_match, exactly=True)


@writing.patch(
    "/members/{member_id:path}",
    response_model=shapes.WholeMember,
    response_model_exclude_unset=True,
    summary="Change some fields of a member",
)
def member_patch(office: In, member_id: Id, body: shapes.MemberPatch, if_match: IfMatch = None) -> Response:  # type: ignore[valid-type]
    """Fields that are left out stay; where customers are given, they are all that the member has afterwards."""
    given = body.model_dump(mode="json", exclude_unset=True)  # type: ignore[attr-defined]
    return _save(office, member_id, given, if_match, exactly="customers" in given, must_exist=True)


@writing.delete("/members/{member_id:path}", status_code=204, summary="Forget a member")
def member_delete(office: In, member_id: Id, if_match: IfMatch = None) -> None:
    """Erases personal data everywhere; decisions and visits stay under a pseudonym."""

    def check(connection: Connection) -> None:
        _check_match(if_match, members.member_dict(connection, member_id))

    forget.forget(office.context.database, office.who, member_id, check)


@streaming.post(
    "/members/bulk",
    response_model=shapes.BulkReport,
    summary="Insert or update many members",
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "NDJSON: a member a line, with the fields of the member file. As long as you like.",
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        }
    },
)
async def member_bulk(request: Request, office: In) -> Response:
    """Lines are stored as they come, in short transactions; bad ones are reported and the others kept.

    Sending the same again changes nothing, so a call that was broken off is simply repeated.
    """
    return await run_in_threadpool(_bulk, office, BodyStream(request))


@writing.post(
    "/members/{member_id:path}/codes",
    response_model=shapes.Code,
    status_code=201,
    summary="Hand out a code to register with at a studio's desk",
)
def member_code(office: In, member_id: Id, body: shapes.CodeBody) -> dict[str, str]:
    """Good for one registration; only its hash is stored, so it cannot be shown again."""
    valid = parse_span(body.valid, "valid")
    with office.write() as connection:
        return enrolment.code_dict(enrolment.issue(connection, member_id, valid))


def _bulk(office: Office, stream: BodyStream) -> Response:
    with ExitStack() as cleanup:
        bad = cleanup.enter_context(SpooledRows())
        upsert = Upsert(bad=bad)
        lines = (line for line, _ in lines_of(io.BufferedReader(stream)))
        rows = parsed(ndjson(lines), members.parse_row)
        for _ in office.context.database.write_many(rows, upsert, office.who):
            pass
        report = upsert.report
        if stream.broken_off:
            raise ProblemError(400, f"the body was broken off; {report.taken} members are stored, send it again")
        later = cleanup.pop_all()

    def content() -> Iterator[str]:
        counts = {"added": report.added, "updated": report.updated, "unchanged": report.unchanged}
        with later:
            yield json.dumps(counts)[:-1] + ', "bad": ['
            told, separator = iter(bad), ""
            while part := [json.dumps({"line": line, "error": why}) for line, why in islice(told, LINES_AT_ONCE)]:
                yield separator + ", ".join(part)
                separator = ", "
            yield "]}"

    return StreamingResponse(content(), media_type="application/json")


def _save(
    office: Office,
    member_id: str,
    given: dict[str, Any],
    if_match: str | None,
    *,
    exactly: bool,
    must_exist: bool = False,
) -> Response:
    try:
        row: MemberRow = members.parse_row(0, {"member_id": member_id, **given})
    except BadRowError as error:
        raise UsageError(str(error)) from None
    if row.member_id != member_id:
        raise UsageError("member_id: should not begin or end with a space")
    with office.write() as connection:
        exists = members.exists(connection, member_id)
        if must_exist or (if_match is not None and exists):
            _check_match(if_match, members.member_dict(connection, member_id))
        elif if_match is not None:
            raise ProblemError(412, f"there is no member {member_id} to match If-Match")
        outcome = members.save(connection, row, exactly=exactly)
        member = members.member_dict(connection, member_id)
    return _represented(member, 201 if outcome == "added" else 200)


def _represented(member: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(member, status, {"etag": _etag(member)})


def _etag(member: dict[str, Any]) -> str:
    return f'"{hashlib.sha256(json.dumps(member, sort_keys=True).encode()).hexdigest()[:16]}"'


def _check_match(if_match: str | None, member: dict[str, Any]) -> None:
    if if_match is None or if_match.strip() == "*":
        return
    if _etag(member) not in (tag.strip() for tag in if_match.split(",")):
        raise ProblemError(412, "the member has changed since then; read it again")
