"""Many callers at once, at a real server: limits hold exactly, and every call is on record once."""

from __future__ import annotations

import asyncio
import copy
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from subprocess import PIPE, Popen

import pytest
import uuid_utils
from callers import Caller, Crowd, at_once, connected, missing, noon_zone, problems, rows
from gate import Gate, environment, free_port

from guestgate import authorizer, clock, ledger_queue
from guestgate.ledger_process import LedgerRole
from guestgate.metrics import DoorMetrics
from guestgate.model import CheckIn, Outcome, Ruling

pytestmark = pytest.mark.alone

CALLERS = 200
PERIODS = ("day", "month", "total")
MAXIMA = (1, 3, 7)
ROUNDS = int(os.environ.get("GUESTGATE_TEST_ROUNDS", "3"))
SEED = int(os.environ.get("GUESTGATE_TEST_SEED", "1"))

PLANS = "".join(
    f"""
[plans.{per}-{most}]
name = "{most} a {per}"
reentry_minutes = {reentry}
limits = [{{ max = {most}, per = "{per}", scope = "{scope}" }}]
"""
    for per, scope, reentry in (("day", "network", 0), ("month", "studio", 0), ("total", "network", 10))
    for most in MAXIMA
)
MEMBERS = [
    f"{per}-{most}-{number},{per}-{most}" for per in PERIODS for most in MAXIMA for number in range(ROUNDS + 7)
]


@pytest.fixture(scope="module")
def gate(new_gate: Callable[[], Gate]) -> Gate:
    """A server with a long budget: here it is to be right, test_faults sees whether it is in time."""
    gate = new_gate()
    gate.configure("answer_budget_ms = 750")
    gate.studio("s1", timezone=noon_zone())
    gate.plans(PLANS)
    gate.members(*MEMBERS)
    gate.start()
    return gate


@pytest.fixture(scope="module")
def callers(gate: Gate) -> Iterator[list[Caller]]:
    """Connections that are there already, so that the calls come as close together as they can."""
    with connected(gate, CALLERS) as callers:
        yield callers


@pytest.mark.parametrize("most", MAXIMA)
@pytest.mark.parametrize("per", ["day", "month"])
def test_so_many_and_no_more_are_let_in(gate: Gate, callers: list[Caller], per: str, most: int) -> None:
    """200 calls for one member at the same time: exactly as many as the limit says are let in."""
    for number in range(ROUNDS):
        member = f"{per}-{most}-{number}"
        replies = [reply for reply in at_once(callers, [member] * CALLERS) if reply is not None]
        assert Counter((reply.status, reply.reason) for reply in replies) == {
            (200, "ok"): most,
            (403, "limit_reached"): CALLERS - most,
        }
        recorded = rows(gate.database, "SELECT id FROM decisions WHERE member_id = :member", member=member)
        assert sorted(row[0] for row in recorded) == sorted(reply.id for reply in replies)
        assert missing(gate.database, replies) == []
        visits = rows(gate.database, "SELECT id, state FROM visits WHERE member_id = :member", member=member)
        let_in = sorted((reply.id, "authorized") for reply in replies if reply.status == 200)
        assert sorted(tuple(visit) for visit in visits) == let_in


def test_one_visit_however_often_a_card_is_held_to_the_reader(gate: Gate, callers: list[Caller]) -> None:
    """200 calls inside the re-entry window: all are let in, on one and the same visit."""
    replies = [reply for reply in at_once(callers, ["total-1-0"] * CALLERS) if reply is not None]
    assert Counter((reply.status, reply.reason) for reply in replies) == {
        (200, "ok"): 1,
        (200, "reentry"): CALLERS - 1,
    }
    (first,) = (reply.id for reply in replies if reply.reason == "ok")
    leaned_on = rows(gate.database, "SELECT visit_id FROM decisions WHERE member_id = 'total-1-0'")
    assert [row[0] for row in leaned_on] == [first] * CALLERS
    assert rows(gate.database, "SELECT id FROM visits WHERE member_id = 'total-1-0'") == [(first,)]


def test_members_do_not_disturb_each_other(gate: Gate, callers: list[Caller]) -> None:
    """Different limits, mixed in the same batches, each hold for their own member."""
    limited = [(f"{per}-{most}-{ROUNDS}", most) for per in ("day", "month") for most in MAXIMA]
    names = [limited[number % len(limited)][0] for number in range(CALLERS)]
    replies = [reply for reply in at_once(callers, names) if reply is not None]
    assert len(replies) == CALLERS
    let_in = Counter(reply.member for reply in replies if reply.status == 200)
    assert let_in == dict(limited)
    assert {reply.status for reply in replies} == {200, 403}
    assert missing(gate.database, replies) == []


def test_two_servers_on_one_database(gate: Gate, callers: list[Caller]) -> None:
    """Nobody should, but while an old server drains a new one may be there: limits hold across both."""
    other = copy.copy(gate)
    other.port, other.admin_port = free_port(), free_port()
    other.process, other.log = None, gate.folder / "other.log"
    other.start()
    try:
        with connected(other, CALLERS) as others:
            members = [f"{per}-{most}-{ROUNDS + 6}" for per in ("day", "month") for most in MAXIMA]
            names = [members[number % len(members)] for number in range(CALLERS)]
            replies = at_once([*callers[::2], *others[::2]], names)
        assert other.stop() == 0
    finally:
        other.close()
    answered = [reply for reply in replies if reply is not None]
    assert len(answered) == CALLERS
    let_in = Counter(reply.member for reply in answered if reply.status == 200)
    assert let_in == {member: int(member.split("-")[1]) for member in members}
    assert missing(gate.database, answered) == []


