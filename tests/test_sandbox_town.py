"""The sandbox's town, what it exports, and who comes when."""

from __future__ import annotations

import csv
import io
import json
import os
import statistics
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from gate import Gate, environment

from guestgate import members, studios
from guestgate.directory import INBOUND, load_plans
from guestgate.errors import OperationError, UsageError
from guestgate.sandbox import export, setup
from guestgate.sandbox.arrivals import HOURS, Load, enrolments, jumps, taps
from guestgate.sandbox.town import PLAN_WEIGHTS, Town, TownSpec

# Nothing here differs from one database to another.
pytestmark = pytest.mark.embedded

TOWN = Town(TownSpec(seed=3, members=400))


def test_a_seed_is_a_town() -> None:
    """The same to its last key; another seed is another town."""
    again, other = Town(TownSpec(seed=3, members=400)), Town(TownSpec(seed=4, members=400))
    assert again.members == TOWN.members and again.studios == TOWN.studios
    assert other.members != TOWN.members
    keys = [key for town in (TOWN, other) for studio in town.studios for key in studio.keys.values()]
    assert len(set(keys)) == len(keys) == 2 * 6 * 3


def test_a_town_has_what_may_go_wrong() -> None:
    """Every plan, every state, several time zones, customers beyond 32 and 53 bits, a test and a paused studio."""
    assert {member.plan for member in TOWN.members} == set(PLAN_WEIGHTS) == set(TOWN.plans)
    assert {member.status for member in TOWN.members} == {"active", "suspended", "cancelled"}
    assert len({studio.timezone for studio in TOWN.studios}) >= 4
    assert len({studio.tenant for studio in TOWN.studios}) == 3
    customers = {number for member in TOWN.members for number in member.customers.values()}
    assert any(2**32 < number < 2**53 for number in customers) and any(number > 2**53 for number in customers)
    assert [studio.test for studio in TOWN.studios].count(True) == 1
    assert [studio.paused for studio in TOWN.studios].count(True) == 1
    assert any(member.valid_until == "2026-01-31" for member in TOWN.members)


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {"seed": "1"},
        {"studios": 0},
        {"members": 10**9},
        {"day": "soon"},
        {"plans": 3},
        {"aggregator_id": 5},
    ],
)
def test_what_is_no_town(content: object) -> None:
    """Is refused with a sentence."""
    with pytest.raises(UsageError, match="no town"):
        TownSpec.from_dict(content)


def test_the_member_file_is_the_town(tmp_path: Path) -> None:
    """Every member with customers and dates; the spec comes back as it was."""
    files = export.write(TOWN, tmp_path / "town")
    rows = list(csv.DictReader(io.StringIO(files["members"].read_text("utf-8"))))
    assert [row["member_id"] for row in rows] == [member.id for member in TOWN.members]
    assert [row["customer_id"] for row in rows] == [";".join(map(str, member.linked)) for member in TOWN.members]
    assert export.read_spec(tmp_path / "town") == TOWN.spec
    with pytest.raises(UsageError, match="sandbox export"):
        export.read_spec(tmp_path)
    (tmp_path / "town.json").write_text("{", "utf-8")
    with pytest.raises(UsageError, match="no town"):
        export.read_spec(tmp_path)


