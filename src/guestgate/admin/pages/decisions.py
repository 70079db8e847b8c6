"""Check-ins and their answers: those that somebody chooses, and everything about one."""

from __future__ import annotations

from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from fastapi import Response
from sqlalchemy import Connection

from guestgate import clock, members, periods, record, studios
from guestgate.admin.pages.access import router
from guestgate.admin.pages.members import full_name
from guestgate.admin.pages.view import In
from guestgate.admin.paging import page, place
from guestgate.case import case
from guestgate.errors import NotFoundError, UsageError
from guestgate.instants import FIRST_YEAR, LAST_YEAR
from guestgate.model import Outcome, Reason
from guestgate.record import Filter, Order
from guestgate.tokens import Role

reading = router(Role.VIEWER)

ON_PAGE = 50
# A day's are looked through in no time; of a member it is all, which are few.
LATEST = timedelta(days=1)
CHOICES = ("studio", "answer", "reason", "day", "member")


@reading.get("/decisions")
def every(view: In) -> Response:
    """The latest first: a member's, a day's or the last 24 hours'; of a studio, with an answer or a reason."""
    asked = {name: text for name in CHOICES if (text := view.asked(name))}
    with view.office.read() as connection:
        places = studios.places(connection)
        chosen = _chosen(asked, places, view.asked("after"))
        found = page(record.decisions(connection, chosen), ON_PAGE)
    return view.render(
        "history.html",
        places=places,
        asked={name: asked.get(name, "") for name in CHOICES},
        outcomes=list(Outcome),
        reasons=list(Reason),
        decisions=found["items"],
        further=found["next"] and f"/decisions?{urlencode({**asked, 'after': found['next']})}",
        is_first=not view.asked("after"),
    )


@reading.get("/decision/{decision_id}")
def show(view: In, decision_id: str) -> Response:
    """From the key that the call came with to the milliseconds of its answer."""
    with view.office.read() as connection:
        found = case(connection, decision_id, payable_requires=view.office.payable_requires)
        places = studios.places(connection)
        name = _name(connection, found["decision"]["member"])
    return view.render("decision.html", places=places, name=name, **found)


def _chosen(asked: dict[str, str], places: dict[str, dict[str, Any]], after: str) -> Filter:
    """What the address asks for. Raises UsageError where that cannot be."""
    for name, known in (("answer", Outcome), ("reason", Reason)):
        if name in asked and asked[name] not in list(known):
            raise UsageError(f"there is no {name} {asked[name]}")
    studio = asked.get("studio")
    since: datetime | None = None
    until: datetime | None = None
    if "day" in asked:
        timezone = places[studio]["timezone"] if studio in places else "UTC"
        since, until = _day(asked["day"], ZoneInfo(timezone))
    elif "member" not in asked:
        until = clock.now()
        since = until - LATEST
    return Filter(
        member=asked.get("member"),
        studio=studio,
        since=since,
        until=until,
        outcome=asked.get("answer"),
        reason=asked.get("reason"),
        after=place(after or None),
        limit=ON_PAGE + 1,
        order=Order.DESCENDING,
    )


def _day(text: str, timezone: ZoneInfo) -> tuple[datetime, datetime]:
    """Its first instant, and that of the next one, by the clocks there."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"the day: {text!r} is none; write 2026-11-23") from None
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise UsageError(f"the day: {text!r} lies outside the years {FIRST_YEAR} to {LAST_YEAR}")
    return periods.start_of_day(day, timezone), periods.start_of_day(day + timedelta(days=1), timezone)


def _name(connection: Connection, member_id: str | None) -> str:
    """The member's; empty where nobody knows it, or not any more."""
    with suppress(NotFoundError):
        return "" if member_id is None else full_name(members.member_dict(connection, member_id))
    return ""
