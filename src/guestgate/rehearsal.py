"""A studio, a key and two members that exist only while the endpoint is probed.

The studio is a test studio, so no visit of theirs counts or pays. It stays on record, paused, because the
decisions that it asked for do; key, members, links and plan go. Their names are fixed: what a run that was
killed has left behind, the next one takes over.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection

from guestgate import clock, members, plans, studios
from guestgate.database import SYSTEM, Database
from guestgate.directory import KeyKind
from guestgate.errors import OperationError
from guestgate.members import MemberRow, Upsert
from guestgate.model import Status
from guestgate.plans_file import PlanDocument
from guestgate.probe.target import Card

NAME = "guestgate-probe"
ALLOWED, DENIED = f"{NAME}-allowed", f"{NAME}-denied"
# Longer than the longest probe; should we not get to revoke it, the key ends by itself.
KEY_LIFE = timedelta(minutes=15)


@dataclass(frozen=True)
class Rehearsal:
    """What the probe needs."""

    key: str
    allowed: Card
    denied: Card


@contextmanager
def rehearsal(database: Database, aggregator_id: str | None, who: str = SYSTEM) -> Iterator[Rehearsal]:
    """Make all of it, and unmake it at the end, whatever that is. Raises OperationError while another one runs.

    The cards bear our own `aggregator_id` where there is one, since then the platform sends that.
    """
    key = secrets.token_urlsafe(32)
    # Far from the customers that the platform has given out so far.
    customers = {member: 2**62 + secrets.randbelow(2**62) for member in (ALLOWED, DENIED)}
    with database.write(who) as connection:
        fingerprint = _make(connection, key, customers)
    try:
        yield Rehearsal(key, *(Card(aggregator_id or member, customer) for member, customer in customers.items()))
    finally:
        with database.write(who) as connection:
            with suppress(OperationError):  # somebody has done so already
                studios.revoke_key(connection, fingerprint)
            studios.change(connection, NAME, active=False)
            _remove_members(connection)
            plans.remove(connection, NAME)


def _make(connection: Connection, key: str, customers: dict[str, int]) -> str:
    """Returns the key's fingerprint."""
    known = {studio["id"]: studio for studio in studios.studio_list(connection)}
    if NAME not in known:
        studios.add(connection, NAME, name="Probe of our endpoint", timezone="UTC", tags=frozenset(), test=True)
    elif not known[NAME]["test"]:
        raise OperationError(f"studio {NAME} is a real one; the probe needs this name for a test studio")
    elif known[NAME]["keys"]:
        raise OperationError(
            f"studio {NAME} has a key in force: guestgate register is running, or was killed within the last "
            f"{KEY_LIFE.seconds // 60} minutes; guestgate key list --studio {NAME} shows when it ends"
        )
    studios.change(connection, NAME, active=True)
    _remove_members(connection)
    plans.apply(connection, {NAME: PlanDocument(name="Probe of our endpoint", reentry_minutes=0)})
    statuses = {ALLOWED: Status.ACTIVE, DENIED: Status.SUSPENDED}
    Upsert()(
        connection,
        [
            MemberRow(0, member, {"plan": NAME, "status": statuses[member].value}, (customer,))
            for member, customer in customers.items()
        ],
    )
    return studios.add_key(connection, NAME, key, KeyKind.CHECKIN, clock.now() + KEY_LIFE)


def _remove_members(connection: Connection) -> None:
    for member in (ALLOWED, DENIED):
        if members.exists(connection, member):
            members.remove(connection, member)
