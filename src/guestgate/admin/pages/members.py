"""Finding a member, and all about one: what the door would say and why, limits, decisions, visits, actions."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from fastapi import Response
from sqlalchemy import Connection

from guestgate import changes, clock, corrections, explain, members, record, search, studios, visits, words
from guestgate.admin.pages.access import router
from guestgate.admin.pages.view import PART, In
from guestgate.errors import UsageError
from guestgate.instants import parse_local
from guestgate.members import MemberRow
from guestgate.model import Reason, Status
from guestgate.record import Filter, Order
from guestgate.tokens import Role

reading, writing = router(Role.VIEWER), router(Role.OPERATOR)

SHOWN = 15
ON_PAGE = 50
MAX_TEXT = 255


@reading.get("/members")
def find(view: In) -> Response:
    """Members that what was typed may mean; one alone is shown at once, and so is a decision. Or those of a plan."""
    text, plan = view.asked("q"), view.asked("plan")
    after = view.request.query_params.get("after", "")
    following = None
    with view.office.read() as connection:
        if plan:
            found = search.on_plan(connection, plan, after, ON_PAGE + 1)
            following = found[ON_PAGE - 1]["member_id"] if len(found) > ON_PAGE else None
        else:
            found = search.members(connection, text)
        is_decision = not found and record.has_decision(connection, text)
    if PART in view.request.headers:
        return view.render("results.html", found=found, text=text, most=search.MOST)
    if is_decision:
        return view.go(f"/decision/{text}")
    if text and len(found) == 1:
        return view.go(address(found[0]["member_id"]))
    return view.render(
        "members.html", found=found[:ON_PAGE], text=text, plan=plan, following=following, most=search.MOST
    )


@reading.get("/member")
def show(view: In) -> Response:
    """All about one member."""
    member_id = view.asked("id")
    with view.office.read() as connection:
        member = members.member_dict(connection, member_id)
        latest = Filter(member=member_id, limit=SHOWN, order=Order.DESCENDING)
        decisions = [decision for _, decision in record.decisions(connection, latest)]
        been = record.visits(connection, latest, payable_requires=view.office.payable_requires)
        trail = changes.change_list(connection, Filter(subject=member_id, limit=SHOWN, order=Order.DESCENDING))
        places = studios.places(connection)
        chosen = view.asked("studio") or (decisions[0]["studio"] if decisions else next(iter(places), ""))
        return view.render(
            "member.html",
            member=member,
            name=full_name(member),
            profile={field: member[field] for field in members.PROFILE_FIELDS if field in member},
            decisions=decisions,
            visits=[visit for _, visit in been],
            changes=[change for _, change in trail],
            places=places,
            studio=chosen,
            door=at_the_door(connection, member_id, chosen) if chosen in places else None,
        )


@reading.get("/member/door")
def door(view: In) -> Response:
    """What the door of a studio would say right now; a part of the member's page."""
    member_id, studio = view.asked("id"), view.asked("studio")
    if PART not in view.request.headers:
        return view.go(address(member_id, studio=studio))
    with view.office.read() as connection:
        return view.render("door.html", door=at_the_door(connection, member_id, studio))


@writing.post("/member/status")
def change_status(view: In) -> Response:
    """Suspend a member, or let the membership go on."""
    member_id, status = view.form.get("member", ""), view.form.get("status", "")
    if status not in (Status.ACTIVE, Status.SUSPENDED):
        raise UsageError("a member is made active or suspended here")
    with view.office.write() as connection:
        members.require(connection, member_id)
        members.save(connection, MemberRow(0, member_id, {"status": status}))
    return view.go(address(member_id, done=status))


@writing.post("/member/visit")
def add_visit(view: In) -> Response:
    """Add a visit that no check-in made; its time is the studio's."""
    member_id, studio_id = view.form.get("member", ""), view.form.get("studio", "")
    with view.office.write() as connection:
        timezone = studios.require(connection, studio_id).timezone
        at = parse_local(view.form.get("at", ""), timezone, "the time")
        if at > clock.now():
            raise UsageError("the time lies in the future")
        added = visits.add(connection, visits.VisitRow(0, member_id, studio_id, at))
    return view.go(address(member_id, studio=studio_id, done="added" if added else "there"))


@writing.post("/visit/reverse")
def reverse_visit(view: In) -> Response:
    """Take a visit back, with a reason."""
    visit_id, why = view.form.get("visit", ""), view.form.get("why", "").strip()
    if not why or len(why) > MAX_TEXT or not why.isprintable():
        raise UsageError(f"say why, in at most {MAX_TEXT} characters and on one line")
    with view.office.write() as connection:
        visit = record.visit(connection, visit_id, payable_requires=view.office.payable_requires)
        corrections.reverse(connection, visit_id, why)
    return view.go(address(visit["member"], studio=visit["studio"], done="reversed"))


def address(member_id: str, **more: str) -> str:
    """The page of a member. The id is no part of the path, for ids have slashes and dots."""
    return f"/member?{urlencode({'id': member_id, **more})}"


def full_name(member: dict[str, Any]) -> str:
    """First and last name, as far as they are known."""
    return " ".join(member[part] for part in ("first_name", "last_name") if member.get(part))


def _why(asked: explain.Asked) -> str:
    """The deciding rule's words, of several limits the one that is used up; empty where every rule is kept."""
    decision = asked.decision
    if decision.limit is not None:
        return words.limit(decision.limit)
    deciding = (verdict for verdict in decision.verdicts if verdict.rule is decision.reason)
    return next((words.detail(one._replace(retry_at=None), asked.facts, asked.checkin) for one in deciding), "")


def at_the_door(connection: Connection, member_id: str, studio_id: str) -> dict[str, Any]:
    """What the door would say right now, with the limits as they are used and every rule in words."""
    asked = explain.ask(connection, member_id, studio_id, clock.now())
    decision, facts = asked.decision, asked.facts
    rules = [
        {"rule": verdict.rule, "effect": verdict.effect.value, "words": words.detail(verdict, facts, asked.checkin)}
        for verdict in decision.verdicts
    ]
    uses = [use for verdict in decision.verdicts if verdict.rule is Reason.LIMIT_REACHED for use in verdict.uses]
    return {
        "decision": decision.outcome.value,
        "reason": decision.reason,
        "why": _why(asked),
        "next": None if decision.next_allowed_at is None else clock.iso(decision.next_allowed_at),
        "timezone": facts.studio.timezone.key,
        "studio": facts.studio,
        "limits": [{"words": words.limit(use), "used": use.used, "max": use.max} for use in uses],
        "rules": rules,
    }
