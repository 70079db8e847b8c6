"""What the platform tells and knows, for tests: webhooks put into the record as the door would, and a history."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from guestgate import clock, schema, sequence
from guestgate.attendance.history import Stay
from guestgate.bulk import BulkInsert
from guestgate.database import Database

_insert = BulkInsert(schema.webhooks, ignore_existing=True)


class Webhook(NamedTuple):
    """One of a studio's."""

    studio_id: str
    uuid: str
    body: dict[str, Any]


def webhook(
    kind: str, at: datetime, entity: int, *, studio: str = "s1", content: dict[str, Any] | None = None
) -> Webhook:
    """An event as the platform tells it; the same gets the same uuid."""
    number = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{kind}/{at}/{entity}/{studio}/{content}"))
    happened = {"timestamp": clock.to_ms(at), "type": kind, "content": content or {}}
    return Webhook(studio, number, {"entityId": entity, "uuid": number, "payload": [happened]})


def entry(at: datetime, customer: int = 1, *, studio: str = "s1") -> Webhook:
    """Somebody came in."""
    return webhook("CUSTOMER_CHECKIN", at, customer, studio=studio)


def deliver(database: Database, *webhooks: Webhook, received_at: datetime | None = None) -> None:
    """Keep webhooks, in one transaction; those that are there already add nothing."""
    received_ms = clock.to_ms(received_at or clock.now())
    with database.write() as connection:
        numbers = sequence.take(connection, len(webhooks))
        rows = [
            (number, one.uuid, one.studio_id, received_ms, json.dumps(one.body))
            for number, one in zip(numbers, webhooks, strict=True)
        ]
        _insert(connection, rows)


class Book:
    """The platform's history, for some studios."""

    def __init__(self, studios: Collection[str] = ("s1",), stays: Iterable[tuple[int, Stay]] = ()) -> None:
        self._studios = studios
        self.stays_of: dict[int, list[Stay]] = {}
        for customer, stay in stays:
            self.stays_of.setdefault(customer, []).append(stay)
        self.unknown: set[int] = set()
        self.asked: list[int] = []

    def studios(self) -> Collection[str]:
        return self._studios

    def stays(self, studio_id: str, customer_id: int, since: datetime, until: datetime) -> Sequence[Stay] | None:
        self.asked.append(customer_id)
        if customer_id in self.unknown:
            return None
        return [stay for stay in self.stays_of.get(customer_id, []) if since <= stay.entered_at < until]


def stay(number: int, at: datetime, *, studio: str = "s1", minutes: float | None = 60) -> Stay:
    """Somebody was there for so long, or is."""
    return Stay(number, studio, at, None if minutes is None else at + timedelta(minutes=minutes))
