"""The rules of a check-in, as a table of cases.

Unless a case says otherwise: the studio is in Berlin and open for check-ins, the member is active and without
dates, the plan allows re-entry for ten minutes and has no other rule. Times are local ones of the studio that
asks; 2026-03-10 is a Tuesday.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from guestgate.decide import decide
from guestgate.model import (
    CheckIn,
    Decision,
    Effect,
    Facts,
    Hours,
    Limit,
    LimitUse,
    Member,
    Outcome,
    Per,
    Plan,
    Reason,
    Status,
    Studio,
    Visit,
)

RULES = [reason for reason in Reason if reason not in (Reason.OK, Reason.UNAVAILABLE)]

HOME = Studio("home", "Home", ZoneInfo("Europe/Berlin"), frozenset({"classic", "spa"}))
OTHER = Studio("other", "Other", ZoneInfo("Europe/Berlin"), frozenset({"classic"}))
SPA = Studio("spa", "Spa", ZoneInfo("Europe/Berlin"), frozenset({"spa"}))
BARE = Studio("bare", "Bare", ZoneInfo("Europe/Berlin"))
DEMO = Studio("demo", "Demo", ZoneInfo("Europe/Berlin"), frozenset({"classic", "spa"}), test=True)
AUCKLAND = Studio("auckland", "Auckland", ZoneInfo("Pacific/Auckland"))
LOS_ANGELES = Studio("los-angeles", "Los Angeles", ZoneInfo("America/Los_Angeles"))
SANTIAGO = Studio("santiago", "Santiago", ZoneInfo("America/Santiago"))
HAVANA = Studio("havana", "Havana", ZoneInfo("America/Havana"))
APIA = Studio("apia", "Apia", ZoneInfo("Pacific/Apia"))

MON, TUE, WED, THU, FRI, SAT, SUN = range(7)
WEEKDAYS = frozenset({MON, TUE, WED, THU, FRI})
EVERY_DAY = frozenset(range(7))
OFFICE = (Hours(WEEKDAYS, time(6), time(16)),)
MORNINGS = (Hours(EVERY_DAY, time(6), time(12)),)


def local(text: str, studio: Studio, fold: int = 0) -> datetime:
    """The instant at which a studio's clock shows a time; fold 1 is the second pass of a repeated hour."""
    return datetime.fromisoformat(text).replace(tzinfo=studio.timezone, fold=fold).astimezone(UTC)


def visit(text: str, studio: Studio = HOME, visit_id: str = "v1", fold: int = 0) -> Visit:
    """A visit at a studio's local time, counted on that studio's date."""
    at = local(text, studio, fold)
    local_date = at.astimezone(studio.timezone).date()
    return Visit(visit_id, studio.id, at, local_date, studio.tags, studio.test)


def visits(*texts: str, studio: Studio = HOME) -> tuple[Visit, ...]:
    """Several visits at one studio."""
    return tuple(visit(text, studio, f"v{number}") for number, text in enumerate(texts, 1))


def limit(maximum: int, per: str, scope: str = "network") -> Limit:
    """A limit of a plan."""
    return Limit(maximum, Per(per), scope)


def used(maximum: int, per: str, scope: str = "network", times: int | None = None) -> LimitUse:
    """A limit as a denial names it; used up exactly unless said otherwise."""
    return LimitUse(maximum, Per(per), scope, maximum if times is None else times)


def plan(**rules: Any) -> Plan:
    """A plan with the defaults of a plans file."""
    return Plan("plan", 1, "Plan", **rules)


@dataclass(frozen=True)
class Case:
    """A check-in with all that bears on it, and what it is to be told."""

    reason: str
    at: str = "2026-03-10 12:00"
    studio: Studio = HOME
    plan: dict[str, Any] = field(default_factory=dict)
    member: dict[str, Any] = field(default_factory=dict)
    visits: Iterable[Visit] = ()
    customer_of: str | None = None
    fold: int = 0
    # A denial's; both are null where nothing is said, also for every permitted check-in.
    limit: LimitUse | None = None
    next: str | None = None
    # A re-entry's.
    leans_on: str | None = None

    def facts(self) -> Facts:
        """What the decision rests on."""
        written = {key: date.fromisoformat(v) if type(v) is str else v for key, v in self.member.items()}
        member = Member("member", plan(**self.plan), **written)
        return Facts(self.studio, member, self.customer_of, tuple(self.visits))

    def decide(self) -> Decision:
        """The decision."""
        return check_in(self.facts(), local(self.at, self.studio, self.fold))

    def hold(self) -> None:
        """Compare the whole decision with the case."""
        decision = self.decide()
        allowed = self.reason in ("ok", "reentry")
        assert decision.reason == self.reason
        assert decision.outcome == (Outcome.ALLOWED if allowed else Outcome.DENIED)
        assert decision.limit == self.limit
        assert decision.next_allowed_at == (local(self.next, self.studio) if self.next else None)
        assert decision.visit_id == (decision.id if self.reason == "ok" else self.leans_on)
        assert decision.makes_visit is (self.reason == "ok")
        assert decision.local_date == date.fromisoformat(self.at[:10])
        assert [verdict.rule for verdict in decision.verdicts] == RULES


def check_in(facts: Facts, at: datetime, checkin_id: str = "checkin") -> Decision:
    """Decide a check-in at an instant."""
    return decide(CheckIn(checkin_id, at, facts.studio.id, "member", 1), facts)


def table(**cases: Case) -> pytest.MarkDecorator:
    """One test for each case, under its name."""
    return pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in cases.items()])


# -- who and where


