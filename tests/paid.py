"""What months come to, worked out anew from the record's rows, and records full of visits to work it out for."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import Any

from callers import rows
from past import uuid7

from guestgate import clock, schema, sequence, statements
from guestgate.adjustments import following
from guestgate.bulk import BulkInsert
from guestgate.database import Database

MOST = 1000
_insert = BulkInsert(schema.visits)


def fill(
    database: Database, month: str, count: int, members: list[str], *, plans: tuple[str, ...], studio: str = "s1"
) -> list[str]:
    """So many visits over a month, in the order of time, of these members and plans in turn; returns their ids."""
    dice = random.Random(f"{month} {count}")
    first = datetime.fromisoformat(f"{month}-01T06:00:00").replace(tzinfo=UTC)
    step = timedelta(days=27) / count
    made = [uuid7(first + number * step, dice.getrandbits(40)) for number in range(count)]
    numbered = iter(enumerate(made))
    while chunk := list(islice(numbered, MOST)):
        with database.write() as connection:
            numbers = sequence.take(connection, len(chunk))
            written = []
            for seq, (number, visit_id) in zip(numbers, chunk, strict=True):
                at, who = first + number * step, number * 7919 % len(members)
                day, plan = at.date().isoformat(), plans[who % len(plans)]
                row = (clock.to_ms(at), day, "[]", False, "authorized", None, "manual", plan, 1)
                written.append((seq, visit_id, members[who], studio, *row))
            _insert(connection, written)
    return made


def pay_now(database: Database, requires: str) -> set[str]:
    """The ids of visits that pay, by the rules as the documents tell them; closed months keep what they required."""
    closed = dict(
        rows(database, "SELECT month, payable_requires FROM statements WHERE closed_at_ms IS NOT NULL ORDER BY month")
    )
    # What is dated before the first month that was closed is settled as in that one.
    first = next(iter(closed.items()), ("", requires))
    rules = {
        (plan, version): json.loads(document)["payable"]
        for plan, version, document in rows(database, "SELECT plan_id, version, document FROM plan_versions")
    }
    days: dict[tuple[str, str], list[Any]] = defaultdict(list)
    pay = set()
    for visit in rows(database, "SELECT * FROM visits"):
        if visit.test or visit.state == "reversed":
            continue
        month = visit.local_date[:7]
        needed = closed.get(month, first[1] if month < first[0] else requires)
        if visit.source == "import" or visit.state == "confirmed" or needed == "authorized":
            days[visit.member_id, visit.local_date].append(visit)
    for visits in days.values():
        visits.sort(key=lambda visit: (visit.at_ms, visit.id))
        for place, visit in enumerate(visits):
            if visit.source == "import" or visit.plan_id is None:
                continue
            if place == 0 or rules[visit.plan_id, visit.plan_version] == "per_visit":
                pay.add(visit.id)
    return pay


def months(database: Database) -> list[str]:
    """All that can have a line: those with visits, those that are closed, and the one that adjustments go to."""
    dated = {month for (month,) in rows(database, "SELECT DISTINCT substr(local_date, 1, 7) FROM visits")}
    known = dated | {month for (month,) in rows(database, "SELECT month FROM statements")}
    return sorted(known | {following(month) for month in known})


def lines(database: Database, month: str, requires: str) -> list[dict[str, Any]]:
    """A month's lines."""
    return statements_of(database, [month], requires)[month]


def statements_of(database: Database, some: Iterable[str], requires: str) -> dict[str, list[dict[str, Any]]]:
    """The lines of some months, as of one instant."""
    with database.read() as connection:
        return {
            month: [
                line for _, line in statements.statement_lines(connection, month, None, payable_requires=requires)
            ]
            for month in some
        }


def sums_of(found: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str | None], tuple[int, int, int, int]]:
    """What lines come to by studio and plan: visits, payable ones, reversed ones, and adjustments."""
    sums: dict[tuple[str, str | None], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for line in found:
        of = sums[line["studio"], line["plan"]]
        if line["kind"] == "adjustment":
            of[3] += line["payable"]
        else:
            of[2 if line["state"] == "reversed" else 0] += 1
            of[1] += line["payable"]
    return {key: (visits, pay, taken_back, rest) for key, (visits, pay, taken_back, rest) in sums.items()}


def said_sums(
    database: Database, month: str, requires: str, studio: str | None = None
) -> dict[tuple[str, str | None], tuple[int, int, int, int]]:
    """The same as the statement of a month says it, without its lines."""
    with database.read() as connection:
        said = statements.statement(connection, month, studio, payable_requires=requires)
    return {
        (one["studio"], one["plan"]): (one["visits"], one["payable"], one["reversed"], one["adjustments"])
        for one in said["plan_totals"]
    }


def paid(found: Mapping[str, Iterable[Mapping[str, Any]]]) -> dict[str, int]:
    """What statements together say of each visit that they say anything of."""
    said: dict[str, int] = defaultdict(int)
    for line in chain.from_iterable(found.values()):
        said[line["visit"]] += line["payable"]
    return said


def disputed(
    database: Database, requires: str = "authorized", found: Mapping[str, Iterable[Mapping[str, Any]]] | None = None
) -> dict[str, int]:
    """Of which visits statements say something else than what pays now: by how much too much."""
    if found is None:
        found = statements_of(database, months(database), requires)
    said, pay = paid(found), pay_now(database, requires)
    differences = {visit: said.get(visit, 0) - (visit in pay) for visit in {*said, *pay}}
    return {visit: too_much for visit, too_much in differences.items() if too_much}
