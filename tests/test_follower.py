"""A node's copy is level with the shared record, whatever happened there, and whatever interrupted the follower."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from gate import wait_for
from sqlalchemy import event
from standing import MAX_AGE_S, PLANS, STAFF, Node, Shared, sent, tap, unsent

from guestgate import clock, corrections, members, sequence, studios, visits
from guestgate.directory import KeyKind
from guestgate.errors import GuestgateError, NotFoundError
from guestgate.forget import forget
from guestgate.members import MemberRow
from guestgate.prune import Prune
from guestgate.stand_in import follower
from guestgate.visits import VisitRow

ROUNDS = int(os.environ.get("GUESTGATE_TEST_ROUNDS", "2"))
SEED = int(os.environ.get("GUESTGATE_TEST_SEED", "1"))
STEPS = 75

# How many days back a visit still matters to a limit or a re-entry; None: for ever.
MORE_PLANS = {
    "monthly": ('limits = [{ max = 9, per = "month" }]', 31),
    "cycling": ('cycle_days = 60\nlimits = [{ max = 9, per = "cycle" }]', 60),
    "ever": ('limits = [{ max = 9, per = "total" }]', None),
}
REACH: dict[str, int | None] = {"free": 1, "loose": 1, "once": 1, "twice": 1}
# Stands in everybody's profile.
PERSONAL = "Personal-Name"
LATER_S = 60


class KilledError(BaseException):
    """The follower's process ended here."""


