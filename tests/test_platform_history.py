"""The platform's history, asked of the sandbox's Open API: what reconciling goes by where no webhook tells."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from callers import rows
from past import Past
from platforms import OpenPlatform
from terminal import Terminal

from guestgate import clock, settings
from guestgate.attendance.history import Stay
from guestgate.errors import OperationError
from guestgate.fingerprints import fingerprint, sha256_of
from guestgate.platform import accounts
from guestgate.platform.history import PlatformHistory
from guestgate.platform.secret_keys import SecretKeys
from guestgate.sandbox.town import Studio, Town, TownSpec

TOWN = Town(TownSpec(seed=6, studios=6, members=60))
HERE = TOWN.studios[0]
BESIDE = next(studio for studio in TOWN.studios[1:] if studio.tenant == HERE.tenant)
ELSEWHERE = next(studio for studio in TOWN.studios if studio.tenant != HERE.tenant)
KEYS = SecretKeys([bytes(32)], "this test")
WRONG = "the-key-of-somebody-else"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def platform() -> Iterator[OpenPlatform]:
    """One for all tests of this file."""
    with OpenPlatform(TOWN) as platform:
        yield platform


@pytest.fixture
def desk(terminal: Terminal, platform: OpenPlatform) -> Terminal:
    """An aggregator with accounts of two studios of one chain, and of one of another."""
    terminal.plans('[plans.free]\nname = "Free"\nreentry_minutes = 0\n')
    for studio in (HERE, BESIDE, ELSEWHERE):
        terminal.studio(studio.id)
        add_account(terminal, platform, studio)
    terminal.members({"member_id": "ada", "plan": "free"})
    platform.platform.checkins.clear()
    platform.troubles.clear()
    return terminal


def add_account(terminal: Terminal, platform: OpenPlatform, studio: Studio) -> None:
    """As `guestgate key add --kind openapi` does it."""
    with terminal.writing() as connection:
        accounts.put(connection, KEYS, platform.account(studio))


def test_entries_have_our_studios_names(desk: Terminal, platform: OpenPlatform) -> None:
    """Those of the whole chain, from one instant to before another; what is not ours is left out."""
    number = platform.platform.create_customer(HERE, "ada")
    first = platform.came_in(HERE, number, NOON, NOON + HOUR)
    second = platform.came_in(BESIDE, number, NOON + 2 * HOUR)
    platform.came_in(HERE, number, NOON + 4 * HOUR)
    strangers = [studio for studio in TOWN.studios if studio.tenant == HERE.tenant and studio not in (HERE, BESIDE)]
    for studio in strangers:
        platform.came_in(studio, number, NOON)
    with PlatformHistory(desk.database, KEYS) as history:
        assert list(history.studios()) == sorted(studio.id for studio in (HERE, BESIDE, ELSEWHERE))
        assert history.stays(BESIDE.id, number, NOON, NOON + HOUR) == [Stay(first, HERE.id, NOON, NOON + HOUR)]
        assert history.stays(HERE.id, number, NOON, NOON + 4 * HOUR) == [
            Stay(first, HERE.id, NOON, NOON + HOUR),
            Stay(second, BESIDE.id, NOON + 2 * HOUR),
        ]


def test_what_the_platform_calls_a_studio_is_asked_once(desk: Terminal, platform: OpenPlatform) -> None:
    """And kept, for the whole chain; one that refuses keeps nobody from asking for the others."""
    with desk.writing() as connection:
        accounts.put(connection, KEYS, platform.account(BESIDE, key=WRONG))
    with PlatformHistory(desk.database, KEYS) as history:
        assert history.stays(HERE.id, platform.platform.create_customer(HERE, "ada"), NOON, NOON + HOUR) == []
    with desk.database.read() as connection:
        numbers = accounts.platform_studios(connection, platform.url(HERE))
    assert numbers == {HERE.id: HERE.number, BESIDE.id: None}


def test_nobody_has_such_a_customer(desk: Terminal) -> None:
    """That is no evidence that nobody came in."""
    with PlatformHistory(desk.database, KEYS) as history:
        assert history.stays(HERE.id, 1, NOON, NOON + HOUR) is None


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (SecretKeys([], "nowhere"), "there is no secret key"),
        (SecretKeys([bytes(31) + b"1"], "this test"), "does not open with the secret key"),
    ],
)
def test_keys_that_cannot_be_read(desk: Terminal, keys: SecretKeys, why: str) -> None:
    """That is told for the studio, and keeps nobody from asking for others."""
    with PlatformHistory(desk.database, keys) as history, pytest.raises(OperationError, match=why):
        history.stays(HERE.id, 1, NOON, NOON + HOUR)


def test_an_account_that_is_gone_meanwhile(desk: Terminal) -> None:
    """Likewise."""
    with PlatformHistory(desk.database, KEYS) as history:
        assert HERE.id in history.studios()
        desk.run("key", "revoke", fingerprint(sha256_of(HERE.keys["openapi"])))
        assert HERE.id not in history.studios()
        with pytest.raises(OperationError, match="has no Open API key"):
            history.stays(HERE.id, 1, NOON, NOON + HOUR)


def test_reconciling_by_command(desk: Terminal, platform: OpenPlatform) -> None:
    """Whoever came in is confirmed; whoever did not, and perhaps was never told that they may, is taken back.

    A studio whose platform refuses is told of, and the command fails; nothing there is taken back.
    """
    desk.run("secret", "new")
    keys = SecretKeys.of(settings.load(None))
    with desk.writing() as connection:
        accounts.put(connection, keys, platform.account(HERE))
        accounts.put(connection, keys, platform.account(ELSEWHERE, key=WRONG))
    at = clock.now() - timedelta(days=2)
    number = platform.platform.create_customer(HERE, "ada")
    past = Past(desk.database)
    came, absent = (
        past.checkin("ada", at - n * HOUR, studio=HERE.id, customer=number, answered=False) for n in (0, 3)
    )
    unknown = past.checkin("ada", at, studio=ELSEWHERE.id, customer=number, answered=False)
    past.close()
    platform.came_in(HERE, number, at, at + HOUR)
    (report,) = desk.json("reconcile", status=1)
    assert (report["confirmed"], report["reversed"], report["asked"]) == ([came.visit_id], [absent.visit_id], 1)
    (problem,) = report["problems"]
    assert ELSEWHERE.id in problem and "status 401" in problem
    states = dict(map(tuple, rows(desk.database, "SELECT id, state FROM visits")))
    assert states[str(unknown.visit_id)] == "authorized"
    (again,) = desk.json("reconcile", status=1)
    assert (again["confirmed"], again["reversed"], again["asked"]) == ([], [], 0)
