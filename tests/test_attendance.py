"""Visits, links and what was seen at the door, as they follow from webhooks and the platform's history."""

from __future__ import annotations

import json
import random
import threading
from contextlib import nullcontext
from datetime import datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from attending import Book, Webhook, deliver, entry, stay, webhook
from backends import Backend, copied
from callers import problems, rows
from gate import wait_for
from killing import kill_at, lines_of, moments, repeat
from past import Past
from sqlalchemy import event
from terminal import Terminal

from guestgate import clock, corrections, members
from guestgate.attendance import attendances, customers, others, process, progress
from guestgate.attendance import clerk as clerk_module
from guestgate.attendance import reconciliation as reconciliation_module
from guestgate.attendance.clerk import Clerk
from guestgate.attendance.reconciliation import Reconciliation, Report
from guestgate.case import case
from guestgate.database import Database
from guestgate.errors import ConflictError, OperationError, PlatformAwayError, PlatformError
from guestgate.platform import accounts, history
from guestgate.platform.accounts import Account
from guestgate.platform.secret_keys import SecretKeys
from guestgate.settings import Settings
from guestgate.visits import VisitRow, add

START = clock.now() - timedelta(days=2)
GRACE = timedelta(hours=1)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
PLANS = """\
[plans.free]
name = "Free"
reentry_minutes = 10
payable = "per_visit"

[plans.each]
name = "Each tap is a visit"
reentry_minutes = 0
payable = "per_visit"
"""


@pytest.fixture
def desk(terminal: Terminal) -> Terminal:
    """Two studios and some members; nobody is linked to a customer."""
    terminal.plans(PLANS)
    terminal.studio("s1")
    terminal.studio("s2")
    members = ("ada", "bob", "eve")
    terminal.members(*({"member_id": name, "plan": "each" if name == "eve" else "free"} for name in members))
    return terminal


@pytest.fixture
def past(desk: Terminal) -> Any:
    """What was decided."""
    past = Past(desk.database)
    yield past
    past.close()


def read(database: Database, *webhooks: Webhook) -> None:
    """Webhooks arrive and are read."""
    if webhooks:
        deliver(database, *webhooks)
    Clerk(database).catch_up()


def reconcile(database: Database, history: Any = None, **options: Any) -> Report:
    """Once."""
    return Reconciliation(database, history or Book(()), GRACE).run(**options)


def states(database: Database) -> dict[str, str]:
    """Every visit's state by its id."""
    return dict(tuple(row) for row in rows(database, "SELECT id, state FROM visits"))


def whys(database: Database, visit: str) -> list[tuple[str, str]]:
    """What was done to a visit, and why."""
    query = "SELECT state, why FROM visit_changes WHERE visit_id = :visit ORDER BY seq"
    return [tuple(row) for row in rows(database, query, visit=visit)]


def links(database: Database) -> dict[int, str]:
    return dict(tuple(row) for row in rows(database, "SELECT customer_id, member_id FROM customers"))


# Entries and visits


def test_an_entry_confirms_the_visit_it_belongs_to(desk: Terminal, past: Past) -> None:
    """By customer, studio and time; the correction names the webhook, and a repetition adds nothing."""
    visit = past.checkin("ada", START, customer=7)
    past.checkin("ada", START + HOUR, customer=7)
    past.checkin("bob", START, customer=8)
    past.checkin("ada", START, customer=7, studio="s2")
    told = entry(START + SECOND, 7)
    read(desk.database, told, told)
    read(desk.database, told)
    assert [id for id, state in states(desk.database).items() if state == "confirmed"] == [visit.id]
    assert whys(desk.database, visit.id) == [("confirmed", f"entry told by webhook {told.uuid}")]
    assert problems(desk.database) == []
    with desk.reading() as connection:
        assert attendances.stay_of(connection, visit.id) == {
            "entered_at": clock.iso(START + SECOND),
            "left_at": None,
        }


def test_a_reentry_confirms_the_visit_it_leaned_on(desk: Terminal, past: Past) -> None:
    """The entry may be told of the second tap only."""
    visit = past.checkin("ada", START, customer=7)
    again = past.checkin("ada", START + 8 * MINUTE, customer=7)
    assert again.visit_id == visit.id
    read(desk.database, entry(START + 8 * MINUTE, 7))
    assert states(desk.database) == {visit.id: "confirmed"}


