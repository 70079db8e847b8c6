"""Plans: the rules as a person would say them, and who is on them."""

from __future__ import annotations

from fastapi import Response

from guestgate import directory, plans, words
from guestgate.admin.pages.access import router
from guestgate.admin.pages.view import In
from guestgate.plans import Headcount
from guestgate.tokens import Role

reading = router(Role.VIEWER)


@reading.get("/plans")
def show(view: In) -> Response:
    """All that are in force."""
    headcount: Headcount = view.request.app.state.headcount
    with view.office.read() as connection:
        rules = directory.load_plans(connection)
        found = [{**plan, "rules": words.plan(rules[plan["id"]])} for plan in plans.plan_list(connection, headcount)]
    return view.render("plans.html", plans=found, most=max((plan["members"] for plan in found), default=0))