@table(
    nothing_forbids_it=Case("ok"),
    the_studio_is_paused=Case("studio_inactive", studio=replace(HOME, active=False)),
    the_customer_is_linked_to_this_member=Case("ok", customer_of="member"),
    the_customer_is_linked_to_another_member=Case("identity_conflict", customer_of="somebody else"),
    the_plan_names_no_tags=Case("ok", studio=BARE),
    the_studio_has_one_of_the_plans_tags=Case("ok", plan={"studio_tags": frozenset({"spa", "pool"})}),
    the_studio_has_none_of_the_plans_tags=Case(
        "studio_not_in_plan", studio=OTHER, plan={"studio_tags": frozenset({"spa", "pool"})}
    ),
    the_studio_has_no_tags=Case("studio_not_in_plan", studio=BARE, plan={"studio_tags": frozenset({"spa"})}),
)
def test_who_and_where(case: Case) -> None:
    """The studio, the customer and the plan's studios; waiting changes none of them."""
    case.hold()


@table(
    suspended=Case("membership_suspended", member={"status": Status.SUSPENDED}),
    cancelled=Case("membership_cancelled", member={"status": Status.CANCELLED}),
    the_evening_before_it_starts=Case(
        "membership_not_started",
        "2026-03-10 23:59:59.999",
        member={"valid_from": "2026-03-11"},
        next="2026-03-11 00:00",
    ),
    the_first_day=Case("ok", "2026-03-11 00:00", member={"valid_from": "2026-03-11"}),
    the_last_day=Case("ok", "2026-03-11 23:59:59.999", member={"valid_until": "2026-03-11"}),
    the_day_after_the_last=Case("membership_expired", "2026-03-12 00:00", member={"valid_until": "2026-03-11"}),
    a_single_day=Case("ok", "2026-03-11 12:00", member={"valid_from": "2026-03-11", "valid_until": "2026-03-11"}),
    starts_while_the_studio_is_closed=Case(
        "membership_not_started",
        plan={"hours": OFFICE},
        member={"valid_from": "2026-03-14"},
        next="2026-03-16 06:00",
    ),
    starts_on_a_day_without_midnight=Case(
        "membership_not_started",
        "2022-09-10 12:00",
        studio=SANTIAGO,
        member={"valid_from": "2022-09-11"},
        next="2022-09-11 01:00",
    ),
    starts_but_suspended=Case(
        "membership_not_started", member={"valid_from": "2026-03-11", "status": Status.SUSPENDED}
    ),
    starts_but_the_plan_excludes_the_studio=Case(
        "membership_not_started",
        plan={"studio_tags": frozenset({"pool"})},
        member={"valid_from": "2026-03-11"},
    ),
)
def test_membership(case: Case) -> None:
    """A membership's dates are both inclusive, and its status comes after them."""
    case.hold()


@table(
    already_started_in_auckland=Case("ok", "2026-03-11 01:00", studio=AUCKLAND, member={"valid_from": "2026-03-11"}),
    not_yet_in_berlin=Case(
        "membership_not_started", "2026-03-10 13:00", member={"valid_from": "2026-03-11"}, next="2026-03-11 00:00"
    ),
    already_over_in_berlin=Case("membership_expired", "2026-03-11 01:00", member={"valid_until": "2026-03-10"}),
    still_valid_in_los_angeles=Case(
        "ok", "2026-03-10 17:00", studio=LOS_ANGELES, member={"valid_until": "2026-03-10"}
    ),
)
def test_the_studios_calendar(case: Case) -> None:
    """The date is the one at the studio that asks, at the same instants here and there."""
    case.hold()


def test_unknown_member() -> None:
    """Nobody answers to the name, whoever the customer is; no other rule can be asked."""
    for customer_of in (None, "somebody else"):
        decision = check_in(Facts(HOME, None, customer_of), local("2026-03-10 12:00", HOME))
        assert (decision.outcome, decision.reason) == (Outcome.DENIED, Reason.UNKNOWN_MEMBER)
        assert (decision.limit, decision.next_allowed_at, decision.visit_id) == (None, None, None)
        assert [verdict.rule for verdict in decision.verdicts] == RULES
        effects = [verdict.effect for verdict in decision.verdicts]
        assert effects == [Effect.PASSES, Effect.DENIES, *[Effect.NOT_EVALUATED] * 10]


# -- precedence


def test_the_order_of_precedence() -> None:
    """Everything applies at once; as one thing after another is put right, the next reason is given."""
    at = local("2026-03-10 12:00", HOME)
    member = Member(
        "member",
        plan(
            studio_tags=frozenset({"pool"}),
            limits=(limit(1, "day"),),
            hours=MORNINGS,
            min_gap_minutes=30,
        ),
        Status.SUSPENDED,
        valid_from=date(2026, 3, 11),
        valid_until=date(2026, 3, 9),
    )
    known = Facts(
        replace(HOME, active=False),
        member,
        "somebody else",
        (visit("2026-03-10 11:55"), visit("2026-03-10 11:50", OTHER, "v2")),
    )

    def with_member(facts: Facts, **changes: Any) -> Facts:
        assert facts.member is not None
        return facts._replace(member=facts.member._replace(**changes))

    def with_plan(facts: Facts, **changes: Any) -> Facts:
        assert facts.member is not None
        return with_member(facts, plan=replace(facts.member.plan, **changes))

    put_right = [
        lambda facts: facts._replace(studio=HOME),
        lambda facts: facts._replace(member=member),
        lambda facts: facts._replace(customer_of="member"),
        lambda facts: with_member(facts, valid_from=None),
        lambda facts: with_member(facts, valid_until=None),
        lambda facts: with_member(facts, status=Status.CANCELLED),
        lambda facts: with_member(facts, status=Status.ACTIVE),
        lambda facts: with_plan(facts, studio_tags=None),
        lambda facts: with_plan(facts, reentry_minutes=0),
        lambda facts: with_plan(facts, hours=None),
        lambda facts: with_plan(facts, min_gap_minutes=0),
        lambda facts: with_plan(facts, limits=()),
    ]
    facts = known._replace(member=None)
    reasons = [check_in(facts, at).reason]
    for change in put_right:
        facts = change(facts)
        reasons.append(check_in(facts, at).reason)

    assert reasons == [reason for reason in Reason if reason is not Reason.UNAVAILABLE]


