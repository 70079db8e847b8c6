"""May this member enter? One pure function; everything that answers that question calls it.

Each rule is a small function of the facts, listed in `RULES` in order of precedence. All of them are
asked, so that the reason, an explanation and the next permitted instant come from the same verdicts.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta

from guestgate.model import (
    STUDIO,
    CheckIn,
    Decision,
    Effect,
    Facts,
    Limit,
    LimitUse,
    Member,
    Outcome,
    Reason,
    Status,
    Verdict,
    Visit,
)
from guestgate.periods import is_open, next_opening, period, start_of_day

# Every step of the search passes at least one period or window; real plans need two or three.
NEXT_ALLOWED_STEPS = 100


def decide(checkin: CheckIn, facts: Facts) -> Decision:
    """Decide one check-in.

    The facts must hold the member's unreversed visits within the plan's `reach_days`. A visit that lies
    after the check-in (another node's clock is a little ahead) counts like any other.
    """
    at = checkin.received_at
    today = at.astimezone(facts.studio.timezone).date()
    verdicts = judge(facts, at, today)
    deciding = _deciding(verdicts)
    if deciding is None:
        return Decision(checkin.id, Outcome.ALLOWED, Reason.OK, today, visit_id=checkin.id, verdicts=verdicts)
    if deciding.effect is Effect.ALLOWS:
        leaned_on = deciding.visit.id if deciding.visit else None
        return Decision(checkin.id, Outcome.ALLOWED, deciding.rule, today, visit_id=leaned_on, verdicts=verdicts)
    return Decision(
        checkin.id,
        Outcome.DENIED,
        deciding.rule,
        today,
        limit=deciding.uses[0] if deciding.rule is Reason.LIMIT_REACHED else None,
        next_allowed_at=_next_allowed_at(facts, verdicts),
        verdicts=verdicts,
    )


def judge(facts: Facts, at: datetime, today: date) -> tuple[Verdict, ...]:
    """Every rule's verdict, in order of precedence. Rules about a member need one."""
    member = facts.member
    if member is None:
        return (
            _studio_inactive(facts),
            DENIES_FOR_GOOD[Reason.UNKNOWN_MEMBER],
            *(Verdict(rule, Effect.NOT_EVALUATED) for rule, _ in RULES),
        )
    return (
        _studio_inactive(facts),
        PASSES[Reason.UNKNOWN_MEMBER],
        *[verdict(facts, member, at, today) for _, verdict in RULES],
    )


def _deciding(verdicts: tuple[Verdict, ...]) -> Verdict | None:
    """The first verdict that settles the matter; None where every rule lets the check-in pass."""
    for verdict in verdicts:
        if verdict.effect is Effect.DENIES or verdict.effect is Effect.ALLOWS:
            return verdict
    return None


def _next_allowed_at(facts: Facts, verdicts: tuple[Verdict, ...]) -> datetime | None:
    """The first later instant at which these facts would let the member in; None where that is never.

    The rule that denies goes on denying until its `retry_at`, so the search may jump there and ask again.
    """
    at: datetime | None = None
    for _ in range(NEXT_ALLOWED_STEPS):
        deciding = _deciding(verdicts)
        if deciding is None or deciding.effect is Effect.ALLOWS:
            return at
        at = deciding.retry_at
        if at is None:
            return None
        verdicts = judge(facts, at, at.astimezone(facts.studio.timezone).date())
    return None


PASSES = {rule: Verdict(rule, Effect.PASSES) for rule in Reason}
DENIES_FOR_GOOD = {rule: Verdict(rule, Effect.DENIES) for rule in Reason}


def _passes_unless(denies: bool, rule: Reason) -> Verdict:
    return DENIES_FOR_GOOD[rule] if denies else PASSES[rule]


def _studio_inactive(facts: Facts) -> Verdict:
    return _passes_unless(not facts.studio.active, Reason.STUDIO_INACTIVE)


def _identity_conflict(facts: Facts, member: Member, at: datetime, today: date) -> Verdict:
    conflict = facts.customer_of is not None and facts.customer_of != member.id
    return _passes_unless(conflict, Reason.IDENTITY_CONFLICT)


def _membership_not_started(facts: Facts, member: Member, at: datetime, today: date) -> Verdict:
    if member.valid_from is None or member.valid_from <= today:
        return PASSES[Reason.MEMBERSHIP_NOT_STARTED]
    starts_at = start_of_day(member.valid_from, facts.studio.timezone)
    return Verdict(Reason.MEMBERSHIP_NOT_STARTED, Effect.DENIES, starts_at)


def _membership_expired(facts: Facts, member: Member, at: datetime, today: date) -> Verdict:
    expired = member.valid_until is not None and member.valid_until < today
    return _passes_unless(expired, Reason.MEMBERSHIP_EXPIRED)


def _membership_suspended(facts: Facts, member: Member, at: datetime, today: date) -> Verdict:
    return _passes_unless(member.status is Status.SUSPENDED, Reason.MEMBERSHIP_SUSPENDED)


def _membership_cancelled(facts: Facts, member: Member, at: datetime, today: date) -> Verdict:
    return _passes_unless(member.status is Status.CANCELLED, Reason.MEMBERSHIP_CANCELLED)


def _studio_not_in_plan(facts: Facts, member: Member, at: datetime, today: date) -> Verdict:
    tags = member.plan.studio_tags
    return _passes_unless(tags is not None and tags.isdisjoint(facts.studio.tags), Reason.STUDIO_NOT_IN_PLAN)


def _reentry(facts: Facts, member: Member, at: datetime, today: date) -> Verdict:
    window = timedelta(minutes=member.plan.reentry_minutes)
    latest: Visit | None = None
    for visit in facts.visits:
        # abs: on another node, whose clock may be ahead, the visit can be "later" than this tap.
        recent = visit.studio_id == facts.studio.id and abs(at - visit.at) < window
        if recent and (latest is None or latest.at < visit.at):
            latest = visit
    if latest is None:
        return PASSES[Reason.REENTRY]
    return Verdict(Reason.REENTRY, Effect.ALLOWS, visit=latest)


def _outside_hours(facts: Facts, member: Member, at: datetime, today: date) -> Verdict:
    hours, tz = member.plan.hours, facts.studio.timezone
    if hours is None or is_open(hours, at, tz):
        return PASSES[Reason.OUTSIDE_HOURS]
    return Verdict(Reason.OUTSIDE_HOURS, Effect.DENIES, next_opening(hours, at, tz))


def _too_soon(facts: Facts, member: Member, at: datetime, today: date) -> Verdict:
    gap = timedelta(minutes=member.plan.min_gap_minutes)
    latest: Visit | None = None
    if gap:
        for visit in facts.visits:
            elsewhere = visit.studio_id != facts.studio.id and not visit.test
            if elsewhere and abs(at - visit.at) < gap and (latest is None or latest.at < visit.at):
                latest = visit
    if latest is None:
        return PASSES[Reason.TOO_SOON]
    return Verdict(Reason.TOO_SOON, Effect.DENIES, latest.at + gap, latest)


def _limit_reached(facts: Facts, member: Member, at: datetime, today: date) -> Verdict:
    """Counts every limit that applies here; of several exceeded ones the one that lasts longest is named."""
    if not member.plan.limits:
        return PASSES[Reason.LIMIT_REACHED]
    within: list[LimitUse] = []
    exceeded: list[tuple[date, LimitUse]] = []
    for limit in member.plan.limits:
        tag = limit.tag
        if tag is not None and tag not in facts.studio.tags:
            continue
        start, end = period(limit.per, today, member.anchor, member.plan.cycle_days)
        used = _used(limit, tag, start, end, facts)
        use = LimitUse(limit.max, limit.per, limit.scope, used)
        if used < limit.max:
            within.append(use)
        else:
            exceeded.append((end or date.max, use))
    if not exceeded:
        return Verdict(Reason.LIMIT_REACHED, Effect.PASSES, uses=tuple(within))
    exceeded.sort(key=lambda item: item[0], reverse=True)
    last_end = exceeded[0][0]
    retry_at = None if last_end == date.max else start_of_day(last_end, facts.studio.timezone)
    uses = (*(use for _, use in exceeded), *within)
    return Verdict(Reason.LIMIT_REACHED, Effect.DENIES, retry_at, uses=uses)


def _used(limit: Limit, tag: str | None, start: date, end: date | None, facts: Facts) -> int:
    """The visits that count against a limit in the period from `start` until before `end`."""
    here = facts.studio.id if limit.scope == STUDIO else None
    used = 0
    for visit in facts.visits:
        if visit.test or visit.local_date < start or (end is not None and visit.local_date >= end):
            continue
        if (here is None or visit.studio_id == here) and (tag is None or tag in visit.tags):
            used += 1
    return used


Rule = Callable[[Facts, Member, datetime, date], Verdict]

# In order of precedence, after studio_inactive and unknown_member, which need no member.
RULES: tuple[tuple[Reason, Rule], ...] = (
    (Reason.IDENTITY_CONFLICT, _identity_conflict),
    (Reason.MEMBERSHIP_NOT_STARTED, _membership_not_started),
    (Reason.MEMBERSHIP_EXPIRED, _membership_expired),
    (Reason.MEMBERSHIP_SUSPENDED, _membership_suspended),
    (Reason.MEMBERSHIP_CANCELLED, _membership_cancelled),
    (Reason.STUDIO_NOT_IN_PLAN, _studio_not_in_plan),
    (Reason.REENTRY, _reentry),
    (Reason.OUTSIDE_HOURS, _outside_hours),
    (Reason.TOO_SOON, _too_soon),
    (Reason.LIMIT_REACHED, _limit_reached),
)
