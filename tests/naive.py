"""The rules of a check-in told a second time, slowly and plainly, to check the real decision against.

Written from the description of the rules, not from the code that it checks. Of the package it uses only the
values that a decision is made on. Periods are found by walking from day to day, visits are counted
day by day, and hours are looked up in a week counted in microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

from guestgate.model import Hours, Member, Plan, Studio, Visit

MICROSECOND = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
WEEK = timedelta(weeks=1)
QUARTER = timedelta(minutes=15)

ALLOWING = ("reentry", "ok")


class Count(NamedTuple):
    """A limit and how often it was used."""

    max: int
    per: str
    scope: str
    used: int


class Answer(NamedTuple):
    """What the model says: the reason, the limit it names, and the visits a re-entry may lean on."""

    reason: str
    limits: tuple[Count, ...] = ()
    leans_on: frozenset[str] = frozenset()

    @property
    def allowed(self) -> bool:
        """Whether the door opens."""
        return self.reason in ALLOWING


def answer(
    at: datetime, studio: Studio, member: Member | None, customer_of: str | None, visits: Iterable[Visit]
) -> Answer:
    """Decide one check-in: go through the reasons in order of precedence and give the first that applies."""
    today = local_date(at, studio)
    if not studio.active:
        return Answer("studio_inactive")
    if member is None:
        return Answer("unknown_member")
    if customer_of not in (None, member.id):
        return Answer("identity_conflict")
    if member.valid_from is not None and today < member.valid_from:
        return Answer("membership_not_started")
    if member.valid_until is not None and today > member.valid_until:
        return Answer("membership_expired")
    if member.status == "suspended":
        return Answer("membership_suspended")
    if member.status == "cancelled":
        return Answer("membership_cancelled")
    plan = member.plan
    if plan.studio_tags is not None and not any(tag in studio.tags for tag in plan.studio_tags):
        return Answer("studio_not_in_plan")
    visits = list(visits)
    recent = [visit for visit in visits if visit.studio_id == studio.id]
    recent = [visit for visit in recent if apart(at, visit.at) < plan.reentry_minutes * MINUTE]
    if recent:
        return Answer("reentry", leans_on=frozenset(visit.id for visit in recent))
    if plan.hours is not None and not any(within(window, at, studio) for window in plan.hours):
        return Answer("outside_hours")
    counting = [visit for visit in visits if not visit.test]
    for visit in counting:
        if visit.studio_id != studio.id and apart(at, visit.at) < plan.min_gap_minutes * MINUTE:
            return Answer("too_soon")
    named = reached(today, studio, member, counting)
    if named:
        return Answer("limit_reached", limits=named)
    return Answer("ok")


def local_date(at: datetime, studio: Studio) -> date:
    """The date on the studio's calendar."""
    return at.astimezone(studio.timezone).date()


def apart(one: datetime, other: datetime) -> timedelta:
    """How far two instants lie apart; clocks of two nodes differ, so either may be the later one."""
    return max(one, other) - min(one, other)


def within(window: Hours, at: datetime, studio: Studio) -> bool:
    """Whether the clock on the studio's wall is inside a window, on a dial that goes round once a week."""
    local = at.astimezone(studio.timezone)
    now = local.weekday() * DAY + since_midnight(local.time())
    for weekday in window.days:
        opens = weekday * DAY + since_midnight(window.start)
        length = (since_midnight(window.end) - since_midnight(window.start)) % DAY or DAY
        if (now - opens) % WEEK < length:
            return True
    return False


def since_midnight(wall: time) -> timedelta:
    """How far the hands of a clock have come since midnight."""
    return timedelta(hours=wall.hour, minutes=wall.minute, seconds=wall.second, microseconds=wall.microsecond)


def reached(today: date, studio: Studio, member: Member, counting: list[Visit]) -> tuple[Count, ...]:
    """The limits that are reached and last longest: one, or several that end on the same day."""
    found: list[tuple[date, Count]] = []
    for limit in member.plan.limits:
        candidates = counting
        if limit.scope == "studio":
            candidates = [visit for visit in counting if visit.studio_id == studio.id]
        elif limit.scope.startswith("tag:"):
            tag = limit.scope[len("tag:") :]
            if tag not in studio.tags:
                continue
            candidates = [visit for visit in counting if tag in visit.tags]
        if limit.per == "total":
            last, used = date.max, len(candidates)
        else:
            days = list(days_of_period(limit.per, today, member.plan, member))
            last, used = max(days), 0
            for day in days:
                for visit in candidates:
                    if visit.local_date == day:
                        used += 1
        if used >= limit.max:
            found.append((last, Count(limit.max, str(limit.per), limit.scope, used)))
    longest = max((last for last, _ in found), default=None)
    return tuple(count for last, count in found if last == longest)


def days_of_period(per: str, today: date, plan: Plan, member: Member) -> Iterator[date]:
    """Every day of the period that holds `today`, found by walking back to its first day and on to its end."""
    first = today
    while not begins(per, first, plan, member):
        first -= DAY
    yield first
    day = first + DAY
    while not begins(per, day, plan, member):
        yield day
        day += DAY


def begins(per: str, day: date, plan: Plan, member: Member) -> bool:
    """Whether a new period begins on this day."""
    if per == "day":
        return True
    if per == "week":
        return day.strftime("%A") == "Monday"
    if per == "month":
        return day.day == 1
    anchor = member.cycle_anchor or member.valid_from
    assert anchor is not None, "a plan with cycles needs an anchor"
    if plan.cycle_days is not None:
        return (day - anchor).days % plan.cycle_days == 0
    is_last_of_month = (day + DAY).month != day.month
    return day.day == anchor.day or (is_last_of_month and day.day < anchor.day)


def next_midnight(at: datetime, studio: Studio) -> datetime:
    """The first instant after `at` with another local date, for zones whose clocks change on a quarter hour."""
    instant = datetime.combine(at.date(), time(at.hour), UTC)
    while instant <= at or local_date(instant, studio) == local_date(at, studio):
        instant += QUARTER
    return instant