def test_check_outs_give_the_stay(desk: Terminal, past: Past) -> None:
    """One's own, or the studio's at closing time, which names many."""
    ada, bob = past.checkin("ada", START, customer=7), past.checkin("bob", START, customer=8)
    closing = {"checkouts": [{"customerId": 8, "checkoutTime": clock.iso(START + 3 * HOUR)}, {"customerId": 99}]}
    read(
        desk.database,
        webhook("AUTOMATIC_CUSTOMER_CHECKOUT", START + 3 * HOUR, 5, content=closing),
        webhook("CUSTOMER_CHECKOUT", START + HOUR, 7),
        entry(START, 7),
        entry(START, 8),
    )
    with desk.reading() as connection:
        stays = [case(connection, one.id, payable_requires="confirmed")["stay"] for one in (ada, bob)]
    assert [one["left_at"] for one in stays] == [clock.iso(START + HOUR), clock.iso(START + 3 * HOUR)]


def test_an_entry_shows_that_an_answer_did_reach_the_door(desk: Terminal, past: Past) -> None:
    """What was reversed as undelivered is confirmed; what a person reversed stays reversed."""
    late = past.checkin("ada", START, customer=7, undelivered=True)
    mistake = past.checkin("bob", START, customer=8)
    with desk.database.write("cli:anna") as connection:
        corrections.reverse(connection, mistake.id, "it was somebody else")
    assert set(states(desk.database).values()) == {"reversed"}
    read(desk.database, entry(START, 7), entry(START, 8))
    assert states(desk.database) == {late.id: "confirmed", mistake.id: "reversed"}
    assert [state for state, _ in whys(desk.database, late.id)] == ["reversed", "confirmed"]
    assert problems(desk.database) == []


def test_a_confirmation_moves_to_the_visit_of_an_answer_that_is_known_later(desk: Terminal, past: Past) -> None:
    """A stand-in's decision is carried over late; the state is what it would have been had it come in time."""
    first = past.checkin("eve", START, customer=9)
    told = entry(START + 59 * SECOND, 9)
    read(desk.database, told)
    assert states(desk.database) == {first.id: "confirmed"}
    second = past.checkin("eve", START + MINUTE, customer=9)
    reconcile(desk.database)
    assert states(desk.database) == {first.id: "authorized", second.id: "confirmed"}
    assert whys(desk.database, first.id)[-1] == ("authorized", "the entry belongs to another visit")
    assert problems(desk.database) == []


def test_a_manual_visit_is_confirmed_by_the_entry_of_the_linked_customer(desk: Terminal) -> None:
    """Staff entered it, since the door was opened by hand."""
    desk.run("member", "link", "ada", "7")
    with desk.database.write("cli:anna") as connection:
        add(connection, VisitRow(0, "ada", "s1", START))
    read(desk.database, entry(START + MINUTE, 7))
    assert list(states(desk.database).values()) == ["confirmed"]


def test_a_visit_by_hand_a_link_by_hand_and_an_entry_may_come_in_any_order(desk: Terminal) -> None:
    """Whichever is last has the visit confirmed."""
    orders = list(permutations(("visit", "link", "entry")))
    desk.members(*({"member_id": f"m{number}", "plan": "free"} for number in range(len(orders))))
    for number, order in enumerate(orders):
        for step in order:
            if step == "entry":
                deliver(desk.database, entry(START + MINUTE, 50 + number))
            with desk.database.write("cli:anna") as connection:
                if step == "visit":
                    add(connection, VisitRow(0, f"m{number}", "s1", START))
                elif step == "link":
                    members.link(connection, f"m{number}", 50 + number)
            Clerk(desk.database).catch_up(to_the_end=True)
    found = dict(tuple(row) for row in rows(desk.database, "SELECT member_id, state FROM visits"))
    assert found == {f"m{number}": "confirmed" for number in range(len(orders))}
    assert problems(desk.database) == []


def test_a_member_who_was_imported_with_a_customer_is_linked(desk: Terminal) -> None:
    """The audit trail tells of such a link with the member's own beginning."""
    read(desk.database, entry(START + MINUTE, 7))
    desk.members({"member_id": "new", "plan": "free", "customer_id": "7"})
    Clerk(desk.database).catch_up(to_the_end=True)
    assert [tuple(row) for row in rows(desk.database, "SELECT ours, member_id FROM sightings")] == [(True, "new")]


def test_only_a_confirmed_visit_pays_where_that_is_asked(desk: Terminal, past: Past) -> None:
    """The setting `payable_requires`."""
    seen, _ = past.checkin("ada", START, customer=7), past.checkin("ada", START + HOUR, customer=7)
    read(desk.database, entry(START, 7))
    desk.monkeypatch.setenv("GUESTGATE_PAYABLE_REQUIRES", "confirmed")
    assert [row["id"] for row in desk.json("visits") if row["payable"]] == [seen.id]