def test_every_rule_gives_its_verdict_also_behind_the_deciding_one() -> None:
    """A suspended member hears one reason, while an explanation shows what else stands in the way."""
    decision = Case(
        "membership_suspended",
        "2026-03-10 12:30",
        plan={"hours": MORNINGS, "min_gap_minutes": 60, "limits": (limit(1, "day"), limit(5, "month"))},
        member={"status": Status.SUSPENDED},
        visits=[visit("2026-03-10 11:50", OTHER)],
    ).decide()

    assert decision.reason == "membership_suspended"
    verdicts = {verdict.rule: verdict for verdict in decision.verdicts}
    assert list(verdicts) == RULES
    denying = [rule for rule, verdict in verdicts.items() if verdict.effect is Effect.DENIES]
    assert denying == ["membership_suspended", "outside_hours", "too_soon", "limit_reached"]
    assert {verdict.effect for rule, verdict in verdicts.items() if rule not in denying} == {Effect.PASSES}
    assert verdicts[Reason.MEMBERSHIP_SUSPENDED].retry_at is None
    assert verdicts[Reason.OUTSIDE_HOURS].retry_at == local("2026-03-11 06:00", HOME)
    assert verdicts[Reason.TOO_SOON].retry_at == local("2026-03-10 12:50", HOME)
    assert verdicts[Reason.TOO_SOON].visit == visit("2026-03-10 11:50", OTHER)
    assert verdicts[Reason.LIMIT_REACHED].retry_at == local("2026-03-11 00:00", HOME)
    assert verdicts[Reason.LIMIT_REACHED].uses == (used(1, "day"), used(5, "month", times=1))


def test_a_permitted_check_in_shows_how_much_of_each_limit_is_used() -> None:
    """Limits that are not reached are counted too, in the plan's order; one of another tag is left out."""
    limits = (limit(2, "day"), limit(8, "month", "studio"), limit(3, "week", "tag:spa"), limit(9, "total"))
    decision = Case("ok", studio=OTHER, plan={"limits": limits}, visits=[visit("2026-03-10 08:00")]).decide()

    assert decision.verdicts[-1].effect is Effect.PASSES
    assert decision.verdicts[-1].uses == (
        used(2, "day", times=1),
        used(8, "month", "studio", times=0),
        used(9, "total", times=1),
    )


# -- re-entry

ONCE_A_DAY = {"limits": (limit(1, "day"),)}


@table(
    at_once=Case("reentry", visits=[visit("2026-03-10 12:00")], leans_on="v1"),
    just_inside_the_window=Case(
        "reentry", "2026-03-10 12:09:59.999", visits=[visit("2026-03-10 12:00")], leans_on="v1"
    ),
    exactly_at_its_end=Case("ok", "2026-03-10 12:10", visits=[visit("2026-03-10 12:00")]),
    exactly_at_its_end_with_a_limit=Case(
        "limit_reached",
        "2026-03-10 12:10",
        plan=ONCE_A_DAY,
        visits=[visit("2026-03-10 12:00")],
        limit=used(1, "day"),
        next="2026-03-11 00:00",
    ),
    on_the_last_permitted_visit=Case(
        "reentry", "2026-03-10 12:05", plan=ONCE_A_DAY, visits=[visit("2026-03-10 12:00")], leans_on="v1"
    ),
    after_closing=Case(
        "reentry",
        "2026-03-10 16:05",
        plan={"hours": OFFICE},
        visits=[visit("2026-03-10 15:58")],
        leans_on="v1",
    ),
    within_the_gap_after_another_studio=Case(
        "reentry",
        "2026-03-10 12:05",
        plan={"min_gap_minutes": 30},
        visits=[visit("2026-03-10 12:01", OTHER, "v2"), visit("2026-03-10 11:59")],
        leans_on="v1",
    ),
    not_at_another_studio=Case("ok", "2026-03-10 12:05", visits=[visit("2026-03-10 12:00", OTHER)]),
    switched_off=Case("ok", plan={"reentry_minutes": 0}, visits=[visit("2026-03-10 12:00")]),
    switched_off_with_a_limit=Case(
        "limit_reached",
        "2026-03-10 12:01",
        plan={"reentry_minutes": 0, **ONCE_A_DAY},
        visits=[visit("2026-03-10 12:00")],
        limit=used(1, "day"),
        next="2026-03-11 00:00",
    ),
    a_longer_window=Case(
        "reentry",
        "2026-03-10 13:59",
        plan={"reentry_minutes": 120},
        visits=[visit("2026-03-10 12:00")],
        leans_on="v1",
    ),
    over_midnight=Case(
        "reentry",
        "2026-03-11 00:04",
        plan=ONCE_A_DAY,
        visits=[visit("2026-03-10 23:55")],
        leans_on="v1",
    ),
    after_midnight_it_is_a_new_days_visit=Case(
        "ok", "2026-03-11 00:05", plan=ONCE_A_DAY, visits=[visit("2026-03-10 23:55")]
    ),
    not_once_the_membership_has_expired=Case(
        "membership_expired",
        "2026-03-11 00:04",
        member={"valid_until": "2026-03-10"},
        visits=[visit("2026-03-10 23:55")],
    ),
    the_visits_clock_is_ahead=Case("reentry", plan=ONCE_A_DAY, visits=[visit("2026-03-10 12:00:02")], leans_on="v1"),
    of_two_visits_the_recent_one=Case(
        "reentry",
        "2026-03-10 12:25",
        visits=visits("2026-03-10 12:05", "2026-03-10 12:20"),
        leans_on="v2",
    ),
    clocks_are_set_back_in_between=Case(
        "reentry",
        "2026-10-25 02:02",
        fold=1,
        visits=[visit("2026-10-25 02:55")],
        leans_on="v1",
    ),
    the_same_time_an_hour_later=Case("ok", "2026-10-25 02:55", fold=1, visits=[visit("2026-10-25 02:55")]),
    at_a_test_studio=Case(
        "reentry", "2026-03-10 12:05", studio=DEMO, visits=[visit("2026-03-10 12:00", DEMO)], leans_on="v1"
    ),
)
def test_reentry(case: Case) -> None:
    """Less than the window after a visit to the same studio: before hours, gap and limits, and no new visit."""
    case.hold()


