"""How many recorded check-ins a second `guestgate plan test` decides again on one core.

Fills a record with a month of check-ins, made by the ledger itself under four plans, and replays it: under the plans
as they were, where every check-in is asked about and every answer has to be the recorded one; with all plans changed;
and with one of them changed, where only its members' check-ins are asked about. The bare read is what handing over
the same rows in the same order takes. Seconds are the process's own, so that others on the machine do not count.
The exit status is 1 where an answer is not the recorded one.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from cluster import Cluster
from grown import SETTINGS

from guestgate import clock, partitions, plans, plans_file, studios
from guestgate.database import Database
from guestgate.history import History
from guestgate.ledger import Answer, Ledger, Ticket
from guestgate.members import Upsert, parse_row
from guestgate.model import CheckIn, Outcome
from guestgate.replay import Replay
from guestgate.tally import Tally

SPAN = timedelta(days=30)
BATCH, PATIENCE_S = 1000, 3600.0
STUDIOS, REACH_DAYS = 200, 33
ZONES = ("Europe/Berlin", "Europe/Vienna", "Europe/Lisbon")
STATUS = {Outcome.ALLOWED: 200, Outcome.DENIED: 403}
PLANS = """
[plans.free]
name = "Free"
[plans.daily]
name = "Once a day"
studio_tags = ["classic"]
limits = [{ max = 1, per = "day" }]
[plans.monthly]
name = "Eight a month"
min_gap_minutes = 30
limits = [{ max = 1, per = "day" }, { max = 8, per = "month" }]
[plans.offpeak]
name = "Off peak, in cycles"
cycle_days = 28
limits = [{ max = 6, per = "cycle" }, { max = 3, per = "week", scope = "studio" }]
hours = [{ days = ["mon", "tue", "wed", "thu", "fri"], from = "06:00", until = "16:00" },
    { days = ["sat", "sun"], from = "08:00", until = "24:00" }]
"""
ONE_CHANGED = """
[plans.monthly]
name = "Six a month"
min_gap_minutes = 30
limits = [{ max = 1, per = "day" }, { max = 6, per = "month" }]
"""
ALL_CHANGED = (
    """
[plans.free]
name = "Nearly free"
limits = [{ max = 3, per = "day" }]
[plans.daily]
name = "Once a day"
studio_tags = ["classic"]
limits = [{ max = 1, per = "day" }, { max = 5, per = "week" }]
[plans.offpeak]
name = "Off peak, in cycles"
cycle_days = 28
limits = [{ max = 5, per = "cycle" }, { max = 3, per = "week", scope = "studio" }]
hours = [{ days = ["mon", "tue", "wed", "thu", "fri"], from = "06:00", until = "15:00" },
    { days = ["sat", "sun"], from = "08:00", until = "24:00" }]
"""
    + ONE_CHANGED
)


def furnish(database: Database, members: int) -> None:
    """Studios, plans and members."""
    documents = plans_of(PLANS)
    with database.write() as connection:
        for number in range(STUDIOS):
            zone, tags = ZONES[number % len(ZONES)], frozenset({"classic"} if number % 10 else {"premium"})
            studios.add(connection, f"s-{number}", name=f"s-{number}", timezone=zone, tags=tags, test=number == 0)
        plans.apply(connection, documents)
        if connection.dialect.name != "sqlite":
            first = clock.now() - SPAN
            for month in range(3):
                partitions.add_month(connection, first.year, first.month + month)
    names = list(documents)
    rows = (
        parse_row(
            number, {"member_id": member_id(number), "plan": names[number % len(names)], "valid_from": "2026-01-01"}
        )
        for number in range(members)
    )
    with database.write() as connection:
        Upsert()(connection, list(rows))


def member_id(number: int) -> str:
    """In no particular order."""
    return f"m-{number * 2654435761 % 2**32:010d}"


def plans_of(text: str) -> dict[str, plans_file.PlanDocument]:
    """The plans of a file with this text."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "plans.toml")
        file.write_text(text, "utf-8")
        return plans_file.read(file)


