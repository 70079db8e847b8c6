"""A shared record on PostgreSQL and nodes with copies of their own: each does something when a test says so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import uuid_utils
from callers import noon_zone, rows
from sqlalchemy import Connection

from guestgate import clock, members, plans, plans_file, sequence, studios
from guestgate.database import Database
from guestgate.ledger import Answer, Ledger, Ticket
from guestgate.model import CheckIn, Decision
from guestgate.stand_in.copy import StandInCopy, progress
from guestgate.stand_in.follower import Follower
from guestgate.stand_in.recent import RecentVisit
from guestgate.stand_in.reconciliation import Reconciliation, Report
from guestgate.stand_in.rules import StandInRules

PLANS = """\
[plans.free]
name = "Free"

[plans.loose]
name = "Free, without re-entry"
reentry_minutes = 0

[plans.once]
name = "Once a day"
limits = [{ max = 1, per = "day" }]

[plans.twice]
name = "Twice a day, without re-entry"
reentry_minutes = 0
limits = [{ max = 2, per = "day" }]
"""
STUDIOS = {"s1": False, "s2": False, "demo": True}
BUDGET_MS = 10_000
LONG_S = 3600.0
MAX_AGE_S = 3600
STAFF = "cli:staff"
MINUTE = timedelta(minutes=1)


def tap(
    member: str,
    studio: str = "s1",
    *,
    at: datetime | None = None,
    customer: int = 1,
    patience_s: float = LONG_S,
    recent: tuple[RecentVisit, ...] = (),
) -> Ticket:
    """A check-in, now unless it says otherwise; with a negative patience it is late."""
    checkin = CheckIn(str(uuid_utils.uuid7()), at or clock.now(), studio, member, customer, "0123456789abcdef")
    return Ticket(checkin, clock.monotonic() + patience_s, recent)


def sent(ticket: Ticket, status: int = 200) -> Answer:
    """The answer left in time."""
    return Answer(ticket.checkin.id, status, 3.5, False)


def unsent(ticket: Ticket, status: int | None = None) -> Answer:
    """The caller was gone, or was told something else."""
    return Answer(ticket.checkin.id, status, 391.0, True)


def said(decisions: Iterable[Decision]) -> dict[str, tuple[str, str]]:
    """Outcome and reason by id."""
    return {decision.id: (decision.outcome.value, decision.reason.value) for decision in decisions}


class Decider:
    """A ledger, asked for one batch after the other."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def decide(self, *tickets: Ticket, answers: Sequence[Answer] = ()) -> list[tuple[str, str]]:
        """Outcome and reason for each, in their order; what is left to record is recorded, too."""
        decided = self.ledger.process(list(tickets), list(answers))
        while self.ledger.waiting or self.ledger.has_news:
            decided += self.ledger.process([], [])
        found = said(decided)
        return [found[ticket.checkin.id] for ticket in tickets]

    def tell(self, *answers: Answer) -> None:
        """How answers left."""
        self.decide(answers=answers)


