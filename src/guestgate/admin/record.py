"""`/api/v1/decisions`, `visits`, `explain`, `changes`, `statements`: the record, and corrections of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Annotated, Any, Literal

from fastapi import Depends, Path, Query
from fastapi.responses import JSONResponse, Response

from guestgate import changes, clock, corrections, record, statements, visits
from guestgate.admin import shapes
from guestgate.admin.access import router
from guestgate.admin.context import In
from guestgate.admin.instants import aware
from guestgate.admin.paging import After, Size, page, place
from guestgate.closing import Closing
from guestgate.errors import ConflictError, UsageError
from guestgate.explain import explain
from guestgate.record import Filter, Order
from guestgate.tokens import Role

reading, writing, closing_ = router(Role.VIEWER), router(Role.OPERATOR), router(Role.ADMIN)

MONTH = statements.MONTH.pattern

Month = Annotated[str, Path(pattern=MONTH, examples=["2026-11"])]
Member = Annotated[str | None, Query(max_length=255, description="Only this member's.")]
Studio = Annotated[str | None, Query(max_length=255, description="Only at this studio.")]
Since = Annotated[shapes.Moment | None, Query(description="Only since then; an instant with offset.")]
Sort = Annotated[Literal["asc", "desc"], Query(alias="order", description="asc: oldest first; desc: newest first.")]


class Part:
    """Which part of a list is wanted: since when, in which order, from where on, and how much of it."""

    def __init__(self, since: Since = None, sort: Sort = "asc", after: After = None, limit: Size = 100) -> None:
        """Raises UsageError."""
        self.size = limit
        self.filter = Filter(
            since=None if since is None else aware(since, "since"),
            after=place(after),
            limit=limit + 1,  # one more than shown, to know whether there are more
            order=Order(sort),
        )


Asked = Annotated[Part, Depends()]


@reading.get("/decisions", response_model=shapes.Page[shapes.Decision], summary="List check-ins and their answers")
def decision_list(
    office: In,
    part: Asked,
    member: Member = None,
    studio: Studio = None,
) -> dict[str, Any]:
    """In the order they were recorded."""
    chosen = replace(part.filter, member=member, studio=studio)
    with office.read() as connection:
        return page(record.decisions(connection, chosen), part.size)


@reading.get("/decisions/{decision_id}", response_model=shapes.Decision, summary="Show one decision")
def decision_show(office: In, decision_id: str) -> dict[str, Any]:
    """The `decisionId` of an answer."""
    with office.read() as connection:
        return record.decision(connection, decision_id)


@reading.get("/visits", response_model=shapes.Page[shapes.Visit], summary="List visits")
def visit_list(
    office: In,
    part: Asked,
    member: Member = None,
    studio: Studio = None,
    month: Annotated[str | None, Query(pattern=MONTH, description="Only of this month, 2026-11.")] = None,
) -> dict[str, Any]:
    """In the order they were recorded."""
    chosen = replace(part.filter, member=member, studio=studio, month=month)
    with office.read() as connection:
        return page(record.visits(connection, chosen, payable_requires=office.payable_requires), part.size)


@writing.post(
    "/visits",
    response_model=shapes.Visit,
    status_code=201,
    responses={200: {"model": shapes.Visit, "description": "It was there already"}},
    summary="Add a visit that no check-in made",
)
def visit_add(office: In, body: shapes.VisitBody) -> Response:
    """It counts and pays like any other. The same member, studio and millisecond is the same visit."""
    at = clock.now() if body.at is None else aware(body.at, "at")
    if at > clock.now():
        raise UsageError("at: lies in the future")
    row = visits.VisitRow(0, body.member, body.studio, at)
    with office.write() as connection:
        added = visits.add(connection, row)
        visit = record.visit(connection, row.id, payable_requires=office.payable_requires)
    return JSONResponse(visit, 201 if added else 200)


@reading.get("/visits/{visit_id}", response_model=shapes.Visit, summary="Show one visit")
def visit_show(office: In, visit_id: str) -> dict[str, Any]:
    """A visit that a check-in made bears the id of its decision."""
    with office.read() as connection:
        return record.visit(connection, visit_id, payable_requires=office.payable_requires)


@writing.post("/visits/{visit_id}/reverse", response_model=shapes.Visit, summary="Take a visit back")
def visit_reverse(office: In, visit_id: str, body: shapes.Why) -> dict[str, Any]:
    """It counts no more. The record keeps it, with who and why."""
    with office.write() as connection:
        before = record.visit(connection, visit_id, payable_requires=office.payable_requires)
        if not corrections.reverse(connection, visit_id, body.why):
            raise ConflictError(f"visit {visit_id} is reversed already: {before['reversed_why']}")
        return record.visit(connection, visit_id, payable_requires=office.payable_requires)


@reading.post("/explain", response_model=shapes.Explanation, summary="What would the door say, and why?")
def explain_(office: In, body: shapes.Question) -> dict[str, Any]:
    """Every rule's verdict. Records nothing; an unknown member is an answer."""
    at = clock.now() if body.at is None else aware(body.at, "at")
    with office.read() as connection:
        return explain(connection, body.member, body.studio, at)