def fill(database: Database, count: int, members: int) -> None:
    """So many check-ins of the last month, decided and recorded by the ledger; a tenth are second taps."""
    dice, ledger = random.Random(1), Ledger(database, None)
    end_ms, span_ms = clock.now_ms() - 60_000, SPAN // clock.MILLISECOND
    member, studio = member_id(0), "s-0"
    answers: list[Answer] = []
    for first in range(0, count, BATCH):
        tickets = []
        for number in range(first, min(count, first + BATCH)):
            if dice.random() >= 0.1:
                member, studio = member_id(dice.randrange(members)), f"s-{dice.randrange(STUDIOS)}"
            at_ms = end_ms - span_ms * (count - number) // count
            checkin = CheckIn(uuid7(at_ms, dice), clock.from_ms(at_ms), studio, member, 1, "0123456789abcdef")
            tickets.append(Ticket(checkin, clock.monotonic() + PATIENCE_S))
        decisions = ledger.process(tickets, answers)
        answers = [Answer(decision.id, STATUS[decision.outcome], 3.5, False) for decision in decisions]
    ledger.process([], answers)
    ledger.close()


def uuid7(at_ms: int, dice: random.Random) -> str:
    """An id as a check-in got it then."""
    return str(UUID(int=at_ms << 80 | 7 << 76 | dice.getrandbits(12) << 64 | 2 << 62 | dice.getrandbits(62)))


def bare_read(database: Database, since: datetime) -> None:
    """All rows that a replay gets."""
    with database.read() as connection:
        for _ in History(connection, since).rows(REACH_DAYS, endless=(), cycles=("offpeak",), confirmations=False):
            pass


def replayed(database: Database, since: datetime, text: str) -> Tally:
    """What a replay comes to."""
    tally = Tally(None, 10)
    with database.read() as connection:
        documents = plans_of(text) if text else {}
        for _ in Replay(connection, since, documents, tally, payable_requires="authorized").run():
            pass
    return tally


def best(rounds: int, work: Callable[[], object]) -> float:
    """The process's own seconds in the quickest of some rounds."""
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


@contextmanager
def empty_database(on_server: bool) -> Iterator[Database]:
    """A file, or a database on a throw-away server."""
    if on_server:
        with closing(Cluster(*SETTINGS)) as cluster:
            yield Database.at(cluster.url(cluster.create()))
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Database.at(f"sqlite:///{folder}/guestgate.db")


def run(checkins: int, members: int, rounds: int, on_server: bool) -> bool:
    """Whether the record is reproduced."""
    with empty_database(on_server) as database:
        database.upgrade()
        furnish(database, members)
        fill(database, checkins, members)
        since = clock.now() - SPAN - timedelta(days=1)
        print(f"{checkins:,} check-ins of {members:,} members are on record", flush=True)
        read_s = best(rounds, lambda: bare_read(database, since))
        print(f"bare read                     {checkins / read_s:9,.0f} a second", flush=True)
        for name, text in (
            ("the plans as they were", ""),
            ("all changed", ALL_CHANGED),
            ("one changed", ONE_CHANGED),
        ):
            seconds = best(rounds, lambda text=text: replayed(database, since, text))  # type: ignore[misc]
            rate = checkins / seconds
            print(f"replay, {name:22}{rate:9,.0f} a second, {seconds / read_s:.1f} times the bare read", flush=True)
        check = replayed(database, since, "").report()
        print(f"{check['changed']} answers changed by the plans as they were, {check['unexplained']} unexplained")
        return not check["changed"] and not check["unexplained"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkins", type=int, default=1_000_000)
    parser.add_argument("--members", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgresql", action="store_true", help="on a throw-away server instead of a file")
    chosen = parser.parse_args()
    raise SystemExit(0 if run(chosen.checkins, chosen.members, chosen.rounds, chosen.postgresql) else 1)
