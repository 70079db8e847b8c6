"""One decision: everything about an answer, and what became of it."""

from __future__ import annotations

from fastapi import Response

from guestgate import studios
from guestgate.admin.pages.access import router
from guestgate.admin.pages.view import In
from guestgate.case import case
from guestgate.tokens import Role

reading = router(Role.VIEWER)


@reading.get("/decision/{decision_id}")
def show(view: In, decision_id: str) -> Response:
    """From the key that the call came with to the milliseconds of its answer."""
    with view.office.read() as connection:
        found = case(connection, decision_id, payable_requires=view.office.payable_requires)
        places = studios.places(connection)
    return view.render("decision.html", places=places, **found)
