"""Where check-ins are decided and remembered: many to a transaction.

All that wait are decided in one transaction, each in turn, so that two taps in one batch see each other;
decisions and visits are written, the transaction is committed, and only then do the answers go. A check-in
whose deadline has passed is not decided any more. Every check-in leaves one row in `decisions`, and, once
its answer has left or failed to, one in `answers`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from guestgate import clock, corrections, directory, schema, sequence
from guestgate.bulk import BulkInsert
from guestgate.database import LOCK_RETRY_S, Database, is_locked, sqlite_code
from guestgate.decide import decide
from guestgate.errors import OperationError
from guestgate.facts import FactBook
from guestgate.key_use import KeyUse
from guestgate.model import CheckIn, Decision, Member, Source, Studio, VisitState, undecided

log = structlog.get_logger()

FLUSH_PATIENCE_S = 3.0
COMPLAIN_EVERY_S = 5.0
# Taking visits back costs about a millisecond each; after a stall there may be hundreds, and doors wait.
MAX_REVERSALS = 20
# Without a writable database answers are 503; so many of them are remembered and written afterwards.
MAX_NEWS = 20_000

# SQLite's primary result codes. The driver tells no more: a failed fsync is an I/O error of COMMIT.
IOERR = 10
NOT_WRITABLE = (8, IOERR, 13, 14)  # READONLY, IOERR, FULL, CANTOPEN


class DiskFailedError(OperationError):
    """A commit may or may not be on disk. Nothing of its batch, and nothing after it, may be answered."""


class Ticket(NamedTuple):
    """A check-in to be decided; ``deadline`` is an instant of `clock.monotonic`."""

    checkin: CheckIn
    deadline: float


class Answer(NamedTuple):
    """How an answer left: status (None: nothing was sent), milliseconds since the headers came."""

    decision_id: str
    http_status: int | None
    answer_ms: float
    undelivered: bool


class Entry(NamedTuple):
    """A decision as it is recorded."""

    checkin: CheckIn
    decision: Decision
    member: Member | None = None
    studio: Studio | None = None


class Ledger:
    """One writer's access to the record. Not to be shared between threads."""

    def __init__(self, database: Database, own_id: str | None) -> None:
        """Read studios, keys and plans. `own_id` is our company id where the platform sends that instead."""
        self._database = database
        self._own_id = own_id
        self._answers: list[Answer] = []
        self._undecided: list[Entry] = []
        self._reversals: list[str] = []
        self._connection: Connection | None = None
        self._silent_until = 0.0
        self._key_use = KeyUse()
        # How long the last commit took.
        self.commit_s = 0.0
        with database.read() as connection:
            self._directory = directory.load(connection)

    def process(self, batch: list[Ticket], answers: list[Answer]) -> list[Decision]:
        """Decide check-ins and record them, and how earlier answers left; returns when that is on disk.

        There is one decision for each ticket, in no particular order, whatever the database does: what
        cannot be decided, or not in time, is undecided. Raises DiskFailedError, after which this ledger
        must not be used.
        """
        self._answers += answers
        self._limit_news()
        decisions = self._process(batch)
        if len(decisions) != len(batch):
            raise AssertionError("a ticket got lost")
        return decisions

    def flush(self) -> None:
        """Write what is left to record of earlier answers, with some patience for a locked database."""
        give_up_at = clock.monotonic() + FLUSH_PATIENCE_S
        while self.has_news and clock.monotonic() < give_up_at:
            self._process([])
            clock.sleep(LOCK_RETRY_S)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(DBAPIError):
                connection.close()

    def _process(self, batch: list[Ticket]) -> list[Decision]:
        late: list[Decision] = []
        while True:
            now = clock.monotonic()
            late += [self._not_decided(ticket) for ticket in batch if ticket.deadline <= now]
            batch = [ticket for ticket in batch if ticket.deadline > now]
            try:
                return late + self._commit(batch)
            except DiskFailedError:
                self.close()
                raise
            except Exception as error:
                if is_locked(error):
                    if not batch:
                        return late  # what there is to write goes with the next batch
                    clock.sleep(LOCK_RETRY_S)
                    continue
                self.close()
                if sqlite_code(error) in NOT_WRITABLE:
                    self._complain(error)
                    return late + [self._not_decided(ticket) for ticket in batch]
                return late + self._isolate(batch, error)

    def _isolate(self, batch: list[Ticket], error: Exception) -> list[Decision]:
        """A fault spoils only its own check-in: what else there is to write is tried without it, one by one."""
        if batch and self.has_news:
            self._process([])
            return self._process(batch)
        if len(batch) > 1:
            return [decision for ticket in batch for decision in self._process([ticket])]
        if batch:
            log.error("a check-in could not be decided", decision=batch[0].checkin.id, exc_info=error)
            return [self._not_decided(batch[0])]
        log.error("how earlier answers left could not be recorded", exc_info=error)
        self._answers.clear()
        self._undecided.clear()
        self._reversals.clear()
        return []

    def _not_decided(self, ticket: Ticket) -> Decision:
        """The answer is or will be 503; the record learns of it with the next transaction."""
        decision = undecided(ticket.checkin)
        self._undecided.append(Entry(ticket.checkin, decision))
        return decision

    @property
    def has_news(self) -> bool:
        """Whether there is something left to record of earlier check-ins."""
        return bool(self._answers or self._undecided or self._reversals)

    def _complain(self, error: Exception) -> None:
        """Log, but not for every batch: it may be the same disk that is full."""
        now = clock.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + COMPLAIN_EVERY_S
            log.error("the database cannot be written; check-ins are undecided", error=str(error))

    def _limit_news(self) -> None:
        for news in (self._answers, self._undecided):
            if len(news) > MAX_NEWS:
                log.error("answers could not be recorded for too long", dropped=len(news) - MAX_NEWS)
                del news[:-MAX_NEWS]

    def _commit(self, batch: list[Ticket]) -> list[Decision]:
        """Decide a batch in one transaction; when this returns, all of it is on disk."""
        if not (batch or self.has_news):
            return []
        with self._transaction() as connection:
            if directory.current_version(connection) != self._directory.version:
                self._directory = directory.load(connection)
            # First what became of earlier answers: a visit that is taken back now counts no more.
            _write(connection, self._undecided)
            _insert_answers(connection, self._answers)
            undelivered = [answer.decision_id for answer in self._answers if answer.undelivered]
            reversals = self._reversals + undelivered
            corrections.reverse_undelivered(connection, reversals[:MAX_REVERSALS])
            checkins = [ticket.checkin for ticket in batch]
            entries = self._decide(connection, checkins) if batch else []
            _write(connection, entries)
            self._key_use.note(connection, checkins)
        self._reversals = reversals[MAX_REVERSALS:]
        self._answers.clear()
        self._undecided.clear()
        return [entry.decision for entry in entries]

    def _decide(self, connection: Connection, checkins: list[CheckIn]) -> list[Entry]:
        book = FactBook(connection, self._directory, checkins, self._own_id)
        entries = []
        for checkin in checkins:
            facts = book.facts(checkin)
            decision = decide(checkin, facts)
            if decision.makes_visit and facts.member is not None:
                book.add(decision, checkin, facts.member, facts.studio)
            entries.append(Entry(checkin, decision, facts.member, facts.studio))
        return entries

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        if self._connection is None:
            self._connection = self._database.connect_writer()
        transaction = self._connection.begin()
        try:
            yield self._connection
        except BaseException:
            transaction.rollback()
            raise
        started = clock.monotonic()
        try:
            transaction.commit()
        except DBAPIError as error:
            if sqlite_code(error) == IOERR:
                raise DiskFailedError(f"the disk did not make a commit durable: {error.orig}") from error
            raise
        self.commit_s = clock.monotonic() - started


