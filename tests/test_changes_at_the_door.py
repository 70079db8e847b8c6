"""Changes while doors are busy: a key is replaced without a lost check-in; a studio's move leaves the past alone."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta

import pytest
from callers import Crowd, problems, rows
from gate import Gate, wait_for
from past import Past
from terminal import Terminal


@pytest.mark.alone
def test_a_key_is_changed_under_load_without_a_lost_checkin(home: Gate) -> None:
    """Add the new one, have the platform use it, revoke the old one: no call sees anything but its answer."""
    old = home.studio()
    home.plans()
    names = [f"free-{number}" for number in range(50)]
    home.members(*(f"{name},free" for name in names))
    home.start()
    new = secrets.token_urlsafe(24)
    with Crowd(home, names, 1) as before:
        wait_for(lambda: len(before.replies) > 100, "no answers", home)
        home.cli("key", "add", "s1", "--key-stdin", input=new)
        home.keys["s1"] = new
        # The platform switches when it has been told; both keys are good from a moment after that on.
        wait_for(lambda: home.checkin("free-0").status_code == 200, "the new key was not taken", home)
        with Crowd(home, names, 2) as after:
            wait_for(lambda: len(after.replies) > 100, "no answers with the new key", home)
            before.end()
            (key,) = [row for row in home.json("key", "list") if row["studio"] == "s1"][:1]
            home.cli("key", "revoke", key["fingerprint"])
            home.keys["s1"] = old
            wait_for(lambda: home.checkin("free-0").status_code == 401, "the old key is still taken", home)
            count = len(after.replies)
            wait_for(lambda: len(after.replies) > count + 100, "the new key ended with the old one", home)
    for crowd in (before, after):
        assert crowd.broken == 0
        assert {reply.status for reply in crowd.replies} == {200}
    assert home.stop() == 0
    recorded = {row.id for row in rows(home.database, "SELECT id FROM decisions")}
    assert {reply.id for crowd in (before, after) for reply in crowd.replies} <= recorded
    assert problems(home.database) == []


def test_a_studio_that_moves_leaves_past_visits_alone(terminal: Terminal) -> None:
    """Another time zone and other tags: visits keep the date and tags of their day, and limits go by those."""
    terminal.plans(
        """\
[plans.pool]
name = "One a month where there is a pool"
reentry_minutes = 0
limits = [{ max = 1, per = "month", scope = "tag:pool" }]
"""
    )
    terminal.studio("s1", timezone="Europe/Berlin", tags=("pool",))
    terminal.members({"member_id": "m1", "plan": "pool"})
    late = datetime(2026, 11, 10, 23, 30, tzinfo=UTC)  # the 11th in Berlin, the 10th in New York
    past = Past(terminal.database)
    visit = past.checkin("m1", late)
    before = rows(terminal.database, "SELECT * FROM visits")
    assert (before[0].local_date, before[0].tags) == ("2026-11-11", '["pool"]')
    terminal.run("studio", "set", "s1", "--timezone", "America/New_York", "--tag", "gym")
    assert rows(terminal.database, "SELECT * FROM visits") == before
    assert past.checkin("m1", late + timedelta(hours=1)).reason.value == "ok"  # no pool there any more
    terminal.run("studio", "set", "s1", "--tag", "pool")
    assert past.checkin("m1", late + timedelta(days=3)).reason.value == "limit_reached"  # the first still counts
    past.close()
    kept = rows(terminal.database, f"SELECT * FROM visits WHERE id = '{visit.id}'")
    assert kept == before
    new = rows(terminal.database, f"SELECT local_date, tags FROM visits WHERE id != '{visit.id}'")
    assert new == [("2026-11-10", '["gym"]')]
    assert problems(terminal.database) == []
