"""The gym's own customers, of whom webhooks tell as well: nothing of them is kept.

Whether a customer is ours may turn out later than what happened to them: a webhook overtook another one, or a
check-in has yet to be carried over. So they have the grace period to become ours, and then they go.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, delete, select, update

from guestgate import schema
from guestgate.attendance import attendances, customers
from guestgate.attendance.matching import Witness
from guestgate.attendance.webhook import Kind, told_by, without
from guestgate.database import Database
from guestgate.model import NO_CUSTOMER

PAGE, TOGETHER = 500, 32

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
            for _ in self._database.write_many(page, self._take, at_least=TOGETHER):
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
                letters[row.reference.partition("/")[0], row.studio_id].add(row.customer_id)
        _strike_out(connection, letters)


def _strike_out(connection: Connection, letters: Mapping[tuple[str, str], set[int]]) -> None:
    """Of webhooks, by uuid and studio: one that tells of nobody else goes; else nobody's number stands for theirs."""
    query = select(schema.webhooks).where(_w.uuid.in_({uuid for uuid, _ in letters}))
    empty = []
    for row in connection.execute(query).all():
        strangers = letters.get((row.uuid, row.studio_id), set())
        if {told.customer_id for told in told_by(row.body, ZoneInfo("UTC"))} <= strangers:
            empty.append(row.seq)
        elif strangers:
            left = without(json.loads(row.body), dict.fromkeys(strangers, NO_CUSTOMER))
            body = json.dumps(left, ensure_ascii=False)
            connection.execute(update(schema.webhooks).where(_w.seq == row.seq).values(body=body))
    connection.execute(delete(schema.webhooks).where(_w.seq.in_(empty)))
