"""May this member register at this studio? The platform asks before its staff hand out a medium.

Pure. The rules are the door's own, as far as they are about who somebody is: whoever could not come in today for
that reason cannot register today. Hours, gaps and limits are a visit's business. Whom we make known to the platform
ourselves may also be somebody who can come in later.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from guestgate.decide import judge
from guestgate.model import Effect, Facts, Member, Outcome, Reason, Studio


class Finding(StrEnum):
    """Why a member may register or not. Declared in order of precedence: the first that applies is given."""

    STUDIO_INACTIVE = "studio_inactive"
    THROTTLED = "throttled"  # the studio has missed too often of late
    CODE_USED = "code_used"
    CODE_EXPIRED = "code_expired"
    UNKNOWN_MEMBER = "unknown_member"  # neither a member's id nor a code
    MEMBERSHIP_NOT_STARTED = "membership_not_started"
    MEMBERSHIP_EXPIRED = "membership_expired"
    MEMBERSHIP_SUSPENDED = "membership_suspended"
    MEMBERSHIP_CANCELLED = "membership_cancelled"
    STUDIO_NOT_IN_PLAN = "studio_not_in_plan"
    OK = "ok"
    # Not the outcome of a rule: it could not be found out in time.
    UNAVAILABLE = "unavailable"

    @property
    def outcome(self) -> Outcome:
        """What the platform is told."""
        return _OUTCOMES.get(self, Outcome.DENIED)


_OUTCOMES = {Finding.OK: Outcome.ALLOWED, Finding.UNAVAILABLE: Outcome.UNDECIDED}
# What need not last: a studio opens again, a membership begins.
NOT_YET = (Finding.STUDIO_INACTIVE, Finding.MEMBERSHIP_NOT_STARTED)


class Question(NamedTuple):
    """A member validation as received: a studio's key, and a body that names a member or a code."""

    id: str
    received_at: datetime
    studio_id: str
    aggregator_id: str
    key_fingerprint: str = ""


class Reply(NamedTuple):
    """The answer to one question; only where the member may register it says who that is.

    ``profile`` has texts by field name, such as ``first_name``: personal data, for the platform's eyes only.
    """

    id: str
    finding: Finding
    member_id: str | None = None
    profile: dict[str, str] = {}  # noqa: RUF012 - nobody changes it

    @property
    def outcome(self) -> Outcome:
        """What the platform is told."""
        return self.finding.outcome


def may_register(studio: Studio, member: Member | None, at: datetime) -> Finding:
    """What is found of a member, None where nobody is known by that id, at a studio at an instant."""
    return next(_denials(studio, member, at), Finding.OK)


def may_be_made_known(studio: Studio, member: Member, at: datetime) -> Finding:
    """The same before the platform asks: of who may come in there now or later."""
    return next((finding for finding in _denials(studio, member, at) if finding not in NOT_YET), Finding.OK)


def _denials(studio: Studio, member: Member | None, at: datetime) -> Iterator[Finding]:
    """Everything that stands in the way, in order of precedence."""
    today = at.astimezone(studio.timezone).date()
    for verdict in judge(Facts(studio, member), at, today):
        if verdict.rule is Reason.REENTRY:  # from here on it is about visits
            return
        if verdict.effect is Effect.DENIES:
            yield Finding(verdict.rule.value)


def unanswered(question: Question) -> Reply:
    """What is said where it could not be found out in time."""
    return Reply(question.id, Finding.UNAVAILABLE)