@reading.get("/validations", response_model=shapes.Page[shapes.Validation], summary="List member validations")
def validation_list(
    office: In,
    part: Asked,
    member: Member = None,
    studio: Studio = None,
) -> dict[str, Any]:
    """Who wanted to register where, and why not; in the order they were recorded."""
    chosen = replace(part.filter, member=member, studio=studio)
    with office.read() as connection:
        return page(record.validations(connection, chosen), part.size)


@reading.get("/changes", response_model=shapes.Page[shapes.Change], summary="Read the audit trail")
def change_list(
    office: In,
    part: Asked,
    subject: Annotated[str | None, Query(max_length=255, description="Only of this member, studio, …")] = None,
) -> dict[str, Any]:
    """Who changed what, when, and what was there before and after."""
    with office.read() as connection:
        return page(changes.change_list(connection, replace(part.filter, subject=subject)), part.size)


@reading.get("/statements/{month}", response_model=shapes.Statement, summary="A month's visits and what pays")
def statement(office: In, month: Month, studio: Studio = None) -> dict[str, Any]:
    """A closed month as it was closed; any other as the record stands now. Its lines: `/statements/{month}/lines`."""
    with office.read() as connection:
        return statements.statement(connection, month, studio, payable_requires=office.payable_requires)


@reading.get("/statements", response_model=list[shapes.ClosedMonth], summary="The months that are closed")
def statement_list(office: In) -> list[dict[str, Any]]:
    """The latest first, each with its sums."""
    with office.read() as connection:
        return statements.closed_list(connection)


@reading.get(
    "/statements/{month}/lines", response_model=shapes.Page[shapes.StatementLine], summary="A statement's lines"
)
def statement_lines(
    office: In,
    month: Month,
    studio: Studio = None,
    after: After = None,
    limit: Size = 100,
) -> dict[str, Any]:
    """The month's visits in the order they were recorded, then adjustments of earlier months."""
    with office.read() as connection:
        found = statements.statement_lines(
            connection, month, studio, payable_requires=office.payable_requires, after=place(after)
        )
        return page(islice(found, limit + 1), limit)


@closing_.post("/statements/{month}/close", response_model=shapes.Statement, summary="Close a month")
def statement_close(office: In, month: Month) -> dict[str, Any]:
    """Its lines never change afterwards: later corrections are adjustments of the next month.

    Months are closed in order, each some hours (`reconcile_grace_s`) after it is over in every time zone; else 409.
    """
    context = office.context
    for _ in Closing(context.database, month, office.payable_requires, context.settings.grace).run(office.who):
        pass
    with office.read() as connection:
        return statements.statement(connection, month, None, payable_requires=office.payable_requires)
