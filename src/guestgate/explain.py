"""What would the door say, and why: the same facts and the same `decide`, and nothing is recorded."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection

from guestgate import clock, directory, studios, words
from guestgate.decide import decide
from guestgate.facts import FactBook, until
from guestgate.model import NO_CUSTOMER, CheckIn, Decision, Facts


class Asked(NamedTuple):
    """What would be answered, and on what that rests."""

    checkin: CheckIn
    facts: Facts
    decision: Decision


def ask(connection: Connection, member_id: str, studio_id: str, at: datetime) -> Asked:
    """The decision at an instant. Visits after it are ignored; everything else is as it is now.

    Raises OperationError where there is no such studio; an unknown member is an answer.
    """
    studios.require(connection, studio_id)
    checkin = CheckIn("explain", at, studio_id, member_id, NO_CUSTOMER)
    book = FactBook(connection, directory.load(connection), [checkin], own_id=None)
    facts = until(book.facts(checkin), checkin)
    return Asked(checkin, facts, decide(checkin, facts))


def explain(connection: Connection, member_id: str, studio_id: str, at: datetime) -> dict[str, Any]:
    """The same as users see it, with every rule's verdict in order of evaluation."""
    checkin, facts, decision = ask(connection, member_id, studio_id, at)
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
