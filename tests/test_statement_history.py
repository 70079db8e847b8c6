"""Any history of visits, corrections, plans and closings: all statements together are what pays now.

Hypothesis looks for a history that breaks it, and makes the one it finds shorter.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from backends import Backend
from callers import problems, rows
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from killing import ROUNDS
from paid import disputed, lines, months, paid, said_sums, statements_of, sums_of
from past import Past, uuid7
from sqlalchemy import insert

from guestgate import corrections, plans, schema, sequence, studios, visits
from guestgate.adjustments import following
from guestgate.closing import Closing
from guestgate.database import Database
from guestgate.errors import ConflictError
from guestgate.forget import forget
from guestgate.members import Upsert, parse_row
from guestgate.plans_file import PlanDocument
from guestgate.prune import Prune
from guestgate.visits import Import, VisitRow

MEMBERS = ("m1", "m2", "m3")
STUDIOS = ("s1", "s2", "trial")
FIRST = "2026-01"
# Few days, so that many visits meet on one.
MOMENTS = st.builds(
    lambda month, day, hour, ms: datetime(2026, month, day, hour, 0, 0, ms * 1000, UTC),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(0, 23),
    st.integers(0, 999),
)
ANY = st.integers(0, 10**6)


class History(RuleBasedStateMachine):
    """What people and machines do to a record."""

    backend: Backend

    @initialize(requires=st.sampled_from(("authorized", "confirmed")))
    def furnish(self, requires: str) -> None:
        """Studios, one of them for tests, plans, and a visit in the first month."""
        self.folder = tempfile.TemporaryDirectory()
        self.url = self.backend.new(Path(self.folder.name))
        self.database = Database.at(self.url)
        self.requires = requires
        self.frozen: dict[str, list[dict[str, Any]]] = {}
        self.settled: dict[str, int] = {}  # of visits that were pruned: what statements said
        self.begun: Iterator[int] | None = None
        self.present = list(MEMBERS)
        self.checkins = 0
        with self.database.write("x") as connection:
            for name in STUDIOS:
                zone = "America/New_York" if name == "s2" else "Europe/Berlin"
                studios.add(connection, name, name=name, timezone=zone, tags=frozenset(), test=name == "trial")
            plans.apply(connection, {"daily": _plan("per_member_day"), "each": _plan("per_visit")})
            upsert = Upsert()
            upsert(connection, [parse_row(n, {"member_id": name, "plan": "daily"}) for n, name in enumerate(MEMBERS)])
            visits.add(connection, VisitRow(0, "m1", "s1", datetime(2026, 1, 15, tzinfo=UTC)))
        self.past = Past(self.database)

    def teardown(self) -> None:
        """Closed months stayed as they were, and the record agrees with itself."""
        if hasattr(self, "past"):
            try:
                assert problems(self.database) == []
            finally:
                self.past.close()
                self.database.engine.dispose()
                self.backend.drop(self.url)
                self.folder.cleanup()

    def _visit(self, number: int) -> str | None:
        found = rows(self.database, "SELECT id FROM visits ORDER BY seq")
        return found[number % len(found)][0] if found else None

    @rule(member=ANY, studio=st.sampled_from(STUDIOS), at=MOMENTS, undelivered=st.booleans())
    def checkin(self, member: int, studio: str, at: datetime, undelivered: bool) -> None:
        """At the door, recorded late; where the answer does not arrive, the visit is taken back."""
        name = self.present[member % len(self.present)]
        self.checkins += 1
        self.past.checkin(name, at, studio=studio, undelivered=undelivered, decision_id=uuid7(at, self.checkins))

    @rule(member=ANY, studio=st.sampled_from(STUDIOS), at=MOMENTS, by_hand=st.booleans())
    def add(self, member: int, studio: str, at: datetime, by_hand: bool) -> None:
        """By hand, or from an earlier system."""
        row = VisitRow(0, self.present[member % len(self.present)], studio, at)
        with self.database.write("cli:anna") as connection:
            if by_hand:
                visits.add(connection, row)
            else:
                Import()(connection, [row])

    @rule(number=ANY)
    def reverse(self, number: int) -> None:
        """Any visit."""
        if visit := self._visit(number):
            with self.database.write("cli:anna") as connection:
                corrections.reverse(connection, visit, "by mistake")

    @rule(number=ANY, state=st.sampled_from(("confirmed", "confirmed", "authorized")))
    def change(self, number: int, state: str) -> None:
        """Evidence shows that somebody came in, also on a visit that was taken back, or that it was another visit."""
        visit = self._visit(number)
        with self.database.write() as connection:
            done = connection.exec_driver_sql(
                f"UPDATE visits SET state = '{state}', reversed_why = NULL "
                f"WHERE id = '{visit}' AND state != '{state}'"
            )
            if done.rowcount:
                (seq,) = sequence.take(connection, 1)
                row = {"seq": seq, "visit_id": visit, "changed_at_ms": 5, "state": state, "who": "guestgate"}
                connection.execute(insert(schema.visit_changes).values(**row, why="event e1"))

    @rule(payable=st.sampled_from(("per_visit", "per_member_day")), name=st.sampled_from(("daily", "each")))
    def change_plan(self, payable: str, name: str) -> None:
        """What is recorded from then on goes by the new rule, and what was before by the old one."""
        with self.database.write("cli:anna") as connection:
            plans.apply(connection, {name: _plan(payable)})

    @rule(member=ANY, plan=st.sampled_from(("daily", "each")))
    def change_member(self, member: int, plan: str) -> None:
        """Another plan."""
        name = self.present[member % len(self.present)]
        with self.database.write("cli:anna") as connection:
            Upsert()(connection, [parse_row(1, {"member_id": name, "plan": plan})])

    @rule(requires=st.sampled_from(("authorized", "confirmed")))
    def change_setting(self, requires: str) -> None:
        """Of months that are not closed."""
        self.requires = requires

    @precondition(lambda self: len(self.present) > 1)
    @rule()
    def forget(self) -> None:
        """One member."""
        name = self.present.pop()
        forget(self.database, "cli:anna", name)
        for said in self.frozen.values():
            for line in said:
                line["member"] = None if line["member"] == name else line["member"]

    @precondition(lambda self: self.frozen or self.begun is None)
    @rule()
    def prune(self) -> None:
        """All that is old and settled."""
        before = paid(statements_of(self.database, months(self.database), self.requires))
        for _ in Prune(self.database, "1month", datetime.now(UTC)).run("cli:anna"):
            pass
        left = {visit for (visit,) in rows(self.database, "SELECT id FROM visits")}
        if self.frozen:
            self.settled |= {visit: amount for visit, amount in before.items() if visit not in left}

    @precondition(lambda self: len(self.frozen) < 3 and self.begun is None)
    @rule()
    def begin(self) -> None:
        """Begin to close the next month."""
        month = following(max(self.frozen)) if self.frozen else FIRST
        begun = Closing(self.database, month, self.requires).run("cli:anna")
        try:
            next(begun, None)
        except ConflictError as error:
            assert not self.frozen and ("no visit pays" in str(error) or "the next one is" in str(error))
            return
        self.begun, self.month = begun, month

    @precondition(lambda self: self.begun is not None)
    @rule(to_the_end=st.sampled_from((True, True, False)))
    def go_on(self, to_the_end: bool) -> None:
        """Finish it, or be broken off."""
        begun, self.begun = self.begun, None
        if to_the_end:
            for _ in begun or ():
                pass
        else:
            begun.close()  # type: ignore[union-attr]
        # One without a line is closed as soon as it is begun.
        for (month,) in rows(self.database, "SELECT month FROM statements WHERE closed_at_ms IS NOT NULL"):
            self.frozen.setdefault(month, lines(self.database, month, "any"))

    @invariant()
    def nothing_is_disputed(self) -> None:
        """Each visit is paid for as it pays now, or was when it was pruned; and closed lines are as they were."""
        if not hasattr(self, "past"):
            return
        found = statements_of(self.database, months(self.database), self.requires)
        wrong, said = disputed(self.database, self.requires, found), paid(found)
        present = {visit for (visit,) in rows(self.database, "SELECT id FROM visits")}
        gone = {visit: amount for visit, amount in self.settled.items() if visit not in present}
        assert {visit: too_much for visit, too_much in wrong.items() if visit not in gone} == {}
        assert {visit: said.get(visit, 0) for visit in gone} == gone
        assert set(said.values()) <= {0, 1}
        for month, those in found.items():
            assert said_sums(self.database, month, self.requires) == sums_of(those)
            ours = [line for line in those if line["studio"] == "s1"]
            assert said_sums(self.database, month, self.requires, "s1") == sums_of(ours)
        for month, before in self.frozen.items():
            now = found[month]
            assert [_lasting(line) for line in now] == [_lasting(line) for line in before]
            for line, then in zip(now, before, strict=True):
                assert then["member"] in (line["member"], None)


def _plan(payable: Any) -> PlanDocument:
    return PlanDocument(name="Plan", payable=payable, reentry_minutes=0)


def _lasting(line: dict[str, Any]) -> dict[str, Any]:
    """All but what forgetting erases."""
    return {name: value for name, value in line.items() if name not in ("member", "confirmation", "why")}


def test_any_history_adds_up(backend: Backend) -> None:
    """At each step of it; on a server in a shorter form, since each history costs a database."""
    examples, steps = (ROUNDS // 2, 40) if backend.name == "sqlite" else (ROUNDS // 8, 30)
    machine = type("HistoryHere", (History,), {"backend": backend})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    )
