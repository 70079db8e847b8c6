"""Member validations on a database: codes, the throttle, locks, deadlines, and what the record says of all that."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import structlog
import uuid_utils
from callers import everything, locked, problems, rows
from terminal import Terminal

from guestgate import clock, enrolment, members, studios, validations
from guestgate.database import Database
from guestgate.eligibility import Finding, Question, Reply
from guestgate.enrolment import ALPHABET, LENGTH, REPEATS
from guestgate.forget import forget
from guestgate.ledger import Answer, Ledger
from guestgate.validations import MAX_MISSES, MISSES_WITHIN, Validations

NOON = datetime(2026, 11, 23, 11, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LONG_S = 3600.0
OWN_ID = "acme"
ADA = {"first_name": "Ada", "date_of_birth": "1952-05-04"}
PLANS = """\
[plans.free]
name = "Free"
"""


def question(text: str, studio: str = "s1", at: datetime = NOON) -> Question:
    """What a desk sends."""
    return Question(str(uuid_utils.uuid7()), at, studio, text, "0123456789abcdef")


class Desk:
    """Somebody who answers, and short words for what the tests ask."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.database = Database.at(terminal.database_url, door=True)
        self.validations = Validations(self.database, OWN_ID, 400)

    def ask(self, text: str, studio: str = "s1", at: datetime = NOON) -> Reply:
        """One question, answered."""
        (reply,) = self.validations.process([(question(text, studio, at), clock.monotonic() + LONG_S)])
        return reply

    def code(self, member: str = "ada", minutes: int = 15) -> str:
        """A code, handed out at noon."""
        self.terminal.monkeypatch.setattr(clock, "now", lambda: NOON)
        with self.database.write("cli:anna") as connection:
            return enrolment.issue(connection, member, minutes * MINUTE).code

    def record(self) -> list[tuple[str, str, str | None]]:
        """Outcome, reason and member of every question, in order."""
        found = rows(self.database, "SELECT outcome, reason, member_id FROM validations ORDER BY seq")
        return [tuple(row) for row in found]


@pytest.fixture
def desk(terminal: Terminal) -> Iterator[Desk]:
    """Studios s1 and s2; members ada, whom something is known of, bob, and one called like our company."""
    terminal.plans(PLANS)
    terminal.studio("s1")
    terminal.studio("s2")
    terminal.members(
        *({"member_id": name, "plan": "free", **(ADA if name == "ada" else {})} for name in ("ada", "bob", OWN_ID))
    )
    desk = Desk(terminal)
    yield desk
    desk.validations.close()
    assert problems(desk.database) == []


def test_an_id(desk: Desk) -> None:
    """Who it is and what is known; our company's own id is nobody's."""
    assert desk.ask("ada")[1:] == (Finding.OK, "ada", ADA)
    assert desk.ask("bob").profile == {}
    assert desk.ask(OWN_ID).finding is Finding.UNKNOWN_MEMBER
    assert desk.ask("ADA")[1:] == (Finding.UNKNOWN_MEMBER, None, {})


def test_a_code(desk: Desk) -> None:
    """Stands for the id however it is typed, once; whoever used it may ask again for a while."""
    code = desk.code()
    assert len(code) == LENGTH and set(code) <= set(ALPHABET)
    typed = f" {code[:4].lower()}-{code[4:]} "
    assert desk.ask(typed)[1:] == (Finding.OK, "ada", ADA)
    assert desk.ask(code, "s2", NOON + MINUTE)[1:] == (Finding.CODE_USED, None, {})
    assert desk.ask(code, at=NOON + REPEATS - MINUTE)[1:] == (Finding.OK, "ada", ADA)
    assert desk.ask(code, at=NOON + REPEATS)[1:] == (Finding.CODE_USED, None, {})
    assert desk.record() == [
        ("allowed", "ok", "ada"),
        ("denied", "code_used", "ada"),
        ("allowed", "ok", "ada"),
        ("denied", "code_used", "ada"),
    ]
    kept = str(everything(desk.database))
    assert code not in kept and typed not in kept


def test_a_code_that_ends(desk: Desk) -> None:
    """On its minute; and a day later nobody knows of it any more."""
    code = desk.code()
    assert desk.ask(code, at=NOON + 15 * MINUTE)[1:] == (Finding.CODE_EXPIRED, None, {})
    assert desk.ask(code, at=NOON + 14 * MINUTE).finding is Finding.OK
    desk.terminal.monkeypatch.setattr(clock, "now", lambda: NOON + timedelta(days=2))
    with desk.database.write() as connection:
        enrolment.issue(connection, "bob", MINUTE)
    assert desk.ask(code).finding is Finding.UNKNOWN_MEMBER
    assert len(rows(desk.database, "SELECT sha256 FROM enrolment_codes")) == 1


def test_a_refusal_uses_no_code_up(desk: Desk) -> None:
    """Who is suspended comes back with the same code once that is over."""
    code = desk.code("bob")
    with desk.database.write() as connection:
        members.save(connection, members.parse_row(0, {"member_id": "bob", "status": "suspended"}))
    assert desk.ask(code).finding is Finding.MEMBERSHIP_SUSPENDED
    with desk.database.write() as connection:
        members.save(connection, members.parse_row(0, {"member_id": "bob", "status": "active"}))
    assert desk.ask(code, "s2").finding is Finding.OK


