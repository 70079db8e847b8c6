"""The values a check-in is decided on, and the value that comes out.

Pure: nothing here reads a clock, a file or a database. Instants are aware datetimes in UTC, dates are
the calendar dates of a studio. What is made anew for each check-in is a named tuple, the cheapest value
Python has that cannot be changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple
from zoneinfo import ZoneInfo

# No customer's id, for the platform's begin at 1: where nobody's card is asked about, or it was forgotten.
NO_CUSTOMER = 0


class Outcome(StrEnum):
    """What a check-in was told."""

    ALLOWED = "allowed"
    DENIED = "denied"
    UNDECIDED = "undecided"


class Reason(StrEnum):
    """Why. Declared in order of precedence: the first that applies is the one that is given."""

    STUDIO_INACTIVE = "studio_inactive"
    UNKNOWN_MEMBER = "unknown_member"
    IDENTITY_CONFLICT = "identity_conflict"
    MEMBERSHIP_NOT_STARTED = "membership_not_started"
    MEMBERSHIP_EXPIRED = "membership_expired"
    MEMBERSHIP_SUSPENDED = "membership_suspended"
    MEMBERSHIP_CANCELLED = "membership_cancelled"
    STUDIO_NOT_IN_PLAN = "studio_not_in_plan"
    REENTRY = "reentry"
    OUTSIDE_HOURS = "outside_hours"
    TOO_SOON = "too_soon"
    LIMIT_REACHED = "limit_reached"
    OK = "ok"
    # Not the outcome of a rule: the check-in could not be evaluated in time.
    UNAVAILABLE = "unavailable"


class Status(StrEnum):
    """A membership's own state, apart from its dates."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    CANCELLED = "cancelled"


class Per(StrEnum):
    """The period a limit counts in, on the calendar of the studio that asks."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    CYCLE = "cycle"
    TOTAL = "total"


class VisitState(StrEnum):
    """An entry starts as authorized; evidence confirms it, a correction reverses it."""

    AUTHORIZED = "authorized"
    CONFIRMED = "confirmed"
    REVERSED = "reversed"


class Source(StrEnum):
    """Where a visit came from."""

    CHECKIN = "checkin"
    STAND_IN = "stand_in"
    IMPORT = "import"
    MANUAL = "manual"


# Of visits that a check-in made: they have the id of their decision.
BY_CHECKIN = (Source.CHECKIN.value, Source.STAND_IN.value)


class Payable(StrEnum):
    """Which visits of a plan a studio is paid for."""

    PER_MEMBER_DAY = "per_member_day"
    PER_VISIT = "per_visit"


NETWORK = "network"
STUDIO = "studio"
TAG_PREFIX = "tag:"


@dataclass(frozen=True)
class Limit:
    """At most ``max`` visits per period, counted over a scope: ``network``, ``studio`` or ``tag:NAME``."""

    max: int
    per: Per
    scope: str = NETWORK

    @cached_property
    def tag(self) -> str | None:
        """The tag's name where the scope is one."""
        return self.scope.removeprefix(TAG_PREFIX) if self.scope.startswith(TAG_PREFIX) else None


@dataclass(frozen=True, slots=True)
class Hours:
    """Opening on certain weekdays (Monday is 0), ``start`` included, ``end`` excluded, local wall time.

    ``end`` not after ``start`` means the window runs past midnight into the next day; ``end`` of 00:00 is
    the midnight that closes the day. The weekday is that of the day the window starts on.
    """

    days: frozenset[int]
    start: time
    end: time


