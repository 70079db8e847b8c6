"""Where check-ins are decided and remembered: many to a transaction.

All that wait are decided in one transaction, each in turn, so that two taps in one batch see each other;
decisions and visits are written, the transaction is committed, and only then do the answers go. A check-in
whose deadline has passed is not decided any more. Every check-in leaves one row in `decisions`, and, once
its answer has left or failed to, one in `answers`.

On PostgreSQL several ledgers write at once, each under the locks of the members it decides on. A check-in
whose member another one has locked waits here for the next transaction. Beside such a ledger stands one that
decides on the node's own copy (`guestgate.stand_in`), and records what neither of them could decide.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from guestgate import clock, corrections, directory, schema, sequence
from guestgate.bulk import BulkInsert, BulkSelect
from guestgate.database import RETRY_S, BusyError, CommitLostError, Database, DiskFailedError, Fault
from guestgate.decide import decide
from guestgate.errors import OperationError
from guestgate.facts import FactBook
from guestgate.key_use import KeyUse
from guestgate.model import CheckIn, Decision, Member, Source, Studio, VisitState, undecided
from guestgate.stand_in.recent import RecentVisit
from guestgate.stand_in.rules import Allowance, CopyCheck, StandInRules

log = structlog.get_logger()

DEFAULT_BUDGET_MS = 400
FLUSH_PATIENCE_S = 3.0
COMPLAIN_EVERY_S = 5.0
# Taking visits back costs about a millisecond each; after a stall there may be hundreds, and doors wait.
MAX_REVERSALS = 20
# Without a writable database answers are 503; so many of them are remembered and written afterwards.
MAX_NEWS = 20_000


class Ticket(NamedTuple):
    """A check-in to be decided; ``deadline`` is an instant of `clock.monotonic`.

    ``recent`` are visits of the same person that the ledger's database may not have yet.
    """

    checkin: CheckIn
    deadline: float
    recent: tuple[RecentVisit, ...] = ()


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


class Doubt(NamedTuple):
    """A commit whose reply got lost: the transaction's number at the database, and its decisions by id."""

    transaction: int | None
    decisions: dict[str, Decision]


