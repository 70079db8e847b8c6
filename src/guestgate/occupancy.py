"""Who has a SQLite database open: everybody shares a lock, and a restore takes it alone.

SQLite finds a database's log by name. A program that still had the old file open while another file is put
in its place would write the old one's log beside the new one, and damage it. So every connection holds the
shared lock from before the file is opened until after it is closed.

The lock is on a file of its own: SQLite's locks on the database are POSIX locks, which a process loses when
it closes any descriptor of that file. The kernel drops ours with the process, however that ends; the empty
file stays.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from guestgate.errors import ConflictError, OperationError


@contextmanager
def shared(database: Path) -> Iterator[None]:
    """While this lasts, no other file is put in the database's place. Raises ConflictError during a restore."""
    descriptor = _share(database)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def alone(database: Path) -> Iterator[None]:
    """While this lasts, nobody else opens the database. Raises ConflictError where somebody has it open."""
    descriptor = _open(database)
    try:
        _lock(
            descriptor,
            fcntl.LOCK_EX,
            f"{database} is in use: stop the server (and any other guestgate command) first",
        )
        yield
    finally:
        os.close(descriptor)


def connection_class(driver: ModuleType, database: Path) -> type[Any]:
    """The driver's connections, each sharing the lock for as long as it is open."""

    class Connection(driver.Connection):  # type: ignore[name-defined,misc]
        _lock: int | None = None

        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._lock = _share(database)
            super().__init__(*arguments, **options)

        def close(self) -> None:
            super().close()
            self._release()

        def __del__(self) -> None:
            self._release()

        def _release(self) -> None:
            descriptor, self._lock = self._lock, None
            if descriptor is not None:
                os.close(descriptor)

    return Connection


def give_to_owner(path: Path, database: Path) -> None:
    """What root makes belongs to whoever the database, or else its folder, belongs to: the server's user."""
    if os.geteuid() == 0:
        owner = (database if database.exists() else database.parent).stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def _share(database: Path) -> int:
    descriptor = _open(database)
    try:
        _lock(descriptor, fcntl.LOCK_SH, f"{database} is being restored; try again afterwards")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open(database: Path) -> int:
    path = lock_file(database)
    try:
        try:
            return os.open(path, os.O_RDWR)
        except FileNotFoundError:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            give_to_owner(path, database)
            return descriptor
    except OSError as error:
        raise OperationError(f"{path}: {error.strerror}") from None


def lock_file(database: Path) -> Path:
    """The file that carries the lock."""
    return database.with_name(database.name + ".lock")


def _lock(descriptor: int, kind: int, otherwise: str) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConflictError(otherwise) from None