def test_reentry_does_not_prolong_the_window() -> None:
    """Tapping every eight minutes is a visit, a re-entry of that visit, and a visit again."""
    facts = Case("ok").facts()
    told = []
    for number in range(5):
        at = local("2026-03-10 12:00", HOME) + number * timedelta(minutes=8)
        decision = check_in(facts, at, f"tap{number}")
        told.append((decision.reason, decision.visit_id))
        if decision.makes_visit:
            made = Visit(decision.id, HOME.id, at, decision.local_date, HOME.tags)
            facts = facts._replace(visits=(*facts.visits, made))

    assert told == [("ok", "tap0"), ("reentry", "tap0"), ("ok", "tap2"), ("reentry", "tap2"), ("ok", "tap4")]


# -- hours

NIGHT = (Hours(frozenset({FRI}), time(22), time(2)),)
EVENING = (Hours(frozenset({SAT}), time(20), time(0)),)
WHOLE_DAY = (Hours(frozenset({SUN}), time(0), time(0)),)
TWICE = (Hours(EVERY_DAY, time(6), time(9)), Hours(EVERY_DAY, time(18), time(21)))


@table(
    before_opening=Case("outside_hours", "2026-03-10 05:59:59.999", plan={"hours": OFFICE}, next="2026-03-10 06:00"),
    from_is_included=Case("ok", "2026-03-10 06:00", plan={"hours": OFFICE}),
    the_last_moment=Case("ok", "2026-03-10 15:59:59.999", plan={"hours": OFFICE}),
    until_is_excluded=Case("outside_hours", "2026-03-10 16:00", plan={"hours": OFFICE}, next="2026-03-11 06:00"),
    before_the_weekend=Case("outside_hours", "2026-03-13 16:00", plan={"hours": OFFICE}, next="2026-03-16 06:00"),
    at_the_weekend=Case("outside_hours", "2026-03-14 12:00", plan={"hours": OFFICE}, next="2026-03-16 06:00"),
    between_two_windows=Case("outside_hours", plan={"hours": TWICE}, next="2026-03-10 18:00"),
    in_the_second_window=Case("ok", "2026-03-10 20:59", plan={"hours": TWICE}),
    past_midnight=Case("ok", "2026-03-14 01:59:59.999", plan={"hours": NIGHT}),
    past_midnight_is_over=Case("outside_hours", "2026-03-14 02:00", plan={"hours": NIGHT}, next="2026-03-20 22:00"),
    past_midnight_of_the_day_before=Case(
        "outside_hours", "2026-03-13 01:00", plan={"hours": NIGHT}, next="2026-03-13 22:00"
    ),
    until_24=Case("ok", "2026-03-14 23:59:59.999", plan={"hours": EVENING}),
    until_24_is_over=Case("outside_hours", "2026-03-15 00:00", plan={"hours": EVENING}, next="2026-03-21 20:00"),
    a_whole_day_begins=Case("ok", "2026-03-15 00:00", plan={"hours": WHOLE_DAY}),
    a_whole_day_ends=Case("ok", "2026-03-15 23:59:59.999", plan={"hours": WHOLE_DAY}),
    a_whole_day_is_over=Case("outside_hours", "2026-03-16 00:00", plan={"hours": WHOLE_DAY}, next="2026-03-22 00:00"),
    on_the_studios_own_clock=Case("ok", "2026-03-10 06:00", studio=AUCKLAND, plan={"hours": OFFICE}),
    opening_time_left_out_by_the_clocks=Case(
        "outside_hours",
        "2026-03-29 01:59",
        plan={"hours": (Hours(EVERY_DAY, time(2, 30), time(6)),)},
        next="2026-03-29 03:00",
    ),
    closed_and_the_limit_reached=Case(
        "outside_hours",
        "2026-03-10 12:30",
        plan={"hours": MORNINGS, "limits": (limit(1, "week"),)},
        visits=[visit("2026-03-10 08:00")],
        next="2026-03-16 06:00",
    ),
    closed_until_the_membership_has_expired=Case(
        "outside_hours", "2026-03-13 16:00", plan={"hours": OFFICE}, member={"valid_until": "2026-03-15"}
    ),
)
def test_hours(case: Case) -> None:
    """The clock on the studio's wall; a window belongs to the weekday that it starts on."""
    case.hold()


