"""Keeping SQLite's write-ahead log short, beside the door and never on its way."""

from __future__ import annotations

import threading
from contextlib import suppress

import structlog

from guestgate import clock
from guestgate.sqlite import SqliteDatabase

log = structlog.get_logger()

CHECKPOINT_S = 1.0
MIN_WAL_BYTES = 4 * 1024 * 1024
# Past this length the log is emptied at the price of a short pause of the door.
MAX_WAL_BYTES = 128 * 1024 * 1024
PAUSE_S = 0.001


class Checkpoints:
    """A thread that copies the log into the database file.

    Under steady load a log is never wholly copied, so it grows; past MAX_WAL_BYTES the writer is asked to
    let one full checkpoint through, which is short because the bulk has been copied just before.
    """

    def __init__(self, database: SqliteDatabase) -> None:
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
        with suppress(Exception):
            self._database.checkpoint("TRUNCATE")

    def let_through(self) -> None:
        """Called by the writer between batches: wait while a full checkpoint asks for a pause."""
        if self._pause.is_set():
            self._writer_pauses.set()
            while self._pause.is_set():
                clock.sleep(PAUSE_S)
            self._writer_pauses.clear()

    def _run(self) -> None:
        while not self._stop.wait(CHECKPOINT_S):
            try:
                if self._database.wal_bytes() > MIN_WAL_BYTES:
                    self._database.checkpoint()
                if self._database.wal_bytes() > MAX_WAL_BYTES:
                    self._empty()
            except Exception as error:  # a full disk, a lock: nothing here may end the thread
                log.warning("a checkpoint failed and will be tried again", error=str(error))

    def _empty(self) -> None:
        self._pause.set()
        try:
            self._writer_pauses.wait(timeout=CHECKPOINT_S)
            self._database.checkpoint("RESTART")
        finally:
            self._pause.clear()
