"""Verdicts in words that a person at the desk understands."""

from __future__ import annotations

from datetime import datetime, time
from zoneinfo import ZoneInfo

from guestgate.model import NETWORK, STUDIO, CheckIn, Effect, Facts, LimitUse, Payable, Per, Plan, Reason, Verdict

PERIODS = {
    Per.DAY: "today",
    Per.WEEK: "this week",
    Per.MONTH: "this month",
    Per.CYCLE: "in this cycle",
    Per.TOTAL: "in total",
}

EACH = {
    Per.DAY: "a day",
    Per.WEEK: "a week",
    Per.MONTH: "a month",
    Per.CYCLE: "in each cycle",
    Per.TOTAL: "in total",
}
WHERE = {NETWORK: "in the network", STUDIO: "at each studio"}
# What a reason means, to whoever reads an answer.
REASONS = {
    Reason.STUDIO_INACTIVE: "the studio is paused",
    Reason.UNKNOWN_MEMBER: "nobody has this id",
    Reason.IDENTITY_CONFLICT: "the customer is another member's",
    Reason.MEMBERSHIP_NOT_STARTED: "the membership has not begun",
    Reason.MEMBERSHIP_EXPIRED: "the membership is over",
    Reason.MEMBERSHIP_SUSPENDED: "the membership is suspended",
    Reason.MEMBERSHIP_CANCELLED: "the membership is cancelled",
    Reason.STUDIO_NOT_IN_PLAN: "the plan is not for this studio",
    Reason.REENTRY: "the same visit goes on",
    Reason.OUTSIDE_HOURS: "outside the plan's hours",
    Reason.TOO_SOON: "too soon after a visit elsewhere",
    Reason.LIMIT_REACHED: "a limit is used up",
    Reason.OK: "every rule is kept",
    Reason.UNAVAILABLE: "could not be decided in time",
}
# What each rule is about.
RULES = {
    Reason.STUDIO_INACTIVE: "Studio",
    Reason.UNKNOWN_MEMBER: "Member",
    Reason.IDENTITY_CONFLICT: "Customer",
    Reason.MEMBERSHIP_NOT_STARTED: "First day",
    Reason.MEMBERSHIP_EXPIRED: "Last day",
    Reason.MEMBERSHIP_SUSPENDED: "Suspension",
    Reason.MEMBERSHIP_CANCELLED: "Cancellation",
    Reason.STUDIO_NOT_IN_PLAN: "Studios of the plan",
    Reason.REENTRY: "Re-entry",
    Reason.OUTSIDE_HOURS: "Hours",
    Reason.TOO_SOON: "Time between visits",
    Reason.LIMIT_REACHED: "Limits",
}
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def detail(verdict: Verdict, facts: Facts, checkin: CheckIn) -> str:
    """One verdict in a few words."""
    if verdict.effect is Effect.NOT_EVALUATED:
        return "not asked: there is no member"
    text = _detail(verdict, facts, checkin)
    if verdict.effect is Effect.DENIES and verdict.retry_at is not None:
        text += f"; until {local(verdict.retry_at, facts.studio.timezone)}"
    return text


def _detail(verdict: Verdict, facts: Facts, checkin: CheckIn) -> str:
    denies, member, studio = verdict.effect is Effect.DENIES, facts.member, facts.studio
    if verdict.rule is Reason.STUDIO_INACTIVE:
        return f"studio {studio.id} is {'paused' if denies else 'active'}"
    if member is None:
        return f"no member has the id {checkin.aggregator_id}"
    plan = member.plan
    match verdict.rule:
        case Reason.UNKNOWN_MEMBER:
            return f"member {member.id}, plan {plan.name} (version {plan.version})"
        case Reason.IDENTITY_CONFLICT:
            if denies:
                return f"the customer is linked to member {facts.customer_of}"
            return "the customer is linked to this member" if facts.customer_of else "no other member's customer"
        case Reason.MEMBERSHIP_NOT_STARTED:
            return f"valid from {member.valid_from}" if member.valid_from else "no first day"
        case Reason.MEMBERSHIP_EXPIRED:
            return f"valid until {member.valid_until}" if member.valid_until else "no last day"
        case Reason.MEMBERSHIP_SUSPENDED | Reason.MEMBERSHIP_CANCELLED:
            return f"the membership is {member.status.value}"
        case Reason.STUDIO_NOT_IN_PLAN:
            return _tags(plan.studio_tags, studio.tags)
        case Reason.REENTRY:
            return _reentry(verdict, studio.timezone, plan.reentry_minutes)
        case Reason.OUTSIDE_HOURS:
            when = local(checkin.received_at, studio.timezone)
            return (
                "the plan has no hours"
                if plan.hours is None
                else f"{when} is {'outside' if denies else 'within'} its hours"
            )
        case Reason.TOO_SOON:
            if verdict.visit is not None:
                at = local(verdict.visit.at, studio.timezone)
                return f"visited {verdict.visit.studio_id} at {at}; {plan.min_gap_minutes} minutes between studios"
            return (
                f"{plan.min_gap_minutes} minutes between studios are kept" if plan.min_gap_minutes else "no gap asked"
            )
        case Reason.LIMIT_REACHED:
            return ", ".join(limit(use) for use in verdict.uses) or "no limit applies here"
        case _:
            return ""


