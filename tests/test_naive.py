"""The decision agrees with a naive model of the rules, over random plans, members and histories."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import naive
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from naive import DAY, MICROSECOND, MINUTE

from guestgate.decide import PLAN_REASONS, decide, plan_reason, plan_rules
from guestgate.model import CheckIn, Facts, Hours, Limit, Member, Per, Plan, Reason, Status, Studio, Visit

# A busy machine is no failure.
SETTINGS = settings(suppress_health_check=[HealthCheck.too_slow])

# A time zone, and a date around which its clocks or its calendar do something worth a check-in.
SCENES = (
    ("Europe/Berlin", date(2026, 3, 29)),  # 02:00 to 03:00
    ("Europe/Berlin", date(2026, 10, 25)),  # 03:00 to 02:00
    ("Europe/Berlin", date(2024, 2, 29)),
    ("Europe/Berlin", date(2025, 12, 31)),
    ("Africa/Cairo", date(2023, 4, 28)),  # no midnight
    ("America/Santiago", date(2022, 9, 11)),  # no midnight
    ("America/Santiago", date(2022, 4, 2)),  # at midnight back to 23:00
    ("America/Havana", date(2022, 11, 6)),  # midnight twice
    ("Australia/Lord_Howe", date(2022, 4, 3)),  # half an hour
    ("Pacific/Apia", date(2011, 12, 30)),  # a day that never was
    ("Antarctica/Troll", date(2023, 3, 26)),  # two hours
    ("Asia/Kathmandu", date(2026, 1, 31)),
)
ZONES = (
    *sorted({zone for zone, _ in SCENES}),
    "America/Los_Angeles",
    "Asia/Tokyo",
    "Pacific/Auckland",
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
)
TAGS = ("classic", "spa", "pool")
WALL_TIMES = st.sampled_from(
    [
        "00:00",
        "00:30",
        "01:00",
        "02:00",
        "02:15",
        "02:30",
        "02:45",
        "03:00",
        "06:00",
        "16:00",
        "22:00",
        "23:30",
    ]
).map(time.fromisoformat)


def mostly(value: object, others: st.SearchStrategy) -> st.SearchStrategy:
    """A value that is usual, or about one time in eight another."""
    return st.integers(0, 7).flatmap(lambda die: others if die == 5 else st.just(value))


TAG_SETS = st.frozensets(st.sampled_from(TAGS))
WINDOWS = st.builds(
    Hours, st.frozensets(st.integers(0, 6), min_size=1), WALL_TIMES, st.one_of(st.just(time(0)), WALL_TIMES)
)
EVERY_DAY = Hours(frozenset(range(7)), time(6), time(0))
LIMITS = st.builds(
    Limit,
    st.integers(1, 4),
    st.sampled_from(Per),
    st.sampled_from(["network", "studio", "tag:spa", "tag:classic"]),
)
PLANS = st.builds(
    Plan,
    id=st.just("plan"),
    version=st.just(1),
    name=st.just("Plan"),
    studio_tags=mostly(None, st.frozensets(st.sampled_from(TAGS), min_size=1)),
    reentry_minutes=st.sampled_from([0, 1, 10, 10, 60, 1440]),
    min_gap_minutes=st.sampled_from([0, 0, 0, 30, 120, 1440, 4320]),
    limits=st.lists(LIMITS, min_size=1, max_size=3).map(tuple) | st.just(()),
    cycle_days=st.none() | st.sampled_from([1, 7, 28, 45]),
    hours=st.sampled_from([None, None, (EVERY_DAY,)]) | st.lists(WINDOWS, min_size=1, max_size=3).map(tuple),
)
STATUSES = mostly(Status.ACTIVE, st.sampled_from(Status))
CUSTOMERS = mostly(None, st.sampled_from(["member", "somebody else"]))


@dataclass(frozen=True)
class Stage:
    """Where a scenario plays: studios, a member, and an instant near a remarkable one."""

    studios: tuple[Studio, ...]
    member: Member
    begins: datetime


@st.composite
def stages(draw: st.DrawFn) -> Stage:
    """A scene with one to three studios, of which the first lies where something happens to the clocks."""
    zone, day = draw(st.sampled_from(SCENES))
    zones = [zone, *draw(st.lists(st.sampled_from(ZONES), max_size=2))]
    studios = tuple(
        Studio(
            f"studio{number}",
            f"Studio {number}",
            ZoneInfo(name),
            tags=draw(TAG_SETS),
            active=number == 0 or draw(mostly(True, st.booleans())),
            test=draw(mostly(False, st.booleans())),
        )
        for number, name in enumerate(zones)
    )
    plan = draw(PLANS)
    days = st.integers(-3, 3) | st.integers(-400, 400)
    dates = days.map(lambda offset: day + offset * DAY)
    month_ends = st.sampled_from([date(2020, 2, 29), date(2021, 1, 31), date(2025, 8, 30)])
    anchor = draw(dates | month_ends if plan.has_cycle else st.none() | dates)
    member = Member(
        "member",
        plan,
        draw(STATUSES),
        valid_from=draw(mostly(None, dates)),
        valid_until=draw(mostly(None, dates)),
        cycle_anchor=anchor,
    )
    midnight = datetime.combine(day, time(), ZoneInfo(zone)).astimezone(UTC)
    return Stage(studios, member, midnight + draw(st.integers(-2880, 2880)) * MINUTE)


@dataclass(frozen=True)
class Tap:
    """A check-in, so long after the one before or so close to the next midnight at a studio."""

    studio: int
    wait: timedelta
    to_midnight_at: int | None
    customer_of: str | None

    def after(self, now: datetime, stage: Stage) -> datetime:
        """When it happens."""
        if self.to_midnight_at is None:
            return now + self.wait
        return naive.next_midnight(now, pick(stage.studios, self.to_midnight_at)) + self.wait


@dataclass(frozen=True)
class Reverse:
    """An operator takes one of the visits back."""

    visit: int


@dataclass(frozen=True)
class Import:
    """A visit from an earlier system becomes known."""

    studio: int
    ago: timedelta


@dataclass(frozen=True)
class Become:
    """The membership's status changes."""

    status: Status