@dataclass(frozen=True)
class Plan:
    """The rules of a membership."""

    id: str
    version: int
    name: str
    studio_tags: frozenset[str] | None = None
    reentry_minutes: int = 10
    min_gap_minutes: int = 0
    limits: tuple[Limit, ...] = ()
    cycle_days: int | None = None
    hours: tuple[Hours, ...] | None = None
    payable: Payable = Payable.PER_MEMBER_DAY

    @cached_property
    def has_cycle(self) -> bool:
        """Whether a member of this plan needs a day its cycles are counted from."""
        return any(limit.per is Per.CYCLE for limit in self.limits)

    @cached_property
    def reentry_window(self) -> timedelta:
        """How long after a visit a check-in at the same studio leans on it."""
        return timedelta(minutes=self.reentry_minutes)

    @cached_property
    def min_gap(self) -> timedelta:
        """How long after a visit none may be made at another studio."""
        return timedelta(minutes=self.min_gap_minutes)

    @cached_property
    def reach_days(self) -> int | None:
        """How many days before the check-in's date in UTC a visit can lie and still matter; None: any number.

        Generous by two days, because a visit elsewhere may bear yesterday's or tomorrow's date.
        """
        windows = {
            Per.DAY: 1,
            Per.WEEK: 7,
            Per.MONTH: 31,
            Per.CYCLE: self.cycle_days or 31,
        }
        if any(limit.per is Per.TOTAL for limit in self.limits):
            return None
        minutes = max(self.reentry_minutes, self.min_gap_minutes)
        return 2 + max([minutes // 1440 + 1, *(windows[limit.per] for limit in self.limits)])


@dataclass(frozen=True, slots=True)
class Studio:
    """Who asks. A ``test`` studio's visits never count against limits and never pay."""

    id: str
    name: str
    timezone: ZoneInfo
    tags: frozenset[str] = frozenset()
    active: bool = True
    test: bool = False


class Member(NamedTuple):
    """Who stands at the door. ``valid_from`` and ``valid_until`` are both inclusive."""

    id: str
    plan: Plan
    status: Status = Status.ACTIVE
    valid_from: date | None = None
    valid_until: date | None = None
    cycle_anchor: date | None = None

    @property
    def anchor(self) -> date | None:
        """The day cycles are counted from."""
        return self.cycle_anchor or self.valid_from


class Visit(NamedTuple):
    """An unreversed entry, with the local date and the studio's tags as they were when it happened."""

    id: str
    studio_id: str
    at: datetime
    local_date: date
    tags: frozenset[str] = frozenset()
    test: bool = False


class CheckIn(NamedTuple):
    """The platform's question as received: a studio's key, and a body naming a member and a customer."""

    id: str
    received_at: datetime
    studio_id: str
    aggregator_id: str
    customer_id: int
    key_fingerprint: str = ""


class Facts(NamedTuple):
    """All that a decision rests on.

    ``member`` is None where no member answers to the check-in's ``aggregatorId``; ``customer_of`` is the
    member that the check-in's ``customerId`` is linked to; ``visits`` are the member's unreversed visits,
    at least those within the plan's `reach_days`.
    """

    studio: Studio
    member: Member | None
    customer_of: str | None = None
    visits: Sequence[Visit] = ()


class LimitUse(NamedTuple):
    """How much of a limit is used up in the period of the check-in."""

    max: int
    per: Per
    scope: str
    used: int


class Effect(StrEnum):
    """What one rule says of a check-in."""

    PASSES = "passes"
    ALLOWS = "allows"
    DENIES = "denies"
    NOT_EVALUATED = "not_evaluated"


class Verdict(NamedTuple):
    """One rule's say.

    ``retry_at`` is the first instant at which a denying rule would no longer deny (None: never by itself);
    ``visit`` is the earlier visit it rests on; ``uses`` are the limits it counted, exceeded ones first.
    """

    rule: Reason
    effect: Effect
    retry_at: datetime | None = None
    visit: Visit | None = None
    uses: tuple[LimitUse, ...] = ()


class Decision(NamedTuple):
    """The answer to one check-in, with every rule's verdict in order of evaluation.

    ``visit_id`` is the visit the answer made (then it equals ``id``) or, for a re-entry, leaned on.
    """

    id: str
    outcome: Outcome
    reason: Reason
    local_date: date
    limit: LimitUse | None = None
    next_allowed_at: datetime | None = None
    visit_id: str | None = None
    verdicts: tuple[Verdict, ...] = ()

    @property
    def makes_visit(self) -> bool:
        """Whether this answer is an entry that counts."""
        return self.visit_id == self.id


class Ruling(NamedTuple):
    """What the door has to know of a decision to answer with it."""

    id: str
    outcome: Outcome
    reason: Reason


def undecided(checkin: CheckIn) -> Decision:
    """What a check-in is told that could not be decided in time."""
    return Decision(checkin.id, Outcome.UNDECIDED, Reason.UNAVAILABLE, checkin.received_at.date())
