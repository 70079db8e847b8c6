"""Rules and reasons in words that a person at the desk understands."""

from __future__ import annotations

from datetime import time

import pytest

from guestgate import words
from guestgate.model import Hours, Limit, Payable, Per, Plan, Reason

PAID = "A studio is paid for a member once a day."
ALL_STUDIOS = "Open to every studio."


def plan(**rules: object) -> list[str]:
    """What is said of a plan with these rules and no re-entry."""
    return words.plan(Plan("p", 1, "P", **{"reentry_minutes": 0, **rules}))  # type: ignore[arg-type]


def hours(*days: int, start: str = "06:00", end: str = "16:00") -> Hours:
    """One window."""
    return Hours(frozenset(days), time.fromisoformat(start), time.fromisoformat(end))


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ({"studio_tags": frozenset({"spa", "classic"})}, "Open to studios tagged classic or spa."),
        ({"limits": (Limit(1, Per.DAY),)}, "At most 1 visit a day in the network."),
        ({"limits": (Limit(8, Per.MONTH, "studio"),)}, "At most 8 visits a month at each studio."),
        ({"limits": (Limit(2, Per.WEEK, "tag:spa"),)}, "At most 2 visits a week at studios tagged spa."),
        ({"limits": (Limit(10, Per.TOTAL),)}, "At most 10 visits in total in the network."),
        ({"hours": (hours(0, 1, 2, 3, 4),)}, "Mon to Fri from 06:00 until 16:00."),
        ({"hours": (hours(*range(7), start="22:00", end="00:00"),)}, "Every day from 22:00 until 24:00."),
        ({"hours": (hours(5, 6),)}, "Sat, Sun from 06:00 until 16:00."),
        ({"hours": (hours(0, 2, 6),)}, "Mon, Wed, Sun from 06:00 until 16:00."),
        ({"min_gap_minutes": 1}, "At least 1 minute between visits at different studios."),
        ({"reentry_minutes": 10}, "Who taps again at the same studio within 10 minutes is on the same visit."),
        ({"payable": Payable.PER_VISIT}, "A studio is paid for every visit."),
    ],
)
def test_each_rule_of_a_plan(rules: dict[str, object], sentence: str) -> None:
    """A sentence each."""
    assert sentence in plan(**rules)


def test_a_plan_without_rules() -> None:
    """Says that, too."""
    assert plan() == [ALL_STUDIOS, "As many visits as they like.", PAID]


def test_cycles() -> None:
    """Of days, or of a month."""
    limits = (Limit(4, Per.CYCLE),)
    assert plan(limits=limits, cycle_days=28) == [
        ALL_STUDIOS,
        "At most 4 visits in each cycle in the network.",
        "A cycle is 28 days, counted from each member's own first day.",
        PAID,
    ]
    assert "A cycle is a month, counted from each member's own first day." in plan(limits=limits)


def test_every_reason_has_words() -> None:
    """And every rule a name; what is no rule has none."""
    assert list(words.REASONS) == list(Reason)
    assert [*words.RULES, Reason.OK, Reason.UNAVAILABLE] == list(Reason)
