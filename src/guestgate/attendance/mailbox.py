"""Where webhooks are kept before they are answered: many to a transaction, by a thread of the door's.

They have seconds where check-ins have less than one, and are read later. So they do not go to the ledger, and take
the write lock only when it is free: for a moment, and then not for twice as long.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from guestgate import clock, schema, sequence
from guestgate.bulk import BulkInsert
from guestgate.database import RETRY_S, Database, DiskFailedError, Fault
from guestgate.directory import KeyKind
from guestgate.key_use import KeyUse, Used
from guestgate.log import Throttle

log = structlog.get_logger()

# The platform waits 5,000 ms for connection, network and answer together.
ANSWER_WITHIN_S = 4.5
KEPT_WITHIN_S = 4.0
MAX_WAITING = 1024
MAX_BATCH = 64
# Of statements on a server, and of what a lock may take.
BUDGET_MS = 2000
LEAVE_FREE = 2.0
STOP_S = 5.0
COMPLAINTS_PER_S = 1

# One that comes again adds nothing.
_insert = BulkInsert(schema.webhooks, ignore_existing=True)


class Letter(NamedTuple):
    """A webhook that was taken: it is one, and its key is valid."""

    uuid: str
    studio_id: str
    received_at_ms: int
    body: str
    key_fingerprint: str


class _Waiting(NamedTuple):
    letter: Letter
    give_up_at: float
    kept: asyncio.Future[bool]


class Mailbox:
    """Keeps webhooks. `keep` lives in the event loop, the rest in a thread of its own."""

    def __init__(self, database: Database, failed: Callable[[], None]) -> None:
        """`failed` is called in the event loop where the disk failed and nobody knows what it holds."""
        self._database, self._failed = database, failed
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="mailbox", daemon=True)
        self._connection: Connection | None = None
        self._key_use = KeyUse(KeyKind.WEBHOOK)
        self._complaints = Throttle(COMPLAINTS_PER_S)

    def start(self) -> None:
        """Keep what comes."""
        self._thread.start()

    async def stop(self) -> None:
        """Keep what is here, and end."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, STOP_S)

    async def keep(self, letter: Letter) -> bool:
        """Return once it is on disk; False where it could not be kept in time, and is to be sent again."""
        if len(self._waiting) >= MAX_WAITING:
            return False
        kept: asyncio.Future[bool] = self._loop.create_future()
        self._waiting.append(_Waiting(letter, clock.monotonic() + KEPT_WITHIN_S, kept))
        self._wake.set()
        return await kept

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
                clock.sleep(LEAVE_FREE * self._deliver(batch))
            if self._stopping:
                self._close()
                return

    def _deliver(self, batch: list[_Waiting]) -> float:
        """Keep these, or give them up; returns for how many seconds that held others up."""
        while True:
            now = clock.monotonic()
            self._tell([one for one in batch if one.give_up_at <= now], False)
            batch = [one for one in batch if one.give_up_at > now]
            if not batch:
                return 0.0
            had_connection = self._connection is not None
            try:
                held_s = self._commit([one.letter for one in batch])
            except DiskFailedError as error:
                log.critical("stopping", error=str(error))
                self._tell(batch, False)
                self._call(self._failed)
                return 0.0
            except Exception as error:
                fault = self._database.fault(error)
                if fault is Fault.BUSY:
                    clock.sleep(RETRY_S)
                    continue
                self._close()
                if fault is Fault.UNAVAILABLE and had_connection:  # perhaps only this connection is gone
                    continue
                if fault is Fault.OTHER and len(batch) > 1:  # a fault spoils only its own webhook
                    return sum(self._deliver([one]) for one in batch)
                if self._complaints.lets_through():
                    log.error("webhooks cannot be kept", database=self._database.name, error=str(error))
                self._tell(batch, False)
                return 0.0
            self._tell(batch, True)
            return held_s

    def _commit(self, letters: list[Letter]) -> float:
        if self._connection is None:
            self._connection = self._database.connect_ledger(BUDGET_MS)
        connection = self._connection
        transaction = connection.begin()
        started = clock.monotonic()
        try:
            numbers = sequence.take(connection, len(letters))
            _insert(connection, [(number, *letter[:-1]) for number, letter in zip(numbers, letters, strict=True)])
            self._key_use.note(
                connection, [Used(one.key_fingerprint, clock.from_ms(one.received_at_ms)) for one in letters]
            )
        except BaseException:
            with suppress(DBAPIError):  # the connection may be gone, and with it the transaction
                transaction.rollback()
            raise
        self._database.commit(transaction)
        return clock.monotonic() - started

    def _close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(DBAPIError):
                connection.close()

    def _tell(self, batch: list[_Waiting], kept: bool) -> None:
        for one in batch:
            self._call(_settle, one.kept, kept)

    def _call(self, what: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(what, *arguments)


def _settle(future: asyncio.Future[bool], kept: bool) -> None:
    if not future.done():
        future.set_result(kept)