def pick(among: tuple, number: int):
    """One of several, by a number that may be too large."""
    return among[number % len(among)]


NUMBERS = st.integers(0, 5)
# Whole minutes, so that the edges of re-entry and gap are hit exactly; a step back is another node's clock.
MINUTES = [0, 1, 5, 9, 10, 11, 29, 30, 60, 120, 1380, 1440, 1500, 4320, 10_080, 43_200]
WAITS = st.one_of(
    st.sampled_from(MINUTES).map(lambda minutes: minutes * MINUTE),
    st.builds(
        lambda minutes, ms: minutes * MINUTE + timedelta(milliseconds=ms),
        st.sampled_from(MINUTES),
        st.sampled_from([-2000, -1, 1]),
    ),
    st.integers(0, 4000).map(lambda minutes: minutes * MINUTE),
)
NEAR_MIDNIGHT = st.sampled_from([-3600, -600, -1, 0, 0, 1, 300, 1800, 3600]).map(
    lambda seconds: timedelta(seconds=seconds)
)
AGO = st.one_of(
    st.sampled_from(MINUTES).map(lambda minutes: minutes * MINUTE),
    st.integers(0, 1440).map(lambda minutes: minutes * MINUTE),
    st.integers(0, 70).map(lambda days: days * DAY),
)
IMPORTS = st.builds(Import, NUMBERS, AGO)
TAPS = st.builds(Tap, NUMBERS, WAITS, st.none(), CUSTOMERS)
TAPS_NEAR_MIDNIGHT = st.builds(Tap, NUMBERS, NEAR_MIDNIGHT, NUMBERS, CUSTOMERS)
CORRECTIONS = st.one_of(IMPORTS, st.builds(Reverse, NUMBERS), st.builds(Become, STATUSES))
STEPS = st.integers(0, 7).flatmap(
    lambda die: CORRECTIONS if die == 5 else TAPS_NEAR_MIDNIGHT if die in (2, 6) else TAPS
)


def check_in(number: int, at: datetime, studio: Studio) -> CheckIn:
    """The platform's question."""
    return CheckIn(f"checkin{number}", at, studio.id, "member", 1)


def visit_at(visit_id: str, at: datetime, studio: Studio) -> Visit:
    """A visit as a ledger keeps it."""
    return Visit(visit_id, studio.id, at, naive.local_date(at, studio), studio.tags, studio.test)


