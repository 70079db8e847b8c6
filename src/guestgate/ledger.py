"""Where check-ins are decided and remembered: one thread, many check-ins to a transaction.

The thread takes whatever waits, opens one transaction, decides each check-in in turn (so that two taps in
one batch see each other), writes decisions and visits, commits, and only then lets the answers go. A
check-in whose deadline has passed is not decided any more. Every check-in leaves one row in `decisions`,
and later, when its answer has left or failed to, one in `answers`.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from guestgate import clock, corrections, directory, schema
from guestgate.bulk import BulkInsert
from guestgate.database import Database
from guestgate.decide import decide
from guestgate.facts import FactBook
from guestgate.model import CheckIn, Decision, LimitUse, Member, Source, Studio, VisitState, undecided

log = structlog.get_logger()

MAX_BATCH = 256
# Idle time after which answers that have left are written although no check-in came along, and within
# which a change to studios, keys or plans is seen.
IDLE_S = 0.25
LOCK_RETRY_S = 0.001
# Without a writable database answers are 503; so many of them are remembered and written afterwards.
MAX_NEWS = 20_000
# Past this length the log is emptied at the price of a short pause of the door.
MAX_WAL_BYTES = 256 * 1024 * 1024
MIN_WAL_BYTES = 4 * 1024 * 1024
CHECKPOINT_S = 1.0

# SQLite's result codes (primary, and extended for a failed fsync).
LOCKED = (5, 6)  # BUSY, LOCKED
NOT_WRITABLE = (8, 10, 13, 14)  # READONLY, IOERR, FULL, CANTOPEN
FSYNC_FAILED = (1034, 1290)  # IOERR_FSYNC, IOERR_DIR_FSYNC


class Ticket(NamedTuple):
    """A check-in in the queue; ``deadline`` is an instant of `clock.monotonic`."""

    checkin: CheckIn
    deadline: float
    owner: Any = None


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


Results = list[tuple[Ticket, Decision]]


class Ledger:
    """The writer thread and what it is fed with.

    `deliver` is called in that thread with the outcome of each ticket, after the commit. `failed` is called
    once, where the disk refused to make a commit durable: nothing is decided after that.
    """

    def __init__(
        self,
        database: Database,
        own_id: str | None,
        deliver: Callable[[Results], None],
        failed: Callable[[], None],
    ) -> None:
        """Read studios, keys and plans; the thread starts with `start`."""
        self._database = database
        self._own_id = own_id
        self._deliver = deliver
        self._failed = failed
        self._queue: deque[Ticket] = deque()
        self._wake = threading.Event()
        # Other threads append to these two; the writer moves their content into its own lists.
        self._new_answers: deque[Answer] = deque()
        self._new_undecided: deque[Entry] = deque()
        self._answers: list[Answer] = []
        self._undecided: list[Entry] = []
        self._stopping = False
        self._broken = False
        self._connection: Connection | None = None
        with database.read() as connection:
            self.directory = directory.load(connection)
        self._writer = threading.Thread(target=self._write_until_stopped, name="ledger", daemon=True)
        self._checkpoints = Checkpoints(database)

    def start(self) -> None:
        """Start deciding."""
        self._writer.start()
        self._checkpoints.start()

    def stop(self) -> None:
        """Decide and write what is still waiting, then end the threads."""
        self._stopping = True
        self._wake.set()
        self._writer.join()
        self._checkpoints.stop()

    def submit(self, ticket: Ticket) -> None:
        """Queue a check-in; its outcome comes through `deliver`. Say `wake` after one or more."""
        self._queue.append(ticket)

    def wake(self) -> None:
        """Have the thread look into the queue, should it be idle."""
        self._wake.set()

    def answered(self, answer: Answer) -> None:
        """Remember how an answer left; written with a later batch."""
        self._new_answers.append(answer)

    def undecided(self, checkin: CheckIn) -> Decision:
        """Record, with a later batch, that a check-in was not decided; returns the decision that says so."""
        decision = undecided(checkin)
        self._new_undecided.append(Entry(checkin, decision))
        return decision

    # The writer thread

    def _write_until_stopped(self) -> None:
        while not self._stopping:
            self._checkpoints.let_through()
            self._process(self._take())
        while self._queue:
            self._process(self._take())
        if not self._broken:
            self._process([])
        self._disconnect()

    def _take(self) -> list[Ticket]:
        """What waits, at most MAX_BATCH; empty after IDLE_S without a check-in."""
        if not self._queue:
            self._wake.wait(IDLE_S)
        self._wake.clear()
        return [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]

    def _process(self, batch: list[Ticket]) -> None:
        """Bring a batch to its end, whatever the database does: each ticket is delivered exactly once."""
        while True:
            batch = self._drop_late(batch)
            try:
                self._deliver(self._commit(batch))
                return
            except Exception as error:
                code = _sqlite_code(error)
                if code & 0xFF in LOCKED:
                    if not batch:
                        return  # only old news to write: with the next batch
                    clock.sleep(LOCK_RETRY_S)
                    continue
                self._disconnect()
                if code in FSYNC_FAILED:
                    self._disk_failed(error)
                elif code & 0xFF in NOT_WRITABLE:
                    log.error("the database cannot be written", error=str(error), undecided=len(batch))
                else:
                    self._isolate(batch, error)
                    return
                self._deliver([(ticket, self._not_decided(ticket)) for ticket in batch])
                return

    def _drop_late(self, batch: list[Ticket]) -> list[Ticket]:
        """Check-ins whose deadline has passed have been answered 503: record that, and do not decide them."""
        now = clock.monotonic()
        late = [ticket for ticket in batch if ticket.deadline <= now]
        if not late:
            return batch
        self._deliver([(ticket, self._not_decided(ticket)) for ticket in late])
        return [ticket for ticket in batch if ticket.deadline > now]

    def _isolate(self, batch: list[Ticket], error: Exception) -> None:
        """A fault spoils only its own check-in: the others are tried again one by one."""
        if len(batch) > 1:
            for ticket in batch:
                self._process([ticket])
        elif batch:
            log.error("a check-in could not be decided", decision=batch[0].checkin.id, exc_info=error)
            self._deliver([(batch[0], self._not_decided(batch[0]))])
        else:
            log.error("how earlier answers left could not be recorded", exc_info=error)
            self._answers.clear()
            self._undecided.clear()

    def _not_decided(self, ticket: Ticket) -> Decision:
        decision = undecided(ticket.checkin)
        self._undecided.append(Entry(ticket.checkin, decision))
        return decision

    def _disk_failed(self, error: Exception) -> None:
        log.critical("the disk did not make a commit durable; stopping", error=str(error))
        self._stopping = self._broken = True
        self._failed()

    def _commit(self, batch: list[Ticket]) -> Results:
        """Decide a batch in one transaction; when this returns, all of it is on disk."""
        self._collect_news()
        if not (batch or self._answers or self._undecided):
            self._refresh_directory()
            return []
        with self._transaction() as connection:
            self._read_directory(connection)
            entries = self._decide(connection, [ticket.checkin for ticket in batch]) if batch else []
            _write(connection, self._undecided + entries, self._answers)
        self._answers.clear()
        self._undecided.clear()
        return [(ticket, entry.decision) for ticket, entry in zip(batch, entries, strict=True)]

    def _collect_news(self) -> None:
        while self._new_undecided:
            self._undecided.append(self._new_undecided.popleft())
        while self._new_answers:
            self._answers.append(self._new_answers.popleft())
        for news in (self._answers, self._undecided):
            if len(news) > MAX_NEWS:
                log.error("too many answers could not be recorded; dropping the oldest", dropped=len(news) - MAX_NEWS)
                del news[:-MAX_NEWS]

    def _decide(self, connection: Connection, checkins: list[CheckIn]) -> list[Entry]:
        book = FactBook(connection, self.directory, checkins, self._own_id)
        entries = []
        for checkin in checkins:
            facts = book.facts(checkin)
            decision = decide(checkin, facts)
            if decision.makes_visit and facts.member is not None:
                book.add(decision, checkin, facts.member, facts.studio)
            entries.append(Entry(checkin, decision, facts.member, facts.studio))
        return entries

    # Its connection

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        if self._connection is None:
            self._connection = self._database.connect_writer()
        with self._connection.begin():
            yield self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(DBAPIError):
                connection.close()

    def _refresh_directory(self) -> None:
        with self._database.read() as connection:
            self._read_directory(connection)

    def _read_directory(self, connection: Connection) -> None:
        if directory.current_version(connection) != self.directory.version:
            self.directory = directory.load(connection)
            log.info("studios, keys and plans were read again", version=self.directory.version)


class Checkpoints:
    """Keeps the write-ahead log short, beside the door and never on its way.

    Under steady load a log is never wholly copied, so it grows; past MAX_WAL_BYTES the writer is asked to
    let one full checkpoint through, which is short because the bulk has been copied just before.
    """

    def __init__(self, database: Database) -> None:
        """Nothing happens before `start`."""
        self._database = database
        self._stop = threading.Event()
        self._pause = threading.Event()
        self._writer_pauses = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)

    def start(self) -> None:
        """Look after the log every CHECKPOINT_S."""
        self._thread.start()

    def stop(self) -> None:
        """End, and leave the database file complete."""
        self._stop.set()
        self._thread.join()
        with suppress(DBAPIError):
            self._database.checkpoint("TRUNCATE")

    def let_through(self) -> None:
        """Called by the writer between batches: wait while a full checkpoint asks for a pause."""
        if self._pause.is_set():
            self._writer_pauses.set()
            while self._pause.is_set():
                clock.sleep(LOCK_RETRY_S)
            self._writer_pauses.clear()

    def _run(self) -> None:
        while not self._stop.wait(CHECKPOINT_S):
            try:
                if self._wal_bytes() > MIN_WAL_BYTES:
                    self._database.checkpoint()
                if self._wal_bytes() > MAX_WAL_BYTES:
                    self._empty()
            except DBAPIError as error:
                log.warning("a checkpoint failed and will be tried again", error=str(error.orig))

    def _empty(self) -> None:
        self._pause.set()
        try:
            self._writer_pauses.wait(timeout=CHECKPOINT_S)
            self._database.checkpoint("RESTART")
        finally:
            self._pause.clear()

    def _wal_bytes(self) -> int:
        try:
            return self._database.wal_path.stat().st_size
        except FileNotFoundError:
            return 0


def _write(connection: Connection, entries: list[Entry], answers: list[Answer]) -> None:
    _insert_decisions(connection, [_decision_row(entry) for entry in entries])
    _insert_visits(connection, [_visit_row(entry) for entry in entries if entry.decision.makes_visit])
    _insert_answers(connection, answers)
    corrections.reverse_undelivered(
        connection, [answer.decision_id for answer in answers if answer.undelivered]
    )


_insert_decisions = BulkInsert(schema.decisions, leave_out="seq")
_insert_visits = BulkInsert(schema.visits, leave_out="seq")
_insert_answers = BulkInsert(schema.answers)


def _decision_row(entry: Entry) -> tuple[object, ...]:
    """The columns of `schema.decisions` after ``seq``."""
    checkin, decision, member, _ = entry
    next_allowed_at, limit = decision.next_allowed_at, decision.limit
    return (
        checkin.id,
        clock.to_ms(checkin.received_at),
        checkin.studio_id,
        member.id if member else None,
        checkin.aggregator_id,
        checkin.customer_id,
        decision.outcome.value,
        decision.reason.value,
        json.dumps(limit_dict(limit)) if limit else None,
        clock.to_ms(next_allowed_at) if next_allowed_at else None,
        decision.visit_id,
        member.plan.id if member else None,
        member.plan.version if member else None,
        False,
        checkin.key_fingerprint,
    )


def _visit_row(entry: Entry) -> tuple[object, ...]:
    """The columns of `schema.visits` after ``seq``."""
    checkin, decision, member, studio = entry
    assert member is not None and studio is not None
    return (
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


def limit_dict(limit: LimitUse) -> dict[str, object]:
    """A limit as users see it: ``{max, per, scope, used}``."""
    return {"max": limit.max, "per": limit.per.value, "scope": limit.scope, "used": limit.used}


def _sqlite_code(error: Exception) -> int:
    """SQLite's extended result code; 0 where the error is not SQLite's."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlite_errorcode", None) or 0
