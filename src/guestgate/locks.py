"""Locks on members' rows, under which their visits are counted and made.

On SQLite whoever writes holds the one lock there is, and nothing is to do here. On PostgreSQL a check-in is
decided under its member's lock; what changes a member's visits otherwise takes the same lock.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, select

from guestgate import schema
from guestgate.bulk import BulkSelect

_m = schema.members.c
_present = BulkSelect(_m.id, among=_m.id)
_locked = BulkSelect(_m.id, among=_m.id, lock=True)


def try_lock(connection: Connection, member_ids: Collection[str]) -> set[str]:
    """Lock what can be locked at once; returns the members that somebody else has locked."""
    if connection.dialect.name == "sqlite" or not member_ids:
        return set()
    return busy(connection, set(member_ids) - {member_id for (member_id,) in _locked(connection, member_ids)})


def busy(connection: Connection, not_locked: Collection[str]) -> set[str]:
    """Those that exist, of members that could not be locked."""
    if connection.dialect.name == "sqlite":
        return set()
    return existing(connection, not_locked)


def existing(connection: Connection, member_ids: Collection[str]) -> set[str]:
    """Those of some members that there are."""
    return {member_id for (member_id,) in _present(connection, member_ids)}


def lock(connection: Connection, member_id: str) -> None:
    """Lock one member's row, where there is one, and wait for it as long as the transaction may wait for locks."""
    if connection.dialect.name != "sqlite":
        connection.execute(select(_m.id).where(_m.id == member_id).with_for_update(key_share=True)).all()
