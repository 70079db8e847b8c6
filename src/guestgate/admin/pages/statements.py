"""Statements: the months that are closed, and one month to look at, print, take along and close."""

from __future__ import annotations

from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from typing import Any

from fastapi import Response
from fastapi.responses import StreamingResponse

from guestgate import clock, statements, studios
from guestgate.admin.pages.access import router
from guestgate.admin.pages.view import PART, In, View
from guestgate.closing import Closing, closable
from guestgate.database import Database
from guestgate.errors import NotFoundError, UsageError
from guestgate.statement_csv import BLOCK, csv_text
from guestgate.tokens import Role

reading, closing = router(Role.VIEWER), router(Role.ADMIN)

# Of adjustments and corrections; all of them are in the file.
SHOWN = 200


@reading.get("/statements")
def every(view: In) -> Response:
    """The months that are closed, and a way to any other."""
    if month := view.asked("month"):
        statements.check_month(month)
        return view.go(f"/statements/{month}")
    with view.office.read() as connection:
        closed = statements.closed_list(connection)
    return view.render("statements.html", closed=closed, present=clock.iso(clock.now())[:7])


@reading.get("/statements/{month}")
def one(view: In, month: str) -> Response:
    """By studio and plan, with adjustments and corrections.

    What a closed month comes to is on record. That of any other is added up, which takes seconds where there are
    millions of visits; so the page is there first, and asks for its figures as a part.
    """
    _check(month)
    is_part = PART in view.request.headers
    with view.office.read() as connection:
        if not (is_part or view.asked("whole") or statements.is_closed(connection, month)):
            return view.render("statement.html", **_not_added_up(view, month))
        content = statements.statement(connection, month, None, payable_requires=view.office.payable_requires)
        places = studios.places(connection)
    return view.render(
        "figures_of_month.html" if is_part else "statement.html",
        places=places,
        most=SHOWN,
        closable=content["closed_at"] is None and _closable(view, month),
        sums={name: sum(total[name] for total in content["totals"]) for name in statements.SUMS},
        **content,
    )


def _not_added_up(view: View, month: str) -> dict[str, Any]:
    """What is known of a month that is not closed without reading its visits."""
    return {
        "month": month,
        "open": statements.is_open(month, clock.now()),
        "closed_at": None,
        "payable_requires": view.office.payable_requires,
        "closable": _closable(view, month),
        "totals": None,
    }


def _closable(view: View, month: str) -> bool:
    return closable(month, clock.now(), view.office.context.settings.grace)


@reading.get("/statements/{month}/csv")
def file(view: In, month: str) -> Response:
    """Every line, for a spreadsheet program.

    However long somebody takes to fetch it, no transaction stays open for that: it would keep a file's log from
    being emptied. So the lines of a closed month are read some at a time, since they do not change; those of any
    other at once, into a file of our own.
    """
    _check(month)
    database, requires = view.office.context.database, view.office.payable_requires
    with view.office.read() as connection:
        is_closed = statements.is_closed(connection, month)
    content = _bit_by_bit(database, month) if is_closed else _at_once(database, month, requires)
    name = f'attachment; filename="statement-{month}.csv"'
    return StreamingResponse(content, media_type="text/csv; charset=utf-8", headers={"content-disposition": name})


@closing.post("/statements/{month}/close")
def close(view: In, month: str) -> Response:
    """Close the month, once whoever asks has said that they mean it."""
    _check(month)
    if view.form.get("sure") != "yes":
        raise UsageError("say that you want to close the month: it cannot be opened again")
    context = view.office.context
    for _ in Closing(context.database, month, view.office.payable_requires, context.settings.grace).run(
        view.office.who
    ):
        pass
    return view.go(f"/statements/{month}?done=closed")


def _bit_by_bit(database: Database, month: str) -> Iterator[str]:
    yield from csv_text(statements.closed_lines(database, month))


def _at_once(database: Database, month: str, requires: str) -> Iterator[bytes]:
    with SpooledTemporaryFile(max_size=BLOCK) as spooled:
        with database.read() as connection:
            lines = statements.statement_lines(connection, month, None, payable_requires=requires)
            spooled.writelines(part.encode() for part in csv_text(line for _, line in lines))
        spooled.seek(0)
        while block := spooled.read(BLOCK):
            yield block


def _check(month: str) -> None:
    if not statements.MONTH.fullmatch(month):
        raise NotFoundError(f"{month!r} is not a month")