# Whose customers


def test_the_platform_links_and_unlinks(desk: Terminal) -> None:
    """By the times of its events, not by their order; nothing is taken from whom was linked by hand."""
    desk.run("member", "link", "eve", "3")
    created = [
        webhook("AGGREGATOR_MEMBER_CREATED", START + n * MINUTE, customer, content={"aggregatorId": member})
        for n, (customer, member) in enumerate([(1, "ada"), (1, "bob"), (2, "ada"), (3, "ada"), (4, "nobody")])
    ]
    read(desk.database, created[1], created[0])
    read(desk.database, webhook("CUSTOMER_DELETED", START + HOUR, 2))
    read(desk.database, *created[2:], webhook("CUSTOMER_ACCESS_DISABLED", START + HOUR, 1))
    assert links(desk.database) == {1: "bob", 3: "eve"}
    (shown,) = desk.json("member", "show", "bob")
    assert (shown["customers"], shown["disabled_customers"]) == ([1], [1])
    desk.members({"member_id": "nobody", "plan": "free"})
    Reconciliation(desk.database, Book(()), timedelta(0)).run()
    assert links(desk.database) == {1: "bob", 3: "eve", 4: "nobody"}


def created(member: str, at: datetime, customer: int = 7) -> Webhook:
    """The platform says that a customer is a member."""
    return webhook("AGGREGATOR_MEMBER_CREATED", at, customer, content={"aggregatorId": member})


def test_a_link_made_by_hand_anew_stays(desk: Terminal) -> None:
    """Though the platform had named that member, and the link had been ended, by whomever."""
    read(desk.database, created("ada", START), created("bob", START, 8))
    read(desk.database, webhook("CUSTOMER_DELETED", START + HOUR, 8))
    assert links(desk.database) == {7: "ada"}
    desk.run("member", "unlink", "ada", "7")
    desk.run("member", "link", "ada", "7")
    desk.members({"member_id": "bob", "customer_id": "8"})
    read(desk.database, *(webhook("CUSTOMER_ACCESS_DISABLED", START + 2 * HOUR, customer) for customer in (7, 8)))
    assert links(desk.database) == {7: "ada", 8: "bob"}
    desk.run("member", "unlink", "ada", "7")
    desk.run("member", "link", "ada", "7")
    (shown,) = desk.json("member", "show", "ada")
    assert shown["disabled_customers"] == [7]
    # A customer that is deleted later is nobody's all the same, and an older event does not link it again.
    read(desk.database, webhook("CUSTOMER_DELETED", clock.now() + HOUR, 7), created("ada", START + HOUR))
    assert links(desk.database) == {8: "bob"}


@pytest.mark.parametrize("by", ["link", "import", "api"])
@pytest.mark.parametrize("told", ["before", "after", "never"])
def test_a_link_by_hand_is_the_same_whether_or_not_the_platform_told_of_it(
    desk: Terminal, by: str, told: str
) -> None:
    """An event that names another member takes nothing away, also where one that names the same was read first."""
    if told == "before":
        read(desk.database, created("ada", START))
    if by == "link":
        desk.run("member", "link", "ada", "7")
    elif by == "import":
        desk.members({"member_id": "ada", "customer_id": "7"})
    else:
        with desk.writing() as connection:
            members.save(connection, members.MemberRow(0, "ada", {}, (7,)), exactly=True)
    if told == "after":
        read(desk.database, created("ada", START))
    for at in (START + HOUR, clock.now() + HOUR):
        read(desk.database, created("bob", at))
        assert links(desk.database) == {7: "ada"}
    assert problems(desk.database) == []


def test_an_import_makes_a_link_its_own_once(desk: Terminal) -> None:
    """Where the platform had made it; the audit trail says so, and the next import changes nothing."""
    read(desk.database, created("ada", START))
    linked = "SELECT count(*) FROM changes WHERE action = 'customer.linked'"
    assert rows(desk.database, linked) == [(1,)]
    for _ in range(2):
        desk.members({"member_id": "ada", "customer_id": "7"})
        assert rows(desk.database, linked) == [(2,)]


