"""Whose a customer is, as the platform's events and our own people have it.

Pure, and of sets: what happened is put in the order of its own times, whenever it arrived.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from guestgate.attendance.webhook import Kind

LIFECYCLE = (Kind.CREATED, Kind.DISABLED, Kind.DELETED)
# Stands among the sources of what happened to a customer, beside those of `guestgate.attendance.matching.Witness`.
BY_HAND = "by_hand"


class Step(NamedTuple):
    """Something that made or ended a link.

    ``by_hand``: an import, a person or our API did it. Then ``kind`` is `Kind.CREATED` for a link that was made, and
    `Kind.DELETED` for one that was ended. ``reference`` tells the platform's events apart.
    """

    at_ms: int
    kind: Kind
    member_id: str | None = None
    by_hand: bool = False
    reference: str = ""


class Link(NamedTuple):
    """Where it ends: the member or None, and whether that was said by hand.

    ``disputed``: the platform names another one than whom our people linked.
    """

    member_id: str | None
    by_hand: bool = False
    disputed: bool = False
    disabled: bool = False


def link_of(steps: Iterable[Step]) -> Link:
    """What follows from all that happened to one customer.

    The platform's last word counts, but it takes no link away that was made by hand: people do get linked to the
    wrong account. A customer that is deleted is nobody's.
    """
    member_id, by_hand, disputed, disabled = None, False, False, False
    for step in sorted(steps, key=lambda step: (step.at_ms, not step.by_hand, step.kind, step.reference)):
        if step.kind is Kind.DISABLED:
            disabled = True
        elif step.kind is Kind.DELETED:
            member_id, by_hand, disputed, disabled = None, False, False, False
        elif step.by_hand or member_id is None or not by_hand:
            member_id, by_hand, disputed = step.member_id, step.by_hand, False
        else:
            disputed = step.member_id != member_id
    return Link(member_id, by_hand, disputed, disabled)
