"""How many recorded check-ins a second `guestgate plan test` replays on one core.

Fills a record with a month of check-ins, decided under four plans as the door would have, each with its answer. Then
replays it, first under the plans in force, which has to give every answer that is on record, then under stricter ones.
The bare read is what the same interpreter and the same database take to hand over the same rows, in the same order.
The exit status is 1 where an answer is not the recorded one.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uuid_utils
from cluster import Cluster
from grown import SETTINGS

from guestgate import clock, directory, history, partitions, plans, plans_file, schema, sequence, studios
from guestgate.bulk import BulkInsert
from guestgate.database import Database
from guestgate.decide import decide
from guestgate.directory import tags_text
from guestgate.members import Upsert, parse_row
from guestgate.model import CheckIn, Facts, Member, Visit
from guestgate.replay import Replay

SPAN = timedelta(days=30)
CHUNK = 5000
STUDIOS = 200
ZONES = ("Europe/Berlin", "Europe/Vienna", "Europe/Lisbon")
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
limits = [{ max = 1, per = "day" }, { max = 8, per = "month", scope = "network" }]
[plans.offpeak]
name = "Off peak, in cycles"
cycle_days = 28
limits = [{ max = 6, per = "cycle" }, { max = 3, per = "week", scope = "studio" }]
hours = [{ days = ["mon", "tue", "wed", "thu", "fri"], from = "06:00", until = "16:00" }, { days = ["sat", "sun"], from = "08:00", until = "24:00" }]
"""
STRICTER = PLANS.replace("max = 8", "max = 6").replace('until = "16:00"', 'until = "15:00"').replace("max = 6, per = \"cycle\"", "max = 5, per = \"cycle\"")

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
        parse_row(number, {"member_id": member_id(number), "plan": names[number % len(names)], "valid_from": "2026-01-01"})
        for number in range(members)
    )
    with database.write() as connection: Upsert()(connection, list(rows))


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
    digits = f"{at_ms:012x}7{dice.randrange(1 << 12):03x}8{dice.randrange(1 << 60):015x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
