"""When each key was last used, to the minute: what tells that an old key can be revoked."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select, update

from guestgate import clock, schema
from guestgate.directory import KeyKind
from guestgate.eligibility import Question
from guestgate.model import CheckIn

EVERY = timedelta(minutes=1)

_k = schema.keys.c
# A fingerprint is the beginning of the hash, and "g" comes after every digit.
_these = (_k.sha256 >= bindparam("first"), _k.sha256 < bindparam("last"), _k.kind == bindparam("of_kind"))
# Several servers may write the same key's use in the same moment; who comes second need not.
_free = select(_k.sha256).where(*_these).with_for_update(skip_locked=True)
_used = (
    update(schema.keys)
    .where(_k.sha256.in_(_free), _k.kind == bindparam("of_kind"))
    .values(last_used_at_ms=bindparam("at_ms"))
)


class Used(NamedTuple):
    """A call that came with a key."""

    key_fingerprint: str
    received_at: datetime


class KeyUse:
    """Writes the use of a key down, at most once a minute each."""

    def __init__(self, kind: KeyKind = KeyKind.CHECKIN) -> None:
        """Nothing has been used yet. `kind` is what the keys are used as."""
        self._kind = kind.value
        self._written: dict[str, datetime] = {}

    def note(self, connection: Connection, calls: Iterable[CheckIn | Question | Used]) -> None:
        """Part of the transaction that records these calls."""
        due: dict[str, datetime] = {}
        for call in calls:
            last = self._written.get(call.key_fingerprint)
            if last is None or abs(call.received_at - last) >= EVERY:
                due[call.key_fingerprint] = call.received_at
        if due:
            connection.execute(
                _used,
                [
                    {"first": key, "last": f"{key}g", "of_kind": self._kind, "at_ms": clock.to_ms(at)}
                    for key, at in due.items()
                ],
            )
            # Where the transaction fails, the next minute's use is written instead.
            self._written |= due