@settings(SETTINGS, max_examples=1000)
@given(stages(), st.lists(STEPS, min_size=5, max_size=30))
def test_every_check_in_of_a_history_agrees_with_the_naive_model(stage: Stage, steps: list) -> None:
    """Outcome, reason, limit and visit are the same at each step, while visits come and are taken back."""
    now, member, visits = stage.begins, stage.member, ()
    for number, step in enumerate(steps):
        if isinstance(step, Become):
            member = member._replace(status=step.status)
        elif isinstance(step, Reverse):
            visits = tuple(visit for visit in visits if visit is not pick(visits, step.visit))
        elif isinstance(step, Import):
            studio = pick(stage.studios, step.studio)
            visits = (*visits, visit_at(f"import{number}", now - step.ago, studio))
        else:
            now, studio = step.after(now, stage), pick(stage.studios, step.studio)
            checkin = check_in(number, now, studio)
            decision = decide(checkin, Facts(studio, member, step.customer_of, visits))
            expected = naive.answer(now, studio, member, step.customer_of, visits)
            note(f"{now.astimezone(studio.timezone)} {studio.id}: {decision.reason}, expected {expected}")

            assert decision.reason == expected.reason
            assert (decision.outcome == "allowed") is expected.allowed
            assert decision.local_date == naive.local_date(now, studio)
            assert decision.limit in (expected.limits or (None,))
            if expected.reason == "reentry":
                assert decision.visit_id in expected.leans_on
            else:
                assert decision.visit_id == (checkin.id if expected.reason == "ok" else None)
            assert decision.makes_visit is (expected.reason == "ok")
            if decision.makes_visit:
                visits = (*visits, visit_at(checkin.id, now, studio))


@dataclass(frozen=True)
class Moment:
    """One check-in with everything that bears on it."""

    at: datetime
    facts: Facts

    def decide(self, at: datetime | None = None):
        """What the real decision says, now or at another instant."""
        at = at or self.at
        return decide(check_in(0, at, self.facts.studio), self.facts)

    def answer(self, at: datetime) -> naive.Answer:
        """What the naive model says of the same facts at an instant."""
        return naive.answer(at, *self.facts)


@st.composite
def moments(draw: st.DrawFn) -> Moment:
    """A check-in after visits of the last weeks, some of which the member's present plan would not have allowed."""
    stage = draw(stages())
    at = stage.begins
    visits = tuple(
        visit_at(f"visit{number}", at - entry.ago, pick(stage.studios, entry.studio))
        for number, entry in enumerate(draw(st.lists(IMPORTS, min_size=1, max_size=6)))
    )
    customer_of = draw(CUSTOMERS)
    studio = draw(st.sampled_from(stage.studios))
    return Moment(at, Facts(studio, stage.member, customer_of, visits))


@settings(SETTINGS, max_examples=1500)
@given(moments(), st.lists(st.floats(0, 1, exclude_max=True), max_size=5))
def test_the_next_permitted_instant_is_the_first(moment: Moment, fractions: list[float]) -> None:
    """At `next_allowed_at` the same facts are allowed; at every instant tried before it they are denied."""
    decision = moment.decide()
    opens = decision.next_allowed_at
    if opens is None:
        return
    assert decision.outcome == "denied"
    assert opens > moment.at
    assert moment.decide(opens).outcome == "allowed"
    assert moment.answer(opens).allowed

    wait = opens - moment.at
    tried = [moment.at + wait * fraction for fraction in (*fractions, *(step / 20 for step in range(20)))]
    for at in (*tried, opens - MICROSECOND, *midnights_before(opens, moment)):
        if moment.at <= at < opens:
            assert not moment.answer(at).allowed, at
            assert moment.decide(at).outcome == "denied", at


@settings(SETTINGS, max_examples=600)
@given(moments())
def test_without_a_next_permitted_instant_the_member_never_gets_in(moment: Moment) -> None:
    """Where a denial names no instant, none of the next four hundred days brings one."""
    decision = moment.decide()
    if decision.outcome == "allowed":
        assert decision.next_allowed_at is None
        return
    # A third of a day more than a day each time, so that every time of day has its turn.
    tried = [moment.at + step * timedelta(hours=32, minutes=7) for step in range(300)]
    allowed = any(moment.answer(at).allowed for at in tried)
    assert not (allowed and decision.next_allowed_at is None)


def midnights_before(opens: datetime, moment: Moment) -> list[datetime]:
    """The last local midnights before an instant, and an hour after each: where limits begin anew."""
    found = []
    for days in (3, 2, 1):
        midnight = naive.next_midnight(opens - days * DAY, moment.facts.studio)
        found += [midnight, midnight + 60 * MINUTE]
    return found


