"""What may be decided on a copy: the same as on the record itself, but for what the copy cannot know.

Other nodes may be letting the same member in at the same moment. So a member whose plan has limits gets one
new visit on a node until that is carried over; a second one, and any on a copy that is too old, is undecided.
An outage can let a member in beyond a limit as many times as there are nodes, and no more often.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import Connection, exists, select

from guestgate import clock, schema
from guestgate.bulk import BulkSelect
from guestgate.model import Decision, Facts, Source, VisitState
from guestgate.stand_in.copy import note, oldest_waiting_ms, problem_of, progress

_d, _v = schema.decisions.c, schema.visits.c
_made_here = BulkSelect(
    _v.member_id,
    among=_v.member_id,
    where=[
        _v.source == Source.STAND_IN.value,
        _v.state != VisitState.REVERSED.value,
        _v.test.is_(False),
        exists(select(_d.id).where(_d.id == _v.id)),
    ],
)


class CopyCheck(NamedTuple):
    """What a check finds: the copy was level with the shared record at ``copied_at_ms``, and what was decided on it
    before ``carried_over_ms`` is there, too. The oldest decision that is not is so many seconds old; 0: none waits.
    """

    copied_at_ms: int = 0
    carried_over_ms: int = 0
    oldest_waiting_s: float = 0.0


class StandInRules:
    """For one ledger."""

    def __init__(self, max_age_s: int) -> None:
        """A copy may be so old."""
        self._max_age_s = max_age_s

    def problem(self, connection: Connection) -> str | None:
        """Why nothing can be decided on the copy as it is now; None where it can."""
        return problem_of(progress(connection), self._max_age_s)

    def allowance(self, connection: Connection, member_ids: Collection[str]) -> Allowance:
        """For one batch, about these members."""
        return Allowance({member_id for (member_id,) in _made_here(connection, member_ids)})

    def check(self, connection: Connection) -> CopyCheck | None:
        """Write down that a check-in could be decided; None where the copy cannot stand in."""
        now_ms = clock.now_ms()
        note(connection, checked_at_ms=now_ms)
        row, oldest = progress(connection), oldest_waiting_ms(connection)
        if problem_of(row, self._max_age_s) is not None:
            return None
        if oldest is None:
            return CopyCheck(row.copied_at_ms, now_ms)
        return CopyCheck(row.copied_at_ms, oldest, max(0.0, (now_ms - oldest) / 1000))


class Allowance:
    """Who still has a visit on this node."""

    def __init__(self, used: set[str]) -> None:
        """`used` are the members who have had it."""
        self._used = used

    def permits(self, decision: Decision, facts: Facts) -> bool:
        """Whether this may be answered; counts it then."""
        member = facts.member
        if not decision.makes_visit or member is None or not member.plan.limits or facts.studio.test:
            return True
        if member.id in self._used:
            return False
        self._used.add(member.id)
        return True
