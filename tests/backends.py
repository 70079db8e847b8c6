"""The databases that tests run on: files, and a real PostgreSQL server."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from cluster import Cluster

from guestgate import sequence
from guestgate.database import Database


class Backend(Protocol):
    """Makes databases. ``name`` is SQLAlchemy's for the kind."""

    name: str

    def new(self, folder: Path) -> str:
        """The URL of a database that nobody has used, with the present schema."""

    def furnish(self, home: Path) -> str | None:
        """Have such a database for a new installation; its URL where that is not a file of the usual name there."""

    def copy(self, url: str, folder: Path) -> str:
        """The URL of a database with the content of another one, which nobody is using."""

    def drop(self, url: str) -> None:
        """A database is needed no more."""


@contextmanager
def copied(backend: Backend, url: str, folder: Path) -> Iterator[Database]:
    """A copy of a database that nobody is using, for a while."""
    copy = backend.copy(url, folder)
    try:
        yield Database.at(copy)
    finally:
        backend.drop(copy)


class Files:
    """SQLite."""

    name = "sqlite"

    def __init__(self, folder: Path) -> None:
        """The first one is made here, and copied from then on."""
        self._template = folder / "template.db"
        Database.at(f"sqlite:///{self._template}").upgrade()

    def new(self, folder: Path) -> str:
        """A copy of the empty one."""
        return self.copy(f"sqlite:///{self._template}", folder)

    def furnish(self, home: Path) -> None:
        """A copy of the empty one, in the place of the default."""
        home.mkdir(parents=True)
        shutil.copy(self._template, home / "guestgate.db")

    def copy(self, url: str, folder: Path) -> str:
        """A copy of the file."""
        target = folder / f"{secrets.token_hex(4)}.db"
        shutil.copy(Database.at(url).name, target)
        return f"sqlite:///{target}"

    def drop(self, url: str) -> None:
        """Goes with its folder."""


class Server:
    """PostgreSQL."""

    name = "postgresql"

    def __init__(self, cluster: Cluster) -> None:
        """The first one is made here, and copied from then on."""
        self.cluster = cluster
        self._template = cluster.url(cluster.create())
        Database.at(self._template).upgrade()

    def new(self, folder: Path) -> str:
        """A copy of the empty one."""
        return self.copy(self._template, folder)

    def furnish(self, home: Path) -> str:
        """A copy of the empty one."""
        return self.new(home)

    def copy(self, url: str, folder: Path) -> str:
        """A copy on the server, which then knows that it is one."""
        copied = self.cluster.url(self.cluster.create(url.rpartition("/")[2]))
        with Database.at(copied).write() as connection:
            sequence.settle_down(connection)
        return copied

    def drop(self, url: str) -> None:
        """Whoever uses it."""
        self.cluster.drop(url.rpartition("/")[2])