def _write(connection: Connection, entries: list[Entry]) -> None:
    """Each decision, followed by the visit it made."""
    if not entries:
        return
    visits_made = sum(entry.decision.makes_visit for entry in entries)
    numbers = iter(sequence.take(connection, len(entries) + visits_made))
    decision_rows, visit_rows = [], []
    for entry in entries:
        decision_rows.append(_decision_row(next(numbers), entry))
        if entry.decision.makes_visit:
            visit_rows.append(_visit_row(next(numbers), entry))
    _insert_decisions(connection, decision_rows)
    _insert_visits(connection, visit_rows)


_insert_decisions = BulkInsert(schema.decisions)
_insert_visits = BulkInsert(schema.visits)
_insert_answers = BulkInsert(schema.answers)


def _decision_row(seq: int, entry: Entry) -> tuple[object, ...]:
    """The columns of `schema.decisions`."""
    checkin, decision, member, _ = entry
    next_allowed_at, limit = decision.next_allowed_at, decision.limit
    return (
        seq,
        checkin.id,
        clock.to_ms(checkin.received_at),
        checkin.studio_id,
        member.id if member else None,
        checkin.aggregator_id,
        checkin.customer_id,
        decision.outcome.value,
        decision.reason.value,
        json.dumps(limit._asdict()) if limit else None,
        clock.to_ms(next_allowed_at) if next_allowed_at else None,
        decision.visit_id,
        member.plan.id if member else None,
        member.plan.version if member else None,
        False,
        checkin.key_fingerprint,
    )


def _visit_row(seq: int, entry: Entry) -> tuple[object, ...]:
    """The columns of `schema.visits`."""
    checkin, decision, member, studio = entry
    assert member is not None and studio is not None
    return (
        seq,
        decision.id,
        member.id,
        studio.id,
        clock.to_ms(checkin.received_at),
        decision.local_date.isoformat(),
        directory.tags_text(studio.tags),
        studio.test,
        VisitState.AUTHORIZED.value,
        None,
        Source.CHECKIN.value,
        member.plan.id,
        member.plan.version,
    )
