"""One order for everything that is recorded: decisions, visits, corrections, changes.

Each row takes the next number while its transaction holds the write lock. So numbers become visible in
their own order, and a reader that has seen one has seen all before it; that is what the event feed stands
on. The timeline names the history that the numbers belong to: a database that was put back to an earlier
state begins a new one, and its numbers jump ahead of any that the lost future may have given out.
"""

from __future__ import annotations

import secrets

from sqlalchemy import Connection, select, update

from guestgate import clock, schema

_take = f"UPDATE {schema.feed.name} SET seq = seq + ? RETURNING seq"  # noqa: S608


def take(connection: Connection, count: int) -> range:
    """The next numbers, for rows of this transaction; it must hold the write lock."""
    cursor = connection.connection.cursor()
    cursor.execute(_take, (count,))
    last: int = cursor.fetchall()[0][0]
    cursor.close()
    return range(last - count + 1, last + 1)


def position(connection: Connection) -> tuple[str, int]:
    """The timeline, and the last number that was given out in it."""
    row = connection.execute(select(schema.feed.c.timeline, schema.feed.c.seq)).one()
    return row.timeline, row.seq


def new_timeline() -> str:
    """A name that no other history has."""
    return secrets.token_hex(4)


def begin_timeline(connection: Connection) -> None:
    """After a restore: what is recorded from now on is another history than the one that was lost.

    Its numbers start at the present millisecond. Unless more than a thousand rows a second were recorded
    all the time, the lost history never got that far, so no number ever stands for two things.
    """
    _, last = position(connection)
    connection.execute(update(schema.feed).values(timeline=new_timeline(), seq=max(last, clock.now_ms())))