def test_what_is_told_at_once_or_one_by_one_comes_to_the_same(desk: Terminal) -> None:
    """A deletion ends what was linked by hand, also where the platform links the same two again at once."""
    for customer in (7, 8):
        desk.run("member", "link", "ada", str(customer))
    later = [clock.now() + number * HOUR for number in range(1, 4)]
    for customer, pages in ((7, 1), (8, 2)):
        told = [webhook("CUSTOMER_DELETED", later[0], customer), created("ada", later[1], customer)]
        for page in [told] if pages == 1 else [[one] for one in told]:
            read(desk.database, *page)
    assert links(desk.database) == {7: "ada", 8: "ada"}
    read(desk.database, *(created("bob", later[2], customer) for customer in (7, 8)))
    assert links(desk.database) == {7: "bob", 8: "bob"}


@pytest.mark.parametrize("linked", ["ada", "eve"])
def test_a_link_that_was_ended_by_hand_stays_ended(desk: Terminal, linked: str) -> None:
    """Whomever the platform had named, and also when the audit trail is that old no more; a later event makes it."""
    long_ago = clock.now() - timedelta(days=100)
    with pytest.MonkeyPatch.context() as then:
        then.setattr(clock, "now_ms", lambda: clock.to_ms(long_ago))
        if linked == "eve":
            desk.run("member", "link", "eve", "7")
        read(desk.database, created("ada", long_ago - HOUR))
        assert links(desk.database) == {7: linked}
        desk.run("member", "unlink", linked, "7")
    desk.run("db", "prune", "--keep", "2months")
    assert rows(desk.database, "SELECT count(*) FROM changes WHERE action = 'customer.unlinked'") == [(0,)]
    read(desk.database, webhook("CUSTOMER_ACCESS_DISABLED", START, 7))
    assert links(desk.database) == {}
    read(desk.database, created("ada", START + HOUR))
    assert links(desk.database) == {7: "ada"}
    assert problems(desk.database) == []


def test_an_entry_is_explained_once_its_customer_is_linked(desk: Terminal, past: Past) -> None:
    """Where the platform sends our company's id, and the link overtook nothing but arrives last."""
    with desk.database.write("cli:anna") as connection:
        add(connection, VisitRow(0, "ada", "s1", START))
    read(desk.database, entry(START, 7))
    assert list(states(desk.database).values()) == ["authorized"]
    read(desk.database, webhook("AGGREGATOR_MEMBER_CREATED", START - HOUR, 7, content={"aggregatorId": "ada"}))
    assert list(states(desk.database).values()) == ["confirmed"]


def test_the_gyms_own_customers_are_forgotten_after_the_grace_period(desk: Terminal, past: Past) -> None:
    """Not before; nothing of them stays, and of a webhook that tells of ours as well only that."""
    past.checkin("ada", START, customer=7)
    past.checkin("nobody", START, customer=70)
    closing = {"checkouts": [{"customerId": number, "checkoutTime": clock.iso(START + HOUR)} for number in (7, 99)]}
    told = [
        entry(START, 7),
        entry(START, 70),
        entry(START, 99),
        webhook("AUTOMATIC_CUSTOMER_CHECKOUT", START + HOUR, 5, content=closing),
        webhook("SOMETHING_ELSE", START, 5),
    ]
    deliver(desk.database, *told, received_at=START + HOUR)
    deliver(desk.database, entry(START, 98))
    report = reconcile(desk.database)
    assert report.others_dropped == 2
    assert {row.customer_id for row in rows(desk.database, "SELECT customer_id FROM sightings")} == {7, 70, 98}
    bodies = {row.uuid: row.body for row in rows(desk.database, "SELECT uuid, body FROM webhooks")}
    assert len(bodies) == 5
    kept = json.loads(bodies[told[3].uuid])["payload"][0]["content"]["checkouts"]
    assert [one["customerId"] for one in kept] == [7, 0]
    assert [(one["customer"], one["member"]) for one in report.entries_without_visit] == [(70, None)]


# The platform's history


def test_the_history_decides_what_nobody_knows(desk: Terminal, past: Past) -> None:
    """Without an entry a visit of unknown delivery is reversed, one whose answer left is only told of."""
    unknown = past.checkin("ada", START, customer=7, answered=False)
    sent = past.checkin("bob", START, customer=8)
    elsewhere = past.checkin("eve", START, customer=9, studio="s2", answered=False)
    late = past.checkin("eve", START, customer=9, undelivered=True)
    reconcile(desk.database)
    assert states(desk.database)[unknown.id] == "authorized"
    book = Book(stays=[(9, stay(4711, START + SECOND))])
    report = reconcile(desk.database, book)
    assert (report.reversed, report.confirmed) == ([unknown.id], [late.id])
    assert whys(desk.database, late.id)[-1] == ("confirmed", "entry told by check-in 4711")
    assert states(desk.database) == {
        unknown.id: "reversed",
        sent.id: "authorized",
        elsewhere.id: "authorized",
        late.id: "confirmed",
    }
    assert {one["visit"] for one in report.visits_without_entry} == {sent.id, elsewhere.id}
    again = reconcile(desk.database, book, since=START - HOUR)
    assert not again.changed
    read(desk.database, entry(START, 7))  # it was only late
    assert states(desk.database)[unknown.id] == "confirmed"
    assert problems(desk.database) == []