# -- gap

HALF_AN_HOUR = {"min_gap_minutes": 30}


@table(
    just_within=Case(
        "too_soon",
        "2026-03-10 12:29:59.999",
        plan=HALF_AN_HOUR,
        visits=[visit("2026-03-10 12:00", OTHER)],
        next="2026-03-10 12:30",
    ),
    exactly_at_its_end=Case("ok", "2026-03-10 12:30", plan=HALF_AN_HOUR, visits=[visit("2026-03-10 12:00", OTHER)]),
    not_at_the_same_studio=Case("ok", "2026-03-10 12:20", plan=HALF_AN_HOUR, visits=[visit("2026-03-10 12:00")]),
    none_by_default=Case("ok", "2026-03-10 12:01", visits=[visit("2026-03-10 12:00", OTHER)]),
    the_latest_visit_elsewhere_counts=Case(
        "too_soon",
        "2026-03-10 12:25",
        plan=HALF_AN_HOUR,
        visits=[
            visit("2026-03-10 12:00", OTHER),
            visit("2026-03-10 12:20", SPA, "v2"),
            visit("2026-03-10 12:10", BARE, "v3"),
        ],
        next="2026-03-10 12:50",
    ),
    a_visit_here_in_between_changes_nothing=Case(
        "too_soon",
        "2026-03-10 12:25",
        plan=HALF_AN_HOUR,
        visits=[visit("2026-03-10 12:00", OTHER), visit("2026-03-10 12:10", HOME, "v2")],
        next="2026-03-10 12:30",
    ),
    a_test_visit_does_not_count=Case(
        "ok", "2026-03-10 12:01", plan=HALF_AN_HOUR, visits=[visit("2026-03-10 12:00", DEMO)]
    ),
    over_midnight=Case(
        "too_soon",
        "2026-03-11 00:10",
        plan=HALF_AN_HOUR,
        visits=[visit("2026-03-10 23:50", OTHER)],
        next="2026-03-11 00:20",
    ),
    over_a_change_of_clocks=Case(
        "too_soon",
        "2026-03-29 03:10",
        plan=HALF_AN_HOUR,
        visits=[visit("2026-03-29 01:50", OTHER)],
        next="2026-03-29 03:20",
    ),
    the_visits_clock_is_ahead=Case(
        "too_soon", plan=HALF_AN_HOUR, visits=[visit("2026-03-10 12:00:02", OTHER)], next="2026-03-10 12:30:02"
    ),
    over_when_the_studio_is_closed=Case(
        "too_soon",
        "2026-03-10 11:50",
        plan={"min_gap_minutes": 30, "hours": MORNINGS},
        visits=[visit("2026-03-10 11:40", OTHER)],
        next="2026-03-11 06:00",
    ),
    over_while_the_limit_lasts=Case(
        "too_soon",
        "2026-03-10 12:10",
        plan={**HALF_AN_HOUR, **ONCE_A_DAY},
        visits=[visit("2026-03-10 12:00", OTHER)],
        next="2026-03-11 00:00",
    ),
)
def test_gap(case: Case) -> None:
    """Between visits at different studios there lies a minimum time."""
    case.hold()


def test_a_gap_rests_on_the_latest_visit_elsewhere() -> None:
    """The verdict names that visit and the instant from which it stands in the way no more, in whatever order."""
    elsewhere = (visit("2026-03-10 12:00", OTHER), visit("2026-03-10 12:20", SPA, "v2"))
    for order in (elsewhere, elsewhere[::-1]):
        decision = Case("too_soon", "2026-03-10 12:25", plan=HALF_AN_HOUR, visits=order).decide()
        verdict = decision.verdicts[RULES.index(Reason.TOO_SOON)]
        assert verdict.effect is Effect.DENIES
        assert verdict.visit == elsewhere[1]
        assert verdict.retry_at == local("2026-03-10 12:50", HOME)


# -- limits