class Shared(Decider):
    """The record that all nodes share."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.database = Database.at(url, pooled=True)
        super().__init__(Ledger(Database.at(url, door=True), None, BUDGET_MS))

    def furnish(self, folder: Path) -> None:
        """Have studios, where it is about noon, and plans."""
        zone = noon_zone()
        with self.database.write() as connection:
            for studio, test in STUDIOS.items():
                studios.add(connection, studio, name=studio, timezone=zone, tags=frozenset(), test=test)
        self.apply(PLANS, folder)

    def apply(self, text: str, folder: Path) -> None:
        """Have these plans in force."""
        (folder / "plans.toml").write_text(text, "utf-8")
        self.write(lambda connection: plans.apply(connection, plans_file.read(folder / "plans.toml")))

    def add(self, names: Collection[str], plan: str = "free", **values: str | None) -> None:
        """Have these members, or change them."""
        people = [members.MemberRow(0, name, {"plan": plan, **values}) for name in names]
        self.write(lambda connection: members.Upsert()(connection, people))

    def write(self, make: Callable[[Any], object], who: str = "cli:test") -> None:
        """Another program's transaction."""
        with self.database.write(who) as connection:
            make(connection)

    @contextmanager
    def open_transaction(self) -> Iterator[Connection]:
        """Another server's, which holds up nobody who does not want what it locks."""
        options = {"guestgate_begin": "BEGIN ISOLATION LEVEL READ COMMITTED"}
        with self.database.engine.connect() as connection, connection.execution_options(**options).begin():
            yield connection

    def rows(self, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """What a query finds."""
        return [tuple(row) for row in rows(self.database, query, **parameters)]

    def execute(self, statement: str) -> None:
        """Change the record, behind everybody's back."""
        self.write(lambda connection: connection.exec_driver_sql(statement))

    def decision(self, ticket: Ticket) -> tuple[str, str, str | None, bool]:
        """What is on record: outcome, reason, visit, whether a stand-in decided it."""
        query = "SELECT outcome, reason, visit_id, stand_in FROM decisions WHERE id = :id"
        ((outcome, reason, visit, stand_in),) = self.rows(query, id=ticket.checkin.id)
        return outcome, reason, visit, stand_in

    def counting(self, member: str) -> list[str]:
        """The member's visits that are not reversed."""
        query = "SELECT id FROM visits WHERE member_id = :member AND state <> 'reversed' ORDER BY at_ms, id"
        return [visit for (visit,) in self.rows(query, member=member)]

    def close(self) -> None:
        """Let the database go."""
        self.ledger.close()
        self.database.engine.dispose()


class Node(Decider):
    """A server's copy, with whoever decides on it, follows and carries over."""

    def __init__(self, shared: Shared, path: Path, max_age_s: int = MAX_AGE_S) -> None:
        self.shared = shared
        self.copy = StandInCopy(path)
        if not path.exists():
            self.copy.prepare()
        self.max_age_s = max_age_s
        rules = StandInRules(max_age_s)
        super().__init__(Ledger(Database.at(self.copy.url, door=True), None, BUDGET_MS, stand_in=rules))
        self.begin_again()

    def begin_again(self) -> None:
        """What follows and carries over has been started anew."""
        self.copy = StandInCopy(self.copy.path)
        self.follower = Follower(self.shared.database, self.copy)
        self.reconciliation = Reconciliation(self.shared.database, self.copy, None)

    def another(self) -> Reconciliation:
        """Somebody else who carries over from the same file."""
        return Reconciliation(self.shared.database, StandInCopy(self.copy.path), None)

    def level(self) -> None:
        """Have the copy up to date."""
        with self.shared.database.write() as connection:
            (now,) = sequence.take(connection, 1)
        while not self.follower.round() or self.seq < now:
            pass

    @property
    def seq(self) -> int:
        """How far the copy is."""
        with self.copy.database.read() as connection:
            return int(progress(connection).seq)

    def carry_over(self) -> Report:
        """All that can be now."""
        return self.reconciliation.run()

    def rows(self, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """What a query finds here."""
        return [tuple(row) for row in rows(self.copy.database, query, **parameters)]

    def execute(self, statement: str, *parameters: object) -> None:
        """Change the file, behind everybody's back."""
        with self.copy.database.write() as connection:
            connection.exec_driver_sql(statement, parameters)

    def waiting(self) -> int:
        """How many decisions are still to be carried over."""
        return self.copy.read_state(self.max_age_s).waiting

    def traces(self, *words: str) -> list[str]:
        """Which of these words stand anywhere in the file or its log."""
        path = self.copy.path
        files = [file for file in (path, path.with_name(path.name + "-wal")) if file.exists()]
        content = b"".join(file.read_bytes() for file in files)
        return [word for word in words if word.encode() in content]

    def close(self) -> None:
        """Let the file go."""
        self.ledger.close()