def test_a_full_queue_is_refused_at_once(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that could not be decided in time do not wait, and are on record; those before them are decided."""
    monkeypatch.setattr(ledger_queue, "MAX_WAITING", 5)

    async def ask() -> list[Ruling]:
        role = LedgerRole("ledger", gate.database_url, None, 750)
        door = authorizer.Authorizer(role, None, lambda: None, DoorMetrics())
        await door.start()
        now = asyncio.get_running_loop().time()
        checkins = [
            CheckIn(str(uuid_utils.uuid7()), clock.now(), "s1", f"total-7-{ROUNDS + 6}", 1) for _ in range(12)
        ]
        calls = [door.call(checkin, now, now + 60) for checkin in checkins]
        rulings = await asyncio.gather(*(door.authorize(call) for call in calls))
        for call, ruling in zip(calls, rulings, strict=True):
            door.left(call, ruling, 503 if ruling.outcome is Outcome.UNDECIDED else 200)
        await door.stop()
        return rulings

    rulings = asyncio.run(ask())
    outcomes = [ruling.outcome for ruling in rulings]
    assert outcomes == [Outcome.ALLOWED] * 5 + [Outcome.UNDECIDED] * 7
    query = "SELECT decisions.id, outcome, http_status FROM decisions JOIN answers ON decision_id = decisions.id"
    recorded = {row[0]: (row[1], row[2]) for row in rows(gate.database, query)}
    expected = [("allowed", 200)] * 5 + [("undecided", 503)] * 7
    assert [recorded.get(ruling.id) for ruling in rulings] == expected


def test_imports_beside_check_ins(gate: Gate) -> None:
    """While members and visits are imported every call gets its yes or no, and nothing is lost or doubled."""
    repeat = f"GUESTGATE_TEST_SEED={SEED} python -m pytest tests/test_concurrency.py -k imports"
    names = [f"{per}-{most}-{ROUNDS + 1 + number}" for per in PERIODS for most in MAXIMA for number in range(5)]
    now = datetime.now(UTC)
    # Some of those who check in have visits imported meanwhile; each uses up a limit as a check-in does.
    past = [
        (names[n % len(names)] if n % 50 == 0 else f"fresh-{n}", now - timedelta(hours=2, seconds=n))
        for n in range(3000)
    ]
    gate.members(*(f"fresh-{n},total-1" for n in range(3000)))
    before = len(rows(gate.database, "SELECT id FROM decisions"))
    with Crowd(gate, names, SEED) as crowd:
        imports = {
            "member": ["member_id,plan,first_name", *(f"new-{n},day-1,Zoë" for n in range(6000))],
            "visit": ["member_id,studio_id,at", *(f"{member},s1,{at.isoformat()}" for member, at in past)],
        }
        running = {noun: importing(gate, noun, lines) for noun, lines in imports.items()}
        for noun, process in running.items():
            output, errors = process.communicate(timeout=120)
            assert process.returncode == 0, (noun, output, errors, repeat)
    statuses = Counter(reply.status for reply in crowd.replies)
    assert set(statuses) == {200, 403}, (statuses, repeat)
    assert crowd.broken == 0, repeat
    assert missing(gate.database, crowd.replies) == [], repeat
    assert len(rows(gate.database, "SELECT id FROM decisions")) - before == len(crowd.replies), repeat
    assert len(rows(gate.database, "SELECT id FROM members WHERE id LIKE 'new-%'")) == 6000
    assert len(rows(gate.database, "SELECT id FROM visits WHERE source = 'import'")) == 3000
    check_limits(gate, names, repeat)
    assert problems(gate.database) == [], repeat


def check_limits(gate: Gate, names: list[str], repeat: str) -> None:
    """In the order of the record no check-in was let in where the limit was used up already."""
    used: Counter[str] = Counter()
    for member, source in rows(gate.database, "SELECT member_id, source FROM visits ORDER BY seq"):
        if source == "checkin" and member in names:
            assert used[member] < int(member.split("-")[1]), (member, repeat)
        used[member] += 1


def importing(gate: Gate, noun: str, lines: list[str]) -> Popen[str]:
    """An import by the command line, under way."""
    file = gate.folder / f"{noun}s.csv"
    file.write_text("\n".join(lines) + "\n", "utf-8")
    command = [sys.executable, "-m", "guestgate", noun, "import", str(file)]
    command += ["--config", str(gate.home / "guestgate.toml")]
    return Popen(command, stdout=PIPE, stderr=PIPE, text=True, env=environment())


def test_visits_are_what_was_let_in(gate: Gate) -> None:
    """After all of that: as many visits of check-ins as calls that were let in, without the re-entries."""
    ((allowed,),) = rows(gate.database, "SELECT count(*) FROM decisions WHERE outcome = 'allowed'")
    ((reentries,),) = rows(gate.database, "SELECT count(*) FROM decisions WHERE reason = 'reentry'")
    ((visits,),) = rows(
        gate.database,
        "SELECT count(*) FROM visits WHERE source = 'checkin'"
        " AND (state = 'authorized' OR reversed_why = 'undelivered'"
        "      AND id IN (SELECT decision_id FROM answers WHERE undelivered))",
    )
    assert visits == allowed - reentries > 0
    assert gate.cli("db", "check").returncode == 0
