"""Verdicts in words that a person at the desk understands."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from guestgate.model import NETWORK, STUDIO, CheckIn, Effect, Facts, LimitUse, Per, Reason, Verdict

PERIODS = {
    Per.DAY: "today",
    Per.WEEK: "this week",
    Per.MONTH: "this month",
    Per.CYCLE: "in this cycle",
    Per.TOTAL: "in total",
}


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


def limit(use: LimitUse) -> str:
    """``4 of 4 visits here this month``"""
    where = {NETWORK: "in the network", STUDIO: "here"}.get(use.scope, f"at studios tagged {use.scope[4:]}")
    return f"{use.used} of {use.max} visit{'' if use.max == 1 else 's'} {where} {PERIODS[use.per]}"


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
