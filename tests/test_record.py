"""Lists of decisions: how they are looked for changes nothing about what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import product
from typing import Any

import pytest
from gate import Gate
from past import Past

from guestgate import clock, record, visits
from guestgate.record import Filter, Order

# In the order of recording, which is not that of time: a clock may have been wrong, and stand-ins come late.
HOURS_AGO = (900, 1, 300, 300, 100, 2, 200, 4)


@pytest.fixture
def decided(home: Gate) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """All decisions in their order: of several members at two studios, with and without a visit."""
    for studio in ("s1", "s2"):
        home.studio(studio)
    home.plans()
    home.members("free-0,free", "once-0,once")
    past, now = Past(home.database), clock.now()
    for number, hours in enumerate(HOURS_AGO):
        for member, minute in product(("once-0", "free-0", "nobody"), range(2)):
            past.checkin(member, now - timedelta(hours=hours, minutes=minute), studio=f"s{1 + number % 3 % 2}")
        with home.database.write() as connection:  # a visit that no check-in made
            at = now - timedelta(hours=hours, minutes=30)
            visits.add(connection, visits.VisitRow(0, "free-0", "s1", at))
    past.close()
    with home.database.read() as connection:
        yield list(record.decisions(connection, Filter()))


def test_every_choice(home: Gate, decided: list[tuple[int, dict[str, Any]]]) -> None:
    """As if every decision had been looked at."""
    since = [None, *(clock.now() - timedelta(hours=hours) for hours in (0, 3, 150, 1000))]
    places, limits = (0, decided[len(decided) // 2][0]), (None, 1, 4)
    with home.database.read() as connection:
        for order, member, studio, start, after, limit in product(
            Order, (None, "free-0", "once-0", "nobody"), (None, "s1"), since, places, limits
        ):
            chosen = Filter(member, studio, start, after=after, limit=limit, order=order)
            assert list(record.decisions(connection, chosen)) == _chosen(decided, chosen), chosen


def _chosen(decided: list[tuple[int, dict[str, Any]]], chosen: Filter) -> list[tuple[int, dict[str, Any]]]:
    found = [
        (seq, decision)
        for seq, decision in decided
        if chosen.member in (None, decision["member"])
        and chosen.studio in (None, decision["studio"])
        and (chosen.since is None or datetime.fromisoformat(decision["received_at"]) >= chosen.since)
    ]
    if chosen.order is Order.DESCENDING:
        return [row for row in found[::-1] if not chosen.after or row[0] < chosen.after][: chosen.limit]
    found = [row for row in found if row[0] > chosen.after]
    if chosen.limit is None:
        return found
    return found[-chosen.limit :] if chosen.order is Order.LATEST else found[: chosen.limit]
