"""Members' own phones: each shows a code that the aggregator has made just then, as its app would."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from guestgate import enrolment
from guestgate.database import Database
from guestgate.errors import NotFoundError

VALID = timedelta(minutes=15)


class Phones:
    """Those of the members in a database."""

    def __init__(self, database: Database, who: str) -> None:
        """`who` makes the codes, for the audit trail."""
        self._database, self._who = database, who
        self._one_by_one = asyncio.Lock()

    async def code(self, member_id: str) -> tuple[str, datetime] | None:
        """A new code, and until when it is good; None where nobody knows the member."""
        async with self._one_by_one:
            return await asyncio.to_thread(self._issue, member_id)

    def _issue(self, member_id: str) -> tuple[str, datetime] | None:
        try:
            with self._database.write(self._who) as connection:
                return enrolment.issue(connection, member_id, VALID)
        except NotFoundError:
            return None