@table(
    day_free=Case("ok", plan=ONCE_A_DAY),
    day_used=Case(
        "limit_reached",
        plan=ONCE_A_DAY,
        visits=[visit("2026-03-10 00:00")],
        limit=used(1, "day"),
        next="2026-03-11 00:00",
    ),
    day_used_elsewhere=Case(
        "limit_reached",
        plan=ONCE_A_DAY,
        visits=[visit("2026-03-10 08:00", BARE)],
        limit=used(1, "day"),
        next="2026-03-11 00:00",
    ),
    day_used_yesterday=Case("ok", "2026-03-10 00:00", plan=ONCE_A_DAY, visits=[visit("2026-03-09 23:49:59")]),
    day_used_by_a_visit_whose_clock_is_ahead=Case(
        "limit_reached",
        plan=ONCE_A_DAY,
        visits=[visit("2026-03-10 12:00:02", OTHER)],
        limit=used(1, "day"),
        next="2026-03-11 00:00",
    ),
    day_with_twice_a_day_used_once=Case(
        "ok", plan={"limits": (limit(2, "day"),)}, visits=visits("2026-03-10 08:00", "2026-03-09 08:00")
    ),
    day_with_more_visits_than_permitted=Case(
        "limit_reached",
        plan={"limits": (limit(2, "day"),)},
        visits=visits("2026-03-10 07:00", "2026-03-10 08:00", "2026-03-10 09:00"),
        limit=used(2, "day", times=3),
        next="2026-03-11 00:00",
    ),
    day_of_23_hours=Case(
        "limit_reached",
        "2026-03-29 23:59:59",
        plan=ONCE_A_DAY,
        visits=[visit("2026-03-29 00:00")],
        limit=used(1, "day"),
        next="2026-03-30 00:00",
    ),
    day_of_25_hours=Case(
        "limit_reached",
        "2026-10-25 23:59:59",
        plan=ONCE_A_DAY,
        visits=[visit("2026-10-25 00:00")],
        limit=used(1, "day"),
        next="2026-10-26 00:00",
    ),
    day_before_one_without_midnight=Case(
        "limit_reached",
        "2022-09-10 12:00",
        studio=SANTIAGO,
        plan=ONCE_A_DAY,
        visits=[visit("2022-09-10 08:00", SANTIAGO)],
        limit=used(1, "day"),
        next="2022-09-11 01:00",
    ),
    day_before_one_with_two_midnights=Case(
        "limit_reached",
        "2022-11-05 12:00",
        studio=HAVANA,
        plan=ONCE_A_DAY,
        visits=[visit("2022-11-05 08:00", HAVANA)],
        limit=used(1, "day"),
        next="2022-11-06 00:00",
    ),
    day_with_two_midnights=Case(
        "limit_reached",
        "2022-11-06 00:15",
        studio=HAVANA,
        fold=1,
        plan=ONCE_A_DAY,
        visits=[visit("2022-11-06 00:30", HAVANA)],
        limit=used(1, "day"),
        next="2022-11-07 00:00",
    ),
    day_before_a_lost_one=Case(
        "limit_reached",
        "2011-12-29 23:00",
        studio=APIA,
        plan=ONCE_A_DAY,
        visits=[visit("2011-12-29 08:00", APIA)],
        limit=used(1, "day"),
        next="2011-12-31 00:00",
    ),
    week_from_monday=Case(
        "limit_reached",
        "2026-03-15 23:00",
        plan={"limits": (limit(1, "week"),)},
        visits=[visit("2026-03-09 00:00")],
        limit=used(1, "week"),
        next="2026-03-16 00:00",
    ),
    week_begins_anew_on_monday=Case(
        "ok", "2026-03-16 00:00", plan={"limits": (limit(1, "week"),)}, visits=[visit("2026-03-15 23:00")]
    ),
    week_across_the_new_year=Case(
        "limit_reached",
        "2026-01-04 12:00",
        plan={"limits": (limit(1, "week"),)},
        visits=[visit("2025-12-29 12:00")],
        limit=used(1, "week"),
        next="2026-01-05 00:00",
    ),
    month_from_the_first=Case(
        "limit_reached",
        "2026-03-31 12:00",
        plan={"limits": (limit(1, "month"),)},
        visits=[visit("2026-03-01 00:00")],
        limit=used(1, "month"),
        next="2026-04-01 00:00",
    ),
    month_begins_anew_on_the_first=Case(
        "ok", "2026-03-01 00:00", plan={"limits": (limit(1, "month"),)}, visits=[visit("2026-02-28 23:00")]
    ),
    month_in_december=Case(
        "limit_reached",
        "2025-12-31 12:00",
        plan={"limits": (limit(1, "month"),)},
        visits=[visit("2025-12-01 12:00")],
        limit=used(1, "month"),
        next="2026-01-01 00:00",
    ),
    total_never_ends=Case(
        "limit_reached",
        plan={"limits": (limit(2, "total"),)},
        visits=visits("2019-05-01 12:00", "2024-05-01 12:00"),
        limit=used(2, "total"),
    ),
    total_not_yet=Case("ok", plan={"limits": (limit(2, "total"),)}, visits=[visit("2019-05-01 12:00")]),
)
def test_limits_per_period(case: Case) -> None:
    """Days, ISO weeks from Monday, months from the 1st, and in total, on the calendar of the studio that asks."""
    case.hold()


ONCE_A_CYCLE = {"limits": (limit(1, "cycle"),)}
FOUR_WEEKS = {**ONCE_A_CYCLE, "cycle_days": 28}


