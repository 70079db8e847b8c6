"""What a ledger decides on a copy: as on the record, but for one new visit a member, and not on an old copy."""

from __future__ import annotations

import pytest
from callers import problems
from standing import MAX_AGE_S, MINUTE, Node, Shared, sent, tap, unsent

from guestgate import clock, corrections, studios
from guestgate.ledger import Ticket
from guestgate.stand_in.recent import RecentVisit
from guestgate.stand_in.rules import CopyCheck

ALLOWED, REENTRY = ("allowed", "ok"), ("allowed", "reentry")
LIMIT, UNDECIDED = ("denied", "limit_reached"), ("undecided", "unavailable")


@pytest.mark.parametrize(
    ("plan", "where", "told"),
    [
        ("twice", "s1 s2", [ALLOWED, UNDECIDED]),
        ("twice", "s1 s1", [ALLOWED, UNDECIDED]),  # it has no re-entry
        ("once", "s1 s1 s2 s1", [ALLOWED, REENTRY, LIMIT, REENTRY]),
        ("twice", "demo demo s1 demo s2", [ALLOWED, ALLOWED, ALLOWED, ALLOWED, UNDECIDED]),
        ("loose", "s1 s2 s1 demo", [ALLOWED] * 4),
        ("free", "s1 s1 s2", [ALLOWED, REENTRY, ALLOWED]),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_one_new_visit_where_there_are_limits(
    shared: Shared, node: Node, plan: str, where: str, told: list[tuple[str, str]], together: bool
) -> None:
    """Of one batch or one after the other, until it is carried over; another member's is another matter."""
    shared.add(["m1", "m2"], plan)
    node.level()
    tickets = [tap("m1", studio) for studio in where.split()]
    found = node.decide(*tickets) if together else [node.decide(ticket)[0] for ticket in tickets]
    assert found == told
    assert node.decide(tap("m2")) == [ALLOWED]
    recorded = node.rows("SELECT outcome, reason FROM decisions WHERE aggregator_id = 'm1' ORDER BY seq")
    assert recorded == told
    assert node.rows("SELECT DISTINCT stand_in FROM decisions") == [(1,)]
    assert node.rows("SELECT DISTINCT source FROM visits") == [("stand_in",)]


def test_another_visit_once_the_first_one_is_carried_over(shared: Shared, node: Node) -> None:
    """Within the limit, of course."""
    shared.add(["m1"], "twice")
    node.level()
    for told in (ALLOWED, ALLOWED, LIMIT):
        ticket = tap("m1")
        assert node.decide(ticket) == [told]
        node.tell(sent(ticket, 200 if told == ALLOWED else 403))
        node.carry_over()
    assert len(shared.counting("m1")) == 2


def test_another_visit_where_nobody_was_told_of_the_first_one(shared: Shared, node: Node) -> None:
    """It is taken back, and uses nothing up."""
    shared.add(["m1"], "once")
    node.level()
    ticket = tap("m1")
    assert node.decide(ticket) == [ALLOWED]
    node.tell(unsent(ticket))
    assert node.decide(tap("m1", "s2")) == [ALLOWED]


def test_a_limit_that_is_used_up(shared: Shared, node: Node) -> None:
    """By visits of the shared record; what staff took back does not count."""
    shared.add(["m1", "m2"], "once")
    tickets = [tap("m1", "s2"), tap("m2", "s2")]
    shared.decide(*tickets)
    shared.tell(*(sent(ticket) for ticket in tickets))
    node.level()
    assert node.decide(tap("m1"), tap("m2")) == [LIMIT, LIMIT]
    shared.write(lambda connection: corrections.reverse(connection, tickets[1].checkin.id, "a mistake"))
    node.level()
    assert node.decide(tap("m1"), tap("m2")) == [LIMIT, ALLOWED]


def test_a_copied_visit_stays_when_a_reentry_is_not_told(shared: Shared, node: Node) -> None:
    """Whether its own answer arrived is not known here, and the shared record is the judge of that."""
    shared.add(["m1"], "once")
    first = tap("m1")
    shared.decide(first)
    shared.tell(sent(first))
    node.level()
    again = tap("m1")
    assert node.decide(again) == [REENTRY]
    node.tell(unsent(again))
    assert node.decide(tap("m1", "s2")) == [LIMIT]


@pytest.mark.parametrize("state", ["incomplete", "old"])
def test_a_copy_that_cannot_stand_in(shared: Shared, node: Node, state: str) -> None:
    """Nothing is decided on it, all is recorded, and carried over as undecided."""
    shared.add(["m1"])
    if state == "old":
        node.level()
        node.execute(f"UPDATE stand_in SET copied_at_ms = {clock.now_ms() - (MAX_AGE_S + 5) * 1000}")
    tickets = [tap("m1"), tap("nobody")]
    assert node.decide(*tickets) == [UNDECIDED] * 2
    assert node.ledger.check() is None
    assert node.waiting() == 2
    node.tell(*(sent(ticket, 503) for ticket in tickets))
    node.level()
    node.carry_over()
    assert [shared.decision(ticket) for ticket in tickets] == [(*UNDECIDED, None, True)] * 2
    assert node.ledger.check() is not None
    assert node.decide(tap("m1")) == [ALLOWED]
    assert problems(shared.database) == []


def visit_of(ticket: Ticket, studio: str = "s1") -> RecentVisit:
    """As the door remembers it."""
    return RecentVisit(ticket.checkin.id, studio, clock.to_ms(ticket.checkin.received_at))


@pytest.mark.parametrize(
    ("studio", "remembered", "told"),
    [
        ("s1", "s1", REENTRY),
        ("s2", "s1", LIMIT),
        ("s1", "demo", ALLOWED),  # it counts nowhere
        ("s1", "a studio that is not here", ALLOWED),
    ],
)
def test_visits_that_the_copy_does_not_have_yet(
    shared: Shared, node: Node, studio: str, remembered: str, told: tuple[str, str]
) -> None:
    """The door remembers them, and they count; the decision leans on the visit that the shared record has."""
    shared.add(["m1"], "once")
    node.level()
    first = tap("m1")
    again = tap("m1", studio, recent=(visit_of(first, remembered),))
    assert node.decide(again) == [told]
    ((visit,),) = node.rows("SELECT visit_id FROM decisions")
    assert visit == {REENTRY: first.checkin.id, ALLOWED: again.checkin.id}.get(told)


def test_a_visit_that_is_remembered_and_there(shared: Shared, node: Node) -> None:
    """Counts once; and somebody else's is nobody's."""
    shared.add(["m1", "m2"], "twice")
    first = tap("m1")
    shared.decide(first)
    node.level()
    assert node.decide(tap("m1", recent=(visit_of(first),)), tap("nobody", recent=(visit_of(first),))) == [
        ALLOWED,
        ("denied", "unknown_member"),
    ]


def test_what_a_check_finds(shared: Shared, node: Node) -> None:
    """How level the copy is, and what waits; it leaves no decision, and is written down."""
    shared.add(["m1"])
    before = clock.now_ms()
    node.level()
    found = node.ledger.check()
    assert found is not None and found.copied_at_ms >= before and found.oldest_waiting_s == 0.0
    assert found.carried_over_ms >= found.copied_at_ms
    ticket = tap("m1", at=clock.now() - MINUTE)
    node.decide(ticket)
    found = node.ledger.check()
    assert found is not None and 60.0 <= found.oldest_waiting_s < 120.0
    assert found.carried_over_ms == clock.to_ms(ticket.checkin.received_at)
    ((checked_at_ms,),) = node.rows("SELECT checked_at_ms FROM stand_in")
    assert checked_at_ms >= before
    assert node.rows("SELECT count(*) FROM decisions") == [(1,)]
    assert shared.ledger.check() == CopyCheck()
    assert shared.rows("SELECT count(*) FROM decisions") == [(0,)]


def test_studios_and_plans_are_those_of_the_last_round(shared: Shared, node: Node) -> None:
    """The ledger beside the follower notices that they are new."""
    shared.add(["m1"], "once")
    node.level()
    assert node.decide(tap("m1")) == [ALLOWED]
    shared.write(lambda connection: studios.change(connection, "s2", active=False))
    shared.add(["m1"], "loose")
    node.level()
    assert node.decide(tap("m1", "s2"), tap("m1")) == [("denied", "studio_inactive"), ALLOWED]


def test_two_ledgers_of_one_copy(shared: Shared, node: Node) -> None:
    """As two workers have it: still one new visit, whoever is asked."""
    shared.add(["m1"], "twice")
    node.level()
    other = Node(shared, node.copy.path)
    assert (node.decide(tap("m1")), other.decide(tap("m1"))) == ([ALLOWED], [UNDECIDED])
    other.close()


def test_an_answer_that_is_told_too_late(shared: Shared, node: Node) -> None:
    """Long after the decision was carried over: nobody knows whether somebody came in, so the visit stays."""
    shared.add(["m1"])
    node.level()
    ticket = tap("m1", at=clock.now() - MINUTE)
    node.decide(ticket)
    node.carry_over()
    node.tell(unsent(ticket))
    node.level()
    assert node.waiting() == 0
    assert shared.counting("m1") == [ticket.checkin.id]
    assert node.rows("SELECT id FROM visits WHERE state <> 'reversed'") == [(ticket.checkin.id,)]


SMALL_NUMBERS = "UPDATE visits SET seq = (SELECT count(*) FROM visits AS earlier WHERE earlier.seq <= visits.seq)"


def test_numbers_of_what_is_decided_here(shared: Shared, node: Node) -> None:
    """Are none of the shared record's, which counts from 1 where it was a file before."""
    names = [f"m{number}" for number in range(4)]
    shared.add([*names, "new"], "twice")
    shared.decide(*(tap(name) for name in names))
    shared.execute(SMALL_NUMBERS)
    node.level()
    assert node.decide(tap("new")) == [ALLOWED]


def test_what_is_compared_replaces_no_visit_that_waits(shared: Shared, node: Node) -> None:
    """It still counts, and uses up what may be decided here, whatever numbers the shared record has."""
    names = [f"m{number}" for number in range(4)]
    shared.add([*names, "new"], "twice")
    node.level()
    ticket = tap("new")
    assert node.decide(ticket) == [ALLOWED]
    shared.decide(*(tap(name) for name in names))
    shared.execute(SMALL_NUMBERS)
    node.execute("UPDATE stand_in SET synced_at_ms = 0")
    node.level()
    assert node.rows("SELECT count(*) FROM visits") == [(len(names) + 1,)]
    assert node.rows("SELECT id FROM visits WHERE member_id = 'new'") == [(ticket.checkin.id,)]
    assert node.decide(tap("new")) == [UNDECIDED]
