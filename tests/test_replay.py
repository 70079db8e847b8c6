"""Recorded check-ins decided again: the plans of the time give the record, others what the door would have said."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from backends import Backend
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select, update
from terminal import Terminal
from test_naive import ZONES

from guestgate import clock, corrections, plans, plans_file, record, schema, sequence, studios, visits
from guestgate.calendars import Calendars
from guestgate.database import Database
from guestgate.ledger import Answer, Ledger, Ticket
from guestgate.members import Upsert, parse_row
from guestgate.model import CheckIn, VisitState
from guestgate.replay import Replay
from guestgate.tally import EXAMPLES, Tally

# The last Sunday of March, when clocks are changed, lies within.
FIRST = datetime(2025, 3, 3, 5, tzinfo=UTC)
DAYS, TAPS = timedelta(days=45), 400
MINUTE = timedelta(minutes=1)
STUDIOS = {"berlin": "Europe/Berlin", "mitte": "Europe/Berlin", "lisbon": "Europe/Lisbon", "demo": "Europe/Berlin"}
OLD = """
[plans.free]
name = "Free"
payable = "per_visit"
[plans.daily]
name = "Once a day"
limits = [{ max = 1, per = "day" }]
[plans.mixed]
name = "A bit of everything"
studio_tags = ["classic", "spa"]
min_gap_minutes = 45
cycle_days = 10
limits = [{ max = 2, per = "week", scope = "studio" }, { max = 9, per = "month" },
    { max = 3, per = "cycle", scope = "tag:spa" }]
hours = [{ days = ["mon", "tue", "wed", "thu", "fri"], from = "06:00", until = "18:00" },
    { from = "22:00", until = "02:00" }]
