"""A server that is killed at any moment: what was answered is on record, limits hold, the other half ends too.

`GUESTGATE_TEST_ROUNDS` and `GUESTGATE_TEST_SEED` make longer and other runs.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest
from callers import Caller, Crowd, Reply, gone, ledger_of, missing, noon_zone, problems, rows
from gate import Gate, wait_for

ROUNDS = int(os.environ.get("GUESTGATE_TEST_ROUNDS", "2"))
SEED = int(os.environ.get("GUESTGATE_TEST_SEED", "1"))
# Calls under way at the kill; the moment is drawn from this many seconds of load.
CROWD = 8
MOMENTS_S = 0.6

PLANS = """\
[plans.free]
name = "Free"
reentry_minutes = 0

[plans.one]
name = "Once"
reentry_minutes = 0
limits = [{ max = 1, per = "total" }]

[plans.five]
name = "Five a day"
reentry_minutes = 0
limits = [{ max = 5, per = "day" }]

[plans.again]
name = "Once, with re-entry"
limits = [{ max = 1, per = "total" }]
"""
LIMITS = {"one": 1, "five": 5, "again": 1}
PEOPLE = 40  # of each plan, for each test and round


class Life:
    """One installation that is killed again and again, and all that it ever answered."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.replies: list[Reply] = []

    def serving(self) -> Gate:
        """It, started where it is dead; whoever kills it next finds it as the last one was helped up."""
        if self.gate.process is None:
            self.gate.start()
        return self.gate

    def check(self, repeat: str) -> None:
        """All whole answers are on record as they were received; the record agrees with itself; limits hold."""
        database = self.gate.database
        assert missing(database, self.replies) == [], repeat
        assert problems(database) == [], repeat
        ids = [row[0] for row in rows(database, "SELECT id FROM decisions")]
        assert len(set(ids)) == len(ids), repeat
        counting = "SELECT member_id FROM visits WHERE state != 'reversed'"
        for counted in (
            Counter(member for (member,) in rows(database, counting)),
            Counter(reply.member for reply in self.replies if reply.reason == "ok"),
        ):
            for member, visits in counted.items():
                assert visits <= LIMITS.get(member.partition("-")[0], visits), (member, visits, repeat)


@pytest.fixture(scope="module")
def life(new_gate: Callable[[], Gate]) -> Life:
    """An installation, not yet serving."""
    gate = new_gate()
    gate.studio("s1", timezone=noon_zone())
    gate.plans(PLANS)
    gate.members(*(f"{plan}-{number},{plan}" for plan in ("free", *LIMITS) for number in range(PEOPLE * 4 * ROUNDS)))
    return Life(gate)


def people(kind: int, round_: int) -> list[str]:
    """Members who have not been here in earlier rounds: every kill meets fresh limits."""
    first = (kind * ROUNDS + round_) * PEOPLE
    return [f"{plan}-{number}" for plan in ("free", *LIMITS) for number in range(first, first + PEOPLE)]


def kill_everything(gate: Gate) -> None:
    """As a machine that is switched off does."""
    ledger = ledger_of(gate)
    assert gate.stop(signal.SIGKILL) == -signal.SIGKILL
    wait_for(lambda: gone(ledger), "the ledger outlived the kill", gate)


def kill_the_ledger(gate: Gate) -> None:
    """The server cannot decide any more: it ends by itself, and says so with its status."""
    assert gate.process is not None
    os.kill(ledger_of(gate), signal.SIGKILL)
    process, gate.process = gate.process, None
    try:
        assert process.wait(timeout=30) > 0
    finally:
        gate.process = process if process.poll() is None else None


def kill_the_door(gate: Gate) -> None:
    """Without a door the ledger has nobody to answer, and ends."""
    assert gate.process is not None
    ledger = ledger_of(gate)
    process, gate.process = gate.process, None
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    wait_for(lambda: gone(ledger), "the ledger outlived its door", gate)


KILLS = (kill_everything, kill_the_ledger, kill_the_door)


@pytest.mark.parametrize("round_", range(ROUNDS))
@pytest.mark.parametrize("kill", KILLS)
def test_what_was_answered_survives(life: Life, kill: Callable[[Gate], None], round_: int) -> None:
    """Killed under load, at a random moment: no answer is forgotten, and limits hold afterwards."""
    repeat = f"GUESTGATE_TEST_SEED={SEED} GUESTGATE_TEST_ROUNDS={ROUNDS} python -m pytest tests/test_crash.py"
    dice = random.Random(f"{SEED} {kill.__name__} {round_}")
    names = people(KILLS.index(kill), round_)
    gate = life.serving()
    with Crowd(gate, names, dice.random(), CROWD) as crowd:
        wait_for(lambda: len(crowd.replies) > CROWD, "no answers", gate)
        time.sleep(dice.random() * MOMENTS_S)  # not a wait for anything: the moment of the kill
        kill(gate)
    assert {reply.status for reply in crowd.replies} <= {200, 403, 503}, repeat
    assert crowd.broken, "nobody noticed the kill"
    life.replies += crowd.replies
    life.check(repeat)

    caller = Caller(life.serving())
    let_in = {reply.member for reply in crowd.replies if reply.status == 200}
    for name in names:
        reply = caller.call(name)
        assert reply is not None, repeat
        life.replies.append(reply)
        if name.startswith("one") and name in let_in:
            assert (reply.status, reply.reason) == (403, "limit_reached"), (name, repeat)
        elif name.startswith("again") and name in let_in:
            assert (reply.status, reply.reason) == (200, "reentry"), (name, repeat)
    caller.close()
    life.check(repeat)


def test_an_orderly_end_loses_nothing(life: Life) -> None:
    """SIGTERM under load: the status is 0, and how every whole answer left is on record as well."""
    repeat = f"GUESTGATE_TEST_SEED={SEED} GUESTGATE_TEST_ROUNDS={ROUNDS} python -m pytest tests/test_crash.py"
    gate = life.serving()
    with Crowd(gate, people(3, 0), SEED, CROWD) as crowd:
        wait_for(lambda: len(crowd.replies) > 20 * CROWD, "no answers", gate)
        assert gate.stop() == 0, repeat
    life.replies += crowd.replies
    life.check(repeat)
    statuses = dict(
        tuple(row)
        for row in rows(gate.database, "SELECT decision_id, http_status FROM answers WHERE NOT undelivered")
    )
    assert [reply for reply in crowd.replies if statuses.get(reply.id) != reply.status] == [], repeat
    assert gate.cli("db", "check").returncode == 0, repeat