def test_an_entry_that_nobody_allowed_is_told(desk: Terminal, past: Past) -> None:
    """Once, though both witnesses tell of it."""
    past.checkin("nobody", START, customer=70)
    read(desk.database, entry(START + SECOND, 70))
    report = reconcile(desk.database, Book(stays=[(70, stay(1, START))]))
    assert [(one["source"], one["reference"]) for one in report.entries_without_visit] == [("history", "1")]


def test_nothing_is_judged_before_its_time_or_without_an_answer(desk: Terminal, past: Past) -> None:
    """Within the grace period, of a customer whom the platform knows no more, and where it cannot be asked."""
    young = past.checkin("ada", clock.now() - GRACE / 2, customer=7, answered=False)
    gone = past.checkin("bob", START, customer=8, answered=False)
    book = Book()
    book.unknown.add(8)
    assert not reconcile(desk.database, book).changed
    assert book.asked == [8]

    class Down(Book):
        def stays(self, *_: Any) -> Any:
            raise OperationError("the platform cannot be asked")

    report = reconcile(desk.database, Down(), since=START - HOUR)
    assert report.problems == ["the platform cannot be asked"]
    assert states(desk.database) == {young.id: "authorized", gone.id: "authorized"}


def test_what_a_command_reverses_a_late_webhook_confirms(
    desk: Terminal, past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has it done: it follows from what was seen, and is nobody's decision."""
    visit = past.checkin("ada", START, customer=7, answered=False)
    monkeypatch.setattr(history, "PlatformHistory", lambda *_, **__: nullcontext(Book()))
    (report,) = desk.json("reconcile")
    assert report["reversed"] == [visit.id]
    read(desk.database, entry(START, 7))
    assert states(desk.database)[visit.id] == "confirmed"


def test_a_typing_error_in_how_far_to_look_back(desk: Terminal) -> None:
    """Is told both forms."""
    complaint = desk.complaint("reconcile", "--since", "7dd")
    assert "--since: '7dd' is not an instant; write 7d or 2026-11-23T18:02:00+01:00" in complaint


def test_a_short_look_back_leaves_nothing_out(desk: Terminal, past: Past) -> None:
    """What lies before it and was never asked about still is."""
    past.checkin("ada", START, customer=7, answered=False)
    past.checkin("bob", START + HOUR, customer=8, undelivered=True)
    book = Book()
    assert len(reconcile(desk.database, book, since=clock.now() - 3 * HOUR).reversed) == 1
    assert book.asked == [7, 8]


def test_what_was_recorded_late_is_asked_about(desk: Terminal, past: Past) -> None:
    """A server may have stood in for longer than the grace period."""
    past.checkin("ada", START, customer=7, answered=False)
    book = Book()
    reconcile(desk.database, book)
    late = past.checkin("bob", START + MINUTE, customer=8, answered=False)
    past.checkin("nobody", START + MINUTE, customer=70)
    assert reconcile(desk.database, book).reversed == [late.id]
    assert book.asked == [7, 8, 70]
    reconcile(desk.database, book)
    assert book.asked == [7, 8, 70]


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (PlatformError("its answer is not as agreed"), [7, 8, 9]),
        (PlatformError("Internal Server Error", 500), [7, 8, 9]),
        (PlatformError("Unauthorized", 401), [7]),
        (PlatformAwayError("Service Unavailable", 503), [7]),
        (OperationError("its key cannot be read"), [7]),
    ],
)
def test_a_customer_about_whom_the_platform_does_not_answer_stops_no_others(
    desk: Terminal, past: Past, error: OperationError, asked: list[int]
) -> None:
    """They are asked about, unless nobody would be; the one is the next time."""
    for number, name in enumerate(("ada", "bob", "eve")):
        past.checkin(name, START, customer=7 + number, answered=False)

    class Refusing(Book):
        def stays(self, studio_id: str, customer_id: int, *around: Any) -> Any:
            found = super().stays(studio_id, customer_id, *around)
            if customer_id == 7:
                raise error
            return found

    refusing = Refusing()
    report = reconcile(desk.database, refusing)
    assert report.problems == [str(error)]
    assert refusing.asked == asked and len(report.reversed) == len(asked) - 1
    book = Book()
    assert len(reconcile(desk.database, book).reversed) == 4 - len(asked) and 7 in book.asked


