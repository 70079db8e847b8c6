"""Every page of the admin listener: one request at least for each of its routes, on a grown record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from grown import Grown

from guestgate import clock, record
from guestgate.admin.app import PAGES
from guestgate.admin.pages.access import FORM_FIELD
from guestgate.admin.pages.admission import COOKIE, form_value
from guestgate.admin.pages.view import PART
from guestgate.database import Database
from guestgate.record import Filter, Order


@dataclass(frozen=True)
class Page:
    """One request. With a ``form`` it is sent as one; ``part`` is what scripts of a page load.

    ``live`` goes on until whoever asks hangs up. ``walks`` says why it may read what grows with the record.
    """

    name: str
    path: str
    status: int = 200
    form: dict[str, str] | None = None
    part: bool = False
    live: bool = False
    walks: str = ""

    @property
    def method(self) -> str:
        """HTTP's."""
        return "GET" if self.form is None else "POST"

    def headers(self, session: str) -> dict[str, str]:
        """For whoever has this session."""
        return {"cookie": f"{COOKIE}={session}", **({PART: "true"} if self.part else {})}

    def fields(self, session: str) -> dict[str, str] | None:
        """Its form as a page of this session would send it."""
        return None if self.form is None else {FORM_FIELD: form_value(session), **self.form}


# Once for each month, by an admin; `scripts/experiment statements` measures it.
NOT_TOURED = ("/statements/{month}/close",)
ADDS_UP = "it adds up a month's visits, and so has to read them"
IS_ALL = "it is all of a month's lines"


def tour(grown: Grown, token: str) -> list[Page]:
    """All pages, with the second month closed. Raises LookupError where there is a route that none of them is of."""
    _, closed, *_, present = grown.months
    busiest, ordinary, last = grown.busiest_member, grown.member(7), grown.member(grown.members - 1)
    with Database.at(grown.url).read() as connection:
        newest, oldest = (_decision(connection, order) for order in (Order.DESCENDING, Order.ASCENDING))
        of_busiest = Filter(member=busiest, limit=1, order=Order.DESCENDING)
        ((_, visit),) = record.visits(connection, of_busiest, payable_requires="authorized")
    at = clock.from_ms(clock.now_ms() - 86_400_000).strftime("%Y-%m-%dT%H:%M")
    pages = [
        Page("sign in", "/login"),
        Page("sign in: the form", "/login", 303, {"token": token}),
        Page("style", "/static/pages.css"),
        Page("now", "/"),
        Page("now: live", "/now/stream", live=True),
        Page("members: nothing typed", "/members"),
        Page("members: by name", _at("/members", q="muster-7")),
        Page("members: by both names", _at("/members", q="anna muster-70")),
        Page("members: by names that do not meet", _at("/members", q="zoe muster")),
        Page("members: while typing", _at("/members", q="mus"), part=True),
        Page("members: by id", _at("/members", q=ordinary), 303),
        Page("members: by customer", _at("/members", q="1000000007"), 303),
        Page("members: nobody", _at("/members", q="nobody known")),
        Page("members: of a plan, first", _at("/members", plan="daily")),
        Page("members: of a plan, last", _at("/members", plan="daily", after=grown.member(grown.members - 60))),
        Page("member", _at("/member", id=ordinary)),
        Page("member: whoever came most", _at("/member", id=busiest)),
        Page("member: nobody", _at("/member", id="nobody"), 404),
        Page("member: at another door", _at("/member/door", id=busiest, studio="s-3"), part=True),
        Page("member: suspend", "/member/status", 303, {"member": last, "status": "suspended"}),
        Page("member: let in again", "/member/status", 303, {"member": last, "status": "active"}),
        Page("member: add a visit", "/member/visit", 303, {"member": busiest, "studio": "s-3", "at": at}),
        Page("member: take a visit back", "/visit/reverse", 303, {"visit": visit["id"], "why": "by mistake"}),
        Page("decision: the newest", f"/decision/{newest}"),
        Page("decision: the oldest", f"/decision/{oldest}"),
        Page("decision: none", "/decision/none", 404),
        Page("check-ins", "/decisions"),
        Page("check-ins: denied at a studio", _at("/decisions", studio="s-1", answer="denied")),
        Page("statements", "/statements"),
        Page("statement: a closed month", f"/statements/{closed}"),
        Page("statement: a closed month's file", f"/statements/{closed}/csv", walks=IS_ALL),
        Page("statement: this month", f"/statements/{present}"),
        Page("statement: what it comes to", f"/statements/{present}", part=True, walks=ADDS_UP),
        Page("statement: this month's file", f"/statements/{present}/csv", walks=IS_ALL),
        Page("studios: first", "/studios"),
        Page("studios: last", _at("/studios", page=str((grown.studios - 1) // 100))),
        Page("studios: by name", _at("/studios", q="studio 4")),
        Page("studio: the busiest", _at("/studio", id=grown.busiest_studio)),
        Page("studio: an ordinary one", _at("/studio", id="s-1")),
        Page("studio: one that closed long ago", _at("/studio", id="s-closed")),
        Page("plans", "/plans", walks="where anything was changed, the members of each plan are counted again"),
        Page("theme", "/theme", 303, {"theme": "dark", "to": "/"}),
        Page("sign out", "/logout", 303, {}),
    ]
    _check_complete(pages)
    return pages


def _decision(connection: object, order: Order) -> str:
    ((_, found),) = record.decisions(connection, Filter(limit=1, order=order))  # type: ignore[arg-type]
    return str(found["id"])


def _at(path: str, **asked: str) -> str:
    return f"{path}?{urlencode(asked)}"


def _check_complete(pages: Sequence[Page]) -> None:
    for route in (route for router in PAGES for route in router.routes):
        if route.path not in NOT_TOURED and not any(
            page.method in route.methods and route.path_regex.match(page.path.partition("?")[0]) for page in pages
        ):
            raise LookupError(f"no page of the tour is of {route.path}")
