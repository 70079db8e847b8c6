"""Copies of a SQLite database: made while the server runs, and put back while it does not.

A copy is one state of the database, however long the copying takes: it is read within one transaction. It is
a plain file that needs nothing beside it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from guestgate import changes, clock, sequence
from guestgate.changes import Change
from guestgate.database import Database
from guestgate.errors import ConflictError, OperationError, UsageError
from guestgate.occupancy import alone, give_to_owner, lock_file
from guestgate.sqlite import SqliteDatabase, safe_sqlite

# A step copies a mebibyte. The door's commits wait for the same disk, so what is written goes there in
# small portions rather than all at the end.
STEP_PAGES = 256
STEPS_PER_SYNC = 8
# SQLite's primary result codes for a file that is no database, or a broken one.
DAMAGED = (11, 26)  # CORRUPT, NOTADB

Progress = Callable[[int, int], None]


class Copy(NamedTuple):
    """A copy that was made: its size, and up to which number of which timeline the record is in it."""

    bytes: int
    timeline: str
    seq: int


class Restored(NamedTuple):
    """What a restore did.

    ``kept`` is where the database that was there before is now (None: there was none); ``before`` and
    ``after`` are the schema's revisions of the backup and now.
    """

    kept: Path | None
    before: str
    after: str
    seq: int


def file_of(database: Database) -> SqliteDatabase:
    """A database that is a file. Raises UsageError for one on a server, which has tools of its own for this."""
    if not isinstance(database, SqliteDatabase):
        raise UsageError(
            f"{database.name} is copied and put back with its own tools (pg_dump, your provider's snapshots); "
            "after putting one back run guestgate db upgrade"
        )
    return database


def backup(database: SqliteDatabase, file: Path, progress: Progress) -> Copy:
    """Copy the database to a file that does not exist yet.

    `progress` is told the pages done and to do. Raises ConflictError where the file exists, OperationError
    where the copy cannot be made; then nothing is left behind.
    """
    with _named(file):
        _refuse_existing(file)
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with _named(file), _cleared(temporary):
        temporary.touch(mode=0o600, exist_ok=False)
        with database.read() as connection:
            timeline, seq = sequence.position(connection)  # the first read: from here on it is one state
            source = connection.connection.driver_connection
            _copy(source, database.path, temporary, progress, polite=True)
        _refuse_existing(file)
        size = temporary.stat().st_size
        temporary.rename(file)
        _sync(file.parent)
    return Copy(size, timeline, seq)


def restore(database: SqliteDatabase, file: Path, who: str, progress: Progress) -> Restored:
    """Put a backup in the database's place; what is there now is kept under another name.

    The backup is copied beside the database, checked, upgraded and given a new timeline there; then one
    rename makes it the database. So whenever this is killed, either the old or the new one is in place.
    Raises ConflictError while anybody has the database open, UsageError for a file that is no backup of
    this or an earlier version.
    """
    target = database.path
    new = target.with_name(target.name + ".restoring")
    _check_source(file, target)
    with _named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with alone(target), _cleared(new):
            _clear(new)  # what an earlier run left that was killed
            new.touch(mode=0o600)
            give_to_owner(new, target)
            _fetch(file, new, progress)
            before, after, seq = _prepare(database, new, file, who)
            kept = _keep(target)
            new.replace(target)
            _sync(target.parent)
    return Restored(kept, before, after, seq)


def compact(database: SqliteDatabase) -> tuple[int, int]:
    """Write the database anew, without the space and the traces of what was deleted; returns sizes in bytes.

    SQLite overwrites what it deletes, but not the copies that stay in unused bytes of a page when rows move
    to another one; those go only here. Needs as much room as the database takes, for the moment. Crash-safe
    like `restore`. Raises ConflictError while anybody has the database open.
    """
    target = database.path
    new = target.with_name(target.name + ".compact")
    with _named(target), alone(target), _cleared(new):
        _clear(new)
        if not _fold(target):
            raise OperationError(f"{target} is damaged: restore a backup")
        before = target.stat().st_size
        new.touch(mode=0o600)
        give_to_owner(new, target)
        driver = safe_sqlite()
        try:
            with closing(driver.connect(target)) as present:
                present.execute("VACUUM INTO ?", (str(new),))
        except driver.Error as error:
            raise OperationError(f"{target} could not be written anew: {error}") from error
        _sync(new)
        after = new.stat().st_size
        _clear_sidecars(target)
        new.replace(target)
        _sync(target.parent)
    return before, after


def _refuse_existing(file: Path) -> None:
    if file.exists() or file.is_symlink():
        raise ConflictError(f"{file} exists already; a backup overwrites nothing")


def _check_source(file: Path, target: Path) -> None:
    if not file.is_file():
        raise UsageError(f"{file}: there is no such file")
    if target.exists() and file.samefile(target):
        raise UsageError(f"{file} is the database itself; name a backup")


def _copy(source: Any, source_path: Path, target: Path, progress: Progress, *, polite: bool) -> None:
    """Copy what a connection sees into an empty file, durably, and check it."""
    driver = safe_sqlite()
    descriptor = os.open(target, os.O_RDWR)
    began, steps = clock.monotonic(), 0

    def step_done(_status: int, remaining: int, total: int) -> None:
        nonlocal began, steps
        steps += 1
        if steps % STEPS_PER_SYNC == 0:
            os.fdatasync(descriptor)
        progress(total - remaining, total)
        if polite:
            clock.sleep(clock.monotonic() - began)  # leave the disk to others for as long
        began = clock.monotonic()

    try:
        with closing(driver.connect(target)) as copy:
            copy.execute("PRAGMA synchronous = OFF")  # synced here, and worthless before it is whole
            source.backup(copy, pages=STEP_PAGES, progress=step_done)
            # The copied header says that there is a log; without it the file stands alone.
            copy.execute("PRAGMA journal_mode = DELETE").fetchall()
            for (problem,) in copy.execute("PRAGMA quick_check(1)").fetchall():
                if problem != "ok":
                    raise OperationError(f"{source_path} is damaged: {problem.splitlines()[-1]}")
        os.fsync(descriptor)
    except driver.Error as error:
        raise OperationError(f"{source_path} could not be copied to {target.parent}: {error}") from error
    finally:
        os.close(descriptor)


def _fetch(file: Path, new: Path, progress: Progress) -> None:
    driver = safe_sqlite()
    try:
        with closing(driver.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as source:
            source.execute("SELECT count(*) FROM sqlite_master").fetchall()
            _copy(source, file, new, progress, polite=False)
    except driver.Error as error:
        raise UsageError(f"{file} is not a backup of guestgate's: {error}") from None


def _prepare(database: SqliteDatabase, new: Path, file: Path, who: str) -> tuple[str, str, int]:
    """Make the copy what is to go on: this version's schema, and a history of its own."""
    copy = SqliteDatabase(database.url.set(database=str(new)).render_as_string(hide_password=False))
    if copy.schema_version() is None:
        raise UsageError(f"{file} is not a backup of guestgate's")
    try:
        before, after = copy.upgrade()
    except UsageError as error:
        raise UsageError(str(error).replace(str(new), str(file))) from None
    assert before is not None
    with copy.write(who) as connection:
        _, seq = sequence.position(connection)
        sequence.begin_timeline(connection)
        timeline, _ = sequence.position(connection)
        facts = {"file": file.name, "recorded_until": seq, "timeline": timeline}
        changes.record(connection, [Change("record.restored", "record", None, facts)])
    if _sidecar(new, "-wal").exists():
        raise OperationError(f"{new} is in use by another program")
    _sync(new)
    return before, after, seq