def test_a_code_is_nobodys_id(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member's id that looks like a code is a member's id, and is not handed out."""
    desk.terminal.members({"member_id": "22222222", "plan": "free"})
    drawn = iter("2" * LENGTH + "3" * LENGTH)
    monkeypatch.setattr(enrolment.secrets, "choice", lambda _: next(drawn))
    assert desk.code() == "33333333"
    assert desk.ask("22222222").member_id == "22222222"


def test_guessing_ends(desk: Desk) -> None:
    """After so many misses the studio is told of nobody, until they are some minutes old; others notice nothing."""
    code = desk.code()
    for number in range(MAX_MISSES):
        assert desk.ask(f"guess-{number}").finding is Finding.UNKNOWN_MEMBER
    later = NOON + MISSES_WITHIN - MINUTE
    for text in ("ada", code, "guess"):
        assert desk.ask(text, at=later)[1:] == (Finding.THROTTLED, None, {})
    assert desk.ask("ada", "s2", later).finding is Finding.OK
    assert desk.ask("ada", at=NOON + MISSES_WITHIN).finding is Finding.OK


def test_misses_are_counted_exactly(desk: Desk) -> None:
    """However many servers a studio asks at once."""
    found: Counter[Finding] = Counter()
    started = threading.Barrier(4)

    def guess() -> None:
        own = Validations(Database.at(desk.terminal.database_url, door=True), None, 400)
        asked = [(question(f"guess-{number}"), clock.monotonic() + LONG_S) for number in range(10)]
        started.wait()
        replies: list[Reply] = []
        for one in asked:
            replies += own.process([one])
            while own.waiting:
                clock.sleep(0.001)
                replies += own.process([])
        found.update(reply.finding for reply in replies)
        own.close()

    threads = [threading.Thread(target=guess) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {Finding.UNKNOWN_MEMBER: MAX_MISSES, Finding.THROTTLED: 40 - MAX_MISSES}


def test_a_paused_studio(desk: Desk) -> None:
    """Hears of nobody, and the new state is noticed at once."""
    assert desk.ask("ada").finding is Finding.OK
    with desk.database.write() as connection:
        studios.change(connection, "s1", active=False)
    assert desk.ask("ada")[1:] == (Finding.STUDIO_INACTIVE, None, {})


def test_somebody_elses_lock(desk: Desk) -> None:
    """Whoever is being decided on or changed is waited for, without holding anybody else up, and not for ever."""
    patient = question("ada"), clock.monotonic() + LONG_S
    hurried = question("ada"), clock.monotonic() + 0.2
    with locked(desk.terminal.database, "ada"):
        assert desk.validations.process([patient, hurried]) == [] and desk.validations.waiting
        clock.sleep(0.25)
        assert desk.validations.process([]) == [Reply(hurried[0].id, Finding.UNAVAILABLE)]
    assert desk.validations.process([])[0][1:] == (Finding.OK, "ada", ADA)
    assert sorted(desk.record()) == [("allowed", "ok", "ada"), ("undecided", "unavailable", None)]


def test_a_fault_spoils_only_its_own_question(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others of its transaction are answered; it is on record as unanswered."""
    find = enrolment.find

    def faulty(connection: object, text: str) -> object:
        if text == "bad":
            raise ValueError("a fault")
        return find(connection, text)  # type: ignore[arg-type]

    monkeypatch.setattr(validations.enrolment, "find", faulty)
    asked = [(question(text), clock.monotonic() + LONG_S) for text in ("ada", "bad", "bob")]
    with structlog.testing.capture_logs() as logged:
        replies = desk.validations.process(asked)
    assert [reply.finding for reply in replies] == [Finding.OK, Finding.UNAVAILABLE, Finding.OK]
    assert [line["event"] for line in logged] == ["a member validation could not be answered"]
    desk.validations.flush()
    assert Counter(reason for _, reason, _ in desk.record()) == {"ok": 2, "unavailable": 1}


def test_a_person_is_forgotten(desk: Desk) -> None:
    """Their codes are gone, and what they were asked about stays under the pseudonym."""
    code, unused = desk.code(), desk.code()
    replies = [desk.ask(code), desk.ask("ada")]
    ledger = Ledger(desk.database, None)
    ledger.process([], [Answer(reply.id, 200, 4.2, False) for reply in replies])
    ledger.close()
    desk.validations.close()
    pseudonym = forget(desk.database, "cli:anna", "ada")
    assert [member for *_, member in desk.record()] == [pseudonym, pseudonym]
    kept = str(everything(desk.database))
    assert "'ada'" not in kept and "Ada" not in kept
    assert desk.ask(unused).finding is Finding.UNKNOWN_MEMBER


def test_the_command(desk: Desk) -> None:
    """Prints the code; who handed it out, and until when it is good, is in the audit trail."""
    (issued,) = desk.terminal.json("member", "code", "ada", "--valid", "2h")
    assert desk.ask(issued["code"], at=clock.now()).member_id == "ada"
    said = desk.terminal.run("member", "code", "bob").out.strip()
    assert desk.ask(said, at=clock.now()).member_id == "bob"
    (change,) = desk.terminal.json("changes", "--subject", "ada", "--limit", "1")
    assert (change["action"], change["after"]) == ("code.issued", {"expires_at": issued["expires_at"]})
    for span in ("0m", "25h", "soon", "-1h"):
        assert "valid" in desk.terminal.complaint("member", "code", "ada", "--valid", span)
    desk.terminal.run("member", "code", "nobody", status=1)
