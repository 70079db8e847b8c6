"""Where member validations are answered and remembered: in the ledger's process, after its check-ins.

Those that came together are one transaction; it is committed, and only then do the replies go. Each leaves one row
in `validations`, which names the member but tells nothing of what was sent otherwise, and, once its answer has left
or failed to, one in `answers`. A studio that has missed too often is told of nobody for a while. Misses are
counted in the record, under the studio's lock, so the count is exact across all workers and servers.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, RootTransaction, func, select
from sqlalchemy.exc import DBAPIError

from guestgate import clock, directory, enrolment, schema, sequence
from guestgate.bulk import BulkInsert
from guestgate.database import CommitLostError, Database, DiskFailedError, Fault
from guestgate.eligibility import Finding, Question, Reply, may_register, unanswered
from guestgate.enrolment import Code
from guestgate.facts import member_of
from guestgate.fingerprints import fingerprint
from guestgate.key_use import KeyUse

log = structlog.get_logger()

# So many misses a studio has within so long: more than a desk's typing errors, far too few for guessing.
MAX_MISSES = 20
MISSES_WITHIN = timedelta(minutes=10)
# Those that could not be answered are remembered, to be written when the database can be.
MAX_UNANSWERED = 1000

_n, _m, _s = schema.validations.c, schema.members.c, schema.studios.c
_insert = BulkInsert(schema.validations)
# Where the reply to a commit got lost, they are written again.
_insert_unanswered = BulkInsert(schema.validations, ignore_existing=True)


class Validations:
    """One writer's access to them. Not to be shared between threads."""

    def __init__(self, database: Database, own_id: str | None, budget_ms: int) -> None:
        """`own_id` is our company id, which names no member; `budget_ms` as for `Ledger`. Connects to nothing yet."""
        self._database, self._own_id, self._budget_ms = database, own_id, budget_ms
        self._connection: Connection | None = None
        self._directory = directory.Directory(version=-1)
        self._key_use = KeyUse()
        self._waiting: list[tuple[Question, float]] = []
        self._unanswered: list[Question] = []

    @property
    def waiting(self) -> bool:
        """Whether questions wait for somebody else's lock; call `process` again at once."""
        return bool(self._waiting)

    def process(self, asked: list[tuple[Question, float]]) -> list[Reply]:
        """Answer questions, each with its deadline on `clock.monotonic`, and record them; on disk on return.

        What somebody else has locked waits for a later call. There is one reply for each question in the end,
        whatever the database does. Raises DiskFailedError, after which this must not be used.
        """
        now = clock.monotonic()
        asked, self._waiting = self._waiting + asked, []
        late = [self._not_answered(question) for question, deadline in asked if deadline <= now]
        batch = [(question, deadline) for question, deadline in asked if deadline > now]
        if not batch and not self._unanswered:
            return late
        connected_before = self._connection is not None
        try:
            return late + self._commit([question for question, _ in batch])
        except DiskFailedError:
            self.close()
            raise
        except Exception as error:
            fault = self._database.fault(error)
            if fault is not Fault.BUSY:
                self.close()
            one_gone = fault is Fault.UNAVAILABLE and connected_before and not isinstance(error, CommitLostError)
            if fault is Fault.BUSY or one_gone:  # in the latter case perhaps only this connection
                self._waiting = batch
                return late
            if fault is Fault.OTHER and len(batch) > 1:  # a fault spoils only its own question
                return late + [reply for one in batch for reply in self.process([one])]
            return late + self._failed([question for question, _ in batch], fault, error)

    def _failed(self, questions: list[Question], fault: Fault, error: Exception) -> list[Reply]:
        if fault is Fault.OTHER:
            log.error("a member validation could not be answered", exc_info=error)
            self._unanswered.clear()
        elif questions:
            log.error("member validations could not be answered", database=self._database.name, error=str(error))
        return [self._not_answered(question) for question in questions]

    def flush(self) -> None:
        """Write what is left, once; nobody waits for an answer any more."""
        waiting, self._waiting = self._waiting, []
        for question, _ in waiting:
            self._not_answered(question)
        self.process([])

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(DBAPIError):
                connection.close()

    def _not_answered(self, question: Question) -> Reply:
        """The record learns of it with the next transaction."""
        if len(self._unanswered) < MAX_UNANSWERED:
            self._unanswered.append(question)
        return unanswered(question)

    def _commit(self, questions: list[Question]) -> list[Reply]:
        """Answer all in one transaction; when this returns, it is on disk."""
        if self._connection is None:
            self._connection = self._database.connect_ledger(self._budget_ms)
        transaction: RootTransaction = self._connection.begin()
        try:
            replies = self._answer(self._connection, questions)
        except BaseException:
            with suppress(DBAPIError):  # the connection may be gone, and with it the transaction
                transaction.rollback()
            raise
        self._database.commit(transaction)
        self._unanswered.clear()
        return replies

    def _answer(self, connection: Connection, questions: list[Question]) -> list[Reply]:
        if directory.current_version(connection) != self._directory.version:
            self._directory = directory.load(connection)
        numbers = iter(sequence.take(connection, len(self._unanswered) + len(questions)))
        rows = [_row(next(numbers), question, Finding.UNAVAILABLE) for question in self._unanswered]
        _insert_unanswered(connection, rows)
        # Always in this order: whoever asks for one after the other waits for nobody who waits for them.
        replies = {}
        for question in sorted(questions, key=lambda question: question.studio_id):
            reply, member_id, code = self._reply(connection, question)
            _insert(connection, [_row(next(numbers), question, reply.finding, member_id, code)])
            replies[question.id] = reply
        self._key_use.note(connection, questions)
        return [replies[question.id] for question in questions]

    def _reply(self, connection: Connection, question: Question) -> tuple[Reply, str | None, Code | None]:
        """What to say, and of whom and by which code, also where that is not said."""
        studio, at = self._directory.studios[question.studio_id], question.received_at
        connection.execute(select(_s.id).where(_s.id == studio.id).with_for_update(nowait=True, key_share=True))
        if not studio.active:
            return Reply(question.id, Finding.STUDIO_INACTIVE), None, None
        if _misses(connection, question) >= MAX_MISSES:
            return Reply(question.id, Finding.THROTTLED), None, None
        row, code = self._member(connection, question.aggregator_id), None
        if row is None:
            code = enrolment.find(connection, question.aggregator_id)
            if code is not None:
                finding = code.finding(studio.id, at)
                if finding is not Finding.OK:
                    return Reply(question.id, finding), code.member_id, code
                row = self._member(connection, code.member_id)
        member = None if row is None else member_of(self._directory.plans, *row[:-1])
        finding = may_register(studio, member, at)
        if row is None or finding is not Finding.OK:
            return Reply(question.id, finding), row.id if row else None, code
        if code is not None:
            enrolment.use(connection, code, studio.id, at)
        return Reply(question.id, finding, row.id, json.loads(row.profile)), row.id, code

    def _member(self, connection: Connection, member_id: str) -> Any:
        """The member's row or None, locked, so that nobody is forgotten while this is written."""
        if member_id == self._own_id:
            return None
        return connection.execute(
            select(_m.id, _m.plan_id, _m.status, _m.valid_from, _m.valid_until, _m.cycle_anchor, _m.profile)
            .where(_m.id == member_id)
            .with_for_update(nowait=True, key_share=True)
        ).one_or_none()


def _misses(connection: Connection, question: Question) -> int:
    """How often a studio has asked in vain of late."""
    since_ms = clock.to_ms(question.received_at - MISSES_WITHIN)
    missed = select(_n.id).where(schema.missed, _n.studio_id == question.studio_id, _n.received_at_ms > since_ms)
    return int(connection.execute(select(func.count()).select_from(missed.limit(MAX_MISSES).subquery())).scalar_one())


def _row(
    seq: int, question: Question, finding: Finding, member_id: str | None = None, code: Code | None = None
) -> tuple[object, ...]:
    """The columns of `schema.validations`."""
    return (
        seq,
        question.id,
        clock.to_ms(question.received_at),
        question.studio_id,
        member_id,
        None if code is None else fingerprint(code.sha256),
        finding.outcome.value,
        finding.value,
        question.key_fingerprint,
    )