class Ledger:
    """One writer's access to the record. Not to be shared between threads."""

    def __init__(
        self,
        database: Database,
        own_id: str | None,
        budget_ms: int = DEFAULT_BUDGET_MS,
        *,
        stand_in: StandInRules | None = None,
        keep_undecided: bool = True,
    ) -> None:
        """`own_id` is our company id where the platform sends that instead.

        `budget_ms` is what a check-in has until its answer; no statement may take up much of it. With `stand_in`
        this ledger decides on a copy. Without `keep_undecided` somebody else records what this one cannot decide.
        """
        self._database = database
        self._own_id = own_id
        self._budget_ms = budget_ms
        self._stand_in = stand_in
        self._keep_undecided = keep_undecided
        # Check-ins whose members another ledger had locked.
        self._waiting: list[Ticket] = []
        self._doubt: Doubt | None = None
        # Decisions that turned out to be recorded after their check-ins had been answered as undecided.
        self._overtaken: set[str] = set()
        self._answers: list[Answer] = []
        self._undecided: list[Entry] = []
        self._reversals: list[str] = []
        self._connection: Connection | None = None
        self._silent_until = 0.0
        self._key_use = KeyUse()
        # How long the last commit took.
        self.commit_s = 0.0
        self._directory = directory.Directory(version=-1)

    def process(self, batch: list[Ticket], answers: list[Answer]) -> list[Decision]:
        """Decide check-ins and record them, and how earlier answers left; returns when that is on disk.

        There is one decision for each ticket, in no particular order, whatever the database does: what
        cannot be decided, or not in time, is undecided. Those `waiting` for another ledger get theirs from a
        later call. Raises DiskFailedError, after which this ledger must not be used.
        """
        self._answers += answers
        self._limit_news()
        batch, self._waiting = self._waiting + batch, []
        decisions = self._process(batch)
        if len(decisions) + len(self._waiting) != len(batch):
            raise AssertionError("a ticket got lost")
        return decisions

    @property
    def waiting(self) -> bool:
        """Whether check-ins wait for another ledger; call `process` again soon."""
        return bool(self._waiting)

    def flush(self) -> None:
        """Write what is left to record of earlier check-ins, with some patience for a locked database.

        Nobody waits for an answer any more: those still waiting for another ledger are undecided.
        """
        waiting, self._waiting = self._waiting, []
        for ticket in waiting:
            self._not_decided(ticket)
        give_up_at = clock.monotonic() + FLUSH_PATIENCE_S
        while self.has_news and clock.monotonic() < give_up_at:
            self._process([])
            clock.sleep(RETRY_S)

    def check(self) -> CopyCheck | None:
        """Whether a check-in could be decided and recorded now; on a copy that includes that it can stand in.

        None where not. It takes nearly as many steps as a check-in. Raises DiskFailedError.
        """
        give_up_at = clock.monotonic() + self._budget_ms / 1000
        while True:
            try:
                with self._transaction() as connection:
                    self._refresh(connection)
                    for studio_id in list(self._directory.studios)[:1]:
                        checkin = CheckIn("check", clock.now(), studio_id, "guestgate:check", 0)
                        decide(checkin, self._book(connection, [checkin]).facts(checkin))
                    if self._stand_in is not None:
                        return self._stand_in.check(connection)
                    self._database.exercise_commit(connection)
                return CopyCheck()
            except DiskFailedError:
                self.close()
                raise
            except Exception as error:
                if self._database.fault(error) is Fault.BUSY and clock.monotonic() < give_up_at:
                    clock.sleep(RETRY_S)
                    continue
                self.close()
                self._complain("a check found that nothing could be decided", error)
                return None

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(DBAPIError):
                connection.close()

    def _process(self, batch: list[Ticket]) -> list[Decision]:
        done: list[Decision] = []
        while True:
            now = clock.monotonic()
            done += [self._not_decided(ticket) for ticket in batch if ticket.deadline <= now]
            batch = [ticket for ticket in batch if ticket.deadline > now]
            connected_before = self._connection is not None
            try:
                if self._doubt is not None:
                    recorded = self._settle(self._doubt)
                    done += [recorded.pop(ticket.checkin.id) for ticket in batch if ticket.checkin.id in recorded]
                    batch = [ticket for ticket in batch if ticket.checkin.id not in {ruled.id for ruled in done}]
                    if self._keep_undecided:
                        self._overtaken |= recorded.keys()
                return done + self._commit(batch)
            except DiskFailedError:
                self.close()
                raise
            except Exception as error:
                fault = self._database.fault(error)
                if fault in (Fault.BUSY, Fault.SLOW) and not batch:
                    return done  # what there is to write goes with the next batch
                if fault is Fault.BUSY:
                    clock.sleep(RETRY_S)
                    continue
                self.close()
                if fault is Fault.UNAVAILABLE:
                    if connected_before:  # perhaps only this connection is gone
                        continue
                    self._complain("the database cannot be written; check-ins are undecided", error)
                    return done + [self._not_decided(ticket) for ticket in batch]
                return done + self._isolate(batch, error)

    def _settle(self, doubt: Doubt) -> dict[str, Decision]:
        """What was recorded by a commit whose reply got lost. Raises BusyError while that is still under way."""
        with self._transaction() as connection:
            if self._database.is_running(connection, doubt.transaction):
                raise BusyError("a commit is still under way")
            recorded = {decision_id for (decision_id,) in _recorded(connection, doubt.decisions)}
        self._doubt = None
        return {decision_id: doubt.decisions[decision_id] for decision_id in recorded}

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
        """Not here: the record learns of it with the next transaction, unless another ledger tells it."""
        decision = undecided(ticket.checkin)
        if self._keep_undecided:
            self._undecided.append(Entry(ticket.checkin, decision))
        return decision

    @property
    def has_news(self) -> bool:
        """Whether there is something left to record of earlier check-ins."""
        return bool(self._answers or self._undecided or self._reversals)

    def _complain(self, what: str, error: Exception) -> None:
        """Log, but not for every batch: it may be the same disk that is full."""
        now = clock.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + COMPLAIN_EVERY_S
            log.error(what, database=self._database.name, error=str(error))

    def _limit_news(self) -> None:
        for news in (self._answers, self._undecided):
            if len(news) > MAX_NEWS:
                log.error("answers could not be recorded for too long", dropped=len(news) - MAX_NEWS)
                del news[:-MAX_NEWS]

    def _commit(self, batch: list[Ticket]) -> list[Decision]:
        """Decide a batch in one transaction; when this returns, all of it is on disk."""
        if not (batch or self.has_news):
            return []
        entries: list[Entry] = []
        busy: list[Ticket] = []
        late: list[Ticket] = []
        checkins: list[CheckIn] = []
        answers = [
            answer._replace(undelivered=True) if answer.decision_id in self._overtaken else answer
            for answer in self._answers
        ]
        with self._transaction(entries) as connection:
            self._refresh(connection)
            # First what became of earlier answers: a visit that is taken back now counts no more.
            self._write(connection, self._undecided, _insert_undecided)
            _insert_answers(connection, answers)
            reversals = self._reversals + [answer.decision_id for answer in answers if answer.undelivered]
            not_yet = corrections.reverse_undelivered(connection, reversals[:MAX_REVERSALS])
            if batch:
                book = self._book(connection, [ticket.checkin for ticket in batch])
                # It may have taken long to get the locks; nobody waits for these answers any more.
                now = clock.monotonic()
                for ticket in batch:
                    if book.is_busy(ticket.checkin):
                        busy.append(ticket)
                    elif ticket.deadline <= now:
                        late.append(ticket)
                    else:
                        checkins.append(ticket.checkin)
                if self._stand_in is None:
                    entries += _decided(book, checkins)
                    self._key_use.note(connection, checkins)
                else:
                    for ticket in batch:
                        book.recall(ticket.checkin, ticket.recent)
                    entries += self._stood_in(connection, book, checkins)
                self._write(connection, entries)
        self._waiting += busy
        self._reversals = not_yet + reversals[MAX_REVERSALS:]
        self._overtaken -= {answer.decision_id for answer in answers}
        self._answers.clear()
        self._undecided.clear()
        return [entry.decision for entry in entries] + [self._not_decided(ticket) for ticket in late]

    def _refresh(self, connection: Connection) -> None:
        """Studios, keys and plans as they are now."""
        if directory.current_version(connection) != self._directory.version:
            self._directory = directory.load(connection)

    def _book(self, connection: Connection, checkins: list[CheckIn]) -> FactBook:
        return FactBook(connection, self._directory, checkins, self._own_id, lock=True)

    def _stood_in(self, connection: Connection, book: FactBook, checkins: list[CheckIn]) -> list[Entry]:
        """Decided on the copy, where that may be."""
        assert self._stand_in is not None
        problem = self._stand_in.problem(connection)
        if problem is None:
            return _decided(book, checkins, self._stand_in.allowance(connection, book.members))
        self._complain("the stand-in cannot decide", OperationError(problem))
        return [Entry(checkin, undecided(checkin)) for checkin in checkins]

    @contextmanager
    def _transaction(self, entries: Sequence[Entry] = ()) -> Iterator[Connection]:
        """Commit at the end; `entries` are what is decided in it."""
        if self._connection is None:
            self._connection = self._database.connect_ledger(self._budget_ms)
        connection = self._connection
        transaction = connection.begin()
        try:
            yield connection
            number = sequence.transaction_of(connection)
        except BaseException:
            with suppress(DBAPIError):  # the connection may be gone, and with it the transaction
                transaction.rollback()
            raise
        started = clock.monotonic()
        try:
            self._database.commit(transaction)
        except CommitLostError:
            if entries:
                self._doubt = Doubt(number, {entry.decision.id: entry.decision for entry in entries})
            raise
        self.commit_s = clock.monotonic() - started

    def _write(
        self, connection: Connection, entries: list[Entry], insert_decisions: BulkInsert | None = None
    ) -> None:
        """Each decision, followed by the visit it made."""
        if not entries:
            return
        stand_in = self._stand_in is not None
        visits_made = sum(entry.decision.makes_visit for entry in entries)
        numbers = iter(sequence.take(connection, len(entries) + visits_made))
        decision_rows, visit_rows = [], []
        for entry in entries:
            decision_rows.append(_decision_row(next(numbers), entry, stand_in))
            if entry.decision.makes_visit:
                visit_rows.append(_visit_row(next(numbers), entry, stand_in))
        (insert_decisions or _insert_decisions)(connection, decision_rows)
        _insert_visits(connection, visit_rows)