def test_a_studio_about_which_the_platform_does_not_answer_is_let_alone(desk: Terminal, past: Past) -> None:
    """After some customers in a row."""
    for number in range(2 * reconciliation_module.MAX_REFUSALS):
        past.checkin("nobody", START, customer=70 + number)

    class Refusing(Book):
        def stays(self, *about: Any) -> Any:
            super().stays(*about)
            raise PlatformError("Forbidden", 403)

    refusing = Refusing()
    reconcile(desk.database, refusing)
    assert len(refusing.asked) == reconciliation_module.MAX_REFUSALS


def test_what_was_asked_is_not_asked_again(desk: Terminal, past: Past) -> None:
    """A run goes on where the last one ended, for studios that could be asked; one that fails is tried again."""
    past.checkin("ada", START, customer=7)
    book = Book()
    reconcile(desk.database, book)
    reconcile(desk.database, book)
    assert book.asked == [7]
    reconcile(desk.database, book, since=START - HOUR)
    assert book.asked == [7, 7]


def test_one_at_a_time(desk: Terminal) -> None:
    """Whoever comes second is told so; a run that ended lets the next one in."""
    with desk.writing() as connection:
        progress.begin_reconciling(connection)
    with pytest.raises(ConflictError, match="somebody is reconciling just now"):
        reconcile(desk.database)
    with desk.writing() as connection:
        progress.note(connection, reconciling_until_ms=0)
    reconcile(desk.database)
    reconcile(desk.database)