@table(
    four_weeks_the_last_day=Case(
        "limit_reached",
        "2026-03-01 12:00",
        plan=FOUR_WEEKS,
        member={"cycle_anchor": "2026-01-05"},
        visits=[visit("2026-02-02 12:00")],
        limit=used(1, "cycle"),
        next="2026-03-02 00:00",
    ),
    four_weeks_the_renewal_day=Case(
        "ok",
        "2026-03-02 00:00",
        plan=FOUR_WEEKS,
        member={"cycle_anchor": "2026-01-05"},
        visits=[visit("2026-03-01 12:00")],
    ),
    four_weeks_before_the_anchor=Case(
        "limit_reached",
        "2026-01-04 12:00",
        plan=FOUR_WEEKS,
        member={"cycle_anchor": "2026-01-05"},
        visits=[visit("2025-12-08 12:00")],
        limit=used(1, "cycle"),
        next="2026-01-05 00:00",
    ),
    a_month_from_the_15th=Case(
        "limit_reached",
        "2026-03-14 12:00",
        plan=ONCE_A_CYCLE,
        member={"cycle_anchor": "2025-06-15"},
        visits=[visit("2026-02-15 12:00")],
        limit=used(1, "cycle"),
        next="2026-03-15 00:00",
    ),
    a_month_from_valid_from=Case(
        "limit_reached",
        "2026-03-14 12:00",
        plan=ONCE_A_CYCLE,
        member={"valid_from": "2025-06-15"},
        visits=[visit("2026-02-15 12:00")],
        limit=used(1, "cycle"),
        next="2026-03-15 00:00",
    ),
    an_anchor_outranks_valid_from=Case(
        "limit_reached",
        "2026-03-14 12:00",
        plan=ONCE_A_CYCLE,
        member={"valid_from": "2025-06-15", "cycle_anchor": "2025-06-20"},
        visits=[visit("2026-02-20 12:00")],
        limit=used(1, "cycle"),
        next="2026-03-20 00:00",
    ),
    the_31st_renews_on_the_28th_of_february=Case(
        "ok",
        "2026-02-28 00:00",
        plan=ONCE_A_CYCLE,
        member={"cycle_anchor": "2026-01-31"},
        visits=[visit("2026-02-27 12:00")],
    ),
    the_31st_before_the_28th_of_february=Case(
        "limit_reached",
        "2026-02-27 12:00",
        plan=ONCE_A_CYCLE,
        member={"cycle_anchor": "2026-01-31"},
        visits=[visit("2026-01-31 12:00")],
        limit=used(1, "cycle"),
        next="2026-02-28 00:00",
    ),
    the_31st_from_february_to_march=Case(
        "limit_reached",
        "2026-03-30 12:00",
        plan=ONCE_A_CYCLE,
        member={"cycle_anchor": "2026-01-31"},
        visits=[visit("2026-02-28 12:00")],
        limit=used(1, "cycle"),
        next="2026-03-31 00:00",
    ),
    the_31st_in_a_leap_year=Case(
        "limit_reached",
        "2024-02-28 12:00",
        plan=ONCE_A_CYCLE,
        member={"cycle_anchor": "2023-10-31"},
        visits=[visit("2024-01-31 12:00")],
        limit=used(1, "cycle"),
        next="2024-02-29 00:00",
    ),
    the_31st_in_april=Case(
        "limit_reached",
        "2026-04-29 12:00",
        plan=ONCE_A_CYCLE,
        member={"cycle_anchor": "2026-01-31"},
        visits=[visit("2026-03-31 12:00")],
        limit=used(1, "cycle"),
        next="2026-04-30 00:00",
    ),
)
def test_limits_per_cycle(case: Case) -> None:
    """Cycles of so many days, or of a month from the anchor, whose 31st is the last day of shorter months."""
    case.hold()


SPA_TWICE = {"limits": (limit(2, "month", "tag:spa"),)}


@table(
    studio_used_here=Case(
        "limit_reached",
        plan={"limits": (limit(1, "month", "studio"),)},
        visits=[visit("2026-03-02 12:00")],
        limit=used(1, "month", "studio"),
        next="2026-04-01 00:00",
    ),
    studio_used_elsewhere=Case(
        "ok", plan={"limits": (limit(1, "month", "studio"),)}, visits=[visit("2026-03-02 12:00", OTHER)]
    ),
    tag_used_at_several_studios=Case(
        "limit_reached",
        plan=SPA_TWICE,
        visits=[visit("2026-03-02 12:00"), visit("2026-03-03 12:00", SPA, "v2")],
        limit=used(2, "month", "tag:spa"),
        next="2026-04-01 00:00",
    ),
    tag_not_used_at_studios_without_it=Case(
        "ok", plan=SPA_TWICE, visits=[visit("2026-03-02 12:00"), visit("2026-03-03 12:00", OTHER, "v2")]
    ),
    tag_does_not_apply_at_a_studio_without_it=Case(
        "ok", studio=OTHER, plan=SPA_TWICE, visits=visits("2026-03-02 12:00", "2026-03-03 12:00", studio=SPA)
    ),
    tag_does_not_apply_at_a_studio_without_tags=Case(
        "ok", studio=BARE, plan=SPA_TWICE, visits=visits("2026-03-02 12:00", "2026-03-03 12:00", studio=SPA)
    ),
    tag_as_it_was_at_the_visit=Case(
        "ok",
        plan=SPA_TWICE,
        visits=visits("2026-03-02 12:00", "2026-03-03 12:00", studio=replace(HOME, tags=frozenset())),
    ),
    test_visits_do_not_count=Case(
        "ok",
        plan={"limits": (limit(1, "day"), limit(1, "total"), limit(1, "month", "tag:spa"))},
        visits=[visit("2026-03-10 08:00", DEMO)],
    ),
    test_visits_do_not_count_at_their_studio_either=Case(
        "ok",
        studio=DEMO,
        plan={"limits": (limit(1, "day"), limit(1, "day", "studio"))},
        visits=[visit("2026-03-10 08:00", DEMO)],
    ),
)
def test_scopes(case: Case) -> None:
    """A limit counts visits everywhere, here, or at studios with a tag; those at test studios never."""
    case.hold()


@table(
    a_visit_counts_on_the_date_where_it_happened=Case(
        # In Auckland it was the 11th already when Berlin's clock showed the 10th, 13:00.
        "ok",
        "2026-03-10 14:00",
        plan=ONCE_A_DAY,
        visits=[visit("2026-03-11 01:00", AUCKLAND)],
    ),
    and_uses_up_that_date=Case(
        "limit_reached",
        "2026-03-11 09:00",
        plan=ONCE_A_DAY,
        visits=[visit("2026-03-11 01:00", AUCKLAND)],
        limit=used(1, "day"),
        next="2026-03-12 00:00",
    ),
    the_reset_skips_a_day_that_is_used_already=Case(
        "limit_reached",
        "2026-03-10 14:00",
        plan=ONCE_A_DAY,
        visits=[visit("2026-03-10 10:00"), visit("2026-03-11 01:00", AUCKLAND, "v2")],
        limit=used(1, "day"),
        next="2026-03-12 00:00",
    ),
    a_month_that_is_over_elsewhere=Case(
        # In Berlin the visit was on 1 April; in Los Angeles it is still March.
        "ok",
        "2026-03-31 16:00",
        studio=LOS_ANGELES,
        plan={"limits": (limit(1, "month"),)},
        visits=[visit("2026-04-01 00:30")],
    ),
    the_reset_is_that_of_the_studio_that_asks=Case(
        "limit_reached",
        "2026-03-31 16:00",
        studio=LOS_ANGELES,
        plan={"limits": (limit(1, "month"),)},
        visits=[visit("2026-03-31 23:30")],
        limit=used(1, "month"),
        next="2026-04-01 00:00",
    ),
)
def test_limits_across_time_zones(case: Case) -> None:
    """Periods are those of the studio that asks; each visit bears the date of the place where it happened."""
    case.hold()


