"""Everything the product asks of its record, by the functions that door, commands and admin API call themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, product
from typing import Any

import uuid_utils
from grown import Grown, month_before
from sqlalchemy import Connection

from guestgate import (
    activity,
    case,
    changes,
    clock,
    corrections,
    directory,
    events,
    ledger,
    members,
    nodes,
    plans,
    record,
    search,
    sequence,
    sessions,
    statements,
    studios,
    tokens,
    visits,
)
from guestgate.activity import Activity
from guestgate.admin import monitoring
from guestgate.check import check
from guestgate.closing import Closing
from guestgate.database import Database
from guestgate.directory import KeyKind
from guestgate.explain import explain
from guestgate.forget import forget
from guestgate.ledger import Answer, Ledger, Ticket
from guestgate.members import Upsert, parse_row
from guestgate.model import CheckIn, Decision
from guestgate.partitions import keep_ahead
from guestgate.prune import Prune
from guestgate.pulse import Pulse
from guestgate.record import Filter, Order
from guestgate.settings import Settings
from guestgate.tokens import Role

REQUIRES = "authorized"
NOBODY = "nobody"
OUR_ID = "our-company"
# What a page shows, and one row more, so that it is known whether there are more.
PAGE = 101
BATCH = 32


@dataclass(frozen=True)
class Question:
    """One thing that is asked, under a name that it shares with its like.

    ``ask`` takes a number that is another one each time, since what is written can be written only once.
    It may read for nothing what ``days`` brought to the record. ``walks`` says why it may look at everything.
    """

    name: str
    ask: Callable[[Database, int], object]
    walks: str = ""
    days: int = 2


def questions(grown: Grown) -> Iterator[Question]:
    """All of them; those that change much come last."""
    yield from _at_the_door(grown)
    yield from _record(grown)
    yield from _feed(grown)
    yield from _changes(grown)
    yield from _statements(grown)
    yield from _members(grown)
    yield from _offices(grown)
    yield from _pages(grown)
    yield from _walks(grown)


def reading(name: str, read: Callable[[Connection], object], walks: str = "", days: int = 2) -> Question:
    """A question of a transaction that reads; lists are read to their end."""

    def ask(database: Database, number: int) -> object:
        with database.read() as connection:
            answer = read(connection)
            return list(answer) if isinstance(answer, Iterator) else answer

    return Question(name, ask, walks, days)


def writing(name: str, write: Callable[[Connection, int], object]) -> Question:
    """A question of a transaction that writes."""

    def ask(database: Database, number: int) -> object:
        with database.write("cli:operator") as connection:
            return write(connection, number)

    return Question(name, ask)


class Door:
    """A ledger, and the check-ins that it got; it keeps its connection, as the door's own does."""

    def __init__(self, grown: Grown, own_id: str | None = None) -> None:
        self._grown, self._own_id = grown, own_id
        self._ledgers: dict[str, Ledger] = {}
        self._asked = 0

    def _ledger(self, database: Database) -> Ledger:
        url = str(id(database))
        if url not in self._ledgers:
            self._ledgers[url] = Ledger(database, self._own_id, budget_ms=10_000)
        return self._ledgers[url]

    def checkins(
        self, database: Database, who: list[str], *, studio: str = "s-1", answers: list[Answer] | None = None
    ) -> list[Decision]:
        """One batch: a check-in for each of these members."""
        self._asked += 1
        tickets = [
            Ticket(
                CheckIn(
                    str(uuid_utils.uuid7()),
                    clock.now(),
                    studio,
                    self._own_id or member,
                    1_000_000_000 + int(member.removeprefix("m-")) if member != NOBODY else 1,
                    f"{self._asked:016x}",  # so that each batch notes the use of a key
                ),
                math.inf,
            )
            for member in who
        ]
        return self._ledger(database).process(tickets, answers or [])

    def batch(self, number: int, size: int = BATCH) -> list[str]:
        """Other members each time, of all plans, some of them suspended."""
        return [self._grown.member(number * BATCH + one + 100) for one in range(size)]

    def come_and_go(self, database: Database, number: int) -> None:
        """A batch whose answers leave; the same members once more; and once again, when nothing arrives."""
        for undelivered in (False, False, True):
            decided = self.checkins(database, self.batch(number))
            answers = [Answer(decision.id, 200, 3.5, undelivered) for decision in decided]
            self.checkins(database, [], answers=answers)

    def undelivered(self, database: Database, number: int) -> None:
        """A batch whose answers do not arrive, so that its visits are taken back."""
        decided = self.checkins(database, self.batch(1000 + number, 8), studio="s-2")
        self.checkins(database, [], answers=[Answer(decision.id, None, 3.5, True) for decision in decided])