def where(scope: str) -> str:
    """Where the visits of a limit are counted."""
    return WHERE.get(scope, f"at studios tagged {scope[4:]}")


def limit(use: LimitUse) -> str:
    """``4 of 4 visits here this month``"""
    place = "here" if use.scope == STUDIO else where(use.scope)
    return f"{use.used} of {use.max} visit{'' if use.max == 1 else 's'} {place} {PERIODS[use.per]}"


def plan(rules: Plan) -> list[str]:
    """A plan's rules, a sentence each."""
    sentences = []
    if rules.studio_tags is None:
        sentences.append("Open to every studio.")
    else:
        sentences.append(f"Open to studios tagged {' or '.join(sorted(rules.studio_tags))}.")
    for window in rules.hours or ():
        until = window.end.strftime("%H:%M") if window.end != time(0) else "24:00"
        sentences.append(f"{_days(window.days)} from {window.start:%H:%M} until {until}.")
    for limit in rules.limits:
        visits = f"visit{'' if limit.max == 1 else 's'} {EACH[limit.per]} {where(limit.scope)}"
        sentences.append(f"At most {limit.max} {visits}.")
    if not rules.limits:
        sentences.append("As many visits as they like.")
    if rules.has_cycle:
        length = f"{rules.cycle_days} days" if rules.cycle_days else "a month"
        sentences.append(f"A cycle is {length}, counted from each member's own first day.")
    if rules.min_gap_minutes:
        sentences.append(f"At least {_minutes(rules.min_gap_minutes)} between visits at different studios.")
    if rules.reentry_minutes:
        sentences.append(
            f"Who taps again at the same studio within {_minutes(rules.reentry_minutes)} is on the same visit."
        )
    is_daily = rules.payable is Payable.PER_MEMBER_DAY
    sentences.append(f"A studio is paid for {'a member once a day' if is_daily else 'every visit'}.")
    return sentences


def _minutes(count: int) -> str:
    return f"{count} minute{'' if count == 1 else 's'}"


def _days(days: frozenset[int]) -> str:
    """``Mon to Fri``, ``Every day`` or ``Mon, Wed, Sun``."""
    first, last = min(days), max(days)
    if len(days) == 7:
        return "Every day"
    if len(days) > 2 and last - first == len(days) - 1:
        return f"{WEEKDAYS[first]} to {WEEKDAYS[last]}"
    return ", ".join(WEEKDAYS[day] for day in sorted(days))


def local(instant: datetime, tz: ZoneInfo) -> str:
    """An instant on the studio's wall clock."""
    return instant.astimezone(tz).strftime("%a %Y-%m-%d %H:%M")


def _tags(wanted: frozenset[str] | None, has: frozenset[str]) -> str:
    if wanted is None:
        return "the plan is open to every studio"
    asked, given = " or ".join(sorted(wanted)), ", ".join(sorted(has)) or "no tags"
    return f"the plan is for studios tagged {asked}; this one has {given}"


def _reentry(verdict: Verdict, tz: ZoneInfo, minutes: int) -> str:
    if verdict.visit is not None:
        return f"visit of {local(verdict.visit.at, tz)} is less than {minutes} minutes old"
    return f"no visit here within {minutes} minutes" if minutes else "the plan has no re-entry"
