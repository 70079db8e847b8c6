"""SQLite: one file, one writer at a time.

Every connection is in WAL mode with ``synchronous=FULL`` (checked, not hoped for). Writers other than the
door hold the lock for moments only and leave it free for as long, see `Database.write_many`.
"""

from __future__ import annotations

import importlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, RootTransaction, create_engine, event, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError
from sqlalchemy.pool import NullPool

from guestgate import clock, database, occupancy
from guestgate.database import PATIENCE_MS, RETRY_S, SYSTEM, Database, DiskFailedError, Fault, cause_of
from guestgate.errors import OperationError, UsageError

# The library versions before this one can corrupt a WAL database that two connections write to.
SAFE_SQLITE = (3, 51, 3)
CACHE_KIB = 16 * 1024
MAX_WAL_BYTES = 64 * 1024 * 1024
# Emptying the log keeps writers waiting for at most this long at a time, while readers finish.
EMPTY_LOG_MS = 5
EMPTY_LOG_RETRY_S = 0.05

# SQLite's primary result codes. The driver tells no more: a failed fsync is an I/O error of COMMIT.
LOCKED = (5, 6)  # BUSY, LOCKED
IOERR = 10
NOT_WRITABLE = (8, IOERR, 13, 14)  # READONLY, IOERR, FULL, CANTOPEN


