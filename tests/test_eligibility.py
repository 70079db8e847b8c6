"""Who may register: the rules about who somebody is, in their order, and none about visits."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from guestgate.eligibility import Finding, may_be_made_known, may_register
from guestgate.model import Hours, Limit, Member, Outcome, Per, Plan, Reason, Status, Studio

# In Berlin it is the 24th already.
AT = datetime(2026, 11, 23, 23, 30, tzinfo=UTC)
STUDIO = Studio("s1", "One", ZoneInfo("Europe/Berlin"), frozenset({"classic"}))
CLOSED = STUDIO.__class__("s1", "One", STUDIO.timezone, STUDIO.tags, active=False)
ELSEWHERE = Plan("p", 1, "P", studio_tags=frozenset({"premium"}))
OPEN = Plan("p", 1, "P", studio_tags=frozenset({"classic", "premium"}))
# Nobody would get in with this one now.
STRICT = Plan("p", 1, "P", limits=(Limit(0, Per.TOTAL),), hours=(Hours(frozenset(), AT.time(), AT.time()),))


@pytest.mark.parametrize(
    ("fields", "finding"),
    [
        ({}, Finding.OK),
        ({"plan": OPEN}, Finding.OK),
        ({"plan": STRICT}, Finding.OK),
        ({"valid_from": date(2026, 11, 24), "valid_until": date(2026, 11, 24)}, Finding.OK),
        ({"valid_from": date(2026, 11, 25)}, Finding.MEMBERSHIP_NOT_STARTED),
        ({"valid_until": date(2026, 11, 23)}, Finding.MEMBERSHIP_EXPIRED),
        ({"status": Status.SUSPENDED}, Finding.MEMBERSHIP_SUSPENDED),
        ({"status": Status.CANCELLED}, Finding.MEMBERSHIP_CANCELLED),
        ({"plan": ELSEWHERE}, Finding.STUDIO_NOT_IN_PLAN),
        ({"plan": ELSEWHERE, "status": Status.CANCELLED}, Finding.MEMBERSHIP_CANCELLED),
        ({"status": Status.SUSPENDED, "valid_until": date(2026, 1, 1)}, Finding.MEMBERSHIP_EXPIRED),
    ],
)
def test_who_may_register(fields: dict[str, Any], finding: Finding) -> None:
    """On the studio's calendar; the first rule that applies is the one that is given."""
    assert may_register(STUDIO, Member("m", **{"plan": OPEN, **fields}), AT) is finding


def test_nobody_and_nowhere() -> None:
    """A studio that is paused hears of nobody, whoever it asks for."""
    assert may_register(STUDIO, None, AT) is Finding.UNKNOWN_MEMBER
    assert may_register(CLOSED, None, AT) is Finding.STUDIO_INACTIVE
    assert may_register(CLOSED, Member("m", OPEN), AT) is Finding.STUDIO_INACTIVE


@pytest.mark.parametrize(
    ("fields", "finding"),
    [
        ({"plan": STRICT, "valid_from": date(2026, 11, 25)}, Finding.OK),
        ({"valid_from": date(2026, 11, 25), "status": Status.SUSPENDED}, Finding.MEMBERSHIP_SUSPENDED),
        ({"valid_from": date(2026, 11, 25), "plan": ELSEWHERE}, Finding.STUDIO_NOT_IN_PLAN),
        ({"valid_until": date(2026, 11, 23), "status": Status.CANCELLED}, Finding.MEMBERSHIP_EXPIRED),
    ],
)
def test_who_may_be_made_known(fields: dict[str, Any], finding: Finding) -> None:
    """Who may come in now or later, also where the studio is closed for now: the same rules but for those two."""
    member = Member("m", **{"plan": OPEN, **fields})
    assert may_be_made_known(STUDIO, member, AT) is may_be_made_known(CLOSED, member, AT) is finding


def test_what_the_platform_is_told() -> None:
    """One finding allows, one is none, and all others deny; they are called as the door's reasons are."""
    told = {finding: finding.outcome for finding in Finding}
    assert told.pop(Finding.OK) is Outcome.ALLOWED and told.pop(Finding.UNAVAILABLE) is Outcome.UNDECIDED
    assert set(told.values()) == {Outcome.DENIED}
    shared = [reason.value for reason in Reason if reason.value in set(Finding)]
    assert shared == [finding.value for finding in Finding if finding.value in set(Reason)]
