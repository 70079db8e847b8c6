"""A record with a past: check-ins and member validations answered by the real ledger, as if at other times."""

from __future__ import annotations

import math
import secrets
from datetime import datetime

from guestgate import clock
from guestgate.database import Database
from guestgate.eligibility import Question, Reply
from guestgate.ledger import DEFAULT_BUDGET_MS, Answer, Ledger, Ticket
from guestgate.model import CheckIn, Decision
from guestgate.validations import Validations

ATTEMPTS = 10


def uuid7(at: datetime, number: int) -> str:
    """An id made at that instant."""
    digits = f"{clock.to_ms(at):012x}7{number % 4096:03x}8{number:015x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Past:
    """Writes check-ins into a database."""

    def __init__(self, database: Database, own_id: str | None = None) -> None:
        self._ledger = Ledger(database, own_id)
        self._validations = Validations(database, own_id, DEFAULT_BUDGET_MS)

    def checkin(
        self,
        member: str,
        at: datetime,
        *,
        studio: str = "s1",
        customer: int = 1,
        undelivered: bool = False,
        answered: bool = True,
        decision_id: str | None = None,
    ) -> Decision:
        """One check-in, with its answer, unless the server was killed before it could be recorded."""
        checkin = CheckIn(
            decision_id or uuid7(at, secrets.randbits(40)), at, studio, member, customer, "0123456789abcdef"
        )
        decision = self._decide(checkin)
        if not answered:
            return decision
        status = 200 if decision.outcome.value == "allowed" else 403
        self._ledger.process([], [Answer(checkin.id, status, 1.5, undelivered)])
        return decision

    def _decide(self, checkin: CheckIn) -> Decision:
        """A server gives up where others keep it waiting; nobody waits for the answer here, so it is asked again."""
        for _ in range(ATTEMPTS):
            for decision in self._ledger.process([Ticket(checkin, math.inf)], []):
                return decision
        raise AssertionError("the ledger does not decide")

    def validate(self, text: str, at: datetime, *, studio: str = "s1") -> Reply:
        """One member validation, with its answer."""
        question = Question(uuid7(at, secrets.randbits(40)), at, studio, text, "0123456789abcdef")
        (reply,) = self._validations.process([(question, math.inf)])
        status = 200 if reply.member_id else 404
        self._ledger.process([], [Answer(question.id, status, 1.5, False)])
        return reply

    def close(self) -> None:
        """Let the database go."""
        self._validations.close()
        self._ledger.close()
