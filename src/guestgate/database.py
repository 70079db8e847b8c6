"""The database: transactions, and schema versions. What is different between databases is behind this.

`Database.at` gives the right one for a URL: `guestgate.sqlite` or `guestgate.postgres`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import Enum, auto
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Engine, RootTransaction, Select
from sqlalchemy.exc import DBAPIError

from guestgate import clock
from guestgate.errors import OperationError, UsageError

if TYPE_CHECKING:
    from alembic.config import Config

Item = TypeVar("Item")

# How long commands and pages wait for what somebody else has locked.
PATIENCE_MS = 10_000
CHUNK, MAX_CHUNK = 50, 1000
RETRY_S = 0.0005
PAGE = 500
MIGRATIONS = Path(__file__).parent / "migrations"
# Who changes things where nobody else is named.
SYSTEM = "guestgate"


class Fault(Enum):
    """What an error of the database means to whoever writes to it."""

    BUSY = auto()  # somebody else has what this needs, for a moment; nothing was written
    SLOW = auto()  # a statement took longer than it may; nothing was written
    UNAVAILABLE = auto()  # the database cannot be written now; nothing was written
    OTHER = auto()  # this statement failed; nothing was written


class DiskFailedError(OperationError):
    """A commit may or may not be on disk. Nothing of its batch, and nothing after it, may be answered."""


class BusyError(OperationError):
    """Somebody else has what this needs, for a moment; nothing was written."""


class CommitLostError(OperationError):
    """A commit was not confirmed: whether it took place is to be asked on another connection."""


class Database(ABC):
    """One database, and how to read from it and write to it."""

    engine: Engine
    # What to call it in a message; without secrets.
    name: str

    @staticmethod
    def at(url: str, *, door: bool = False, pooled: bool = False, fence: Path | None = None) -> Database:
        """The database of a URL, not yet connected. Raises UsageError for a URL that cannot work.

        For the door's processes, `door`, it waits for nobody and does no upkeep by the way. Whoever serves
        for long has connections to a server `pooled`. Neither waits for ever for a server that is silent.
        `fence` is the file by which processes keep one another from an old primary (`guestgate.fence`);
        without one, each knows only those that it has met.
        """
        if is_postgres(url):
            from guestgate.postgres import PostgresDatabase

            return PostgresDatabase(url, door=door, pooled=pooled, fence=fence)
        from guestgate.sqlite import SqliteDatabase

        return SqliteDatabase(url, door=door)

    @staticmethod
    def open(url: str, *, door: bool = False, pooled: bool = False, fence: Path | None = None) -> Database:
        """Open a database that exists and has a schema this version works with; else a UsageError says what to do."""
        database = Database.at(url, door=door, pooled=pooled, fence=fence)
        try:
            database.check_usable()
        except BaseException:
            database.engine.dispose()
            raise
        return database

    @abstractmethod
    def check_usable(self) -> None:
        """Raise UsageError, with what to do, where guestgate cannot work with this database as it is."""

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and writes nothing."""
        with self.explained(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, who: str = SYSTEM) -> Iterator[Connection]:
        """A transaction that no other one of these runs beside; committed at the end, all or nothing.

        `who` makes the changes in it, for the audit trail. The door may write meanwhile on PostgreSQL, apart
        from what is locked here (`guestgate.locks`).
        """
        with self.explained(), self.connect_writer(who) as connection, connection.begin():
            yield connection

    @abstractmethod
    def connect_writer(self, who: str = SYSTEM) -> Connection:
        """A connection for `write`: its transactions run one after the other, everywhere."""

    @abstractmethod
    def connect_ledger(self, budget_ms: int) -> Connection:
        """A connection to keep, for the door's own transactions. No statement may take long within `budget_ms`."""

    def write_many(
        self,
        items: Iterable[Item],
        write: Callable[[Connection, list[Item]], None],
        who: str = SYSTEM,
        *,
        at_least: int = 1,
        at_most: int = MAX_CHUNK,
    ) -> Iterator[int]:
        """Write items in transactions so short that the door hardly notices; yields the number done so far.

        A chunk's size follows the time that the last one took; it has `at_least` so many where most of that time is
        the transaction's own, and `at_most` so many where an item may take much longer than the ones before it. All
        of it is on disk at the end, however that comes.
        """
        source = iter(items)
        size, done, free_until = min(CHUNK, at_most), 0, 0.0
        with self.explained(), self.connect_writer(who) as connection, self.bulk_writing(connection):
            while chunk := list(islice(source, size)):
                clock.sleep(max(0.0, free_until - clock.monotonic()))
                with connection.begin():
                    started = clock.monotonic()
                    write(connection, chunk)
                held = clock.monotonic() - started
                free_until = clock.monotonic() + self.leave_free * held
                size = max(at_least, min(at_most, int(len(chunk) * self.hold_s / max(held, 1e-6))))
                done += len(chunk)
                self.between_chunks()
                yield done

    # How long one of its transactions should take, and for how many times as long the next one waits.
    hold_s: float
    leave_free: float

    def bulk_writing(self, connection: Connection) -> AbstractContextManager[None]:  # noqa: ARG002
        """What is different while `write_many` lasts, and what has to be done at its end."""
        return nullcontext()

    def between_chunks(self) -> None:  # noqa: B027
        """What `write_many` does while it holds nothing."""

    def fault(self, error: Exception) -> Fault:
        """What an error means to whoever writes."""
        if isinstance(error, BusyError):
            return Fault.BUSY
        return Fault.UNAVAILABLE if isinstance(error, CommitLostError) else self.driver_fault(error)

    @abstractmethod
    def driver_fault(self, error: Exception) -> Fault:
        """The same for the driver's errors before a commit."""

    def is_running(self, connection: Connection, transaction: int | None) -> bool:  # noqa: ARG002
        """Whether another connection's transaction of this number is still under way."""
        return False

    def exercise_commit(self, connection: Connection) -> None:  # noqa: B027
        """Have the commit of this transaction go the whole way to disk and standby, though it changes nothing."""

    @abstractmethod
    def commit(self, transaction: RootTransaction) -> None:
        """Commit. Raises DiskFailedError or CommitLostError where nobody knows whether it took place."""

    @abstractmethod
    def explained(self) -> AbstractContextManager[None]:
        """The database's own errors come out as OperationError with one sentence."""

    def scan(self, query: Select[Any], seq: Any, after: int = 0) -> Iterator[Any]:
        """The rows of a query in the order of `seq`, its column of that name, after a certain one.

        Each page is a transaction of its own, so that a long scan holds nothing up.
        """
        while True:
            with self.read() as connection:
                page = connection.execute(query.where(seq > after).order_by(seq).limit(PAGE)).all()
            yield from page
            if len(page) < PAGE:
                return
            after = page[-1].seq

    def in_use(self) -> AbstractContextManager[None]:
        """While this lasts, nobody puts another database in this one's place."""
        return nullcontext()

    @abstractmethod
    def erase_traces(self, patience_s: float) -> bool:
        """Leave nothing of past changes where nobody needs it; False where somebody kept it from that."""

    @abstractmethod
    def schema_version(self) -> str | None:
        """The schema revision the database is at; None where it has none. Writes nothing."""

    @abstractmethod
    def upgrade(self) -> tuple[str | None, str]:
        """Create the schema or bring it up to date; returns the revisions before and after."""

    def check_known(self, found: str | None) -> None:
        """Raise UsageError where a schema revision is one that a newer version made, for itself alone."""
        known = schema_versions()
        if found is not None and found not in known and (self.oldest_user() or found) > known[-1]:
            raise UsageError(
                f"{self.name} was made by a newer guestgate (schema {found}, this one knows "
                f"{known[-1]}): install that version or restore a backup"
            )

    def oldest_user(self) -> str | None:
        """The oldest revision whose guestgate can go on with this schema, where a newer one left it so."""
        return None

    def check_schema(self, found: str | None) -> None:
        """Raise UsageError where a schema revision is none that this version can work with."""
        self.check_known(found)
        wanted = schema_versions()[-1]
        if found is None:
            raise UsageError(f"{self.name} is not a guestgate database: create one with guestgate init")
        if found in schema_versions() and found != wanted:
            raise UsageError(
                f"{self.name} has the schema of an older guestgate ({found}, now {wanted}): "
                "run guestgate db upgrade, on SQLite while the server is stopped"
            )


