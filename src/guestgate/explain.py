"""What would the door say, and why: the same facts and the same `decide`, and nothing is recorded."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from guestgate import clock, directory, studios, words
from guestgate.decide import decide
from guestgate.facts import FactBook, until
from guestgate.model import CheckIn

# Not a customer's id: nobody's card is asked about.
NO_CUSTOMER = 0


def explain(connection: Connection, member_id: str, studio_id: str, at: datetime) -> dict[str, Any]:
    """The answer at an instant, with every rule's verdict in order of evaluation.

    Visits after that instant are ignored; everything else is as it is now. Raises OperationError where there
    is no such studio; an unknown member is an answer.
    """
    studios.require(connection, studio_id)
    checkin = CheckIn("explain", at, studio_id, member_id, NO_CUSTOMER)
    book = FactBook(connection, directory.load(connection), [checkin], own_id=None)
    facts = until(book.facts(checkin), checkin)
    decision = decide(checkin, facts)
    return {
        "decision": decision.outcome.value,
        "reason": decision.reason.value,
        "limit": decision.limit._asdict() if decision.limit else None,
        "next_allowed_at": clock.iso(decision.next_allowed_at) if decision.next_allowed_at else None,
        "rules": [
            {
                "rule": verdict.rule.value,
                "verdict": verdict.effect.value,
                "detail": words.detail(verdict, facts, checkin),
            }
            for verdict in decision.verdicts
        ],
    }
