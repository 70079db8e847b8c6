"""What every route works with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request
from sqlalchemy import Connection

from guestgate.database import Database
from guestgate.errors import GuestgateError
from guestgate.settings import Settings
from guestgate.stand_in.copy import CopyState, StandInCopy

if TYPE_CHECKING:
    from guestgate.door import DoorState


@dataclass(frozen=True)
class Context:
    """The database, the settings, and a way to ask the door how it is.

    `ask_door` is told whether its figures are wanted too; None where the door does not say.
    """

    database: Database
    settings: Settings
    ask_door: Callable[[bool], DoorState | None]

    def copy_state(self) -> CopyState | None:
        """How this machine's copy is; None where it has none, or where it cannot be read."""
        if not self.settings.stands_in:
            return None
        try:
            return StandInCopy(self.settings.stand_in_file).read_state(self.settings.stand_in_max_age_s)
        except GuestgateError:
            return None


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
