"""Whatever comes to `POST /webhook` with a valid key is taken or refused: never 5xx, and nothing taken is lost."""

from __future__ import annotations

import random
import secrets
import uuid
from collections.abc import Callable
from datetime import timedelta

from attending import Book
from callers import problems, rows
from gate import Gate, wait_for
from killing import SEED
from wire import JSON, Wire, request

from guestgate import clock, studios
from guestgate.attendance.reconciliation import Reconciliation
from guestgate.attendance.webhook import KINDS, MAX_BODY_BYTES
from guestgate.contract import WEBHOOK_PATH
from guestgate.directory import KeyKind
from guestgate.forget import forget

CALLS = 300
STUDIOS = ("s1", "s2")
# Few, so that they come again with other bodies and from the other studio.
UUIDS = [f'"{uuid.UUID(int=number, version=4)}"' for number in range(40)]
CUSTOMERS = ["7", "99", "9223372036854775807"]
TYPES = [f'"{kind}"' for kind in (*KINDS, "AUTOMATIC_CUSTOMER_CHECKOUT", "CONTRACT_CREATED")]
HOSTILE = [
    *("null", "true", "[]", "{}", '""', "0", "-1", "1.5", "7.0", "1e3", "1e999", "-1e999", "NaN", "-Infinity"),
    *("9" * 5000, "-" + "9" * 5000, "1" * 20, "1" * 21, "9223372036854775808", "253402300800000", "01", "1.", "+1"),
    *('"\\u0000"', '"\\ud800"', '"\\ud83d\\ude00"', '"\ufffe"', '"ü"', '"\x07"', "'a'", '"7"', f'"{"a" * 70_000}"'),
    *('"9999-12-31T23:59:59-14:00"', '"0001-01-01T00:00:00+14:00"', '"2027-10-31T02:30:00"', '"soon"', ""),
    *("[" * depth + "]" * depth for depth in (5, 26, 27, 28, 29, 900, 100_000)),
    *('{"a":' * depth + "1" + "}" * depth for depth in (26, 27, 28, 2000)),
    *('{"a": 1, "a": 2}', '{"aggregatorId": "ada"}', '{"aggregatorId": ["ada"]}', '{"": {"": [null, {}]}}'),
]
WRONG = 0.06


class Sender:
    """Makes webhooks with something wrong in one place or another, or in none."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)

    def _one_of(self, good: list[str]) -> str:
        return self.dice.choice(HOSTILE if self.dice.random() < WRONG else good)

    def _event(self, at_ms: int) -> str:
        at = [str(at_ms)]
        one = f'{{"customerId": {self._one_of(CUSTOMERS)}, "checkoutTime": {self._one_of(at)}}}'
        checkouts = f'[{self._one_of(["{}"])}, {one}, {{"customerId": 99}}]'
        content = self._one_of([f'{{"aggregatorId": "ada", "checkouts": {checkouts}}}'])
        return f'{{"timestamp": {self._one_of(at)}, "type": {self._one_of(TYPES)}, "content": {content}}}'

    def body(self, at_ms: int) -> bytes:
        """As it is sent."""
        dice = self.dice
        events = ", ".join(self._event(at_ms) for _ in range(dice.choice([1, 1, 1, 1, 0, 3])))
        parts = {"entityId": self._one_of(CUSTOMERS), "uuid": self._one_of(UUIDS), "payload": f"[{events}]"}
        pairs = [f'"{name}": {value}' for name, value in parts.items()] + [f'"more": {self._one_of(["1e300"])}']
        if dice.random() < WRONG:
            pairs.append(dice.choice(pairs))  # the same name twice
        encodings = ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1"]
        encoding = dice.choice(encodings) if dice.random() < WRONG else "utf-8"
        body = f"{{{', '.join(pairs)}}}".encode(encoding, "replace")
        if dice.random() < WRONG:
            body = body[: dice.randrange(len(body))]
        if dice.random() < 2 * WRONG:
            body = body.ljust(MAX_BODY_BYTES + dice.choice([-1, 0, 1]))
        return body


def test_whatever_comes_is_taken_or_refused(new_gate: Callable[[], Gate]) -> None:
    """What was taken is on record as it came first, is read, reconciled and struck out of; doors still open."""
    gate = new_gate()
    gate.plans()
    gate.members("ada,free")
    keys = {}
    for studio in STUDIOS:
        gate.studio(studio)
        keys[studio] = secrets.token_urlsafe(24)
        with gate.database.write() as connection:
            studios.add_key(connection, studio, keys[studio], KeyKind.WEBHOOK)
    gate.start()
    assert gate.checkin("ada", 7).status_code == 200
    sender, statuses = Sender(SEED), set[int]()
    taken: dict[tuple[str, str], str] = {}
    for number in range(CALLS):
        body, studio = sender.body(clock.now_ms()), sender.dice.choice(STUDIOS)
        # In chunks, some of them tiny, or at once.
        chunks = sender.dice.choice([None, None, max(3, len(body) // 50), 70_000])
        headers = sender.dice.choice([[JSON], [JSON], [], ["Content-Type: application/json; charset=utf-16"]])
        with Wire(gate) as wire:
            asked = request(body, key=keys[studio], path=WEBHOOK_PATH, headers=headers, chunks=chunks)
            status = wire.ask(asked).status
        assert status == 200 or 400 <= status < 500, (f"GUESTGATE_TEST_SEED={SEED}", number, body[:1000])
        statuses.add(status)
        if status == 200:
            (named,) = {one for one in UUIDS if one.encode() in body}
            taken.setdefault((named.strip('"'), studio), body.decode())
    assert statuses == {200, 400, 413} and len(taken) > len(UUIDS)
    assert kept(gate) == taken
    unread = "SELECT count(*) FROM webhooks WHERE seq > (SELECT seq FROM attendance_progress)"
    wait_for(lambda: rows(gate.database, unread) == [(0,)], "webhooks are not read", gate)
    gate.stop()
    report = Reconciliation(gate.database, Book(STUDIOS), timedelta(0)).run()
    assert report.problems == [] and report.others_dropped > 0
    forget(gate.database, "test", "ada")
    gate.start()
    assert gate.checkin("ada", 7).status_code == 403
    assert problems(gate.database) == []


def kept(gate: Gate) -> dict[tuple[str, str], str]:
    """Bodies on record, by uuid and studio."""
    query = "SELECT uuid, studio_id, body FROM webhooks"
    return {(row.uuid, row.studio_id): row.body for row in rows(gate.database, query)}