def _keep(target: Path) -> Path | None:
    """Give the present database a second name, with all that its log holds; returns that name."""
    if not target.exists():
        _clear_sidecars(target)  # a log without its database belongs to nothing
        return None
    for earlier in target.parent.glob(f"{target.name}.before-*"):  # of a run that was killed before its rename
        if earlier.samefile(target) and not _sidecar(earlier, "-wal").exists():
            earlier.unlink()
    sound = _fold(target)
    stamp = clock.iso(clock.now()).translate({ord(c): None for c in "-:."})
    kept = target.with_name(f"{target.name}.before-{stamp}")
    kept.hardlink_to(target)
    if not sound and _sidecar(target, "-wal").exists():
        _sidecar(target, "-wal").rename(_sidecar(kept, "-wal"))
    _clear_sidecars(target)
    _sync(target.parent)
    return kept


def _fold(target: Path) -> bool:
    """Move what the log holds into the file, so that the file is all there is; False where it is damaged."""
    driver = safe_sqlite()
    try:
        with closing(driver.connect(target)) as present:
            present.execute("SELECT count(*) FROM sqlite_master").fetchall()
            present.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except driver.DatabaseError as error:
        if (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF in DAMAGED:
            return False
        raise OperationError(f"the present database {target} could not be set aside: {error}") from error
    if _sidecar(target, "-wal").exists():
        raise ConflictError(f"{target} is in use by another program; end that first")
    return True


def _sidecar(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _clear_sidecars(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        _sidecar(path, suffix).unlink(missing_ok=True)


def _clear(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        _sidecar(path, suffix).unlink(missing_ok=True)
    lock_file(path).unlink(missing_ok=True)


@contextmanager
def _cleared(temporary: Path) -> Iterator[None]:
    try:
        yield
    finally:
        with suppress(OSError):
            _clear(temporary)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OperationError(f"{error.filename or path}: {error.strerror}") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
