"""Who answers a member validation, and by when: the shared ledger while there is time, else nobody (503).

Lives in the event loop. Nobody stands in here: a node's copy knows nothing personal of members.
"""

from __future__ import annotations

import asyncio

import structlog

from guestgate.call import Call
from guestgate.eligibility import Question, Reply, unanswered
from guestgate.ledger import Answer
from guestgate.ledger_queue import LedgerQueue
from guestgate.metrics import DoorMetrics
from guestgate.model import Outcome

log = structlog.get_logger()


Validation = Call[Question, Reply]


class Validator:
    """Passes questions to the ledger and joins its replies with what became of the answers."""

    def __init__(self, ledger: LedgerQueue, metrics: DoorMetrics) -> None:
        """Bind to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._ledger, self._metrics = ledger, metrics

    def call(self, question: Question, started: float, deadline: float) -> Validation:
        """A question that has to be answered by `deadline`."""
        return Call(question, started, deadline, unanswered, self._loop.create_future())

    async def validate(self, call: Validation) -> Reply:
        """The reply to answer with; say afterwards with `left` how the answer left."""

        def replied(reply: Reply) -> None:
            if reply.outcome is not Outcome.UNDECIDED:
                call.found.append((self._ledger, reply))
            call.take(reply)
            self._join(call)

        self._ledger.ask(call.asked, call.deadline, replied)
        reply = await call.claim
        # Who gets a late answer has given up; a code that it used up is taken once more from the same studio.
        return reply if self._loop.time() < call.deadline else unanswered(call.asked)

    def left(self, call: Validation, reply: Reply, http_status: int | None) -> None:
        """The answer has been written with this status; None: the caller was gone, nothing was written."""
        answer_ms = round((self._loop.time() - call.started) * 1000, 1)
        call.answered = reply, http_status, answer_ms
        self._metrics.validated(reply.finding, answer_ms / 1000)
        log.debug(
            "a member validation was answered",
            validation=call.asked.id,
            outcome=reply.outcome.value,
            reason=reply.finding.value,
            studio=call.asked.studio_id,
            http_status=http_status,
            answer_ms=answer_ms,
        )
        self._join(call)

    def _join(self, call: Validation) -> None:
        """Once both are known, the record learns how the answer to this question left."""
        if call.answered is None:
            return
        sent, http_status, answer_ms = call.answered
        for ledger, reply in call.found:
            undelivered = http_status is None or sent.outcome is not reply.outcome
            ledger.tell(Answer(reply.id, http_status, answer_ms, undelivered))
        call.found.clear()