class Town:
    """Whatever may happen to a shared record, at random."""

    def __init__(self, shared: Shared, node: Node, folder: Path, seed: str) -> None:
        self.shared, self.node, self.folder = shared, node, folder
        self.dice = random.Random(seed)
        self.seed = seed
        self.reach = dict(REACH)
        self.number = 0
        self.forgotten: list[str] = []
        self.pruned: set[tuple[Any, ...]] = set()
        self.happened: Counter[str] = Counter()

    def step(self) -> None:
        """One thing happens, or proves impossible."""
        name = self.dice.choice(sorted(name for name in dir(self) if name.startswith("do_")))
        with suppress(GuestgateError):
            getattr(self, name)()
            self.happened[name.removeprefix("do_")] += 1

    def _new(self, what: str) -> str:
        self.number += 1
        return f"{what}-{self.seed}-{self.number}-long"

    def _any(self, query: str) -> Any:
        found = [row[0] for row in self.shared.rows(query)]
        return self.dice.choice(sorted(found)) if found else None

    def _member(self) -> str:
        member: str | None = self._any("SELECT id FROM members")
        if member is None:
            raise NotFoundError("there is nobody yet")
        return member

    def _save(self, member: str, **values: str | None) -> None:
        profile = {"first_name": f"{PERSONAL} {member}", "email": f"{self.dice.random()}@example.org"}
        row = MemberRow(0, member, {**profile, **values})
        self.shared.write(lambda connection: members.save(connection, row))

    def do_add_members(self) -> None:
        """Some are new."""
        for _ in range(self.dice.randrange(1, 6)):
            plan = self.dice.choice(sorted(self.reach))
            self._save(self._new("member"), plan=plan, cycle_anchor="2026-01-31")

    def do_change_a_member(self) -> None:
        """Another plan, status or date."""
        changes = [
            {"plan": self.dice.choice(sorted(self.reach))},
            {"status": self.dice.choice(["active", "suspended", "cancelled"])},
            {"valid_until": self.dice.choice(["2030-01-01", None])},
        ]
        self._save(self._member(), **self.dice.choice(changes))

    def do_remove_a_member(self) -> None:
        """As an import of members that were added by mistake is undone."""
        self.shared.write(lambda connection: members.remove(connection, self._member()))

    def do_forget_a_member(self) -> None:
        """The person asked for it."""
        member = self._member()
        forget(self.shared.database, STAFF, member)
        self.forgotten.append(member)

    def do_link(self) -> None:
        """A customer of the platform's, perhaps another member's."""
        customer = self.dice.randrange(1, 20)
        self.shared.write(lambda connection: members.link(connection, self._member(), customer))

    def do_move_a_customer(self) -> None:
        """From one member to another."""
        customer = self._any("SELECT customer_id FROM customers")
        owner = self._any(f"SELECT member_id FROM customers WHERE customer_id = {customer or 0}")

        def move(connection: Any) -> None:
            members.unlink(connection, owner, customer)
            if self.dice.random() < 0.7:
                members.link(connection, self._member(), customer)

        self.shared.write(move)

    def do_studios_and_keys(self) -> None:
        """A new studio, a change to one, a key more or less."""
        studio = self._any("SELECT id FROM studios")

        def change(connection: Any) -> None:
            choice = self.dice.randrange(4)
            if choice == 0:
                studios.add(
                    connection,
                    self._new("studio"),
                    name="New",
                    timezone="Asia/Tokyo",
                    tags=frozenset("a"),
                    test=False,
                )
            elif choice == 1:
                studios.change(connection, studio, name=self._new("name"), active=self.dice.random() < 0.8)
            elif choice == 2:
                studios.add_key(connection, studio, self._new("a-token-that-is-long-enough"), KeyKind.CHECKIN)
            else:
                studios.revoke_key(connection, self.dice.choice(studios.key_list(connection))["fingerprint"])

        with suppress(IndexError):
            self.shared.write(change)

    def do_plans(self) -> None:
        """One that reaches further back."""
        plan = self.dice.choice(sorted(MORE_PLANS))
        rules, reach = MORE_PLANS[plan]
        self.shared.apply(f'{PLANS}\n[plans.{plan}]\nname = "{self._new("Plan")}"\n{rules}\n', self.folder)
        self.reach[plan] = reach

    def do_check_ins(self) -> None:
        """At the door of another server; some never arrive."""
        tickets = [tap(self._member(), self._studio()) for _ in range(self.dice.randrange(1, 5))]
        self.shared.decide(*tickets)
        self.shared.tell(*(self.dice.choice([sent, unsent])(ticket) for ticket in tickets))

    def do_stand_in(self) -> None:
        """A check-in here, which is carried over at once."""
        ticket = tap(self._member(), self._studio())
        self.node.decide(ticket)
        self.node.tell(self.dice.choice([sent, sent, unsent])(ticket))
        self.node.carry_over()

    def _studio(self) -> str:
        return self.dice.choice(["s1", "s2", "demo"])

    def do_earlier_visits(self) -> None:
        """Of another system, or added by hand."""
        rows = []
        for _ in range(self.dice.randrange(1, 8)):
            age = timedelta(days=self.dice.choice([0, 1, 2, 5, 20, 29, 32, 40, 58, 80, 400]), minutes=self.number)
            rows.append(VisitRow(0, self._member(), self._studio(), clock.now() - age))
        if self.dice.random() < 0.5:
            self.shared.write(lambda connection: visits.Import()(connection, rows))
        else:
            self.shared.write(lambda connection: visits.add(connection, rows[0]))

    def do_reverse(self) -> None:
        """Staff take one back."""
        visit = self._any("SELECT id FROM visits")
        self.shared.write(lambda connection: corrections.reverse(connection, visit or "none", "a mistake"), STAFF)

    def do_prune(self) -> None:
        """Visits that no limit of their members' plans counts any more go."""
        before = set(self.shared.rows("SELECT id FROM visits"))
        for _ in Prune(self.shared.database, self.dice.choice(["1month", "2months"]), clock.now()).run(STAFF):
            pass
        self.pruned |= before - set(self.shared.rows("SELECT id FROM visits"))

    def do_lose_the_present(self) -> None:
        """The database is put back to an earlier state: some things never happened."""
        for table, share in (("customers", 5), ("visits", 4), ("members", 9)):
            number = {"customers": "customer_id", "visits": "seq", "members": "length(id) + ascii(right(id, 1))"}[
                table
            ]
            free = "AND id NOT IN (SELECT member_id FROM customers)" if table == "members" else ""
            self.shared.execute(f"DELETE FROM {table} WHERE {number} % {share} = 0 {free}")
        self.shared.execute(f"UPDATE feed SET timeline = '{self.dice.randrange(10**8):08}'")

    def do_let_a_day_pass(self) -> None:
        """The copy is compared as a whole."""
        self.node.execute("UPDATE stand_in SET synced_at_ms = 0")

    def do_follow(self) -> None:
        """One round, as usual."""
        self.node.follower.round()

    def do_follow_until_killed(self) -> None:
        """At any transaction, or where the log is emptied; what comes next goes on, or is started anew."""
        with suppress(KilledError), self._killed():
            while not self.node.follower.round():
                pass
        if self.dice.random() < 0.5:
            self.node.begin_again()

    @contextmanager
    def _killed(self) -> Iterator[None]:
        """At the beginning or the end of a transaction of the copy; meanwhile the town goes on."""
        database, left = self.node.copy.database, self.dice.randrange(12)
        erase = database.erase_traces

        def dies() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KilledError

        def begins(_: object) -> None:
            if self.dice.random() < 0.2:
                with suppress(GuestgateError):
                    self.dice.choice(
                        [self.do_change_a_member, self.do_earlier_visits, self.do_reverse, self.do_link]
                    )()
            dies()

        def commits(_: object) -> None:
            dies()

        def erasing(patience_s: float) -> bool:
            dies()
            return erase(patience_s)

        event.listen(database.engine, "begin", begins, insert=True)
        event.listen(database.engine, "commit", commits)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(database, "erase_traces", erasing)
                yield
        finally:
            event.remove(database.engine, "begin", begins)
            event.remove(database.engine, "commit", commits)


