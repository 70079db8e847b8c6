"""The commands that call the platform's Open API, and what they leave in the database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from callers import problems, rows
from gate import Gate, wait_for
from platforms import OpenPlatform, Time
from terminal import Terminal

from guestgate import clock, settings, studios
from guestgate.errors import OperationError, PlatformError
from guestgate.forget import forget
from guestgate.members import MemberRow
from guestgate.platform import accounts
from guestgate.platform.client import OpenApiClient
from guestgate.platform.customers import CustomerMaker
from guestgate.platform.pace import BUSY_ATTEMPTS
from guestgate.platform.secret_keys import SecretKeys, new_key
from guestgate.sandbox.open_api import Trouble
from guestgate.sandbox.town import Studio, Town, TownSpec

TOWN = Town(TownSpec(seed=6, studios=6, members=10))
BERLIN = TOWN.studios[0]
SISTER = next(studio for studio in TOWN.studios if studio.tenant == BERLIN.tenant and studio is not BERLIN)
FOREIGN = next(studio for studio in TOWN.studios if studio.tenant != BERLIN.tenant)
PLANS = '[plans.free]\nname = "Free"\n\n[plans.spa]\nname = "Spa"\nstudio_tags = ["spa"]\n'
HEADER = "member_id,plan,status,valid_until,customer_id,first_name,last_name\n"


@pytest.fixture(scope="module")
def platform() -> Iterator[OpenPlatform]:
    """One for all tests of this file."""
    with OpenPlatform(TOWN) as platform:
        yield platform


class Desk:
    """Somebody at the command line of an installation with a secret key."""

    def __init__(self, terminal: Terminal, platform: OpenPlatform) -> None:
        self.terminal, self.platform = terminal, platform
        terminal.run("secret", "new")
        terminal.plans(PLANS)

    def add(self, studio: Studio, *more: str, key: str | None = None, **options: Any) -> Any:
        """A studio with its Open API key."""
        words = ("studio", "add", studio.id, "--from-platform", "--url", self.platform.url(studio), "--key-stdin")
        return self.terminal.run(*words, *more, input=key or studio.keys["openapi"], **options)

    def account(self, studio: Studio) -> accounts.Account:
        """As the server would load it."""
        with self.terminal.reading() as connection:
            return accounts.load(connection, self.secret_keys(), studio.id)

    def secret_keys(self) -> SecretKeys:
        """Those of the configuration."""
        return SecretKeys.of(settings.load())

    def keys(self) -> list[tuple[str, str, str]]:
        """Studio, kind and state of every key there ever was."""
        return [(key["studio"], key["kind"], key["state"]) for key in self.terminal.json("key", "list", "--all")]

    def customers(self, member: str) -> list[int]:
        """Those the member is linked to."""
        found: list[int] = self.terminal.json("member", "show", member)[0]["customers"]
        return found

    def at_the_platform(self, studio: Studio) -> dict[str, int]:
        """Customers by member, as the chain has them."""
        return self.platform.platform.tenants[studio.tenant].customer_of


@pytest.fixture
def desk(terminal: Terminal, platform: OpenPlatform) -> Desk:
    """For each test."""
    return Desk(terminal, platform)


def test_a_studio_from_the_platform(desk: Desk) -> None:
    """Name and time zone come from there, or from the options; the key is sealed, and never shown or stored."""
    desk.add(BERLIN, "--tag", "classic")
    desk.add(FOREIGN, "--name", "My own")
    berlin, foreign = desk.terminal.json("studio", "list")
    assert (berlin["id"], berlin["name"], berlin["timezone"]) == (BERLIN.id, BERLIN.name, BERLIN.timezone)
    assert (foreign["id"], foreign["name"], foreign["timezone"]) == (FOREIGN.id, "My own", FOREIGN.timezone)
    assert desk.keys() == [(BERLIN.id, "openapi", "valid"), (FOREIGN.id, "openapi", "valid")]
    account = desk.account(BERLIN)
    assert account == desk.platform.account(BERLIN, platform_studio_id=BERLIN.number)
    assert account.key not in repr(account)
    for table in ("accounts", "keys", "changes"):
        assert account.key not in str(rows(desk.terminal.database, f"SELECT * FROM {table}"))
    for line in desk.terminal.json("changes"):
        assert account.key not in str(line)
    desk.terminal.run("studio", "activate", BERLIN.id)
    assert BERLIN.id in desk.platform.platform.activated
    assert desk.terminal.json("changes")[-1]["action"] == "studio.activated"
    assert problems(desk.terminal.database) == []


def test_what_does_not_belong_together_is_not_kept(desk: Desk) -> None:
    """A wrong key or tenant is noticed before anything is written."""
    sentence = desk.add(BERLIN, key="wrong", status=1).complaint
    assert "key and tenant belong together" in sentence and "wrong" not in sentence
    assert desk.terminal.json("studio", "list") == []
    for words, named in (
        (("studio", "add", "s1", "--from-platform", "--tenant", "fitwerk"), "--key-stdin"),
        (("studio", "add", "s1", "--from-platform", "--key-stdin"), "--tenant"),
        (("studio", "add", "s1", "--name", "x", "--timezone", "UTC", "--tenant", "fitwerk"), "--from-platform"),
        (("key", "add", "s1", "--key-stdin", "--tenant", "fitwerk"), "--kind openapi"),
        (("key", "add", "s1", "--key-stdin", "--kind", "openapi"), "--tenant"),
        (("key", "add", "s1", "--key-stdin", "--kind", "openapi", "--url", "http://example.com/v1"), "--url"),
    ):
        assert named in desk.terminal.complaint(*words, input="some-key")
    desk.add(BERLIN)
    assert "exists already" in desk.add(BERLIN, status=1).complaint


def test_without_a_secret_key_nothing_is_kept(desk: Desk) -> None:
    """Neither when a key is added nor when it is used; the sentence says what to do, as the server does at start."""
    desk.add(BERLIN)
    Path("guestgate.secret").unlink()
    assert "guestgate secret new" in desk.add(FOREIGN, status=2).complaint
    assert "guestgate secret new" in desk.terminal.complaint("studio", "activate", BERLIN.id)
    with desk.terminal.reading() as connection:
        (told,) = accounts.problems(connection, desk.secret_keys())
        assert "GUESTGATE_SECRET_KEY" in told
    desk.terminal.monkeypatch.setenv(
        "GUESTGATE_SECRET_KEY", desk.terminal.run("secret", "new", "--print").out.strip()
    )
    with desk.terminal.reading() as connection:
        (told,) = accounts.problems(connection, desk.secret_keys())
        assert f"studio {BERLIN.id} does not open" in told
    desk.add(FOREIGN)
    assert "does not open" in desk.terminal.complaint("studio", "activate", BERLIN.id, status=1)
    desk.terminal.run("studio", "activate", FOREIGN.id)


def test_a_key_is_replaced_revoked_and_ends(desk: Desk) -> None:
    """A studio has one; the last one counts, and one that is revoked is gone."""
    desk.terminal.studio(BERLIN.id, timezone="UTC")
    add = ("key", "add", BERLIN.id, "--key-stdin", "--kind", "openapi", "--url", desk.platform.url(BERLIN))
    ends = clock.iso(clock.now() + timedelta(days=1))
    desk.terminal.run(*add, "--unchecked", "--expires", ends, input="an-older-key")
    done = desk.terminal.run(*add, input=BERLIN.keys["openapi"])
    assert f"is in UTC here and in {BERLIN.timezone} at the platform" in done.err
    assert desk.keys() == [(BERLIN.id, "openapi", "revoked"), (BERLIN.id, "openapi", "valid")]
    assert desk.account(BERLIN) == desk.platform.account(BERLIN, platform_studio_id=BERLIN.number)
    # The same token for check-ins is another key, and is revoked with it.
    desk.terminal.run("key", "add", BERLIN.id, "--key-stdin", input=BERLIN.keys["openapi"])
    (fingerprint,) = {key["fingerprint"] for key in desk.terminal.json("key", "list")}
    desk.terminal.run("key", "revoke", fingerprint)
    assert rows(desk.terminal.database, "SELECT count(*) FROM accounts") == [(0,)]
    assert "has no Open API key; add one" in desk.terminal.complaint("studio", "activate", BERLIN.id, status=1)
    assert "there is no studio" in desk.terminal.complaint("studio", "activate", "nowhere", status=1)
    desk.terminal.run(*add, "--expires", ends, input=BERLIN.keys["openapi"])
    with desk.terminal.reading() as connection:
        assert accounts.studios_with_account(connection) == [BERLIN.id]
    desk.terminal.monkeypatch.setattr(clock, "now_ms", lambda: clock.to_ms(clock.EPOCH) + 2**42)
    with desk.terminal.reading() as connection:
        assert accounts.studios_with_account(connection) == []
        with pytest.raises(OperationError, match="is expired"):
            accounts.load(connection, desk.secret_keys(), BERLIN.id)


def test_a_row_that_was_tampered_with_is_no_account(desk: Desk) -> None:
    """Whoever can write to the database cannot have a key sent elsewhere, nor used for another studio."""
    desk.add(BERLIN)
    for change in ("base_url = 'http://127.0.0.1:1/v1'", f"studio_id = '{FOREIGN.id}'"):
        with suppress(InterruptedError), desk.terminal.writing() as connection:
            if "studio_id" in change:
                studios.add(connection, FOREIGN.id, name="x", timezone="UTC", tags=frozenset(), test=False)
            connection.exec_driver_sql(f"UPDATE accounts SET {change}")
            with pytest.raises(OperationError, match="does not open"):
                accounts.load(connection, desk.secret_keys(), FOREIGN.id if "studio_id" in change else BERLIN.id)
            raise InterruptedError  # and back
    assert desk.account(BERLIN).base_url == desk.platform.url(BERLIN)


def test_a_secret_key_is_changed(desk: Desk) -> None:
    """A new one, everything sealed again, the old one away: keys are what they were."""
    for studio in (BERLIN, FOREIGN):
        desk.add(studio)
    before = rows(desk.terminal.database, "SELECT sealed_key FROM accounts")
    desk.terminal.run("secret", "new")
    file = Path("guestgate.secret")
    assert desk.terminal.json("secret", "reseal") == [{"resealed": 2}]
    assert not set(before) & set(rows(desk.terminal.database, "SELECT sealed_key FROM accounts"))
    file.write_text(file.read_text().split()[0])
    assert desk.account(FOREIGN).key == FOREIGN.keys["openapi"]
    # One that was sealed with a key that is lost stops it, and leaves all as it was.
    file.write_text(new_key())
    assert "does not open" in desk.terminal.complaint("secret", "reseal", status=1)


def test_a_key_by_the_admin_api_is_an_account(desk: Desk) -> None:
    """What `key add` and the API both call; `db check` notices where the two tables part."""
    desk.terminal.studio(BERLIN.id)
    with desk.terminal.writing() as connection:
        accounts.put(connection, desk.secret_keys(), desk.platform.account(BERLIN))
    assert problems(desk.terminal.database) == []
    with desk.terminal.writing() as connection:
        connection.exec_driver_sql("UPDATE accounts SET key_sha256 = 'x'")
    assert sorted(problems(desk.terminal.database)) == [
        f"an Open API key is kept for studio {BERLIN.id} that is not in force",
        f"studio {BERLIN.id} has an Open API key in force that is not kept",
    ]


def test_customers_are_created_with_an_import(desk: Desk) -> None:
    """For those who may come in there and have none; each bad row with its line; again, and nothing changes."""
    desk.add(BERLIN, "--tag", "spa")
    desk.add(FOREIGN)
    names = [f"import-{desk.terminal.database.engine.name}-{letter}" for letter in "abcdefgh"]
    known = desk.platform.platform.create_customer(BERLIN, names[1])
    theirs = desk.platform.platform.create_customer(BERLIN, names[2])
    file = desk.terminal.file(
        "members.csv",
        HEADER
        + f"{names[0]},free,,,,Ada,One\n"
        + f"{names[1]},spa,,,{known},Bea,Two\n"  # linked, and nobody knows at which chain
        + f"{names[2]},free,,,,Cid,Three\n"  # whose customer is linked to the next one
        + f"{names[3]},free,,,{theirs},Dan,Four\n"
        + f"{names[4]},free,suspended,,,Eve,Five\n"
        + f"{names[5]},free,,2020-01-01,,Fay,Six\n"
        + f"{names[6]},free,,,,Gus,\n"
        + f"{names[7]},nothing,,,,Hal,Eight\n",
    )
    words = ("member", "import", file, "--create-customers", "--studio")
    done = desk.terminal.run(*words, BERLIN.id, "--json", status=1)
    (report,) = done.objects
    assert (report["added"], report["customers"]) == (7, {"created": 3, "had_one": 0, "passed_over": 2})
    assert [row["line"] for row in report["bad"]] == [9, 4, 8]
    assert "is linked to member" in report["bad"][1]["error"]
    assert report["bad"][2]["error"] == "last_name: is missing, and the platform needs it"
    at = desk.at_the_platform(BERLIN)
    assert desk.customers(names[0]) == [at[names[0]]] and desk.customers(names[1]) == [known]
    assert desk.customers(names[3]) == [theirs, at[names[3]]]
    assert not {names[4], names[5], names[6], names[7]} & set(at)
    # Again, also by a sister studio: the chain has them, even where their plan does not open the door.
    (report,) = desk.terminal.run(*words, BERLIN.id, "--json", status=1).objects
    assert report["customers"] == {"created": 0, "had_one": 3, "passed_over": 2}
    desk.add(SISTER)
    (report,) = desk.terminal.run(*words, SISTER.id, "--json", status=1).objects
    assert report["customers"] == {"created": 0, "had_one": 3, "passed_over": 2}
    # At another chain they are customers of their own.
    done = desk.terminal.run(*words, FOREIGN.id, status=1)
    assert "customers: 3 created, 0 were there, 3 members passed over" in done.out
    assert set(desk.customers(names[0])) == {at[names[0]], desk.at_the_platform(FOREIGN)[names[0]]}
    for bad in (words[:-1], (*words[:3], "--studio", BERLIN.id), (*words, BERLIN.id, "--dry-run")):
        assert "--create-customers" in desk.terminal.complaint(*bad)
    assert problems(desk.terminal.database) == []


def test_one_customer(desk: Desk) -> None:
    """By a command; whoever may not come in there is not told of."""
    desk.add(BERLIN)
    member = f"one-{desk.terminal.database.engine.name}"
    desk.terminal.members(
        {"member_id": member, "plan": "free", "first_name": "Ada", "last_name": "One"},
        {"member_id": "elsewhere", "plan": "spa", "first_name": "Bea", "last_name": "Two"},
        {"member_id": "nameless", "plan": "free"},
    )
    words = ("member", "create-customer", member, "--studio", BERLIN.id)
    (made,) = desk.terminal.json(*words)
    customer = desk.at_the_platform(BERLIN)[member]
    assert made == {"member_id": member, "customer_id": customer, "created": True}
    assert desk.terminal.json(*words) == [{**made, "created": False}]
    assert desk.terminal.json("changes")[-1]["action"] == "customer.linked"
    for name, why in (
        ("elsewhere", "the plan is not for this studio"),
        ("nameless", "first_name"),
        ("nobody", "no member nobody"),
    ):
        status = 2 if name == "nameless" else 1
        assert why in desk.terminal.complaint("member", "create-customer", name, "--studio", BERLIN.id, status=status)
    # What is known of the chain goes with the link.
    desk.terminal.run("member", "unlink", member, str(customer))
    assert rows(desk.terminal.database, "SELECT count(*) FROM customer_chains") == [(0,)]
    assert desk.terminal.json(*words) == [made]
    forget(desk.terminal.database, "test", member)
    assert rows(desk.terminal.database, "SELECT count(*) FROM customer_chains") == [(0,)]


def test_it_goes_on_where_it_stopped(desk: Desk) -> None:
    """A platform that fails in the middle: what was done is done, and the next run does the rest, nobody twice."""
    desk.add(BERLIN)
    ids = [f"stop-{desk.terminal.database.engine.name}-{number}" for number in range(9)]
    desk.terminal.members(*({"member_id": one, "plan": "free", "first_name": "A", "last_name": "B"} for one in ids))
    rows_ = [MemberRow(line, one, {}) for line, one in enumerate(ids, start=2)]
    seen = []
    desk.platform.troubles.extend([None] * 4 + [Trouble.BROKEN] + [Trouble.BUSY] * BUSY_ATTEMPTS)
    for created in (4, 5):
        with OpenApiClient(desk.account(BERLIN), pace=Time().pace()) as client:
            maker = CustomerMaker(desk.terminal.database, client, "test")
            with suppress(PlatformError):
                for _ in maker.all(rows_):
                    pass
        assert maker.report.created == created and not maker.report.bad
        seen.append(maker.report.had_one)
    assert seen == [0, 4] and not desk.platform.troubles
    assert [desk.customers(one) for one in ids] == [[desk.at_the_platform(BERLIN)[one]] for one in ids]


@pytest.mark.embedded
def test_the_server_says_at_start_which_keys_it_cannot_use(home: Gate) -> None:
    """And opens its doors all the same."""
    home.studio("s1")
    with home.database.write() as connection:
        account = accounts.Account("s1", "https://fitwerk.open-api.perfectgym.com/v1", "an-open-api-key")
        accounts.put(connection, SecretKeys([bytes(32)], "this test"), account)
    home.plans()
    home.members("m1,free")
    home.start()
    wait_for(
        lambda: "the platform's Open API cannot be called" in home.log.read_text("utf-8"), "nothing is said", home
    )
    assert "guestgate secret new" in home.log.read_text("utf-8")
    assert "an-open-api-key" not in home.log.read_text("utf-8")
    assert home.checkin("m1").status_code == 200