[plans.pass]
name = "Ten in all"
limits = [{ max = 10, per = "total" }]
"""
# Stricter here, more generous there; one plan stays as it is.
NEW = """
[plans.free]
name = "Free, after a while"
reentry_minutes = 60
[plans.daily]
name = "Twice a day"
reentry_minutes = 3
limits = [{ max = 2, per = "day" }]
payable = "per_visit"
[plans.mixed]
name = "Less of everything"
studio_tags = ["classic"]
limits = [{ max = 4, per = "week" }, { max = 12, per = "total" }]
hours = [{ from = "08:00", until = "20:00" }]
"""
PLANS = ("free", "daily", "mixed", "pass")
MEMBERS = [f"{plan}-{number}" for plan in PLANS for number in range(2)]


class Town:
    """A record that is made by the ledger from a script: what happens, in order, to whom."""

    def __init__(self, url: str, text: str, folder: Path) -> None:
        """With the plans of a file."""
        self.database = Database.at(url)
        self.folder = folder
        self.taken_back: set[str] = set()
        with self.database.write() as connection:
            for studio, zone in STUDIOS.items():
                tags = frozenset({"classic"} if studio != "lisbon" else {"spa"})
                studios.add(connection, studio, name=studio, timezone=zone, tags=tags, test=studio == "demo")
            plans.apply(connection, self.documents(text))
            rows = [{"member_id": member, "plan": member.partition("-")[0]} for member in MEMBERS]
            Upsert()(connection, [parse_row(n, row | {"valid_from": "2025-01-07"}) for n, row in enumerate(rows, 1)])

    def documents(self, text: str) -> dict[str, plans_file.PlanDocument]:
        """The plans of a file with this text."""
        file = self.folder / "plans.toml"
        file.write_text(text, "utf-8")
        return plans_file.read(file)

    def play(self, seed: int, *, later: str = "", may_take_back: set[str] | None = None) -> None:
        """People come, twice at times; answers get lost; visits are taken back, brought along, and studios change.

        `later` are plans for the second half; of visits that were made only those that `may_take_back` names are.
        """
        dice, ledger = random.Random(seed), Ledger(self.database, None)
        at, member, answers = FIRST, MEMBERS[0], list[Answer]()
        for number in range(TAPS):
            studio = dice.choice([*STUDIOS, "berlin"])
            if dice.random() < 0.6:
                at, member = FIRST + DAYS * number / TAPS + MINUTE * dice.randrange(60), dice.choice(MEMBERS)
                at = clock.from_ms(clock.to_ms(at))
            else:
                at += MINUTE * dice.choice([2, 5, 30, 50])
            id = uuid7(clock.to_ms(at), dice)
            ticket = Ticket(CheckIn(id, at, studio, member, 1, "0123456789abcdef"), clock.monotonic() + 3600)
            (decision,) = ledger.process([ticket], answers)
            lost = dice.random() < 0.05
            answers = [Answer(id, None if lost else 200, 2.0, lost)]
            if dice.random() < 0.05 and (may_take_back is None or id in may_take_back):
                with self.database.write() as connection:
                    if decision.makes_visit and corrections.reverse(connection, id, "passed back"):
                        self.taken_back.add(id)
            if dice.random() < 0.02:
                row = visits.VisitRow(1, member, studio, at - timedelta(days=dice.randrange(9)))
                with self.database.write() as connection:
                    visits.Import()(connection, [row])
            if number == TAPS // 3:
                with self.database.write() as connection:
                    studios.change(connection, "mitte", tags=frozenset({"spa", "classic"}), timezone="Asia/Tokyo")
            if number == TAPS // 2 and later:
                with self.database.write() as connection:
                    plans.apply(connection, self.documents(later))
        ledger.process([], answers)
        ledger.close()

    def confirm(self, some: Callable[[int], bool]) -> None:
        """Some visits turn out to have taken place."""
        with self.database.write() as connection:
            for number, visit in enumerate(connection.execute(select(schema.visits)).all()):
                if not some(number) or visit.state == VisitState.REVERSED.value:
                    continue
                (seq,) = sequence.take(connection, 1)
                state = {"state": VisitState.CONFIRMED.value}
                change = {"seq": seq, "visit_id": visit.id, "changed_at_ms": 0, "who": "test", "why": "test", **state}
                connection.execute(insert(schema.visit_changes).values(change))
                connection.execute(update(schema.visits).where(schema.visits.c.id == visit.id).values(state))

    def decisions(self) -> dict[str, Any]:
        """The record, by id."""
        with self.database.read() as connection:
            return {row["id"]: row for _, row in record.decisions(connection, record.Filter())}

    def payable(self, since: datetime = FIRST, requires: str = "authorized") -> Counter[tuple[str, str]]:
        """What is paid for since an instant, by plan and studio, as statements have it."""
        chosen = record.Filter(since=since)
        with self.database.read() as connection:
            found = list(record.visits(connection, chosen, payable_requires=requires))
        return Counter((visit["plan"], visit["studio"]) for _, visit in found if visit["payable"])

    def replay(
        self, text: str = "", since: datetime = FIRST, *, requires: str = "authorized", asks_all: bool = False
    ) -> Tally:
        """The replay of it all, or since an instant."""
        tally = Tally(None, len(MEMBERS))
        with self.database.read() as connection:
            documents = self.documents(text) if text else {}
            replay = Replay(connection, since, documents, tally, payable_requires=requires)
            replay.asks_all |= asks_all
            assert list(replay.run())[-1] == replay.total()
        return tally


def uuid7(at_ms: int, dice: random.Random) -> str:
    """An id as a check-in got it then."""
    return str(UUID(int=at_ms << 80 | 7 << 76 | dice.getrandbits(12) << 64 | 2 << 62 | dice.getrandbits(62)))


@pytest.fixture
def town(backend: Backend, tmp_path: Path) -> Iterator[Callable[[str], Town]]:
    """Makes towns with the plans of a file."""
    with ExitStack() as stack:

        def new(text: str) -> Town:
            url = backend.new(tmp_path)
            stack.callback(backend.drop, url)
            town = Town(url, text, tmp_path)
            stack.callback(town.database.engine.dispose)
            return town

        yield new


@pytest.mark.parametrize("seed", [1])
def test_the_plans_of_the_time_give_the_record(town: Callable[[str], Town], seed: int) -> None:
    """Every answer and every payable visit, from the beginning and from the middle, through a change of plans."""
    played = town(OLD)
    played.play(seed, later=NEW)
    played.confirm(lambda number: number % 3 > 0)
    decisions = played.decisions().values()
    assert {decision["reason"] for decision in decisions} >= {
        "studio_not_in_plan",
        "reentry",
        "outside_hours",
        "too_soon",
        "limit_reached",
        "ok",
    }
    for since in (FIRST, FIRST + timedelta(days=31)):
        for requires in ("authorized", "confirmed"):
            tally = played.replay(since=since, requires=requires)
            assert tally.payable_before == tally.payable_after == played.payable(since, requires)
        report = tally.report()
        since_then = [decision for decision in decisions if decision["received_at"] >= clock.iso(since)]
        assert (report["changed"], report["unexplained"]) == (0, 0)
        assert report["checkins"] == len(since_then)
        assert report["allowed_before"] == sum(decision["decision"] == "allowed" for decision in since_then)


@pytest.mark.parametrize("seed", [3])
def test_other_plans_give_what_the_door_would_have_said(town: Callable[[str], Town], seed: int) -> None:
    """The same town under the new plans, for real: the same answers, visits paid for, and members affected."""
    old, new = town(OLD), town(OLD + "\n")
    with new.database.write() as connection:
        plans.apply(connection, new.documents(NEW))
    old.play(seed)
    new.play(seed, may_take_back=old.taken_back)
    was, would_be = old.decisions(), new.decisions()
    tally = old.replay(NEW)
    answers = Counter[tuple[Any, ...]]()
    changed = Counter[str]()
    for id, decision in was.items():
        answers[decision["plan"], decision["studio"], decision["reason"], would_be[id]["reason"]] += 1
        changed[decision["member"]] += decision["reason"] != would_be[id]["reason"]
    assert dict(tally.answers) == answers
    assert tally.payable_before == old.payable()
    assert tally.payable_after == new.payable()
    report = tally.report()
    assert {row["member"]: row["changed"] for row in report["members"]} == +changed
    assert all(len(row["examples"]) == min(EXAMPLES, row["changed"]) for row in report["members"])
    assert report["unexplained"] == 0 < report["changed"] == changed.total()
    assert report == old.replay(NEW, asks_all=True).report()


def test_what_the_record_does_not_explain_stays(town: Callable[[str], Town]) -> None:
    """A stand-in let somebody in beyond the limit: that is no doing of the new plans."""
    played = town(OLD)
    played.play(5)
    with played.database.write() as connection:
        denied = select(schema.decisions.c.id).where(schema.decisions.c.reason == "limit_reached").limit(1)
        id = connection.execute(denied).scalar_one()
        values = {"outcome": "allowed", "reason": "ok", "visit_id": id, "stand_in": True}
        connection.execute(update(schema.decisions).where(schema.decisions.c.id == id).values(values))
    report = played.replay().report()
    assert (report["changed"], report["unexplained"]) == (0, 1)


CALENDARS = Calendars()


@given(st.sampled_from(ZONES), st.integers(0, 4_000_000_000_000))
def test_a_calendar_knows_the_local_date(zone: str, at_ms: int) -> None:
    """Of any instant, asked for again as well."""
    calendar, at = CALENDARS[ZoneInfo(zone)], clock.from_ms(at_ms)
    for _ in range(2):
        assert calendar.at(at_ms, at) == at.astimezone(ZoneInfo(zone)).date()


def test_the_command(terminal: Terminal) -> None:
    """For people and for scripts; nothing is written, and what cannot be put into force is refused."""
    terminal.plans('[plans.daily]\nname = "Once a day"\nlimits = [{ max = 1, per = "day" }]\nreentry_minutes = 0\n')
    terminal.studio("s1")
    terminal.studio("s2")
    terminal.members({"member_id": "m-1", "plan": "daily"})
    ledger, dice = Ledger(terminal.database, None), random.Random(1)
    noon = clock.now().replace(hour=10, minute=0, second=0, microsecond=0) - timedelta(days=1)
    for minutes, studio, member in ((0, "s1", "m-1"), (30, "s1", "m-1"), (60, "s2", "m-1"), (90, "s2", "nobody")):
        at = noon + minutes * MINUTE
        checkin = CheckIn(uuid7(clock.to_ms(at), dice), at, studio, member, 1, "0123456789abcdef")
        ledger.process([Ticket(checkin, clock.monotonic() + 3600)], [])
    ledger.close()
    with terminal.reading() as connection:
        before = sequence.position(connection)
    twice = terminal.file("new.toml", '[plans.daily]\nname = "Twice"\nlimits = [{ max = 2, per = "day" }]\n')
    (report,) = terminal.json("plan", "test", twice, "--since", "7d")
    counted = {"checkins": 4, "allowed_before": 1, "allowed_after": 2, "payable_before": 1, "payable_after": 1}
    assert report.items() >= {**counted, "changed": 1, "members_changed": 1, "unexplained": 0, "studio": None}.items()
    assert report["changes"] == [{"before": "limit_reached", "after": "ok", "checkins": 1}]
    example = {"at": clock.iso(noon + 30 * MINUTE), "studio": "s1", "before": "limit_reached", "after": "ok"}
    assert report["members"] == [{"member": "m-1", "changed": 1, "examples": [example]}]
    assert [row["plan"] for row in report["plans"]] == ["daily", None]
    (there,) = terminal.json("plan", "test", twice, "--studio", "s2", "--limit", "0")
    assert (there["checkins"], there["changed"], there["members"]) == (2, 0, [])
    shown = terminal.run("plan", "test", twice).out
    assert "1 answer of 1 member would change" in shown and "limit_reached → ok" in shown
    assert "would change" not in terminal.run("plan", "test").out
    assert terminal.run("plan", "test", "--since", "1h").out.startswith("no check-ins since ")
    assert "there is no studio s3" in terminal.complaint("plan", "test", twice, "--studio", "s3", status=1)
    cycles = terminal.file("cycles.toml", '[plans.daily]\nname = "Cycles"\nlimits = [{ max = 1, per = "cycle" }]\n')
    assert "m-1" in terminal.complaint("plan", "test", cycles, status=1)
    with terminal.reading() as connection:
        assert sequence.position(connection) == before
