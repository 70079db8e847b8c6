"""Lists of days: bounds in the record's order change nothing about what is in them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from gate import PLANS
from terminal import Terminal

from guestgate import changes, clock, record, statements, visits
from guestgate.record import Filter, Order

# In the order of writing, which is not that of time.
DAYS = (40, 3, 400, 1, 100, 0, 5000, 70, 2, 33)
EXTREMES = (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, tzinfo=UTC))


@pytest.fixture
def desk(terminal: Terminal) -> Terminal:
    """Visits that were written down in no order of time."""
    terminal.plans(PLANS)
    terminal.studio()
    terminal.members({"member_id": "m-1", "plan": "free"})
    now = clock.now()
    with terminal.writing() as connection:
        for days in DAYS:
            visits.add(connection, visits.VisitRow(0, "m-1", "s1", now - timedelta(days=days, seconds=1)))
    return terminal


@pytest.mark.parametrize("order", Order)
def test_visits_of_days(desk: Terminal, order: Order) -> None:
    """By month and since an instant, whatever the order, as if every visit had been looked at."""
    now = clock.now()
    with desk.database.read() as connection:
        every = [visit for _, visit in record.visits(connection, Filter(order=order), payable_requires="authorized")]
        assert len(every) == len(DAYS)

        def ids(**chosen: object) -> list[str]:
            given = Filter(order=order, **chosen)  # type: ignore[arg-type]
            return [visit["id"] for _, visit in record.visits(connection, given, payable_requires="authorized")]

        for month in {visit["local_date"][:7] for visit in every} | {"0000-05", "0001-01", "9999-12", "2026-02"}:
            assert statements.statement(connection, month, None, payable_requires="authorized")["corrections"] == []
            assert ids(month=month) == [visit["id"] for visit in every if visit["local_date"][:7] == month]
        for since in (*(now - timedelta(days=days) for days in (*DAYS, 10)), now + timedelta(days=9), *EXTREMES):
            wanted = [visit["id"] for visit in every if datetime.fromisoformat(visit["at"]) >= since]
            assert ids(since=since) == wanted


def test_a_machine_whose_clock_is_ahead(desk: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """What bears a time to come is since then, too, as are the changes."""
    now = clock.now()
    with desk.database.read() as connection:
        monkeypatch.setattr(clock, "now", lambda: now - timedelta(days=60))
        monkeypatch.setattr(clock, "now_ms", lambda: clock.to_ms(now - timedelta(days=60)))
        since = Filter(since=now - timedelta(days=61))
        found = [visit for _, visit in record.visits(connection, since, payable_requires="authorized")]
        assert len(found) == sum(days <= 60 for days in DAYS)
        made = list(changes.change_list(connection, since))
    assert len(made) > len(DAYS)


@pytest.mark.parametrize("since", EXTREMES)
def test_instants_at_the_ends_of_time(desk: Terminal, since: datetime) -> None:
    """They are instants like any other."""
    with desk.database.read() as connection:
        assert list(record.decisions(connection, Filter(since=since))) == []
        assert bool(list(changes.change_list(connection, Filter(since=since)))) == (since.year == 1)
