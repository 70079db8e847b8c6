"""The rules of a check-in told a second time, plainly and slowly, for the auditor.

Written from the description of the rules. It shares nothing with the code that decides at the door: not the
rules, not the calendar, not the values. Periods are found by walking from day to day, hours are looked up
on a dial that goes round once a week.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

from guestgate.sandbox.town import Member, Studio, Town

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
WEEK_MINUTES = 7 * 24 * 60
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ALLOWING = ("reentry", "ok")
DEFAULT_REENTRY_MINUTES = 10


class Entry(NamedTuple):
    """A visit: where and when, and the date that the studio's calendar showed."""

    id: str
    studio: Studio
    at: datetime
    local_date: date


class Use(NamedTuple):
    """A limit and how often it was used."""

    max: int
    per: str
    scope: str
    used: int


class Verdict(NamedTuple):
    """What should be answered: the reason, the limits it may name, the visits a re-entry may lean on."""

    reason: str
    limits: tuple[Use, ...] = ()
    leans_on: frozenset[str] = frozenset()

    @property
    def allowed(self) -> bool:
        """Whether the door opens."""
        return self.reason in ALLOWING


class Rulebook:
    """The rules of one town."""

    def __init__(self, town: Town) -> None:
        """Only the town's plans, members and links are read."""
        self._town = town

    def member_of(self, aggregator_id: str, customer_id: int) -> Member | None:
        """Who is meant: our own company id leaves it to the customer, any other is the member's."""
        own = self._town.spec.aggregator_id
        if own is not None and aggregator_id == own:
            return self._town.by_id.get(self._town.linked.get(customer_id, ""))
        return self._town.by_id.get(aggregator_id)

    def verdict(
        self, at: datetime, studio: Studio, member: Member | None, customer_id: int, entries: Iterable[Entry]
    ) -> Verdict:
        """What a check-in should be answered, given the member's entries that count."""
        if studio.paused:
            return Verdict("studio_inactive")
        if member is None:
            return Verdict("unknown_member")
        if self._town.linked.get(customer_id, member.id) != member.id:
            return Verdict("identity_conflict")
        against = self._against(at, studio, member)
        if against is not None:
            return Verdict(against)
        today, plan, entries = local_date(at, studio), self._town.plans[member.plan], list(entries)
        window = plan.get("reentry_minutes", DEFAULT_REENTRY_MINUTES) * MINUTE
        recent = [entry for entry in entries if entry.studio is studio and abs(at - entry.at) < window]
        if recent:
            latest = max(entry.at for entry in recent)
            return Verdict("reentry", leans_on=frozenset(entry.id for entry in recent if entry.at == latest))
        if "hours" in plan and not any(is_within(hours, at, studio) for hours in plan["hours"]):
            return Verdict("outside_hours")
        counting = [entry for entry in entries if not entry.studio.test]
        gap = plan.get("min_gap_minutes", 0) * MINUTE
        if any(entry.studio is not studio and abs(at - entry.at) < gap for entry in counting):
            return Verdict("too_soon")
        limits = reached(today, studio, member, plan, counting)
        return Verdict("limit_reached", limits=limits) if limits else Verdict("ok")

    def registration(self, at: datetime, studio: Studio, member: Member | None) -> str:
        """Why a member may register at a desk, ``ok``, or why not: who they are counts, visits do not."""
        if studio.paused:
            return "studio_inactive"
        if member is None:
            return "unknown_member"
        return self._against(at, studio, member) or "ok"

    def _against(self, at: datetime, studio: Studio, member: Member) -> str | None:
        """What is against a membership on that day at that studio."""
        today = local_date(at, studio).isoformat()
        if today < member.valid_from:
            return "membership_not_started"
        if member.valid_until is not None and today > member.valid_until:
            return "membership_expired"
        if member.status != "active":
            return f"membership_{member.status}"
        wanted = self._town.plans[member.plan].get("studio_tags")
        if wanted is not None and not any(tag in studio.tags for tag in wanted):
            return "studio_not_in_plan"
        return None

    def pays_per_visit(self, member: Member) -> bool:
        """Whether each visit of the member's plan is paid, rather than one a day."""
        return bool(self._town.plans[member.plan].get("payable") == "per_visit")


def local_date(at: datetime, studio: Studio) -> date:
    """The date on the studio's calendar."""
    return at.astimezone(studio.zone).date()


def is_within(hours: dict[str, Any], at: datetime, studio: Studio) -> bool:
    """Whether a clock on the studio's wall stands within these hours."""
    wall = at.astimezone(studio.zone)
    now = (wall.weekday() * 24 + wall.hour) * 60 + wall.minute
    opens, closes = minutes(hours["from"]), minutes(hours["until"])
    length = (closes - opens) % (24 * 60) or 24 * 60
    starts = [WEEKDAYS.index(day) * 24 * 60 + opens for day in hours.get("days", WEEKDAYS)]
    return any((now - start) % WEEK_MINUTES < length for start in starts)


def minutes(wall: str) -> int:
    """Minutes since midnight of ``06:30``."""
    hour, minute = wall.split(":")
    return int(hour) * 60 + int(minute)


def reached(
    today: date, studio: Studio, member: Member, plan: dict[str, Any], counting: list[Entry]
) -> tuple[Use, ...]:
    """The limits that are reached and last longest: one, or several that end on the same day."""
    found: list[tuple[date, Use]] = []
    for limit in plan.get("limits", ()):
        scope = limit.get("scope", "network")
        entries = counting
        if scope == "studio":
            entries = [entry for entry in counting if entry.studio is studio]
        elif scope != "network":
            tag = scope.removeprefix("tag:")
            if tag not in studio.tags:
                continue
            entries = [entry for entry in counting if tag in entry.studio.tags]
        last = date.max
        if limit["per"] != "total" and len(entries) >= limit["max"]:
            days = set(days_of_period(limit["per"], today, plan, member))
            last = max(days)
            entries = [entry for entry in entries if entry.local_date in days]
        if len(entries) >= limit["max"]:
            found.append((last, Use(limit["max"], limit["per"], scope, len(entries))))
    longest = max((last for last, _ in found), default=None)
    return tuple(use for last, use in found if last == longest)


def days_of_period(per: str, today: date, plan: dict[str, Any], member: Member) -> Iterator[date]:
    """Every day of the period that holds `today`: back to its first day, and on to its last."""
    day = today
    while not begins(per, day, plan, member):
        day -= DAY
    yield day
    day += DAY
    while not begins(per, day, plan, member):
        yield day
        day += DAY


def begins(per: str, day: date, plan: dict[str, Any], member: Member) -> bool:
    """Whether a new period begins on this day."""
    if per == "day":
        return True
    if per == "week":
        return day.weekday() == WEEKDAYS.index("mon")
    if per == "month":
        return day.day == 1
    anchor = date.fromisoformat(member.cycle_anchor or member.valid_from)
    if "cycle_days" in plan:
        return bool((day - anchor).days % plan["cycle_days"] == 0)
    is_last_of_month = (day + DAY).day == 1
    return day.day == anchor.day or (is_last_of_month and day.day < anchor.day)