def is_postgres(url: str) -> bool:
    """Whether the URL is PostgreSQL's; `guestgate.postgres` checks the rest of it."""
    return re.match(r"postgres(ql)?(\+\w+)?:", url) is not None


def check_url(url: str) -> None:
    """Raise UsageError for what is no URL of a database that guestgate can use. Connects to nothing."""
    Database.at(url)


def author(connection: Connection) -> str:
    """Who makes the changes of this transaction."""
    return str(connection.get_execution_options().get("guestgate_who", SYSTEM))


def cause_of(error: BaseException) -> BaseException:
    """The driver's own exception."""
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def migrate(connection: Connection, revision: str = "head") -> None:
    """Run the migrations that are still to be run, up to a revision, in the connection's transaction."""
    from alembic import command

    command.upgrade(_alembic(connection), revision)


def stamp(connection: Connection) -> None:
    """Note that the schema is the newest one."""
    from alembic import command

    command.stamp(_alembic(connection), "head")


def schema_versions() -> list[str]:
    """The schema revisions that this version knows, oldest first: their files are named after them.

    Asked without alembic, which takes a good part of a short command's time to import.
    """
    return sorted(file.name[1:5] for file in (MIGRATIONS / "versions").glob("v[0-9]*.py"))


def _alembic(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