COPIED = {
    "studios": "*",
    "keys": "sha256, kind, studio_id, created_at_ms, expires_at_ms, revoked_at_ms",
    "plans": "*",
    "plan_versions": "*",
    "members": "id, plan_id, status, valid_from, valid_until, cycle_anchor",
    "customers": "customer_id, member_id",
}
VISIT = "seq, id, member_id, studio_id, at_ms, local_date, tags, test, state, source, plan_id, plan_version"


def differences(town: Town) -> list[str]:
    """What is in one and not in the other, of all that matters to decisions."""
    shared, node = town.shared, town.node
    found = []
    for table, columns in COPIED.items():
        there, here = (set(one.rows(f"SELECT {columns} FROM {table}")) for one in (shared, node))
        found += [f"{table}: missing {row}" for row in there - here]
        found += [f"{table}: beyond {row}" for row in here - there]
    query = f"SELECT {VISIT} FROM visits WHERE state <> 'reversed' AND member_id IN (SELECT id FROM members)"
    there, here = (set(one.rows(query)) for one in (shared, node))
    plans = dict(shared.rows("SELECT id, plan_id FROM members"))
    matter = {row for row in there | here if matters(row, town.reach[plans[row[2]]])}
    found += [f"visits: missing {row}" for row in there - here if row in matter]
    # What was pruned may stay as long as nobody counts it.
    found += [f"visits: beyond {row}" for row in here - there if row in matter or row[1:2] not in town.pruned]
    for table in ("decisions", "answers", "visit_changes", "changes", "tokens"):
        found += [f"{table}: {row}" for row in node.rows(f"SELECT * FROM {table}")]
    found += [
        f"profile: {row}" for row in node.rows("SELECT id FROM members WHERE profile <> '{}' OR pseudonym <> ''")
    ]
    found += [
        f"visits: {row}" for row in node.rows("SELECT id FROM visits WHERE state = 'reversed' OR reversed_why <> ''")
    ]
    return found


def matters(visit: tuple[Any, ...], reach_days: int | None) -> bool:
    """Whether the visit of a member of such a plan can still be counted today."""
    if reach_days is None:
        return True
    return bool(visit[5] >= (clock.now().date() - timedelta(days=reach_days)).isoformat())


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("page", [4, 1000])
def test_the_copy_is_what_matters_of_the_shared_record(
    shared: Shared, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, page: int
) -> None:
    """Over everything that can happen, with the follower killed in between; and it knows nobody as a person."""
    monkeypatch.setattr(follower, "PAGE", page)
    seed = f"{SEED + number}"
    again = f"GUESTGATE_TEST_SEED={seed} scripts/test tests/test_follower.py -k {page}-0"
    town = Town(shared, node, tmp_path, seed)
    node.ledger.check()  # keeps its connection, and so the log
    for step in range(STEPS):
        town.step()
        if step % 15 == 14:
            node.level()
            assert differences(town) == [], again
            assert node.traces(PERSONAL) == [], again
            if town.forgotten:
                assert node.traces(*town.forgotten) == [], again
    assert len(town.happened) > 10, town.happened


def test_who_is_forgotten_while_nobody_follows(shared: Shared, node: Node) -> None:
    """And the record has another timeline by then: what the copy finds gone leaves no trace in it."""
    shared.add(["distinct-member"], first_name=PERSONAL)
    node.level()
    node.ledger.check()
    forget(shared.database, STAFF, "distinct-member")
    shared.execute("UPDATE feed SET timeline = 'another'")
    node.level()
    assert node.rows("SELECT id FROM members") == []
    assert node.traces("distinct-member", PERSONAL) == []


def test_what_was_lost_in_a_failover_is_lost_here(shared: Shared, node: Node) -> None:
    """Also where the studios' version is the same again, of another history."""
    node.level()
    shared.write(lambda connection: studios.change(connection, "s1", name="Lost"))
    node.level()
    shared.execute("UPDATE studios SET name = 's1' WHERE id = 's1'")
    shared.execute("UPDATE directory_version SET version = version - 1")
    shared.execute("UPDATE feed SET timeline = 'another'")
    shared.write(lambda connection: studios.change(connection, "s2", name="Kept"))
    node.level()
    query = "SELECT id, name FROM studios ORDER BY id"
    assert node.rows(query) == shared.rows(query)