def test_an_exported_town_is_taken(home: Gate, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In this process as by the exported script: the same plans, studios, keys and members."""
    town = Town(TownSpec(seed=3, studios=5, members=200))
    setup.put(town, home.folder / "town", home.database)
    other = Gate(tmp_path_factory.mktemp("other"))
    here = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = ["sh", str(home.folder / "town" / "setup.sh"), "--config", str(other.home / "guestgate.toml")]
    subprocess.run(script, env=environment() | {"PATH": here}, check=True, capture_output=True, timeout=120)
    found = contents(home, town)
    assert found == contents(other, town)
    assert set(found["plans"]) == set(town.plans) and len(found["keys"]) == 5 * len(INBOUND)
    for studio, row in zip(sorted(town.studios, key=lambda studio: studio.id), found["studios"], strict=True):
        assert (row["id"], row["test"], row["active"]) == (studio.id, studio.test, not studio.paused)
    for member, row in zip(town.members, found["members"], strict=True):
        assert (row["customers"], row["plan"]) == (sorted(member.linked), member.plan)


def contents(gate: Gate, town: Town) -> dict[str, Any]:
    """What an installation knows of a town, without when it learned of it."""
    with gate.database.read() as connection:
        keys = studios.key_list(connection)
        return {
            "plans": load_plans(connection),
            "studios": studios.studio_list(connection),
            "keys": sorted((key["studio"], key["kind"], key["fingerprint"]) for key in keys),
            "members": [members.member_dict(connection, member.id) for member in town.members],
        }


def test_a_town_does_not_move_in_twice(home: Gate, tmp_path: Path) -> None:
    """Nor where somebody else has one of its customers."""
    home.plans()
    member = next(member for member in TOWN.members if member.linked)
    home.members(f"mine,free,{member.linked[0]}", header="member_id,plan,customer_id")
    with pytest.raises(OperationError, match=f"members.csv:[0-9]+: customer_id: {member.linked[0]} is linked"):
        setup.put(TOWN, tmp_path / "town", home.database)
    with pytest.raises(OperationError, match="exists"):
        setup.put(TOWN, tmp_path / "town", home.database)


def test_people_come_as_often_as_asked_and_have_their_hours() -> None:
    """On average the rate; many in the evening and few at night, by the studio's own clock."""
    load = Load(50, 240, seed=5)
    planned = list(taps(TOWN, load))
    assert all(first.due_s <= second.due_s for first, second in pairwise(planned))
    first_taps = [tap for tap in planned if tap.fault.name is None]
    people = 50 * 240
    assert people * 1.05 < len(first_taps) < people * 1.6  # second taps come on top
    berlin = Counter(int(tap.due_s / 10 + 1) % 24 for tap in planned if tap.studio.id == "berlin-mitte")
    assert statistics.correlation([berlin[hour] for hour in range(24)], list(HOURS)) > 0.95


def test_a_day_can_be_repeated() -> None:
    """The same seed is the same day to the last fault; faults change nothing else about it."""
    calm, rough = Load(40, 30, seed=8), Load(40, 30, seed=8, faults=frozenset({"cut", "cancel"}))
    assert list(taps(TOWN, rough)) == list(taps(TOWN, rough))
    assert [tap[:5] for tap in taps(TOWN, rough)] == [tap[:5] for tap in taps(TOWN, calm)]
    assert {tap.fault.name for tap in taps(TOWN, calm)} == {None}
    met = Counter(tap.fault.name for tap in taps(TOWN, rough))
    assert 0.003 < met["cut"] / met.total() < 0.03 and 0.01 < met["cancel"] / met.total() < 0.06
    assert list(taps(TOWN, Load(40, 30, seed=9))) != list(taps(TOWN, calm))


def test_some_register_before_they_first_come_in() -> None:
    """Once each, those whom the chain does not know yet, most with a code; the same seed is the same day."""
    town = Town(TownSpec(seed=3, members=3000))
    load = Load(60, 60, seed=2, faults=frozenset({"cut", "cancel"}))
    planned = list(enrolments(town, load))
    assert planned == list(enrolments(town, load)) != list(enrolments(town, replace(load, seed=3)))
    assert [one.due_s for one in planned] == sorted(one.due_s for one in planned)
    assert [one.number for one in planned] == list(range(len(planned)))
    first: dict[tuple[str, int], float] = {}
    for tap in taps(town, load):
        first.setdefault((tap.studio.tenant, tap.customer_id), tap.due_s)
    who = [(one.studio.tenant, one.customer_id) for one in planned]
    assert len(set(who)) == len(who) > 100
    for one in planned:
        assert one.customer_id is not None and one.due_s <= first[one.studio.tenant, one.customer_id]
        if one.member_id is not None:
            assert one.studio.tenant not in town.by_id[one.member_id].customers and one.text == one.member_id
        else:
            assert one.text not in town.by_id and not one.with_code
    coded, wrong = (
        sum(map(test, planned)) for test in (lambda one: one.with_code, lambda one: one.member_id is None)
    )
    assert 0.6 < coded / len(planned) < 0.95 and 0 < wrong / len(planned) < 0.1
    calm = list(enrolments(town, replace(load, faults=frozenset())))
    assert [one[:-1] for one in calm] == [one[:-1] for one in planned]
    assert {one.fault.name for one in calm} == {None} != {one.fault.name for one in planned}


def test_cards_are_sometimes_wrong_and_tapped_again() -> None:
    """Strangers, other people's customers, and the same card twice at the same door."""
    planned = list(taps(TOWN, Load(40, 60, seed=2)))
    assert any(tap.aggregator_id.startswith("stranger-") for tap in planned)
    assert any(TOWN.linked.get(tap.customer_id, tap.aggregator_id) != tap.aggregator_id for tap in planned)
    again = Counter((tap.studio.id, tap.aggregator_id, tap.customer_id) for tap in planned)
    assert sum(count > 1 for count in again.values()) > 100


def test_the_company_id_is_sent_where_the_platform_does_so() -> None:
    """Then the customer tells who is meant, so everybody is linked."""
    town = Town(TownSpec(members=100, aggregator_id="us"))
    assert {tap.aggregator_id for tap in taps(town, Load(20, 10))} == {"us"}
    assert all(member.linked == tuple(member.customers.values()) for member in town.members)


def test_a_clock_jumps_to_the_month_s_end_and_to_a_change_of_clocks() -> None:
    """Shortly before each, by the first studio's calendar, in order, and never back."""
    now = datetime(2026, 11, 25, 4, tzinfo=UTC)
    found = [instant.astimezone(ZoneInfo("Europe/Berlin")) for instant in jumps(TOWN, now, lead_s=10)]
    assert [instant.isoformat() for instant in found] == ["2026-11-30T23:59:50+01:00", "2027-03-28T01:59:50+01:00"]
    assert [instant.month for instant in jumps(TOWN, datetime(2026, 10, 1, tzinfo=UTC), lead_s=10)] == [10, 10]


def test_an_export_says_what_the_configuration_needs(home: Gate, tmp_path: Path) -> None:
    """Where the platform sends our own id: without the setting nobody would be known."""
    done = home.cli("sandbox", "export", str(tmp_path / "t"), "--members", "20", "--aggregator-id", 'us "Inc"')
    needed = 'guestgate.toml needs: aggregator_id = "us \\"Inc\\""'
    assert needed in done.stdout and needed in (tmp_path / "t" / "setup.sh").read_text("utf-8")


def test_export_on_the_command_line(home: Gate, tmp_path: Path) -> None:
    """Files and what to do next; the script adds a studio with each key through standard input only."""
    done = home.cli("sandbox", "export", str(tmp_path / "t"), "--seed", "3", "--members", "400")
    assert f"sh {tmp_path / 't' / 'setup.sh'}" in done.stdout
    assert json.loads((tmp_path / "t" / "town.json").read_text("utf-8"))["seed"] == 3
    home.cli("sandbox", "export", str(tmp_path / "t"), "--seed", "3", "--members", "400")  # again
    script = (tmp_path / "t" / "setup.sh").read_text("utf-8")
    assert script.count("guestgate studio add ") == 6 == script.count("--kind webhook")
    assert not [line for line in script.splitlines() if "sandbox-" in line and not line.startswith("printf %s ")]
