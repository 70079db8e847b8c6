"""Opening the database: drivers, durability, transactions, schema versions.

On SQLite every connection is in WAL mode with ``synchronous=FULL`` (checked, not hoped for). Writers other
than the door hold the lock for moments only and leave it free for as long, see `Database.write_many`.
"""

from __future__ import annotations

import importlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, Select, create_engine, event, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError
from sqlalchemy.pool import NullPool

from guestgate import clock, occupancy
from guestgate.errors import OperationError, UsageError

if TYPE_CHECKING:
    from alembic.config import Config

Item = TypeVar("Item")

# The library versions before this one can corrupt a WAL database that two connections write to.
SAFE_SQLITE = (3, 51, 3)
COMMAND_PATIENCE_MS = 10_000
CACHE_KIB = 16 * 1024
HOLD_S = 0.002
CHUNK, MAX_CHUNK = 50, 1000
MAX_WAL_BYTES = 64 * 1024 * 1024
LOCK_RETRY_S = 0.0005
LOCKED = (5, 6)  # SQLite's BUSY and LOCKED
PAGE = 500
# Emptying the log keeps writers waiting for at most this long at a time, while readers finish.
EMPTY_LOG_MS = 5
EMPTY_LOG_RETRY_S = 0.05
MIGRATIONS = Path(__file__).parent / "migrations"
# Who changes things where nobody else is named.
SYSTEM = "guestgate"


class Database:
    """One database, and how to read from it and write to it."""

    def __init__(self, url: str, *, patience_ms: int = COMMAND_PATIENCE_MS, checkpoints: bool = True) -> None:
        """Prepare, without connecting. Raises UsageError for a URL that cannot work."""
        self.url = parse_url(url)
        self.path = Path(self.url.database or "")
        self._driver = safe_sqlite()
        self._patience_ms = patience_ms
        self._checkpoints = checkpoints
        self._class = occupancy.connection_class(self._driver, self.path)
        self.engine = create_engine(
            self.url,
            module=self._driver,
            poolclass=NullPool,
            connect_args={"factory": self._class},
            hide_parameters=True,  # they may be personal, and errors are logged
        )
        event.listen(self.engine, "connect", self._configure)
        event.listen(self.engine, "begin", self._begin)

    @classmethod
    def open(cls, url: str, *, patience_ms: int = COMMAND_PATIENCE_MS, checkpoints: bool = True) -> Self:
        """Open a database that exists and has this version's schema; else a UsageError says what to do."""
        database = cls(url, patience_ms=patience_ms, checkpoints=checkpoints)
        if not database.path.exists():
            raise UsageError(f"there is no database at {database.path}: create it with guestgate init")
        found, wanted = database._known_version(), schema_versions()[-1]
        if found is None:
            raise UsageError(f"{database.path} is not a guestgate database: create one with guestgate init")
        if found != wanted:
            raise UsageError(
                f"{database.path} has the schema of an older guestgate ({found}, now {wanted}): "
                "stop the server and run guestgate db upgrade"
            )
        return database

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
                if not is_locked(error) or clock.monotonic() >= give_up_at:
                    raise
            clock.sleep(LOCK_RETRY_S)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and writes nothing."""
        with self._explained(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, who: str = SYSTEM) -> Iterator[Connection]:
        """A transaction that holds the write lock from its start; committed at the end, all or nothing.

        `who` makes the changes in it, for the audit trail.
        """
        with self._explained(), self.connect_writer(who) as connection, connection.begin():
            yield connection

    def connect_writer(self, who: str = SYSTEM) -> Connection:
        """A connection to keep, whose transactions hold the write lock from their start."""
        connection = self.engine.connect()
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("PRAGMA busy_timeout = 0").close()  # `_begin` waits in its own way
        return connection.execution_options(guestgate_begin="BEGIN IMMEDIATE", guestgate_who=who)

    def write_many(
        self, items: Iterable[Item], write: Callable[[Connection, list[Item]], None], who: str = SYSTEM
    ) -> Iterator[int]:
        """Write items in transactions so short that the door hardly notices; yields the number done so far.

        After each, the lock stays free for twice as long as it was held, and the chunk's size follows
        the time that the last one took. All of it is on disk at the end, however that comes: a commit by
        itself is not waited for.
        """
        source = iter(items)
        size, done, free_until = CHUNK, 0, 0.0
        with (
            self._explained(),
            self.connect_writer(who) as connection,
            self._not_waiting_for_the_disk(connection),
        ):
            while chunk := list(islice(source, size)):
                clock.sleep(max(0.0, free_until - clock.monotonic()))
                with connection.begin():
                    started = clock.monotonic()
                    write(connection, chunk)
                held = clock.monotonic() - started
                free_until = clock.monotonic() + 2 * held
                size = max(1, min(MAX_CHUNK, int(len(chunk) * HOLD_S / max(held, 1e-6))))
                done += len(chunk)
                if self.wal_bytes() > MAX_WAL_BYTES:
                    self.checkpoint()
                yield done

    @contextmanager
    def _not_waiting_for_the_disk(self, connection: Connection) -> Iterator[None]:
        """Commits go into the log without a sync of their own, which the door's next commit brings along.

        They are applied in order or, after a crash of the machine, their last ones not at all. The sync at
        the end covers them all.
        """
        cursor = connection.connection.cursor()
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA wal_autocheckpoint = 0")  # `write_many` does that while the lock is free
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

    def scan(self, query: Select[Any], seq: Any, after: int = 0) -> Iterator[Any]:
        """The rows of a query in the order of `seq`, its column of that name, after a certain one.

        Each page is a transaction of its own, so that a long scan keeps no log from being emptied.
        """
        while True:
            with self.read() as connection:
                page = connection.execute(query.where(seq > after).order_by(seq).limit(PAGE)).all()
            yield from page
            if len(page) < PAGE:
                return
            after = page[-1].seq

    def in_use(self) -> AbstractContextManager[None]:
        """While this lasts, `guestgate restore` refuses to put another file in the database's place."""
        return occupancy.shared(self.path)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (DatabaseError, self._driver.DatabaseError) as error:  # the driver's own come out of `bulk`
            cause = getattr(error, "orig", error)
            raise OperationError(f"the database {self.path} could not be used: {cause}") from error

    def checkpoint(self, mode: str = "PASSIVE") -> None:
        """Move committed changes from the write-ahead log into the database file."""
        with self.engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()

    def empty_log(self, patience_s: float) -> bool:
        """Leave nothing of past changes in the write-ahead log; False where a long reader kept it from that."""
        give_up_at = clock.monotonic() + patience_s
        with self._explained(), self.engine.connect() as connection:
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

    def _known_version(self) -> str | None:
        """The schema revision; a UsageError where this version does not know it."""
        found = self.schema_version()
        if found is not None and found not in schema_versions():
            raise UsageError(
                f"{self.path} was made by a newer guestgate (schema {found}, this one knows "
                f"{schema_versions()[-1]}): install that version or restore a backup"
            )
        return found

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
        before = self._known_version()
        if before is None and self._has_tables():
            raise UsageError(f"{self.path} is another program's database; guestgate needs one of its own")
        with self._explained(), self.engine.connect() as connection:
            from alembic import command

            config = _alembic()
            config.attributes["connection"] = connection.execution_options(guestgate_begin="BEGIN IMMEDIATE")
            command.upgrade(config, "head")
        after = self.schema_version()
        assert after is not None
        return before, after


