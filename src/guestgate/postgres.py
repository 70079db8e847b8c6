"""PostgreSQL: one record for several servers.

Check-ins are written under the locks of their members' rows (`guestgate.locks`), so any number of servers
decide at once. Whoever else writes holds one advisory lock, so that among them everything is as on SQLite:
one at a time. All settings are made within the transactions, so that a pooler may hand out connections per
transaction.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog
from sqlalchemy import Connection, RootTransaction, create_engine, event
from sqlalchemy.exc import DBAPIError, TimeoutError
from sqlalchemy.pool import NullPool

from guestgate import clock, database, partitions, schema, sequence, silence
from guestgate.database import PATIENCE_MS, SYSTEM, BusyError, CommitLostError, Database, Fault, cause_of
from guestgate.errors import OperationError, UnreachableError, UsageError
from guestgate.fence import Fence, History

log = structlog.get_logger()

OLDEST_SERVER = 15
POOL: dict[str, Any] = {"pool_size": 4, "max_overflow": 12, "pool_timeout": 10, "pool_pre_ping": True}
CONNECT_S = 3
# How long a reply may take: the door's statements have time-outs well below, but for the making of months, and
# a commit that waits longer for its standby is asked about again. Reports may take their time.
DOOR_SILENCE_S, REPORT_SILENCE_S = 12, 120
# Whoever holds a lock and says nothing more is ended, so that one stopped process stops nobody else for long.
IDLE_MS, LEDGER_IDLE_MS = 60_000, 2_000
# Where the server's default is not to wait for its disk; others, such as for which standby to wait, stay.
DURABLE = "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
# Ours among the advisory locks of this database.
WRITER_LOCK, SCHEMA_LOCK = "1869571429, 1", "1869571429, 2"
# What libpq is told where the URL says nothing else. A dead network is noticed within seconds.
CONNECTION = {
    "application_name": "guestgate",
    "client_encoding": "UTF8",
    "connect_timeout": str(CONNECT_S),
    "target_session_attrs": "read-write",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "5000",
}
PREPARE, PREPARE_AFTER = "prepare_threshold", "5"
_ESCAPES = "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, and in the password %40 for @, %2F for /, %25 for %"
# Nothing from a standby: it writes no history of its own.
_HISTORY = f"""
    SELECT system_identifier, {sequence.WAL_TIMELINE} FROM pg_control_system()
    WHERE NOT pg_is_in_recovery()"""  # noqa: S608
# Who we are, where, and the first thing that we lack: in tables, or of functions.
_RIGHTS = """
    WITH wanted AS (
        SELECT to_regclass(name) AS relation, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS what
        FROM unnest(%(tables)s::text[]) AS name
        UNION ALL SELECT to_regclass('alembic_version'), 'SELECT'
    ), lacking AS (
        SELECT string_agg(what, ', ') || ' in ' || relation AS what
        FROM wanted WHERE relation IS NOT NULL AND NOT has_table_privilege(relation, what) GROUP BY relation
        UNION ALL SELECT 'EXECUTE ' || name FROM unnest(ARRAY[
            to_regprocedure('guestgate_add_month(date)'), to_regprocedure('guestgate_drop_month(date)')]) AS name
        WHERE NOT has_function_privilege(name, 'EXECUTE')
    )
    SELECT current_user, current_schema(), (SELECT what FROM lacking ORDER BY what LIMIT 1)"""
# Classes and codes of SQLSTATE: somebody else is first, or the server cannot write now.
BUSY = ("40001", "40P01", "55P03")
SLOW = "57014"
UNAVAILABLE = ("08", "25006", "25P03", "25P04", "53", "57P", "58")


class PostgresDatabase(Database):
    """A database on a server."""

    hold_s = 0.02
    leave_free = 0.0

    def __init__(self, url: str, *, door: bool = False, pooled: bool = False, fence: Path | None = None) -> None:
        """Prepare, without connecting. Raises UsageError for a URL that cannot work, or without the driver."""
        self.driver = driver()
        self._class = self.driver.Connection
        if door or pooled:
            silence_s = DOOR_SILENCE_S if door else REPORT_SILENCE_S
            self._class = silence.connection_class(self.driver, silence_s, self._fell_silent)
        self.parameters, self._prepare_threshold = parse_url(self.driver, url)
        self.name = f"PostgreSQL at {self.parameters.get('host', 'localhost')}"
        if "dbname" in self.parameters:
            self.name = f"{self.parameters['dbname']} on {self.name}"
        self.engine = create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            **(POOL if pooled else {"poolclass": NullPool}),
            use_native_hstore=False,
            hide_parameters=True,  # they may be personal, and errors are logged
        )
        event.listen(self.engine, "begin", self._begin)
        self._fence = Fence(fence, writes=door or pooled)
        self._passed_over: str | None = None
        self._look_around = False

    def _connect(self) -> Any:
        """To libpq's choice, or where that is an old primary to another host. Raises the driver's error."""
        refusal = None
        for connection in self._candidates():
            if not self._is_old(connection):
                if refusal not in (None, self._passed_over):
                    log.warning("an old primary is passed over", why=refusal, known_from=str(self._fence))
                    self._passed_over = refusal
                return connection
            refusal = self._refusal(connection)
            connection.close()
        raise self.driver.OperationalError(refusal)

    def _candidates(self) -> Iterator[Any]:
        """Connections in the order in which they are to be tried: libpq takes the first host that takes writes."""
        if self._look_around:
            self._look_around = False
            for connection in self._each_host():  # the timeline of each is known then
                connection.close()
        yield self._connect_to(self.parameters)
        yield from self._each_host()

    def _each_host(self) -> Iterator[Any]:
        for host in self.driver.conninfo.conninfo_attempts(self.parameters):
            with suppress(self.driver.OperationalError):
                yield self._connect_to(host)

    def _fell_silent(self) -> None:
        """A server may say nothing because its standby, which a commit waits for, has been promoted."""
        self._look_around = True

    def _connect_to(self, parameters: Mapping[str, Any]) -> Any:
        """A connection, whose `history` says what its server writes; None for a standby's."""
        connection = self._class.connect(
            **parameters,
            autocommit=True,  # transactions begin where `_begin` says
            prepare_threshold=self._prepare_threshold,
        )
        # Whole numbers always as the same type, so that a statement is prepared once for all of them.
        numeric = importlib.import_module("psycopg.types.numeric")
        connection.adapters.register_dumper(int, numeric.Int8Dumper)
        try:
            found = connection.execute(_HISTORY).fetchone()
        except BaseException:
            connection.close()
            raise
        connection.history = None if found is None else History(*found)
        if connection.history is not None:
            self._fence.saw(connection.history)
        return connection

    def _is_old(self, connection: Any) -> bool:
        """Whether a connection is to an old primary by now."""
        history = connection.history
        return history is not None and history.timeline < self._fence.newest(history.system)

    def _refusal(self, connection: Any) -> str:
        system, timeline = connection.history
        return (
            f"{connection.info.host}:{connection.info.port} is an old primary: its timeline is {timeline}, "
            f"another one's was {self._fence.newest(system)}"
        )

    def _begin(self, connection: Connection) -> None:
        # A connection may have been idle, or kept, while another server took over. The pool may have more of them.
        while self._is_old(connection.connection.driver_connection):
            connection.invalidate()
        options = connection.get_execution_options()
        sequence.forget_numbers(connection)
        connection.exec_driver_sql(options.get("guestgate_begin", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"))

    def connect_writer(self, who: str = SYSTEM) -> Connection:
        """A connection whose transactions run one after the other, on whatever machine.

        They are durable, too, before anybody sees them: after a crash a server gives out the numbers of those
        that were lost again, and a follower of the event feed would have seen others by these numbers.
        """
        begin = (
            f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = {PATIENCE_MS}; "
            f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_MS}; {DURABLE}; "
            # A plan made while a table is small would read it as a whole for the rest of an import.
            "SET LOCAL plan_cache_mode = force_custom_plan; "
            f"SELECT pg_advisory_xact_lock({WRITER_LOCK})"
        )
        return self.engine.connect().execution_options(guestgate_begin=begin, guestgate_who=who)

    def connect_ledger(self, budget_ms: int) -> Connection:
        """A connection whose transactions take no lock but those of members' rows.

        Their commits are made durable even where the server's default is not to wait for that.
        """
        begin = (
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; "
            f"SET LOCAL statement_timeout = {budget_ms // 2}; SET LOCAL lock_timeout = {budget_ms // 4}; "
            f"SET LOCAL idle_in_transaction_session_timeout = {LEDGER_IDLE_MS}; {DURABLE}; "
            # A plan made while a table is small is kept while it grows, and reads it as a whole.
            # That looks dear to the server, and what is dear it would compile.
            "SET LOCAL enable_seqscan = off; SET LOCAL jit = off"
        )
        return self.engine.connect().execution_options(guestgate_begin=begin)

    def exercise_commit(self, connection: Connection) -> None:
        """By an empty message in the write-ahead log, which whoever reads that passes over."""
        connection.exec_driver_sql("SELECT pg_logical_emit_message(true, 'guestgate', '')")

    def commit(self, transaction: RootTransaction) -> None:
        """Commit, without a time limit: a time-out there would cancel the wait for a standby, not the commit.

        Whatever goes wrong in between, it may have taken place: a server that is stopped says so and goes.
        """
        try:
            transaction.connection.exec_driver_sql("SET LOCAL statement_timeout = 0; COMMIT")
        except DBAPIError as error:
            raise CommitLostError(f"a commit was not confirmed: {error.orig}") from error
        transaction.commit()  # SQLAlchemy's part of it; the server has nothing left to do

    def is_running(self, connection: Connection, transaction: int | None) -> bool:
        """Asks the server, which also knows those of connections that broke.

        After a failover it may not have got as far as this number yet; then that is lost.
        """
        status = connection.exec_driver_sql(
            "SELECT pg_xact_status(%(number)s::text::xid8) WHERE %(number)s::text::xid8 < pg_current_xact_id()",
            {"number": str(transaction or 0)},
        ).scalar_one_or_none()
        return bool(status == "in progress")

    def driver_fault(self, error: Exception) -> Fault:
        """By the SQLSTATE, and where there is none by whether the connection is gone."""
        if isinstance(error, TimeoutError):
            return Fault.UNAVAILABLE
        code = getattr(cause_of(error), "sqlstate", None) or ""
        if code in BUSY:
            return Fault.BUSY
        if code == SLOW:
            return Fault.SLOW
        # Of a connection that is gone the driver knows no more than that, also where `bulk` called it directly.
        lost = not code and isinstance(cause_of(error), self.driver.OperationalError)
        return Fault.UNAVAILABLE if lost or code.startswith(UNAVAILABLE) else Fault.OTHER

    @contextmanager
    def explained(self) -> Iterator[None]:
        """One sentence for what the server or the network says."""
        try:
            yield
        except (DBAPIError, TimeoutError, self.driver.Error) as error:
            raise OperationError(f"{self.name} could not be used: {sentence(cause_of(error))}") from error

    def erase_traces(self, patience_s: float) -> bool:  # noqa: ARG002
        """The server's own vacuum does that when nobody can see the old rows any more."""
        return True

    def check_usable(self) -> None:
        """Raise UsageError where the server, its database, our rights there or the schema will not do."""
        with self._asking() as connection:
            self._check_server(connection)
            self._check_rights(connection)
            self.check_schema(self._version(connection))
            if sequence.is_foreign(connection):
                raise UsageError(
                    f"{self.name} was filled from a dump of another one: run guestgate db upgrade, which begins a "
                    "new timeline for the event feed"
                )

    @contextmanager
    def _asking(self) -> Iterator[Connection]:
        """A look at the server before anything is served."""
        try:
            with self.engine.connect() as connection, connection.begin():
                yield connection
        except (DBAPIError, self.driver.Error) as error:
            kind = UnreachableError if self.driver_fault(error) is Fault.UNAVAILABLE else UsageError
            raise kind(f"database: {self.name} cannot be used: {sentence(cause_of(error))}") from None

    def _check_server(self, connection: Connection) -> None:
        version = connection.connection.driver_connection.info.server_version // 10_000  # type: ignore[union-attr]
        if version < OLDEST_SERVER:
            raise UsageError(
                f"database: {self.name} is PostgreSQL {version}; guestgate needs {OLDEST_SERVER} or newer"
            )
        encoding, standby, read_only = connection.exec_driver_sql(
            "SELECT current_setting('server_encoding'), pg_is_in_recovery(), "
            "current_setting('default_transaction_read_only')::boolean"
        ).one()
        if encoding != "UTF8":
            raise UsageError(
                f"database: {self.name} has the encoding {encoding}; names need UTF8: "
                "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
            )
        if standby or read_only:
            what = "is a standby, which cannot write" if standby else "is read-only by default"
            raise UsageError(f"database: {self.name} {what}; give the primary, or all hosts")

    def _check_rights(self, connection: Connection) -> None:
        """Of what is there; whether all of it is there is the schema's question."""
        user, here, missing = connection.exec_driver_sql(
            _RIGHTS, {"tables": [*schema.metadata.tables, schema.cluster.name]}
        ).one()
        if here is None:
            missing = "use any schema of its search path"
        if missing:
            raise UsageError(
                f"database: {self.name}: role {user} may not {missing}; examples/postgres-roles.sql gives what "
                "guestgate needs"
            )

    def schema_version(self) -> str | None:
        """The schema revision; None where there is none."""
        with self._asking() as connection:
            return self._version(connection)

    def _version(self, connection: Connection) -> str | None:
        if connection.exec_driver_sql("SELECT to_regclass('alembic_version')").scalar_one() is None:
            return None
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one_or_none()
        return None if found is None else str(found)

    def oldest_user(self) -> str | None:
        """What the guestgate that made the schema wrote down about older ones."""
        with suppress(DBAPIError), self.engine.connect() as connection, connection.begin():
            return str(connection.exec_driver_sql("SELECT oldest_user FROM cluster").scalar_one())
        return None

    def upgrade(self) -> tuple[str | None, str]:
        """Create the schema or bring it up to date; several may try at once."""
        with self._asking() as connection:
            self._check_server(connection)
        begin = f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({SCHEMA_LOCK})"
        with self.explained(), self.engine.connect() as connection:
            connection = connection.execution_options(guestgate_begin=begin)  # noqa: PLW2901
            with connection.begin():
                before = self.schema_version()
                self.check_known(before)
                if before is None:
                    self._create(connection)
                else:
                    database.migrate(connection)
                if sequence.is_foreign(connection):
                    sequence.settle_down(connection)
        with suppress(BusyError):  # the server does it every day, too
            partitions.make_ahead(self, clock.now())
        after = self.schema_version()
        assert after is not None
        return before, after

    def _create(self, connection: Connection) -> None:
        """The schema as it is now: PostgreSQL never had an older one that would have to be passed through."""
        where = "WHERE schemaname = current_schema()"
        if connection.exec_driver_sql(f"SELECT 1 FROM pg_tables {where} LIMIT 1").first():  # noqa: S608
            raise UsageError(f"{self.name} is another program's database; guestgate needs one of its own")
        partitions.create_all(connection)
        partitions.keep_ahead(connection, clock.now())
        sequence.create(connection)
        database.stamp(connection)


def driver() -> ModuleType:
    """psycopg, or a UsageError that says how to get it."""
    try:
        return importlib.import_module("psycopg")
    except ImportError as error:
        raise UsageError(
            f"database: PostgreSQL needs its driver ({error}): pip install 'guestgate[postgres]'"
        ) from None


def parse_url(psycopg: ModuleType, url: str) -> tuple[dict[str, str], int | None]:
    """What libpq has to know, from a URL as libpq itself takes them, and when to prepare statements.

    For the latter it takes one parameter more, ``prepare_threshold``: 0 for a pooler that would not find
    prepared statements again. Raises UsageError.
    """
    scheme = url.partition(":")[0]
    if scheme not in ("postgresql", "postgres"):
        raise UsageError(f"database: {scheme} is not supported; write postgresql://USER@HOST/DATABASE")
    base, _, query = url.partition("?")
    ours = [part for part in query.split("&") if part.startswith(f"{PREPARE}=")]
    others = "&".join(part for part in query.split("&") if part not in ours)
    threshold = ours[-1].partition("=")[2] if ours else PREPARE_AFTER
    if not threshold.isdecimal():
        raise UsageError(f"database: {PREPARE} should be a number, 0 for a pooler")
    try:
        given = psycopg.conninfo.conninfo_to_dict(f"{base}?{others}" if others else base)
    except psycopg.Error as error:
        raise UsageError(f"database: {_without_parts(sentence(error))}; {_ESCAPES}") from None
    if not all(port.isdecimal() for port in str(given.get("port", "5432")).split(",") if port):
        raise UsageError(f"database: what stands for the port is no number; {_ESCAPES}")
    if "@" in str(given.get("host", "")):
        raise UsageError(f"database: there is an @ in the name of the host; {_ESCAPES}")
    return {**CONNECTION, **{name: str(value) for name, value in given.items()}}, int(threshold) or None


def _without_parts(text: str) -> str:
    """What libpq says about a URL quotes parts of it; but for a parameter's name, any can be the password."""
    return re.sub(r'(?<!invalid URI query parameter: )"[^"]*"|://\S*', "…", text)


def sentence(error: BaseException) -> str:
    """What the server or libpq says, on one line, without a URL's password."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"://[^\s\"]*@", "://…@", " ".join(lines)) or type(error).__name__