@settings(SETTINGS, max_examples=200)
@given(moments())
def test_the_visits_within_reach_are_enough(moment: Moment) -> None:
    """Visits before the plan's reach change nothing, so a ledger need not read them."""
    member = moment.facts.member
    assert member is not None
    reach = member.plan.reach_days
    since = date.min if reach is None else moment.at.date() - reach * DAY
    near = tuple(visit for visit in moment.facts.visits if visit.local_date >= since)

    assert decide(check_in(0, moment.at, moment.facts.studio), moment.facts._replace(visits=near)) == moment.decide()


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "UTC", "Pacific/Pago_Pago"])
@pytest.mark.parametrize(
    ("per", "cycle_days"),
    [(Per.DAY, None), (Per.WEEK, None), (Per.MONTH, None), (Per.CYCLE, None), (Per.CYCLE, 7), (Per.CYCLE, 45)],
)
def test_the_reach_holds_the_whole_period(per: Per, cycle_days: int | None, zone: str) -> None:
    """On every day of a year and at both ends of the world, the period's first day lies within reach."""
    plan = Plan("plan", 1, "Plan", reentry_minutes=0, limits=(Limit(1, per),), cycle_days=cycle_days)
    studio = Studio("studio", "Studio", ZoneInfo(zone))
    member = Member("member", plan, cycle_anchor=date(2023, 12, 31))
    assert plan.reach_days is not None
    for offset in range(366 * 2):
        at = datetime(2024, 1, 1, 10, 30, tzinfo=UTC) + offset * DAY / 2
        first = next(naive.days_of_period(per, naive.local_date(at, studio), plan, member))
        assert first >= at.date() - plan.reach_days * DAY, at


@pytest.mark.parametrize("minutes", [1, 1439, 1440, 4320, 10_080])
@pytest.mark.parametrize("rule", ["reentry_minutes", "min_gap_minutes"])
def test_the_reach_holds_the_windows_between_visits(rule: str, minutes: int) -> None:
    """A visit that a re-entry or a gap still looks at lies within reach, also by a date far in the west."""
    plan = Plan("plan", 1, "Plan", **{"reentry_minutes": 0, rule: minutes})
    west = Studio("west", "West", ZoneInfo("Pacific/Pago_Pago"))
    assert plan.reach_days is not None
    for hour in range(24):
        at = datetime(2026, 3, 10, hour, tzinfo=UTC)
        looked_at = visit_at("visit", at - minutes * MINUTE + MICROSECOND, west)
        assert looked_at.local_date >= at.date() - plan.reach_days * DAY


def test_a_limit_in_total_reaches_back_for_ever() -> None:
    """No visit is too old for it, whatever the other limits are."""
    assert Plan("plan", 1, "Plan", limits=(Limit(1, Per.DAY), Limit(9, Per.TOTAL))).reach_days is None


@settings(SETTINGS, max_examples=1000)
@given(moments())
def test_a_replay_asks_the_same_rules(moment: Moment) -> None:
    """The reason by a plan's rules alone is the decision's, wherever it is up to the plan."""
    facts, reason = moment.facts, moment.decide().reason
    member = facts.member
    assert member is not None
    if reason in PLAN_REASONS:
        today = naive.local_date(moment.at, facts.studio)
        assert plan_reason(plan_rules(member.plan), facts, member, moment.at, today) is reason


@settings(SETTINGS, max_examples=200)
@given(moments())
def test_the_order_in_which_visits_are_read_does_not_matter(moment: Moment) -> None:
    """A database may return visits in any order; reason, limit and next instant stay the same."""
    backwards = moment.facts._replace(visits=moment.facts.visits[::-1])
    one, other = moment.decide(), decide(check_in(0, moment.at, moment.facts.studio), backwards)

    assert (one.reason, one.limit, one.next_allowed_at) == (other.reason, other.limit, other.next_allowed_at)


@settings(SETTINGS, max_examples=100)
@given(moments(), st.booleans())
def test_a_check_in_for_nobody_agrees_with_the_naive_model(moment: Moment, linked: bool) -> None:
    """Without a member the reason is the studio's or `unknown_member`, and waiting does not help."""
    facts = moment.facts._replace(member=None, customer_of="somebody else" if linked else None, visits=())
    decision = decide(check_in(0, moment.at, facts.studio), facts)

    assert decision.reason == naive.answer(moment.at, *facts).reason
    assert decision.reason in (Reason.STUDIO_INACTIVE, Reason.UNKNOWN_MEMBER)
    assert (decision.limit, decision.next_allowed_at, decision.visit_id) == (None, None, None)