def parse_url(url: str) -> URL:
    """The database URL, or a UsageError that says what is wrong with it."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise UsageError(
            f"database: {url!r} is not a database URL: write sqlite:///guestgate.db, with three slashes for "
            "a path relative to the configuration, four for an absolute one"
        ) from None
    if parsed.get_backend_name() == "postgresql":
        raise UsageError("database: this version of guestgate keeps its record in SQLite; write sqlite:///FILE")
    if parsed.drivername != "sqlite":
        raise UsageError(f"database: {parsed.drivername} is not supported; write sqlite:///FILE")
    if parsed.query or parsed.username:
        raise UsageError("database: SQLite takes a file and nothing else; write sqlite:///FILE")
    if not parsed.database or parsed.database == ":memory:" or parsed.host:
        raise UsageError("database: a record needs a file; write sqlite:///guestgate.db")
    return parsed


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
    cause = error.orig if isinstance(error, DBAPIError) else error
    return (getattr(cause, "sqlite_errorcode", None) or 0) & 0xFF


def is_locked(error: Exception) -> bool:
    """Whether somebody else holds the write lock."""
    return sqlite_code(error) in LOCKED


def author(connection: Connection) -> str:
    """Who makes the changes of this transaction."""
    return str(connection.get_execution_options().get("guestgate_who", SYSTEM))


def schema_versions() -> list[str]:
    """The schema revisions that this version knows, oldest first: their files are named after them.

    Asked without alembic, which takes a good part of a short command's time to import.
    """
    return sorted(file.name[1:5] for file in (MIGRATIONS / "versions").glob("v[0-9]*.py"))


def _alembic() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config