def test_of_several_servers_one_reconciles(desk: Terminal, past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    """All look whether it is due; the others give up while one is at it, and afterwards it is not due."""
    past.checkin("ada", START, customer=7)
    deliver(desk.database, entry(START + HOUR, 99))
    settings = Settings(database=desk.database_url, reconcile_every_s=3600, reconcile_grace_s=3600)
    servers = [process._Schedule(Database.at(desk.database_url), settings) for _ in range(3)]

    def at_it() -> int:
        return sum(one._thread is None or one._thread.is_alive() for one in servers)

    class Alone(Book):
        def stays(self, *asked: Any) -> Any:
            wait_for(lambda: at_it() == 1, "the others go on as well")
            return super().stays(*asked)

    book = Alone()
    monkeypatch.setattr(history, "PlatformHistory", lambda *_: nullcontext(book))
    for again in range(2):
        for one in servers:
            one._asked_at_ms = 0
            one.keep()
        wait_for(lambda: at_it() == 0, "nobody comes to an end")
        assert book.asked == [7], again


@pytest.mark.parametrize("told", ["by a webhook", "by a history", "once before"])
def test_nothing_is_reconciled_where_nobody_tells(
    told: str, desk: Terminal, past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first webhook, and without a history to ask, no server reads the record for that."""
    past.checkin("ada", START, customer=7)
    book = Book()
    monkeypatch.setattr(history, "PlatformHistory", lambda *_: nullcontext(book))
    server = process._Schedule(desk.database, Settings(database=desk.database_url, reconcile_grace_s=3600))
    server.keep()
    assert server._thread is None
    if told == "by a webhook":
        deliver(desk.database, entry(START + HOUR, 99))
    with desk.writing() as connection:
        if told == "by a history":
            account = Account("s1", "http://localhost:1", "a-key-of-the-studio-long-enough", 1)
            accounts.put(connection, SecretKeys([bytes(32)], "this test"), account)
        if told == "once before":
            progress.note(connection, reconciled_at_ms=1)
    server._asked_at_ms = 0
    server.keep()
    assert server._thread is not None
    server._thread.join()
    assert book.asked == [7]


def test_who_was_overtaken_gives_way(desk: Terminal, past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    """The platform let one wait for so long that another one began: the first ends, and does not let in a third."""
    for number in range(2):
        past.checkin("ada", START + number * HOUR, customer=7 + number, answered=False)
    second = Reconciliation(desk.database, Book(), GRACE)

    class Slow(Book):
        def stays(self, *asked: Any) -> Any:
            if not self.asked:
                monkeypatch.setattr(progress, "LEASE_MS", 60_000)
                second._begin(clock.monotonic())
            return super().stays(*asked)

    slow = Slow()
    monkeypatch.setattr(progress, "LEASE_MS", 0)
    with pytest.raises(ConflictError, match="somebody else began to reconcile meanwhile"):
        reconcile(desk.database, slow)
    assert slow.asked == [7] and set(states(desk.database).values()) == {"authorized"}
    with pytest.raises(ConflictError, match="somebody is reconciling just now"):
        reconcile(desk.database)


def test_the_command(desk: Terminal, past: Past) -> None:
    """Says what was changed and what is different, and the second time that nothing was."""
    visit, other = past.checkin("ada", START, customer=7), past.checkin("bob", START, customer=8)
    deliver(desk.database, entry(START, 7), entry(START + HOUR, 8))
    (report,) = desk.json("reconcile", "--since", "7d")
    assert (report["confirmed"], report["reversed"], report["problems"]) == ([visit.id], [], [])
    assert [one["visit"] for one in report["visits_without_entry"]] == [other.id]
    assert [one["customer"] for one in report["entries_without_visit"]] == [8]
    lines = desk.run("reconcile").out.splitlines()
    assert [line.split("  ")[0] for line in lines[:-1]] == ["visit without entry", "entry without visit"]
    assert "0 visits confirmed" in lines[-1]


def test_several_clerks_read_one_record(desk: Terminal, past: Past) -> None:
    """Each webhook is read once, whoever comes first."""
    made = [past.checkin("ada", START + number * HOUR, customer=7) for number in range(20)]
    deliver(desk.database, *(entry(START + number * HOUR, 7) for number in range(20)))
    clerks = [threading.Thread(target=Clerk(Database.at(desk.database_url)).catch_up) for _ in range(3)]
    for clerk in clerks:
        clerk.start()
    for clerk in clerks:
        clerk.join()
    assert states(desk.database) == {one.id: "confirmed" for one in made}
    assert rows(desk.database, "SELECT count(*) FROM visit_changes") == [(20,)]
    assert problems(desk.database) == []


def test_what_names_many_is_followed_a_few_at_a_time(desk: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The door needs the lock in between, however many customers one webhook or many of them name."""
    many = range(1000, 1200)
    desk.members(*({"member_id": f"m{one}", "plan": "free", "customer_id": str(one)} for one in many))
    followed = [0]

    class Counted(attendances._Attendance):
        def __init__(self, *arguments: Any) -> None:
            followed[-1] += 1
            super().__init__(*arguments)

    monkeypatch.setattr(attendances, "_Attendance", Counted)
    event.listen(desk.database.engine, "commit", lambda _: followed.append(0))
    at_closing = [{"customerId": one, "checkoutTime": clock.iso(START + HOUR)} for one in many]
    read(
        desk.database,
        *(entry(START, one) for one in many[:60]),
        webhook("AUTOMATIC_CUSTOMER_CHECKOUT", START + HOUR, 5, content={"checkouts": at_closing}),
    )
    assert (sum(followed), max(followed) <= attendances.FEW) == (len(many), True), followed
    query = "SELECT customer_id, member_id FROM sightings WHERE kind = 'exit' ORDER BY customer_id"
    assert [tuple(row) for row in rows(desk.database, query)] == [(one, f"m{one}") for one in many]


# Any order, any delay, any loss


def story(database: Database, past: Past) -> tuple[list[Webhook], Book]:
    """Days of three members: what is decided now, what will be told, and what the platform's history says."""
    told: list[Webhook] = []
    stays = []
    dice = random.Random(5)
    people = {"ada": 7, "bob": 8, "eve": 9}
    for hours in range(0, 40, 4):
        for member, customer in people.items():
            at = START + timedelta(hours=hours, minutes=dice.randrange(20))
            reached = dice.random() < 0.8
            past.checkin(member, at, customer=customer, answered=dice.random() < 0.7, undelivered=not reached)
            if dice.random() < 0.3:  # again, at another reader or since the door had stayed shut
                again = at + timedelta(seconds=dice.randrange(5, 200))
                past.checkin(member, again, customer=customer)
                at, reached = (at, True) if reached else (again, True)
            if reached:
                seen = at + timedelta(seconds=dice.uniform(-3, 3))
                told.append(entry(seen, customer))
                told.append(webhook("CUSTOMER_CHECKOUT", seen + HOUR, customer))
                stays.append((customer, stay(len(stays), at + SECOND)))
        told.append(entry(START + timedelta(hours=hours), 99))
    for minutes, (kind, customer, member) in enumerate(
        [
            ("C", 20, "ada"),
            ("C", 20, "bob"),
            ("C", 7, "ada"),
            ("D", 7, ""),
            ("C", 21, "eve"),
            ("X", 21, ""),
            ("D", 22, ""),
            ("C", 23, "ada"),
            ("C", 23, "bob"),
        ]
    ):
        at, content = START + minutes * MINUTE, {"aggregatorId": member} if member else {}
        names = {"C": "AGGREGATOR_MEMBER_CREATED", "D": "CUSTOMER_DELETED", "X": "CUSTOMER_ACCESS_DISABLED"}
        told.append(webhook(names[kind], at, customer, content=content))
    with database.write("cli:anna") as connection:
        members.link(connection, "bob", 30)
        for hours, (member, customer) in enumerate([("bob", 30), ("eve", 21)]):
            at = START + timedelta(hours=2 + 4 * hours)
            add(connection, VisitRow(0, member, "s1", at))
            told.append(entry(at + SECOND, customer))
    at = START + timedelta(hours=10)
    leaving = [{"customerId": one, "checkoutTime": clock.iso(at)} for one in (*people.values(), 21, 30, 99)]
    told.append(webhook("AUTOMATIC_CUSTOMER_CHECKOUT", at, 50, content={"checkouts": leaving}))
    return told, Book(stays=stays)


def outcome(database: Database) -> list[Any]:
    """All that should be the same in the end."""
    queries = (
        "SELECT id, state, reversed_why FROM visits ORDER BY id",
        "SELECT customer_id, member_id FROM customers ORDER BY customer_id",
        "SELECT customer_id, studio_id, kind, source, reference, at_ms, ours, member_id, visit_id FROM sightings "
        "WHERE ours OR kind NOT IN ('entry', 'exit') ORDER BY 1, 2, 3, 4, 5",
    )
    return [list(map(tuple, rows(database, query))) for query in queries]


def test_any_order_delay_and_doubling_come_to_the_same(
    desk: Terminal, past: Past, backend: Backend, tmp_path: Path
) -> None:
    """However webhooks arrive, in however many parts, with reconciliations in between; and losses are made up for."""
    told, book = story(desk.database, past)
    past.close()
    desk.run("member", "link", "ada", "23")
    desk.close()
    with copied(backend, desk.database_url, tmp_path) as database:
        read(database, *told)
        reconcile(database, book)
        reference = outcome(database)
        assert problems(database) == []
    assert {state for _, state, _ in reference[0]} == {"authorized", "confirmed", "reversed"}
    for seed in range(8 if backend.name == "sqlite" else 3):
        dice = random.Random(seed)
        arriving = told + dice.sample(told, len(told) // 3)
        dice.shuffle(arriving)
        lost = set() if seed % 2 else {one.uuid for one in told if one.body["entityId"] < 20 and dice.random() < 0.3}
        with copied(backend, desk.database_url, tmp_path) as database:
            while arriving:
                part = [arriving.pop() for _ in range(min(len(arriving), dice.randrange(1, 30)))]
                read(database, *(one for one in part if one.uuid not in lost))
                if dice.random() < 0.2:
                    reconcile(database, book if dice.random() < 0.5 else None)
            reconcile(database, book, since=START - HOUR)
            found = outcome(database)
            assert found[0] == reference[0], seed
            if not lost:
                assert found[1] == reference[1], seed
                theirs = [[row for row in one[2] if row[3] == "webhook"] for one in (found, reference)]
                assert theirs[0] == theirs[1], seed
            assert problems(database) == []


def test_being_killed_anywhere_changes_nothing(desk: Terminal, past: Past, backend: Backend, tmp_path: Path) -> None:
    """The next run finishes it."""
    told, book = story(desk.database, past)
    past.close()
    deliver(desk.database, *told)
    desk.close()
    modules = (clerk_module, attendances, customers, others, reconciliation_module, progress)

    def work(database: Database) -> None:
        database.engine.dispose()
        reconcile(database, book, since=START - HOUR)

    with copied(backend, desk.database_url, tmp_path) as database:
        lines = lines_of(lambda: work(database), *modules)
        reference = outcome(database)
    for line in moments("attendance", lines, backend.name)[:12]:
        with copied(backend, desk.database_url, tmp_path) as database:
            kill_at(line, lambda database=database: work(database), *modules)
            with database.write() as connection:
                progress.note(connection, reconciling_until_ms=0)
            work(database)
            assert outcome(database) == reference, repeat("tests/test_attendance.py", line)
            assert problems(database) == []
