"""Carrying over what a stand-in decided: what was sent is what is recorded, and who was let in is what counts."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
from callers import everything, problems
from standing import MINUTE, STAFF, Node, Shared, sent, tap, unsent

from guestgate import clock, corrections, events, locks, members
from guestgate.errors import OperationError
from guestgate.forget import forget
from guestgate.ledger import Answer, Ticket
from guestgate.stand_in import process, reconciliation
from guestgate.stand_in.copy import StandInCopy
from guestgate.stand_in.follower import Follower
from guestgate.stand_in.recent import RecentVisit
from guestgate.stand_in.reconciliation import Reconciliation

STATUS = {"allowed": 200, "denied": 403, "undecided": 503}
WHY = "a mistake"


class Case(NamedTuple):
    """One check-in that both ledgers were asked about.

    ``theirs`` is what the shared ledger made of it, and ``ours`` what the node's did. A re-entry of ours leaned on
    a visit that was ``copied``, one of this ``outage``, or one that came about in ``vain``: nobody was told of it.
    ``told`` is whose decision was sent. ``reversed`` is whether staff took back the visit on record meanwhile, and
    ``late`` whether the shared ledger learns how its answer left only after everything was carried over.
    """

    theirs: str
    ours: str
    told: str
    reversed: bool
    late: bool

    @property
    def is_possible(self) -> bool:
        """Whether all of it can be true at once."""
        decided_there = self.theirs in ("denied", "ok", "reentry")
        on_record = self.ours == "copied" or self.theirs in ("ok", "reentry")
        return (
            (self.told != "theirs" or decided_there)
            and (not self.reversed or on_record)
            and (not self.late or (decided_there and self.told != "unknown"))
            # Only without the visit that ours leaned on was it a visit there.
            and (self.reversed or (self.theirs, self.ours) != ("ok", "copied"))
        )

    @property
    def our_outcome(self) -> str:
        """What the node decided."""
        return self.ours if self.ours in ("denied", "undecided") else "allowed"

    @property
    def their_outcome(self) -> str | None:
        """What the shared ledger decided, if anything."""
        return {"none": None, "ok": "allowed", "reentry": "allowed"}.get(self.theirs, self.theirs)

    @property
    def told_outcome(self) -> str | None:
        """What the caller was told; None where nobody was, or nobody knows."""
        return {"ours": self.our_outcome, "theirs": self.their_outcome}.get(self.told)

    @property
    def recorded(self) -> str:
        """The outcome that has to be on record in the end."""
        if self.told_outcome in ("allowed", "denied"):
            return self.told_outcome
        if self.told == "unknown" and self.our_outcome == "allowed":
            return "allowed"
        return self.their_outcome or self.our_outcome


CASES = [
    case
    for case in (
        Case(*values)
        for values in product(
            ("none", "undecided", "denied", "ok", "reentry"),
            ("ok", "copied", "outage", "vain", "denied", "undecided"),
            ("ours", "theirs", "nobody", "unknown"),
            (False, True),
            (False, True),
        )
    )
    if case.is_possible
]


class Outage:
    """Every case at once, each with a member of its own, up to the moment when all is to be carried over."""

    def __init__(self, shared: Shared, node: Node) -> None:
        self.shared, self.node = shared, node
        self.members = {case: f"m{number}" for number, case in enumerate(CASES)}
        shared.add(self.members.values())
        now = clock.now()
        self.x = {case: tap(member, at=now - 2 * MINUTE) for case, member in self.members.items()}
        copied = {case: tap(member, at=now - 8 * MINUTE) for case, member in self.members.items()}
        unseen = {case: tap(member, at=now - 3 * MINUTE) for case, member in self.members.items()}
        before = {case: tap(member, at=now - 4 * MINUTE) for case, member in self.members.items()}

        self._arrive(shared, [copied[case] for case in CASES if case.ours == "copied"])
        node.level()
        self._arrive(shared, [unseen[case] for case in CASES if case.theirs == "reentry" and case.ours != "copied"])

        of_outage = [before[case] for case in CASES if case.ours == "outage"]
        in_vain = [before[case] for case in CASES if case.ours == "vain"]
        assert set(node.decide(*of_outage, *in_vain)) == {("allowed", "ok")}
        self._decide_here()
        self._suspended(shared, [case for case in CASES if case.ours == "vain"], lambda: self._deny(in_vain))
        node.tell(*(sent(ticket) for ticket in of_outage), *(unsent(ticket, 403) for ticket in in_vain))

        self._reverse([copied[case] for case in CASES if (case.theirs, case.ours) == ("ok", "copied")])
        self._decide_there()
        self._reverse(
            [
                (copied if case.ours == "copied" else self.x if case.theirs == "ok" else unseen)[case]
                for case in CASES
                if case.reversed and (case.theirs, case.ours) != ("ok", "copied")
            ]
        )
        node.tell(*(answer for case in CASES if (answer := self._our_answer(case))))
        self.told_late = [answer for case in CASES if case.late and (answer := self._their_answer(case))]
        shared.tell(*(answer for case in CASES if not case.late and (answer := self._their_answer(case))))

    def _arrive(self, shared: Shared, tickets: list[Ticket]) -> None:
        assert set(shared.decide(*tickets)) == {("allowed", "ok")}
        shared.tell(*(sent(ticket) for ticket in tickets))

    def _deny(self, tickets: list[Ticket]) -> None:
        assert set(self.shared.decide(*tickets)) == {("denied", "membership_suspended")}
        self.shared.tell(*(sent(ticket, 403) for ticket in tickets))

    def _suspended(self, where: Shared | Node, cases: list[Case], act: Callable[[], None]) -> None:
        """Do something while these members are suspended there."""
        names = ", ".join(f"'{self.members[case]}'" for case in cases)
        for status, then in (("suspended", act), ("active", lambda: None)):
            where.execute(f"UPDATE members SET status = '{status}' WHERE id IN ({names})")
            then()

    def _reverse(self, tickets: list[Ticket]) -> None:
        with self.shared.database.write(STAFF) as connection:
            for ticket in tickets:
                assert corrections.reverse(connection, ticket.checkin.id, WHY)

    def _decide_here(self) -> None:
        reasons = {"ok": "ok", "denied": "membership_suspended", "undecided": "unavailable"}

        def decide() -> None:
            tickets = [_late(self.x[case]) if case.ours == "undecided" else self.x[case] for case in CASES]
            for case, decided in zip(CASES, self.node.decide(*tickets), strict=True):
                assert decided == (case.our_outcome, reasons.get(case.ours, "reentry")), case

        self._suspended(self.node, [case for case in CASES if case.ours == "denied"], decide)

    def _decide_there(self) -> None:
        reasons = {"denied": "membership_suspended", "undecided": "unavailable"}
        cases = [case for case in CASES if case.theirs != "none"]

        def decide() -> None:
            tickets = [_late(self.x[case]) if case.theirs == "undecided" else self.x[case] for case in cases]
            for case, decided in zip(cases, self.shared.decide(*tickets), strict=True):
                assert decided == (case.their_outcome, reasons.get(case.theirs, case.theirs)), case

        self._suspended(self.shared, [case for case in CASES if case.theirs == "denied"], decide)

    def _our_answer(self, case: Case) -> Answer | None:
        return _answer(self.x[case], case, case.our_outcome)

    def _their_answer(self, case: Case) -> Answer | None:
        decided = case.theirs in ("denied", "ok", "reentry")
        return _answer(self.x[case], case, case.their_outcome) if decided else None

    def is_settled(self) -> None:
        """What has to be true of the record at the end."""
        assert problems(self.shared.database) == []
        assert self.node.waiting() == 0
        assert self.node.rows("SELECT * FROM answers") == []
        decisions = _by_id(self.shared, "SELECT id, outcome, visit_id, stand_in FROM decisions")
        answers = _by_id(self.shared, "SELECT decision_id, http_status, undelivered FROM answers")
        by_staff = _by_id(self.shared, f"SELECT visit_id FROM visit_changes WHERE who = '{STAFF}'").keys()
        let_in = _by_member(self.shared, "SELECT member_id, visit_id, id FROM decisions WHERE outcome = 'allowed'")
        counting = _by_member(self.shared, "SELECT member_id, id FROM visits WHERE state <> 'reversed'")
        for case, member in self.members.items():
            x = self.x[case].checkin.id
            outcome, visit, stand_in = decisions[x]
            assert outcome == case.recorded, case
            if case.told == "unknown":
                assert x not in answers, case
            elif case.theirs != "undecided" or stand_in:
                told = case.told_outcome
                assert answers[x] == (None if told is None else STATUS[told], told != outcome), case
            counts = {visit_id for (visit_id,) in counting[member]}
            # Those that answers named which were delivered, or may have been.
            named = {visit_id for visit_id, decision in let_in[member] if _may_be_delivered(decision, answers)}
            assert counts == named - by_staff, case
            if stand_in and outcome == "allowed" and _may_be_delivered(x, answers):
                assert visit in counts, f"{case}: whoever was let in here is not on record"


def _may_be_delivered(decision: str, answers: dict[str, tuple[Any, ...]]) -> bool:
    return decision not in answers or not answers[decision][1]


def _by_id(shared: Shared, query: str) -> dict[str, tuple[Any, ...]]:
    return {row[0]: row[1:] for row in shared.rows(query)}


def _by_member(shared: Shared, query: str) -> dict[str, set[tuple[Any, ...]]]:
    found: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
    for member, *rest in shared.rows(query):
        found[member].add(tuple(rest))
    return found


def _late(ticket: Ticket) -> Ticket:
    return ticket._replace(deadline=0.0)


def _answer(ticket: Ticket, case: Case, outcome: str | None) -> Answer | None:
    """What a ledger that decided so is told of how the answer left."""
    if case.told == "unknown":
        return None
    told = case.told_outcome
    return Answer(ticket.checkin.id, None if told is None else STATUS[told], 3.5, told != outcome)


def at_a_stroke(node: Node, _: pytest.MonkeyPatch) -> None:
    """Undisturbed."""
    report = node.carry_over()
    assert report.complete and report.carried_over > len(CASES)


def page_by_page(node: Node, patch: pytest.MonkeyPatch) -> None:
    """A few at a time, as beside a busy follower."""
    patch.setattr(reconciliation, "PAGE", 40)
    while not node.reconciliation.run(pages=1).complete:
        pass


def killed_again_and_again(node: Node, patch: pytest.MonkeyPatch) -> None:
    """Before the shared record has a page, or between that and the copy's forgetting of it: each time anew."""
    patch.setattr(reconciliation, "PAGE", 60)
    commits, settle = reconciliation._Batch.carry_over, Reconciliation._settle
    calls = iter(range(1000))

    def dies_before(batch: Any) -> None:
        commits(batch)
        if next(calls) % 3 == 1:
            raise KilledError

    def dies_after(self: Reconciliation, batch: Any) -> int:
        if next(calls) % 3 == 1:
            raise KilledError
        return settle(self, batch)

    patch.setattr(reconciliation._Batch, "carry_over", dies_before)
    patch.setattr(Reconciliation, "_settle", dies_after)
    killed = 0
    while True:
        try:
            node.another().run()
            break
        except KilledError:
            killed += 1
    assert killed > 4