DAY_AND_MONTH = (limit(1, "day"), limit(2, "month"))
USED_BOTH = (visit("2026-03-02 12:00"), visit("2026-03-10 08:00", visit_id="v2"))


@table(
    day_and_month=Case(
        "limit_reached",
        plan={"limits": DAY_AND_MONTH},
        visits=USED_BOTH,
        limit=used(2, "month"),
        next="2026-04-01 00:00",
    ),
    month_and_day=Case(
        "limit_reached",
        plan={"limits": DAY_AND_MONTH[::-1]},
        visits=USED_BOTH,
        limit=used(2, "month"),
        next="2026-04-01 00:00",
    ),
    in_total_lasts_longest=Case(
        "limit_reached",
        plan={"limits": (limit(1, "day"), limit(2, "total"), limit(2, "month"))},
        visits=USED_BOTH,
        limit=used(2, "total"),
    ),
    a_longer_one_that_is_not_reached=Case(
        "limit_reached",
        plan={"limits": (limit(3, "month"), limit(1, "day"))},
        visits=USED_BOTH,
        limit=used(1, "day"),
        next="2026-03-11 00:00",
    ),
    the_calendar_says_which_lasts_longest=Case(
        # The month ends on Tuesday, the week on Sunday.
        "limit_reached",
        "2026-03-30 12:00",
        plan={"limits": (limit(1, "month"), limit(1, "week"))},
        visits=[visit("2026-03-30 08:00")],
        limit=used(1, "week"),
        next="2026-04-06 00:00",
    ),
)
def test_several_limits(case: Case) -> None:
    """Of several limits that are reached the one that lasts longest is named."""
    case.hold()


# -- when next


@table(
    reset_at_midnight_but_open_from_six=Case(
        "limit_reached",
        "2026-03-10 09:00",
        plan={**ONCE_A_DAY, "hours": MORNINGS},
        visits=[visit("2026-03-10 08:00")],
        limit=used(1, "day"),
        next="2026-03-11 06:00",
    ),
    reset_at_the_weekend_but_open_on_weekdays=Case(
        "limit_reached",
        "2026-02-27 12:00",
        plan={"limits": (limit(1, "month"),), "hours": OFFICE},
        visits=[visit("2026-02-02 12:00")],
        limit=used(1, "month"),
        next="2026-03-02 06:00",
    ),
    reset_at_midnight_while_open=Case(
        "limit_reached",
        "2026-03-13 23:00",
        plan={**ONCE_A_DAY, "hours": NIGHT},
        visits=[visit("2026-03-13 22:00")],
        limit=used(1, "day"),
        next="2026-03-14 00:00",
    ),
    reset_on_the_last_day_of_membership=Case(
        "limit_reached",
        plan=ONCE_A_DAY,
        member={"valid_until": "2026-03-11"},
        visits=[visit("2026-03-10 08:00")],
        limit=used(1, "day"),
        next="2026-03-11 00:00",
    ),
    reset_after_the_end_of_membership=Case(
        "limit_reached",
        plan=ONCE_A_DAY,
        member={"valid_until": "2026-03-10"},
        visits=[visit("2026-03-10 08:00")],
        limit=used(1, "day"),
    ),
    reset_while_a_gap_lasts=Case(
        "too_soon",
        "2026-03-10 23:50",
        plan={**ONCE_A_DAY, "min_gap_minutes": 60},
        visits=[visit("2026-03-10 23:30", OTHER)],
        next="2026-03-11 00:30",
    ),
    starts_while_a_gap_lasts=Case(
        "membership_not_started",
        "2026-03-10 23:50",
        plan={"min_gap_minutes": 60},
        member={"valid_from": "2026-03-11"},
        visits=[visit("2026-03-10 23:30", OTHER)],
        next="2026-03-11 00:30",
    ),
    starts_within_the_reentry_window_of_a_visit=Case(
        "membership_not_started",
        "2026-03-10 23:57",
        plan={"limits": (limit(1, "week"),), "hours": MORNINGS},
        member={"valid_from": "2026-03-11"},
        visits=[visit("2026-03-10 23:55")],
        next="2026-03-11 00:00",
    ),
    starts_after_the_reentry_window_of_a_visit=Case(
        "membership_not_started",
        "2026-03-10 23:45",
        plan={"limits": (limit(1, "week"),), "hours": MORNINGS},
        member={"valid_from": "2026-03-11"},
        visits=[visit("2026-03-10 23:45")],
        next="2026-03-16 06:00",
    ),
)
def test_next_allowed_at(case: Case) -> None:
    """The first later instant at which every rule would let the member in; null where there is none."""
    case.hold()
    opens = case.decide().next_allowed_at
    if opens is None:
        return
    assert check_in(case.facts(), opens).outcome == Outcome.ALLOWED
    assert check_in(case.facts(), opens - timedelta(milliseconds=1)).outcome == Outcome.DENIED