def test_who_moves_to_another_plan_after_a_prune(shared: Shared, node: Node, tmp_path: Path) -> None:
    """Visits that are no longer in the record are not counted from the copy either."""
    rules, _ = MORE_PLANS["ever"]
    shared.apply(f'{PLANS}\n[plans.ever]\nname = "Ever"\n{rules}\n', tmp_path)
    shared.add(["m1"])
    node.level()
    at = clock.now() - timedelta(days=90)
    shared.write(lambda connection: visits.add(connection, VisitRow(0, "m1", "s1", at)))
    node.level()
    for _ in Prune(shared.database, "2months", clock.now()).run(STAFF):
        pass
    assert shared.counting("m1") == []
    shared.add(["m1"], "ever")
    node.level()
    assert node.rows("SELECT id FROM visits WHERE member_id = 'm1'") == []


def test_a_copy_of_thousands(shared: Shared, node: Node) -> None:
    """More than a page of everything, the first time and afterwards."""
    shared.add([f"m{number:04}" for number in range(2100)])
    node.level()
    assert node.rows("SELECT count(*) FROM members") == [(2100,)]
    shared.add([f"m{number:04}" for number in range(2100)], "once")
    node.level()
    assert node.rows("SELECT plan_id, count(*) FROM members GROUP BY 1") == [("once", 2100)]


@pytest.mark.parametrize("broken", ["shared", "copy"])
def test_a_database_that_cannot_be_used(shared: Shared, node: Node, broken: str) -> None:
    """Is an error of one sentence, and the next round goes on."""
    shared.add(["m1"])
    one: Any = shared if broken == "shared" else node
    one.execute("ALTER TABLE members RENAME TO elsewhere")
    with pytest.raises(GuestgateError):
        node.level()
    one.execute("ALTER TABLE elsewhere RENAME TO members")
    node.level()
    assert node.rows("SELECT id FROM members") == [("m1",)]


def age_s(node: Node) -> float:
    """What the copy says of its age."""
    age = node.copy.read_state(MAX_AGE_S).age_s
    assert age is not None
    return age


def gets_young(node: Node) -> None:
    """The copy is level with the present after some rounds; transactions of others may be open for a moment."""

    def is_young() -> bool:
        node.follower.round()
        return age_s(node) < LATER_S

    wait_for(is_young, "the copy stays old")


def let_time_pass(patch: pytest.MonkeyPatch) -> None:
    """It is a minute later."""
    now_ms = clock.now_ms
    patch.setattr(clock, "now_ms", lambda: now_ms() + LATER_S * 1000)


def test_a_transaction_that_stays_open(shared: Shared, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came after it cannot be read yet, so the copy is as old as that, and young again when it is over."""
    node.level()
    with shared.open_transaction() as another:
        sequence.take(another, 1)
        let_time_pass(monkeypatch)
        shared.add(["m1"])
        for _ in range(3):
            node.follower.round()
            assert age_s(node) >= LATER_S
        assert node.rows("SELECT id FROM members") == []
    gets_young(node)
    assert node.rows("SELECT id FROM members") == [("m1",)]


def test_the_age_after_a_failover(shared: Shared, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of a future that was lost, far beyond all that are given out now, do not keep the copy old."""
    node.level()
    with monkeypatch.context() as patch:
        patch.setattr(sequence, "given_out", lambda _: 2**62)
        node.follower.round()
    shared.execute("UPDATE feed SET timeline = 'another'")
    node.level()
    let_time_pass(monkeypatch)
    gets_young(node)


def test_everything_is_compared_in_a_round_of_its_own(shared: Shared, node: Node) -> None:
    """The round before it says so and changes nothing, so that what waits can be carried over first."""
    node.level()
    shared.add(["m1"])
    shared.execute("UPDATE feed SET timeline = 'another'")
    assert (node.follower.round(), node.follower.to_compare) == (False, True)
    assert node.rows("SELECT id FROM members") == []
    assert (node.follower.round(), node.follower.to_compare) == (False, False)
    assert node.rows("SELECT id FROM members") == [("m1",)]


def test_a_follower_that_is_killed_while_it_takes_somebody_out(shared: Shared, node: Node) -> None:
    """The member went with a page of members: by then nothing that was known of the person is left either."""
    shared.add(["distinct-member"])
    shared.write(lambda connection: members.link(connection, "distinct-member", 987654321))
    before = tap("distinct-member", at=clock.now() - timedelta(days=1))
    shared.decide(before)
    shared.tell(sent(before))
    node.level()
    node.ledger.check()
    node.decide(tap("distinct-member", customer=987654321))
    forget(shared.database, STAFF, "distinct-member")

    def dies() -> None:
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node.copy.database, "between_chunks", dies)
        with pytest.raises(KilledError):
            node.level()
    node.begin_again()
    node.level()
    assert node.rows("SELECT * FROM customers") == []
    assert node.rows("SELECT id FROM visits WHERE member_id = 'distinct-member'") == []
    assert node.rows("SELECT aggregator_id FROM decisions WHERE customer_id = 987654321") == []
    assert node.waiting() == 1
    assert node.traces("distinct-member") == []