def by_two_at_once(node: Node, patch: pytest.MonkeyPatch) -> None:
    """A server and a command."""
    patch.setattr(reconciliation, "PAGE", 25)
    failed: list[BaseException] = []

    def run(one: Reconciliation) -> None:
        try:
            one.run()
        except BaseException as error:  # so that the test fails, and not the thread alone
            failed.append(error)

    threads = [threading.Thread(target=run, args=(node.another(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


class KilledError(BaseException):
    """The process ended here."""


@pytest.mark.parametrize("carry_over", [at_a_stroke, page_by_page, killed_again_and_again, by_two_at_once])
def test_what_was_sent_is_recorded_and_who_came_in_counts(
    shared: Shared,
    node: Node,
    monkeypatch: pytest.MonkeyPatch,
    carry_over: Callable[[Node, pytest.MonkeyPatch], None],
) -> None:
    """Whatever the two ledgers decided, whichever was sent, and however it is carried over; again changes nothing."""
    outage = Outage(shared, node)
    with shared.database.read() as connection:
        read_so_far = events.end(connection)
    carry_over(node, monkeypatch)
    shared.tell(*outage.told_late)
    outage.is_settled()
    before = everything(shared.database)
    assert node.carry_over().carried_over == 0
    assert everything(shared.database) == before
    _feed_tells_all(outage, read_so_far)
    node.level()
    counting = "SELECT member_id, id FROM visits WHERE state <> 'reversed' ORDER BY 1, 2"
    assert node.rows(counting) == shared.rows(counting)


def _feed_tells_all(outage: Outage, read_so_far: str) -> None:
    """Whoever had read on already gets every decision that took a place, and then holds the final ones only."""

    def told(after: str | None) -> dict[str, tuple[str, bool]]:
        with outage.shared.database.read() as connection:
            found, _ = events.read(connection, after, 10**6, payable_requires="authorized")
        decided = [event["data"] for event in found if event["type"] == "decision"]
        assert len({data["id"] for data in decided}) == len(decided)
        return {data["id"]: (data["decision"], data["stand_in"]) for data in decided}

    outage.node.level()  # until everything is visible to readers
    final = {row[0]: row[1:] for row in outage.shared.rows("SELECT id, outcome, stand_in FROM decisions")}
    assert told(None) == final
    assert told(read_so_far) == {one: decision for one, decision in final.items() if decision[1]}


def let_in(node: Node, member: str, studio: str = "s1") -> Ticket:
    """The node lets somebody in, and says so."""
    ticket = tap(member, studio)
    assert node.decide(ticket) == [("allowed", "ok")]
    node.tell(sent(ticket))
    return ticket


def reconciled(shared: Shared) -> list[dict[str, int]]:
    """What the audit trail tells of each page that was carried over."""
    told = shared.rows("SELECT after FROM changes WHERE action = 'stand_in.reconciled' ORDER BY seq")
    return [json.loads(after) for (after,) in told]


def counters(node: Node) -> tuple[int, int]:
    """What the copy has counted: decisions carried over, visits that went beyond a limit."""
    state = node.copy.read_state(node.max_age_s)
    return state.carried_over, state.over_limit


@pytest.mark.parametrize("studios", [("s1", "s2", "s1"), ("s1", "s1", "s1")])
@pytest.mark.parametrize(("plan", "most"), [("once", 1), ("twice", 2)])
def test_visits_beyond_a_limit_are_counted_once(
    shared: Shared, nodes: list[Node], plan: str, most: int, studios: tuple[str, ...]
) -> None:
    """Each node let the member in once, and none knew of the others: those beyond the limit are told, all count."""
    shared.add(["m1", "other"], plan)
    for node in nodes:
        node.level()
    tickets = [let_in(node, "m1", studio) for node, studio in zip(nodes, studios, strict=True)]
    gone = tap("other")
    nodes[0].decide(gone)
    nodes[0].tell(unsent(gone))
    shared.decide(tap("other"))
    reports = [node.carry_over() for node in nodes]
    beyond = [[ticket.checkin.id] if number >= most else [] for number, ticket in enumerate(tickets)]
    assert [report.over_limit for report in reports] == beyond
    assert [counters(node) for node in nodes] == [(2, 0), (1, len(beyond[1])), (1, len(beyond[2]))]
    assert sorted(shared.counting("m1")) == sorted(ticket.checkin.id for ticket in tickets)
    for node in nodes:
        assert node.carry_over().over_limit == []
        node.level()
        assert len(node.rows("SELECT 1 FROM visits WHERE member_id = 'm1'")) == len(nodes)
    assert [told["over_limit"] for told in reconciled(shared)] == [len(visits) for visits in beyond]
    assert problems(shared.database) == []


def test_visits_that_do_not_count_are_beyond_no_limit(shared: Shared, node: Node) -> None:
    """Those at a test studio."""
    shared.add(["m1"], "once")
    node.level()
    shared.decide(tap("m1", "s2"))
    let_in(node, "m1", "demo")
    assert node.carry_over().over_limit == []


def test_visits_beyond_a_limit_are_counted_by_whoever_is_killed(
    shared: Shared, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the shared record's commit and the copy's, and started again: the audit trail has it exactly."""
    shared.add(["m1"], "once")
    node.level()
    shared.decide(tap("m1", "s2"))
    let_in(node, "m1")
    with monkeypatch.context() as patch:
        patch.setattr(Reconciliation, "_settle", _dies)
        with pytest.raises(KilledError):
            node.carry_over()
    node.carry_over()
    assert reconciled(shared) == [{"decisions": 1, "visits": 1, "over_limit": 1}]


def _dies(*_: object) -> None:
    raise KilledError


def test_decisions_are_counted_once_by_two_at_once(
    shared: Shared, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has written them to the shared record when the other one begins and ends."""
    shared.add(["m1"])
    node.level()
    let_in(node, "m1")
    settle, other = Reconciliation._settle, node.another()

    def overtaken(self: Reconciliation, batch: Any) -> int:
        if self is not other:
            other.run()
        return settle(self, batch)

    monkeypatch.setattr(Reconciliation, "_settle", overtaken)
    node.carry_over()
    assert counters(node) == (1, 0)


@contextmanager
def locked_beside(shared: Shared, member: str) -> Iterator[None]:
    """Another server is deciding about the member."""
    with shared.open_transaction() as connection:
        locks.lock(connection, member)
        yield


def test_who_is_locked_is_carried_over_later(shared: Shared, node: Node) -> None:
    """The others' at once."""
    shared.add(["m1", "m2"])
    node.level()
    first, again, other = let_in(node, "m1"), tap("m1"), let_in(node, "m2")
    assert node.decide(again) == [("allowed", "reentry")]
    node.tell(sent(again))
    with locked_beside(shared, "m1"):
        assert node.carry_over().carried_over == 1
        assert (node.waiting(), shared.counting("m1"), shared.counting("m2")) == (2, [], [other.checkin.id])
    assert node.carry_over().carried_over == 2
    assert (node.waiting(), shared.counting("m1")) == (0, [first.checkin.id])
    assert shared.decision(again) == ("allowed", "reentry", first.checkin.id, True)
    assert problems(shared.database) == []


def test_a_reentry_does_not_overtake_a_visit_whose_member_was_locked(
    shared: Shared, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock ends between the page of the visit and that of the re-entry: somebody came once."""
    monkeypatch.setattr(reconciliation, "PAGE", 1)
    shared.add(["m1"])
    node.level()
    first, again = let_in(node, "m1"), tap("m1")
    node.decide(again)
    node.tell(sent(again))
    with ExitStack() as lock:
        lock.enter_context(locked_beside(shared, "m1"))
        settle = node.reconciliation._settle

        def settled(batch: Any) -> int:
            waited = settle(batch)
            lock.close()
            return waited

        monkeypatch.setattr(node.reconciliation, "_settle", settled)
        node.carry_over()
    node.carry_over()
    assert (node.waiting(), shared.counting("m1")) == (0, [first.checkin.id])


def test_an_answer_that_is_not_recorded_yet_is_waited_for(shared: Shared, node: Node) -> None:
    """For some seconds; after that nobody knows, and somebody may have come in."""
    shared.add(["m1"])
    node.level()
    ticket = tap("m1")
    node.decide(ticket)
    report = node.carry_over()
    assert (report.complete, report.carried_over, node.waiting()) == (True, 0, 1)
    _long_ago(node)
    assert node.carry_over().carried_over == 1
    assert shared.counting("m1") == [ticket.checkin.id]
    assert shared.rows("SELECT * FROM answers") == []


def _long_ago(node: Node) -> None:
    """All that waits has done so for longer than an answer takes to be recorded."""
    node.execute("UPDATE decisions SET received_at_ms = received_at_ms - 6000")


def test_a_reentry_does_not_overtake_a_visit_whose_answer_is_waited_for(shared: Shared, node: Node) -> None:
    """The server was killed before it wrote how the first answer left: somebody came once."""
    shared.add(["m1"])
    node.level()
    first, again = tap("m1"), tap("m1")
    assert node.decide(first, again) == [("allowed", "ok"), ("allowed", "reentry")]
    node.tell(sent(again))
    node.carry_over()
    _long_ago(node)
    node.carry_over()
    assert (node.waiting(), shared.counting("m1")) == (0, [first.checkin.id])
    assert shared.decision(again)[2] == first.checkin.id


def test_many_undelivered_answers_at_once(shared: Shared, node: Node) -> None:
    """More than the copy's ledger takes back in one transaction, and carried over before the next one."""
    names = [f"m{number}" for number in range(30)]
    shared.add(names)
    node.level()
    tickets = [tap(name) for name in names]
    node.decide(*tickets)
    node.ledger.process([], [unsent(ticket) for ticket in tickets])
    node.carry_over()
    node.decide()
    node.carry_over()
    assert node.waiting() == 0
    assert shared.rows("SELECT id FROM visits WHERE state <> 'reversed'") == []
    assert problems(shared.database) == []


def test_a_reentry_on_a_visit_of_the_shared_ledger_that_was_denied_here(shared: Shared, node: Node) -> None:
    """The door told the denial, then let the member in on what the shared ledger said too late: that is a visit."""
    shared.add(["m1"])
    node.level()
    ticket = tap("m1")
    node.execute("UPDATE members SET status = 'suspended'")
    assert node.decide(ticket) == [("denied", "membership_suspended")]
    node.execute("UPDATE members SET status = 'active'")
    assert shared.decide(ticket) == [("allowed", "ok")]
    node.tell(sent(ticket, 403))
    at_ms = clock.to_ms(ticket.checkin.received_at)
    again = tap("m1", recent=(RecentVisit(ticket.checkin.id, "s1", at_ms),))
    assert node.decide(again) == [("allowed", "reentry")]
    node.tell(sent(again))
    node.carry_over()
    assert shared.decision(ticket) == ("denied", "membership_suspended", None, True)
    assert shared.counting("m1") == [shared.decision(again)[2]]
    assert problems(shared.database) == []


@pytest.mark.parametrize("late", [False, True])
def test_who_was_forgotten_meanwhile_is_not_named(shared: Shared, node: Node, late: bool) -> None:
    """Neither the member's id nor the customer's number gets into the record again, even of what was undecided."""
    shared.add(["distinct-member"])
    shared.write(lambda connection: members.link(connection, "distinct-member", 987654321))
    node.level()
    ticket = tap("distinct-member", customer=987654321, patience_s=-1.0 if late else 60.0)
    again = tap("distinct-member", customer=987654321)
    node.decide(ticket, again)
    node.tell(sent(ticket, 503 if late else 200), sent(again))
    forget(shared.database, STAFF, "distinct-member")
    assert node.carry_over().carried_over == 2
    assert shared.decision(ticket)[0] == ("undecided" if late else "allowed")
    record = repr(everything(shared.database))
    assert [name for name in ("distinct-member", "987654321") if name in record] == []
    (name,) = {name for (name,) in shared.rows("SELECT member_id FROM visits")}
    assert len(shared.counting(name)) == 1
    assert problems(shared.database) == []


def test_who_was_forgotten_meanwhile_leaves_no_trace_here(shared: Shared, node: Node) -> None:
    """What was decided here is kept until it is carried over, and then gone from the file and its log."""
    shared.add(["distinct-member"])
    node.level()
    ticket = tap("distinct-member")
    node.decide(ticket)
    forget(shared.database, STAFF, "distinct-member")
    node.level()
    node.tell(sent(ticket))
    node.carry_over()
    node.level()
    assert node.waiting() == 0
    assert node.traces("distinct-member") == []


def test_nothing_to_carry_over_writes_nothing(shared: Shared, node: Node) -> None:
    """Not even that somebody looked."""
    shared.add(["m1"])
    node.level()
    before = everything(shared.database)
    assert node.carry_over() == reconciliation.Report(complete=True)
    assert everything(shared.database) == before


def test_a_decision_that_cannot_be_carried_over(shared: Shared, node: Node) -> None:
    """Holds up nobody else's, and goes once what was wrong with it is mended and somebody tries anew."""
    shared.add(["m1", "m2"])
    node.level()
    first, other = let_in(node, "m1"), let_in(node, "m2")
    node.execute("UPDATE decisions SET studio_id = 'nowhere' WHERE id = ?", first.checkin.id)
    for carried_over in (1, 0):
        assert node.carry_over().carried_over == carried_over
    assert (node.waiting(), shared.counting("m2")) == (1, [other.checkin.id])
    node.execute("UPDATE decisions SET studio_id = 's1'")
    node.begin_again()
    assert node.carry_over().carried_over == 1
    assert (node.waiting(), shared.counting("m1")) == (0, [first.checkin.id])
    assert problems(shared.database) == []


def test_a_reentry_does_not_overtake_a_visit_that_cannot_be_carried_over(shared: Shared, node: Node) -> None:
    """Somebody came once, whenever that visit gets there."""
    shared.add(["m1"])
    node.level()
    first, again = let_in(node, "m1"), tap("m1")
    assert node.decide(again) == [("allowed", "reentry")]
    node.tell(sent(again))
    node.execute("UPDATE decisions SET studio_id = 'nowhere' WHERE id = ?", first.checkin.id)
    node.carry_over()
    node.execute("UPDATE decisions SET studio_id = 's1'")
    node.begin_again()
    node.carry_over()
    assert (node.waiting(), shared.counting("m1")) == (0, [first.checkin.id])


FAILS = "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {}; RETURN NEW; END $$"
ON_WRITING = "CREATE TRIGGER fails BEFORE INSERT ON decisions FOR EACH ROW EXECUTE FUNCTION fails()"


@pytest.mark.parametrize(
    "failure",
    [
        "PERFORM pg_terminate_backend(pg_backend_pid())",
        *(f"RAISE EXCEPTION USING ERRCODE = '{code}'" for code in ("53100", "55P03", "40P01", "57014")),
    ],
)
def test_a_failure_of_the_database_refuses_nothing(shared: Shared, node: Node, failure: str) -> None:
    """Its disk is full, it waits too long or ends the connection: whatever waited goes with the next run."""
    shared.add(["m1"])
    node.level()
    ticket = let_in(node, "m1")
    shared.execute(FAILS.format(failure))
    shared.execute(ON_WRITING)
    with pytest.raises(OperationError):
        node.carry_over()
    assert (node.waiting(), shared.counting("m1")) == (1, [])
    shared.execute("DROP TRIGGER fails ON decisions")
    assert node.carry_over().carried_over == 1
    assert (node.waiting(), shared.counting("m1")) == (0, [ticket.checkin.id])


def test_what_cannot_be_carried_over_is_tried_again(
    shared: Shared, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while and by the same process, for its cause may be mended; until then it is let be."""
    shared.add(["m1"])
    node.level()
    ticket = let_in(node, "m1")
    node.execute("UPDATE decisions SET studio_id = 'nowhere'")
    assert node.carry_over().carried_over == 0
    node.execute("UPDATE decisions SET studio_id = 's1'")
    assert node.carry_over().carried_over == 0
    monotonic = clock.monotonic
    monkeypatch.setattr(clock, "monotonic", lambda: monotonic() + reconciliation.REFUSED_S)
    assert node.carry_over().carried_over == 1
    assert (node.waiting(), shared.counting("m1")) == (0, [ticket.checkin.id])


def test_a_page_of_what_cannot_go_yet(shared: Shared, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is no reason to look again at once, and does not hold up what waits behind it."""
    monkeypatch.setattr(reconciliation, "PAGE", 2)
    names = [f"m{number}" for number in range(5)]
    shared.add([*names, "other"])
    node.level()
    node.decide(*(tap(name) for name in names))  # nobody has said yet how these left
    assert node.reconciliation.run(pages=1) == reconciliation.Report(complete=True)
    let_in(node, "other")
    assert node.reconciliation.run(pages=1).carried_over == 1
    assert len(shared.counting("other")) == 1
    assert node.reconciliation.run(pages=1) == reconciliation.Report(complete=True)
    assert node.waiting() == len(names)


@pytest.mark.parametrize(
    ("here", "status", "state"),
    [("undecided", 503, "reversed"), ("allowed", None, "reversed"), ("allowed", 200, "authorized")],
)
def test_a_commit_of_the_shared_ledger_that_nobody_heard_of(
    shared: Shared, node: Node, here: str, status: int | None, state: str
) -> None:
    """How the answer left comes with the decision of the stand-in, and whoever was not let in made no visit."""
    shared.add(["m1"])
    node.level()
    ticket = tap("m1")
    assert shared.decide(ticket) == [("allowed", "ok")]
    ((outcome, _),) = node.decide(_late(ticket) if here == "undecided" else ticket)
    assert outcome == here
    node.tell(unsent(ticket) if status is None else sent(ticket, status))
    assert node.carry_over().carried_over == 1
    assert shared.decision(ticket) == ("allowed", "ok", ticket.checkin.id, False)
    assert shared.rows("SELECT state FROM visits") == [(state,)]
    answer = shared.rows("SELECT decision_id, http_status, answer_ms IS NULL, undelivered FROM answers")
    assert answer == [(ticket.checkin.id, status, False, status != 200)]
    assert (node.waiting(), problems(shared.database)) == (0, [])


class Server:
    """The other end of a follower's pipe: has ended once it is told so."""

    def __init__(self) -> None:
        self.ended = False

    def poll(self, _timeout_s: float) -> bool:
        """Whether the process is to end."""
        return self.ended


def test_all_is_carried_over_before_everything_is_compared(
    shared: Shared, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failover; comparing takes long, and people would be let in twice meanwhile."""
    monkeypatch.setattr(reconciliation, "PAGE", 1)
    names = [f"m{number}" for number in range(4)]
    shared.add(names)
    node.level()
    for name in names:
        let_in(node, name)
    shared.execute("UPDATE feed SET timeline = 'another'")
    server, waited = Server(), []

    def compare(*_: object) -> None:
        waited.append(node.waiting())
        server.ended = True

    monkeypatch.setattr(Follower, "_sync", compare)
    settings = SimpleNamespace(database=shared.url, fence=None, aggregator_id=None)
    process._run(cast(Any, server), cast(Any, settings), StandInCopy(node.copy.path))
    assert waited == [0]