def _at_the_door(grown: Grown) -> Iterator[Question]:
    door, by_customer = Door(grown), Door(grown, OUR_ID)
    yield Question("door: a check-in", lambda db, n: door.checkins(db, door.batch(5000 + n, 1)))
    yield Question("door: check-ins, re-entries, answers", door.come_and_go)
    yield Question("door: refused and unknown", lambda db, n: door.checkins(db, [grown.member(50 * n + 49), NOBODY]))
    yield Question("door: undelivered", door.undelivered)
    yield Question("door: by customer", lambda db, n: by_customer.checkins(db, door.batch(2000 + n)))
    yield Question("door: whoever came most", lambda db, n: door.checkins(db, [grown.member(4)]))
    yield reading("door: a commit in doubt", lambda c: ledger._recorded(c, [_some_decision(c)] * 3))
    yield reading("door: studios, keys, plans", directory.load)


def _some_decision(connection: Connection, order: Order = Order.LATEST) -> str:
    ((_, row),) = record.decisions(connection, Filter(limit=1, order=order))
    return str(row["id"])


def _filters(grown: Grown) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every combination, for those who came most and never, with what to call it."""
    last = grown.decisions * 4
    who = [None, grown.member(4), NOBODY]
    where = [None, "s-1", "s-closed", NOBODY]
    since = [None, grown.now - timedelta(days=1), grown.now - timedelta(days=400), grown.now + timedelta(days=1)]
    places = [
        {"order": Order.LATEST},
        {"order": Order.ASCENDING},
        {"order": Order.DESCENDING},
        {"order": Order.ASCENDING, "after": last // 2},
        {"order": Order.DESCENDING, "after": last // 2},
    ]
    for member, studio, start, place in product(who, where, since, places):
        given = [name for name, value in (("member", member), ("studio", studio), ("since", start)) if value]
        yield (
            " and ".join(given) or "all",
            {"member": member, "studio": studio, "since": start, "limit": PAGE, **place},
        )


def _record(grown: Grown) -> Iterator[Question]:
    at = grown.now - timedelta(days=200)
    for member, studio in product((grown.member(7), grown.member(4), NOBODY), ("s-1", "s-closed")):
        yield reading("explain", lambda c, m=member, s=studio: explain(c, m, s, grown.now))
        yield reading("explain at", lambda c, m=member, s=studio: explain(c, m, s, at))
    for what, given in _filters(grown):
        chosen = Filter(**given)
        # By time alone they are found by their month, which is then walked through.
        days = 31 if what == "since" else 2
        yield reading(f"decisions: {what}", lambda c, f=chosen: record.decisions(c, f), days=days)
        yield reading(f"visits: {what}", lambda c, f=chosen: record.visits(c, f, payable_requires=REQUIRES))
    for month, (what, given) in product((grown.months[1], month_before(grown.now), "2001-01"), _filters(grown)):
        if given["since"] is None:
            chosen = Filter(**given, month=month)
            name = f"visits: month{'' if what == 'all' else f' and {what}'}"
            yield reading(name, lambda c, f=chosen: record.visits(c, f, payable_requires=REQUIRES))
    for order in (Order.LATEST, Order.ASCENDING):
        yield reading("one decision", lambda c, o=order: record.decision(c, _some_decision(c, o)))
    yield reading("one visit", lambda c: record.visit(c, _some_visit(c), payable_requires=REQUIRES))
    yield reading("decisions: follow", lambda c: record.decisions(c, _what_is_new(c, grown)))
    yield reading("visits: follow", lambda c: record.visits(c, _what_is_new(c, grown), payable_requires=REQUIRES))
    # Exports read page after page; what a page costs is what counts.
    whole = Filter()
    yield reading("decisions: all, first pages", lambda c: islice(record.decisions(c, whole), 1200))
    export = Filter(studio="s-1")
    yield reading("decisions: all of a studio, first pages", lambda c: islice(record.decisions(c, export), 1200))
    yield writing("visit reverse", lambda c, n: corrections.reverse(c, _some_visit(c, 20 + n), "by mistake"))
    yield writing("visit add", lambda c, n: visits.add(c, _by_hand(grown, n)))
    yield writing(
        "visit import", lambda c, n: visits.Import()(c, [_by_hand(grown, 1000 + n * 50 + k) for k in range(50)])
    )


def _some_visit(connection: Connection, place: int = 0) -> str:
    found = record.visits(connection, Filter(limit=place + 1, order=Order.DESCENDING), payable_requires=REQUIRES)
    return str(list(found)[-1][1]["id"])


def _what_is_new(connection: Connection, grown: Grown) -> Filter:
    return Filter(after=grown.decisions * 4 - 40, upto=sequence.position(connection)[1])


def _by_hand(grown: Grown, number: int) -> visits.VisitRow:
    return visits.VisitRow(1, grown.member(number), "s-1", grown.now - timedelta(days=100, seconds=number))


def _feed(grown: Grown) -> Iterator[Question]:
    def read(connection: Connection, seq: int | None) -> object:
        timeline, _ = sequence.position(connection)
        after = None if seq is None else f"{timeline}.{seq}"
        return events.read(connection, after, 100, payable_requires=REQUIRES)

    for seq in (None, 0, grown.decisions * 2, grown.decisions * 4 - 100):
        yield reading("events", lambda c, s=seq: read(c, s))
    yield reading("events: latest", events.end)


def _changes(grown: Grown) -> Iterator[Question]:
    for what, given in _filters(grown):
        if given["studio"] is None:
            chosen = Filter(**{"subject" if name == "member" else name: value for name, value in given.items()})
            yield reading(
                f"changes: {what.replace('member', 'subject')}", lambda c, f=chosen: changes.change_list(c, f)
            )


def _statements(grown: Grown) -> Iterator[Question]:
    for month in (grown.months[1], month_before(grown.now), "2001-01"):
        for studio in ("s-1", "s-closed", NOBODY):
            yield reading(
                "statement of a studio",
                lambda c, m=month, s=studio: statements.statement(c, m, s, payable_requires=REQUIRES),
            )
        yield reading(
            "statement: lines, a page",
            lambda c, m=month: islice(statements.statement_lines(c, m, None, payable_requires=REQUIRES), PAGE),
        )


def _closed_month(grown: Grown) -> Iterator[Question]:
    """Once a month is closed."""
    yield Question("statement: close", lambda db, n: _close(db, grown.months[0]), "it writes a line for each visit")
    yield reading("statements", statements.closed_list)
    for studio, walks in ((None, "it lists a month's corrections, wherever they are"), ("s-1", ""), (NOBODY, "")):
        yield reading(
            f"statement: closed{' of a studio' if studio else ''}",
            lambda c, s=studio: statements.statement(c, grown.months[0], s, payable_requires=REQUIRES),
            walks,
        )
    for after in (0, 1000):
        yield reading(
            "statement: closed lines, a page",
            lambda c, a=after: islice(
                statements.statement_lines(c, grown.months[0], None, payable_requires=REQUIRES, after=a), PAGE
            ),
        )


def _close(database: Database, month: str) -> None:
    for _ in Closing(database, month, REQUIRES).run("cli:operator"):
        pass


def _members(grown: Grown) -> Iterator[Question]:
    middle = grown.member(grown.members // 2)
    for after, plan, status in product(("", middle), (None, "daily"), (None, "active", "suspended", "cancelled")):
        given = {"after": after, "plan": plan, "status": status, "limit": PAGE}
        names = [name for name in ("plan", "status") if given[name]]
        yield reading(f"members: {' and '.join(names) or 'all'}", lambda c, g=given: members.member_list(c, **g))
    for customer in (1_000_000_007, 7):
        yield reading("members: customer", lambda c, k=customer: members.member_list(c, customer=k, limit=PAGE))
    yield reading("member show", lambda c: members.member_dict(c, middle))
    yield writing("member import: new", lambda c, n: Upsert()(c, _rows(f"new-{n}", 2_000_000_000 + n * 50)))
    yield writing(
        "member import: changed", lambda c, n: Upsert()(c, _rows(f"new-{n}", 2_000_000_000 + n * 50, "free"))
    )
    yield writing("member set", lambda c, n: members.save(c, _row(grown.member(n), "total"), exactly=True))
    yield writing("member link", lambda c, n: members.link(c, middle, 3_000_000_000 + n))
    yield writing("member unlink", lambda c, n: members.unlink(c, middle, 3_000_000_000 + n))
    yield writing("member remove", lambda c, n: members.remove(c, f"new-{n}-1"))


def _row(member: str, plan: str, *customers: int) -> members.MemberRow:
    fields = {"member_id": member, "plan": plan, "valid_from": "2025-01-01", "customers": list(customers)}
    return parse_row(1, fields)


def _rows(name: str, customer: int, plan: str = "daily") -> list[members.MemberRow]:
    return [_row(f"{name}-{number}", plan, customer + number) for number in range(50)]


def _offices(grown: Grown) -> Iterator[Question]:
    """Studios, keys, plans, tokens, and what watches over it all."""
    yield reading("studios", studios.studio_list)
    yield reading("studios by name", studios.places)
    yield reading("studio show", lambda c: studios.studio_dict(c, "s-1"))
    yield reading("keys", studios.key_list)
    yield writing("studio set", lambda c, n: studios.change(c, "s-1", name=f"Studio {n}"))
    yield writing(
        "key add", lambda c, n: studios.add_key(c, "s-1", f"another-key-of-studio-s-1-{n}", KeyKind.CHECKIN)
    )
    yield reading("plans", plans.plan_list, "it says how many members have each plan, and so counts them")
    yield writing("plan apply", lambda c, n: plans.apply(c, {f"new-{n}": _PLAN.model_copy(update={"name": f"{n}"})}))
    yield writing("plan remove", lambda c, n: plans.remove(c, f"new-{n}"))
    yield writing("token create", lambda c, n: tokens.create(c, Role.VIEWER))
    yield reading("token", lambda c: tokens.holder(c, NOBODY))
    yield reading("metrics", monitoring._recorded)
    yield writing("months to come", lambda c, n: keep_ahead(c, grown.now))


def _pages(grown: Grown) -> Iterator[Question]:
    """What only the pages of the admin listener ask."""
    for typed in ("anna", "muster-70", "anna muster-7", "muster-7 zoe", "nobody known", "m-00", "1000000007"):
        yield reading("find members", lambda c, q=typed: search.members(c, q))
    for after in ("", grown.member(grown.members // 2)):
        yield reading("members on a plan", lambda c, a=after: search.on_plan(c, "daily", a, PAGE))
    for order in (Order.LATEST, Order.ASCENDING):
        yield reading("a case", lambda c, o=order: case.case(c, _some_decision(c, o), payable_requires=REQUIRES))
    yield reading("the last hour", lambda c: Pulse().read(c))
    yield reading("all studios' day", lambda c: Activity().day(c))
    yield reading("all studios' day a week ago", lambda c: Activity().day(c, ago=activity.WEEK))
    yield reading("a studio's week", lambda c: activity.week(c, "s-1"), days=8)
    yield writing("sign in", lambda c, n: sessions.begin(c, tokens.create(c, Role.VIEWER)))
    yield reading("session", lambda c: sessions.holder(c, NOBODY))
    server = nodes.this_server(Settings())
    yield writing("server starts", lambda c, n: nodes.arrive(c, server))
    yield writing("server tells", lambda c, n: nodes.tell(c, server))
    yield reading("servers", lambda c: nodes.node_list(c, None))
    yield writing("server ends", lambda c, n: nodes.leave(c, server))


_PLAN = plans.plans_file.PlanDocument(name="New")


def _walks(grown: Grown) -> Iterator[Question]:
    month = month_before(grown.now)
    yield reading(
        "statement of a month",
        lambda c: statements.statement(c, month, None, payable_requires=REQUIRES),
        "it adds up a month's visits, and so has to read them",
    )
    yield from _closed_month(grown)
    yield Question(
        "member forget",
        lambda db, n: forget(db, "cli:operator", grown.member(300 + n)),
        "whoever was refused as unknown has left the id in check-ins that no index finds, and in any change's text",
    )
    yield reading("db check", check, "it compares every row with those that it hangs together with")
    yield Question(
        "db prune --dry-run",
        lambda db, n: _prune(db, grown.now, dry_run=True),
        "it counts what is old, and looks which of it younger re-entries lean on",
    )
    yield Question(
        "db prune",
        lambda db, n: _prune(db, grown.now, dry_run=False),
        "it deletes five days of the record, and looks for what is old",
    )


def _prune(database: Database, now: datetime, *, dry_run: bool) -> object:
    pruning = Prune(database, "415d", now, dry_run)
    pruning.total()
    for _ in pruning.run("cli:operator"):
        pass
    return pruning.report
