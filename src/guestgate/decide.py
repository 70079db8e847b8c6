"""May this member enter? One pure function; everything that answers that question calls it.

Each rule is a small function of the facts, listed in `RULES` in order of precedence. All of them are
asked, so that the reason, an explanation and the next permitted instant come from the same verdicts.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime

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
    Plan,
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


def plan_reason(rules: PlanRules, facts: Facts, member: Member, at: datetime, today: date) -> Reason:
    """The reason that `decide` gives where nothing but the `plan_rules` of the member's plan is left to say no.

    Who decides millions of check-ins again needs neither the verdicts nor when the member may come again, which take
    far longer than to find out whether a rule settles the matter.
    """
    for reason, settles in rules:
        if settles(facts, member, at, today):
            return reason
    return Reason.OK


def plan_rules(plan: Plan) -> PlanRules:
    """Those of the rules of plans that a plan has; the others let everything pass."""
    has = {
        Reason.STUDIO_NOT_IN_PLAN: plan.studio_tags is not None,
        Reason.REENTRY: plan.reentry_minutes > 0,
        Reason.OUTSIDE_HOURS: plan.hours is not None,
        Reason.TOO_SOON: plan.min_gap_minutes > 0,
        Reason.LIMIT_REACHED: bool(plan.limits),
    }
    return tuple((reason, settles) for reason, settles in PLAN_RULES if has[reason])


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
    return _passes_unless(_is_not_in_plan(facts, member, at, today), Reason.STUDIO_NOT_IN_PLAN)


def _is_not_in_plan(facts: Facts, member: Member, at: datetime, today: date) -> bool:
    tags = member.plan.studio_tags
    return tags is not None and tags.isdisjoint(facts.studio.tags)


def _reentry(facts: Facts, member: Member, at: datetime, today: date) -> Verdict:
    leaned_on = _visit_just_before(facts, member, at, today)
    if leaned_on is None:
        return PASSES[Reason.REENTRY]
    return Verdict(Reason.REENTRY, Effect.ALLOWS, visit=leaned_on)


def _visit_just_before(facts: Facts, member: Member, at: datetime, today: date) -> Visit | None:
    """The latest visit here within the window of re-entry."""
    window, here = member.plan.reentry_window, facts.studio.id
    latest: Visit | None = None
    for visit in facts.visits:
        # abs: on another node, whose clock may be ahead, the visit can be "later" than this tap.
        if visit.studio_id == here and abs(at - visit.at) < window and (latest is None or latest.at < visit.at):
            latest = visit
    return latest


def _outside_hours(facts: Facts, member: Member, at: datetime, today: date) -> Verdict:
    if not _is_closed(facts, member, at, today):
        return PASSES[Reason.OUTSIDE_HOURS]
    opens_at = next_opening(member.plan.hours or (), at, facts.studio.timezone)
    return Verdict(Reason.OUTSIDE_HOURS, Effect.DENIES, opens_at)


def _is_closed(facts: Facts, member: Member, at: datetime, today: date) -> bool:
    hours = member.plan.hours
    return hours is not None and not is_open(hours, at, facts.studio.timezone)


def _too_soon(facts: Facts, member: Member, at: datetime, today: date) -> Verdict:
    latest = _visit_elsewhere(facts, member, at, today)
    if latest is None:
        return PASSES[Reason.TOO_SOON]
    return Verdict(Reason.TOO_SOON, Effect.DENIES, latest.at + member.plan.min_gap, latest)


def _visit_elsewhere(facts: Facts, member: Member, at: datetime, today: date) -> Visit | None:
    """The latest visit at another studio that is not long enough ago."""
    gap, here = member.plan.min_gap, facts.studio.id
    latest: Visit | None = None
    if gap:
        for visit in facts.visits:
            near = abs(at - visit.at) < gap and visit.studio_id != here and not visit.test
            if near and (latest is None or latest.at < visit.at):
                latest = visit
    return latest


def _limit_reached(facts: Facts, member: Member, at: datetime, today: date) -> Verdict:
    """Counts every limit that applies here; of several exceeded ones the one that lasts longest is named."""
    if not member.plan.limits:
        return PASSES[Reason.LIMIT_REACHED]
    within: list[LimitUse] = []
    exceeded: list[tuple[date, LimitUse]] = []
    for limit in member.plan.limits:
        if _applies(limit, facts):
            used, end = _used(limit, facts, member, today)
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


def _is_limit_reached(facts: Facts, member: Member, at: datetime, today: date) -> bool:
    most = len(facts.visits)
    for limit in member.plan.limits:
        # Most limits need no counting: there are not even so many visits.
        if limit.max <= most and _applies(limit, facts) and _used(limit, facts, member, today)[0] >= limit.max:
            return True
    return False


def _applies(limit: Limit, facts: Facts) -> bool:
    return limit.tag is None or limit.tag in facts.studio.tags


def _used(limit: Limit, facts: Facts, member: Member, today: date) -> tuple[int, date | None]:
    """The visits that count against a limit in the present period, and the first day of the next one, if any."""
    start, end = period(limit.per, today, member.anchor, member.plan.cycle_days)
    before, tag, here = end or date.max, limit.tag, facts.studio.id if limit.scope == STUDIO else None
    used = 0
    for _, studio_id, _, day, tags, test in facts.visits:
        counts = start <= day < before and not test
        if counts and (here is None or studio_id == here) and (tag is None or tag in tags):
            used += 1
    return used, end


Rule = Callable[[Facts, Member, datetime, date], Verdict]
# Whether a rule settles the matter: true of what it finds, such as a visit, and nothing more.
PlanRule = Callable[[Facts, Member, datetime, date], object]
PlanRules = tuple[tuple[Reason, PlanRule], ...]

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

# Those among them that plans make.
PLAN_RULES: PlanRules = (
    (Reason.STUDIO_NOT_IN_PLAN, _is_not_in_plan),
    (Reason.REENTRY, _visit_just_before),
    (Reason.OUTSIDE_HOURS, _is_closed),
    (Reason.TOO_SOON, _visit_elsewhere),
    (Reason.LIMIT_REACHED, _is_limit_reached),
)
# What is told where a plan's rules decide: all before them have passed.
PLAN_REASONS = frozenset({Reason.OK, *(reason for reason, _ in PLAN_RULES)})
