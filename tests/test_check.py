"""`guestgate db check` finds what does not add up."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from attending import deliver, entry
from callers import problems
from past import Past
from terminal import Terminal

from guestgate.attendance.clerk import Clerk


@pytest.fixture
def desk(terminal: Terminal) -> Terminal:
    """A studio, a member, two visits, a correction, and an entry that nobody allowed."""
    terminal.plans('[plans.free]\nname = "Free"\nreentry_minutes = 0\n')
    terminal.studio()
    terminal.members({"member_id": "m1", "plan": "free"})
    past = Past(terminal.database)
    for hour in range(2):
        decision = past.checkin("m1", datetime(2026, 11, 1, hour, tzinfo=UTC))
    past.close()
    deliver(terminal.database, entry(datetime(2026, 11, 1, 12, tzinfo=UTC)))
    Clerk(terminal.database).catch_up()
    terminal.run("visit", "reverse", decision.id, "--why", "by mistake")
    return terminal


@pytest.mark.parametrize(
    "statement, says",
    [
        ("UPDATE feed SET seq = 3", "beyond the last that was given out, "),
        ("DELETE FROM feed", "there are 0"),
        ("INSERT INTO feed VALUES (2, 'other', 1000)", "there are 2"),
        (
            "UPDATE visits SET seq = (SELECT min(seq) FROM decisions) WHERE state = 'reversed'",
            "both in visits and in",
        ),
        ("UPDATE visit_changes SET seq = (SELECT max(seq) FROM visits)", "both in visit_changes and in visits"),
        (
            "UPDATE changes SET seq = (SELECT max(seq) FROM decisions) WHERE seq = (SELECT min(seq) FROM changes)",
            "both in changes and",
        ),
        ("UPDATE sightings SET visit_id = 'none'", "belongs to visit none, which is missing"),
        ("DELETE FROM visit_changes", "but its corrections say authorized"),
        ("UPDATE visit_changes SET why = 'other'", "but its corrections say reversed (other)"),
    ],
)
def test_what_does_not_add_up_is_named(statement: str, says: str, desk: Terminal) -> None:
    """Each kind of disagreement is a sentence, and the status is 1."""
    assert problems(desk.database) == []
    with desk.writing() as connection:
        if connection.dialect.name == "postgresql":  # where transactions are counted, and not rows
            statement = statement.replace("UPDATE feed SET seq = 3", "UPDATE cluster SET base = -500")
        connection.exec_driver_sql(statement)
    assert any(says in problem for problem in problems(desk.database)), problems(desk.database)
    desk.run("db", "check", status=1)


STOOD = "(SELECT id FROM visits WHERE state <> 'reversed')"
TAKEN_BACK = "(SELECT id FROM visits WHERE state = 'reversed')"
OVERRULED = (
    "UPDATE decisions SET outcome = 'denied', reason = 'membership_suspended', visit_id = NULL, stand_in = TRUE "
    "WHERE id = {}"
)
# The decision of the other visit, which is reversed, let the member in on this one.
LEANS = f"UPDATE decisions SET reason = 'reentry', visit_id = {STOOD}, stand_in = TRUE WHERE id = {TAKEN_BACK}"


@pytest.mark.parametrize(
    ("statements", "is_wrong"),
    [
        ([OVERRULED.format(STOOD)], True),
        ([OVERRULED.format(TAKEN_BACK)], False),
        ([OVERRULED.format(STOOD), LEANS], False),
    ],
)
def test_a_visit_behind_a_denial_of_a_stand_in(statements: list[str], is_wrong: bool, desk: Terminal) -> None:
    """Which was sent, and so is recorded: the visit is to be reversed, unless a re-entry leans on it."""
    with desk.writing() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    found = problems(desk.database)
    assert len(found) == is_wrong, found
    assert all("its decision is missing or did not allow it" in problem for problem in found), found
