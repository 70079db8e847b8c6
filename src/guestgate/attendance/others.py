"""The gym's own customers, of whom webhooks tell as well: nothing of them is kept.

Whether a customer is ours may turn out later than what happened to them: a webhook overtook another one, or a
check-in has yet to be carried over. So they have the grace period to become ours, and then they go.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, delete, select, update

from guestgate import schema
from guestgate.attendance import attendances, customers
from guestgate.attendance.matching import Witness
from guestgate.attendance.webhook import Kind, told_by, without
from guestgate.database import Database
from guestgate.forget import NO_CUSTOMER

PAGE = 500

_s, _w = schema.sightings.c, schema.webhooks.c


class Others:
    """Drops what is known of them."""

    def __init__(self, database: Database) -> None:
        """Nothing is dropped yet."""
        self._database = database
        self._dropped = 0

    def drop(self, received_until_ms: int) -> int:
        """Drop what was received until then of customers who are not ours by now; returns how much that was."""
        self._dropped = 0
        while page := self._page(received_until_ms):
            for _ in self._database.write_many(page, self._take):
                pass
        return self._dropped

    def _page(self, received_until_ms: int) -> Sequence[Any]:
        due = (_s.ours.is_(False)) & (_s.received_at_ms <= received_until_ms)
        with self._database.read() as connection:
            query = select(schema.sightings).where(due).order_by(_s.received_at_ms)
            return connection.execute(query.limit(PAGE)).all()

    def _take(self, connection: Connection, rows: Sequence[Any]) -> None:
        units = []
        for customer_id in sorted({row.customer_id for row in rows if row.kind == Kind.CREATED.value}):
            # For a member who was added after the platform had told of it.
            units += customers.relink(connection, customer_id)
        units += customers.make_ours(connection, {row.customer_id for row in rows})
        attendances.follow(connection, units)
        seqs = [row.seq for row in rows]
        gone = connection.execute(select(schema.sightings).where(_s.seq.in_(seqs), _s.ours.is_(False))).all()
        connection.execute(delete(schema.sightings).where(_s.seq.in_([row.seq for row in gone])))
        self._dropped += len(gone)
        letters = defaultdict[tuple[str, str], set[int]](set)
        for row in gone:
            if row.source == Witness.WEBHOOK.value:
                letters[row.studio_id, row.reference.partition("/")[0]].add(row.customer_id)
        for (studio_id, uuid), strangers in letters.items():
            _strike_out(connection, studio_id, uuid, strangers)


def _strike_out(connection: Connection, studio_id: str, uuid: str, strangers: set[int]) -> None:
    """A webhook that told of nobody else goes; in others, nobody's number stands in the place of theirs."""
    this = (_w.uuid == uuid) & (_w.studio_id == studio_id)
    body = connection.execute(select(_w.body).where(this)).scalar_one_or_none()
    if body is None:
        return
    if {told.customer_id for told in told_by(body, ZoneInfo("UTC"))} <= strangers:
        connection.execute(delete(schema.webhooks).where(this))
    else:
        left = without(json.loads(body), dict.fromkeys(strangers, NO_CUSTOMER))
        connection.execute(update(schema.webhooks).where(this).values(body=json.dumps(left, ensure_ascii=False)))