def _decided(book: FactBook, checkins: list[CheckIn], allowance: Allowance | None = None) -> list[Entry]:
    entries = []
    for checkin in checkins:
        facts = book.facts(checkin)
        decision = decide(checkin, facts)
        if allowance is not None and not allowance.permits(decision, facts):
            decision = undecided(checkin)
        if decision.makes_visit and facts.member is not None:
            book.add(decision, checkin, facts.member, facts.studio)
        entries.append(Entry(checkin, decision, facts.member, facts.studio))
    return entries


# Where the reply to a commit got lost, the same undecided check-ins and answers are written again.
_insert_decisions = BulkInsert(schema.decisions)
_insert_undecided = BulkInsert(schema.decisions, ignore_existing=True)
_insert_answers = BulkInsert(schema.answers, ignore_existing=True)
_insert_visits = BulkInsert(schema.visits)
_recorded = BulkSelect(schema.decisions.c.id, among=schema.decisions.c.id)


def _decision_row(seq: int, entry: Entry, stand_in: bool) -> tuple[object, ...]:
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
        stand_in,
        checkin.key_fingerprint,
    )


def _visit_row(seq: int, entry: Entry, stand_in: bool) -> tuple[object, ...]:
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
        (Source.STAND_IN if stand_in else Source.CHECKIN).value,
        member.plan.id,
        member.plan.version,
    )
