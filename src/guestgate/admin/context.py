"""What every route works with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request
from sqlalchemy import Connection

from guestgate.admin.outage import OutageWatch
from guestgate.database import Database
from guestgate.settings import Settings

if TYPE_CHECKING:
    from guestgate.door import DoorState


@dataclass(frozen=True)
class Context:
    """The database, the settings, and ways to ask how the door is, and whether the database is away.

    `ask_door` is told whether its figures are wanted too; None where the door does not say.
    """

    database: Database
    settings: Settings
    ask_door: Callable[[bool], DoorState | None]
    outage: OutageWatch


@dataclass(frozen=True)
class Office:
    """One request's access to the record, in the name of whoever holds the token."""

    context: Context
    who: str

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database."""
        with self.context.database.read() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that changes things; the audit trail knows for whom."""
        with self.context.database.write(self.who) as connection:
            yield connection

    @property
    def payable_requires(self) -> str:
        """The setting of that name."""
        return self.context.settings.payable_requires


def _office(request: Request) -> Office:
    return Office(request.app.state.context, request.state.holder.who)


In = Annotated[Office, Depends(_office)]