class SqliteDatabase(Database):
    """A database file."""

    hold_s = 0.002
    leave_free = 2.0

    def __init__(self, url: str, *, door: bool = False, alone: bool = False) -> None:
        """Prepare, without connecting. Raises UsageError for a URL that cannot work.

        Whoever holds it `alone` (`guestgate.occupancy`) shares it with nobody, not even with itself.
        """
        self.url = parse_url(url)
        self.path = Path(self.url.database or "")
        self.name = str(self.path)
        self._driver = safe_sqlite()
        self._patience_ms = 0 if door else PATIENCE_MS
        self._checkpoints = not door
        self._class = self._driver.Connection if alone else occupancy.connection_class(self._driver, self.path)
        self.engine = create_engine(
            self.url,
            module=self._driver,
            poolclass=NullPool,
            connect_args={"factory": self._class},
            hide_parameters=True,  # they may be personal, and errors are logged
        )
        event.listen(self.engine, "connect", self._configure)
        event.listen(self.engine, "begin", self._begin)

    def check_usable(self) -> None:
        """Raise UsageError where there is no such file, or none of this version."""
        if not self.path.exists():
            raise UsageError(f"there is no database at {self.path}: create it with guestgate init")
        self.check_schema(self.schema_version())

    def _configure(self, connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions begin where `_begin` says, not where the driver guesses
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {self._patience_ms}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        # What is deleted or changed leaves no trace in the file. On every connection: whoever is forgotten
        # later must not survive in what an ordinary change left behind.
        cursor.execute("PRAGMA secure_delete = ON").fetchall()
        cursor.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        if not self._checkpoints:
            cursor.execute("PRAGMA wal_autocheckpoint = 0")
        if cursor.execute("PRAGMA synchronous").fetchone() != (2,):
            raise OperationError(f"SQLite did not accept synchronous=FULL for {self.path}")
        cursor.close()

    def _begin(self, connection: Connection) -> None:
        """Begin a transaction; where that takes the write lock, try often.

        SQLite's own waiting sleeps up to 100 ms between tries. A busy door leaves the lock free for less
        than a millisecond at a time, so that would wait for very long.
        """
        statement = connection.get_execution_options().get("guestgate_begin", "BEGIN")
        give_up_at = clock.monotonic() + self._patience_ms / 1000
        while True:
            try:
                connection.exec_driver_sql(statement)
                return
            except DatabaseError as error:
                if self.fault(error) is not Fault.BUSY or clock.monotonic() >= give_up_at:
                    raise
            clock.sleep(RETRY_S)

    def connect_writer(self, who: str = SYSTEM) -> Connection:
        """A connection whose transactions hold the write lock from their start."""
        connection = self.engine.connect()
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("PRAGMA busy_timeout = 0").close()  # `_begin` waits in its own way
        return connection.execution_options(guestgate_begin="BEGIN IMMEDIATE", guestgate_who=who)

    def connect_ledger(self, budget_ms: int) -> Connection:  # noqa: ARG002
        """The door writes as everybody else does; it waits for the lock by itself, up to its deadlines."""
        return self.connect_writer()

    @contextmanager
    def bulk_writing(self, connection: Connection) -> Iterator[None]:
        """Commits go into the log without a sync of their own, which the door's next commit brings along.

        They are applied in order or, after a crash of the machine, their last ones not at all. The sync at
        the end covers them all.
        """
        cursor = connection.connection.cursor()
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA wal_autocheckpoint = 0")  # `between_chunks` does that while the lock is free
        cursor.close()
        try:
            yield
        finally:  # the connection itself ends with `write_many`, and may be of no more use
            self._sync_log()

    def _sync_log(self) -> None:
        """Have the disk take all that is in the log.

        By hand: SQLite syncs only a commit that changes a page, and a passive checkpoint may be passed over.
        What is no longer in the log was synced into the database file before the log was used again. The log
        is a file without SQLite's locks, so that closing it here drops none of them.
        """
        try:
            descriptor = os.open(self.wal_path, os.O_RDONLY)
        except FileNotFoundError:  # the last connection has written it all into the database file
            return
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise OperationError(f"the disk did not take what was written to {self.path}: {error.strerror}") from None
        finally:
            os.close(descriptor)

    def between_chunks(self) -> None:
        """Keep the log short."""
        if self.wal_bytes() > MAX_WAL_BYTES:
            self.checkpoint()

    def in_use(self) -> AbstractContextManager[None]:
        """While this lasts, `guestgate restore` refuses to put another file in the database's place."""
        return occupancy.shared(self.path)

    def driver_fault(self, error: Exception) -> Fault:
        """By the result code."""
        code = sqlite_code(error)
        return Fault.BUSY if code in LOCKED else Fault.UNAVAILABLE if code in NOT_WRITABLE else Fault.OTHER

    def commit(self, transaction: RootTransaction) -> None:
        """Commit. An I/O error then means that a sync failed; the next one would lie about it."""
        try:
            transaction.commit()
        except DBAPIError as error:
            if sqlite_code(error) == IOERR:
                raise DiskFailedError(f"the disk did not make a commit durable: {error.orig}") from error
            raise

    @contextmanager
    def explained(self) -> Iterator[None]:
        try:
            yield
        except (DatabaseError, self._driver.DatabaseError) as error:  # the driver's own come out of `bulk`
            raise OperationError(f"the database {self.path} could not be used: {cause_of(error)}") from error

    def checkpoint(self, mode: str = "PASSIVE") -> None:
        """Move committed changes from the write-ahead log into the database file."""
        with self.engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()

    def erase_traces(self, patience_s: float) -> bool:
        """Leave nothing of past changes in the write-ahead log; False where a long reader kept it from that."""
        give_up_at = clock.monotonic() + patience_s
        with self.explained(), self.engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.execute(f"PRAGMA busy_timeout = {EMPTY_LOG_MS}")
            while True:
                driver.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # the bulk, while others write
                ((busy, _, _),) = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                if not busy:
                    return True
                if clock.monotonic() > give_up_at:
                    return False
                clock.sleep(EMPTY_LOG_RETRY_S)

    @property
    def wal_path(self) -> Path:
        """The write-ahead log beside the database file."""
        return self.path.with_name(self.path.name + "-wal")

    def wal_bytes(self) -> int:
        """How long the log is; 0 where there is none."""
        try:
            return self.wal_path.stat().st_size
        except FileNotFoundError:
            return 0

    def schema_version(self) -> str | None:
        """The schema revision the database is at; None where it has none. Writes nothing."""
        try:
            address = f"file:{quote(str(self.path))}?mode=rw"
            with closing(self._driver.connect(address, uri=True, factory=self._class)) as file:
                tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
                if "alembic_version" not in tables:
                    return None
                row = file.execute("SELECT version_num FROM alembic_version").fetchone()
                return str(row[0]) if row else None
        except self._driver.DatabaseError as error:
            raise UsageError(f"database: {self.path} cannot be used: {error}") from None

    def _has_tables(self) -> bool:
        with self.read() as connection:
            return bool(inspect(connection).get_table_names())

    def upgrade(self) -> tuple[str | None, str]:
        """Create the schema or bring it up to date; returns the revisions before and after."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)  # it holds personal data
        except OSError as error:
            raise UsageError(f"database: {self.path}: {error.strerror}") from None
        before = self.schema_version()
        self.check_known(before)
        if before is None and self._has_tables():
            raise UsageError(f"{self.path} is another program's database; guestgate needs one of its own")
        with self.explained(), self.engine.connect() as connection:
            database.migrate(connection.execution_options(guestgate_begin="BEGIN IMMEDIATE"))
        after = self.schema_version()
        assert after is not None
        return before, after


def parse_url(url: str) -> URL:
    """The database URL, or a UsageError that says what is wrong with it."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise UsageError(
            # Not repeated: whoever meant another kind of database may have put a password into it.
            "database: this is not a database URL: write sqlite:///guestgate.db, with three slashes for a path "
            "relative to the configuration, four for an absolute one, or postgresql://USER:PASSWORD@HOST/DATABASE"
        ) from None
    if parsed.drivername != "sqlite":
        raise UsageError(f"database: {parsed.drivername} is not supported; write sqlite:///FILE or postgresql://…")
    if parsed.query or parsed.username:
        raise UsageError("database: SQLite takes a file and nothing else; write sqlite:///FILE")
    if not parsed.database or parsed.database == ":memory:" or parsed.host:
        raise UsageError("database: a record needs a file; write sqlite:///guestgate.db")
    return parsed


def anchored(url: str, folder: Path) -> str:
    """The URL with its file's path made absolute, where it is relative to a folder."""
    parsed = parse_url(url)
    assert parsed.database is not None
    return parsed.set(database=str(folder / parsed.database)).render_as_string(hide_password=False)


def safe_sqlite() -> ModuleType:
    """The driver whose SQLite library is free of the write-ahead-log corruption of 3.7.0 to 3.51.2."""
    if sqlite3.sqlite_version_info >= SAFE_SQLITE:
        return sqlite3
    try:
        bundled = importlib.import_module("pysqlite3.dbapi2")
    except ImportError:
        bundled = None
    if bundled is not None and bundled.sqlite_version_info >= SAFE_SQLITE:
        return bundled
    wanted = ".".join(map(str, SAFE_SQLITE))
    raise UsageError(
        f"Python's SQLite is {sqlite3.sqlite_version}, which can corrupt a database; guestgate needs {wanted} "
        "or newer: pip install 'pysqlite3>=0.6.1', or use a Python built with a newer SQLite"
    )


def sqlite_code(error: Exception) -> int:
    """SQLite's primary result code; 0 where the error is not SQLite's."""
    return (getattr(cause_of(error), "sqlite_errorcode", None) or 0) & 0xFF
