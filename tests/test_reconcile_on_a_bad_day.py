"""Reconciling with the platform's history as it is on a bad day: refused, busy, away or slow."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from callers import problems, rows
from past import Past
from platforms import OpenPlatform, Time
from terminal import Terminal

from guestgate import clock, settings
from guestgate.attendance.reconciliation import Reconciliation, Report
from guestgate.platform import accounts, client, history
from guestgate.platform.client import OpenApiClient
from guestgate.platform.history import PlatformHistory
from guestgate.platform.pace import BROKEN_ATTEMPTS, BUSY_ATTEMPTS
from guestgate.platform.secret_keys import SecretKeys
from guestgate.sandbox import open_api
from guestgate.sandbox.open_api import Trouble
from guestgate.sandbox.town import Town, TownSpec

TOWN = Town(TownSpec(seed=6, studios=6, members=60))
# In the order in which they are asked; the first and the last one are of one chain.
BERLIN, HAMBURG, LONDON = TOWN.studios[0], TOWN.studios[1], TOWN.studios[3]
STUDIOS = (BERLIN, HAMBURG, LONDON)
ADAS = 7
START = clock.now() - timedelta(days=2)


@pytest.fixture(scope="module")
def platform() -> Iterator[OpenPlatform]:
    """One for all tests of this file; it knows the customer."""
    with OpenPlatform(TOWN) as platform:
        for tenant in platform.platform.tenants.values():
            tenant.seen.add(ADAS)
        yield platform


class Desk:
    """An installation with a visit of unknown delivery at each studio, of which the history knows nothing."""

    def __init__(self, terminal: Terminal, platform: OpenPlatform) -> None:
        self.terminal, self.platform = terminal, platform
        terminal.run("secret", "new")
        terminal.plans('[plans.free]\nname = "Free"\n')
        terminal.members({"member_id": "ada", "plan": "free"})
        past = Past(terminal.database)
        self.visits = {}
        for studio in STUDIOS:
            terminal.studio(studio.id)
            self.account(studio)
            self.visits[studio.id] = past.checkin("ada", START, studio=studio.id, customer=ADAS, answered=False).id
        past.close()

    def account(self, studio: Any, **different: Any) -> None:
        """Give a studio its account, or one with something else in it."""
        with self.terminal.database.write() as connection:
            accounts.put(connection, self.secret_keys(), self.platform.account(studio, **different))

    def secret_keys(self) -> SecretKeys:
        """Those of the configuration."""
        return SecretKeys.of(settings.load())

    def reconcile(self) -> Report:
        """Once."""
        with PlatformHistory(self.terminal.database, self.secret_keys()) as asked:
            return Reconciliation(self.terminal.database, asked, timedelta(hours=1)).run()

    def judged(self) -> set[str]:
        """The studios whose visits were reversed, since the history shows no entry."""
        query = "SELECT studio_id FROM visits WHERE state = 'reversed'"
        return {studio_id for (studio_id,) in rows(self.terminal.database, query)}


@pytest.fixture
def desk(terminal: Terminal, platform: OpenPlatform, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """For each test; nobody waits."""
    monkeypatch.setattr(history, "OpenApiClient", partial(OpenApiClient, pace=Time().pace()))
    return Desk(terminal, platform)


def test_all_is_judged_where_the_platform_answers(desk: Desk) -> None:
    """And nothing more the second time."""
    assert sorted(desk.reconcile().reversed) == sorted(desk.visits.values())
    assert not desk.reconcile().changed
    assert problems(desk.terminal.database) == []


@pytest.mark.parametrize(
    ("trouble", "attempts", "sentence"),
    [
        (Trouble.BUSY, BUSY_ATTEMPTS, "status 429"),
        (Trouble.OVERLOADED, BUSY_ATTEMPTS, "status 503"),
        (Trouble.BROKEN, BROKEN_ATTEMPTS, "cannot be asked"),
        (Trouble.SLOW, BROKEN_ATTEMPTS, "cannot be asked"),
    ],
)
@pytest.mark.parametrize("before", [0, 1])
def test_a_chain_that_is_away_is_asked_in_vain_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, trouble: Trouble, attempts: int, sentence: str, before: int
) -> None:
    """At its first call or a later one. Its other studios wait as well, those of others do not; later all is done."""
    monkeypatch.setattr(client, "SILENCE_S", 0.3)
    monkeypatch.setattr(open_api, "SLOW_S", 0.9)
    desk.platform.troubles.extend([None] * before + [trouble] * attempts)
    report = desk.reconcile()
    assert len(report.problems) == 1 and sentence in report.problems[0] and BERLIN.id in report.problems[0]
    assert desk.judged() == {HAMBURG.id} and not desk.platform.troubles
    assert desk.reconcile().problems == []
    assert desk.judged() == {studio.id for studio in STUDIOS}


@pytest.mark.parametrize(
    ("different", "sentence"),
    [({"key": "another-key-altogether-1"}, "status 401"), ({"base_url": "/elsewhere"}, "status 404")],
)
def test_a_studio_that_is_refused_waits_by_itself(desk: Desk, different: dict[str, str], sentence: str) -> None:
    """Until its account is right: others of its chain go on, and nothing is concluded from what was not told."""
    if "base_url" in different:
        different = {"base_url": desk.platform.url(BERLIN) + different["base_url"]}
    desk.account(BERLIN, **different)
    report = desk.reconcile()
    assert len(report.problems) == 1 and sentence in report.problems[0]
    assert desk.judged() == {HAMBURG.id, LONDON.id}
    desk.account(BERLIN)
    assert desk.reconcile().problems == []
    assert desk.judged() == {studio.id for studio in STUDIOS}


def test_of_a_customer_whom_the_platform_knows_no_more_nothing_is_concluded(desk: Desk) -> None:
    """404 for the customer, and not for the studio."""
    seen = desk.platform.platform.tenants[BERLIN.tenant].seen
    seen.remove(ADAS)
    try:
        report = desk.reconcile()
    finally:
        seen.add(ADAS)
    assert (report.unknown, report.problems) == (2, [])
    assert desk.judged() == {HAMBURG.id}
