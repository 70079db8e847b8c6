"""What every route works with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar

import anyio
import anyio.to_thread
from fastapi import Depends, Request
from sqlalchemy import Connection

from guestgate.admin.outage import OutageWatch
from guestgate.database import Database
from guestgate.errors import GuestgateError, OperationError
from guestgate.settings import Settings

if TYPE_CHECKING:
    from guestgate.door import DoorState

Answer = TypeVar("Answer")

PATIENCE_S = 3.0


@dataclass(frozen=True)
class Context:
    """The database, the settings, and ways to ask how the door is, and whether the database is away.

    `ask_door` is told whether all its figures are wanted; None where the door does not say.
    """

    database: Database
    settings: Settings
    ask_door: Callable[[bool], DoorState | None]
    outage: OutageWatch

    def check_database(self) -> None:
        """Raise OperationError where the database is known to be away: nobody should wait for it."""
        if self.outage.database_is_away():
            raise OperationError("the shared database does not answer")

    async def ask_soon(self, question: Callable[[Connection], Answer]) -> Answer:
        """What takes milliseconds. Raises OperationError where that takes far longer.

        A database that has just fallen silent is not known to be away yet, and would be waited for.
        """

        def ask() -> Answer:
            self.check_database()
            with self.database.read() as connection:
                return question(connection)

        try:
            with anyio.fail_after(PATIENCE_S):
                answer = await anyio.to_thread.run_sync(ask, abandon_on_cancel=True)
        except TimeoutError:
            self.outage.note(answers=False, why=f"it says nothing for {PATIENCE_S:.0f} s")
            raise OperationError("the database does not answer") from None
        except GuestgateError as error:
            self.outage.note(answers=False, why=error)
            raise
        self.outage.note(answers=True)
        return answer


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
