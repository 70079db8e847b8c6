"""The auditor at the desks: a made-up record that is right agrees, and whatever is changed about it is found."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from guestgate.sandbox.calls import Enrolment, Log
from guestgate.sandbox.desks import MOST_MISSES, Desks
from guestgate.sandbox.town import Member, Town, TownSpec

# Nothing here asks a database.
pytestmark = pytest.mark.embedded

TOWN = Town(TownSpec(studios=5, members=200, day="2026-03-01"))
HERE = TOWN.studios[0]
PAUSED = next(studio for studio in TOWN.studios if studio.paused)


def is_welcome(member: Member) -> bool:
    """Whether a member may register at any studio."""
    open_ = TOWN.plans[member.plan].get("studio_tags") is None
    return open_ and member.status == "active" and member.valid_until is None and member.valid_from < "2026-03-01"


WELCOME = next(member for member in TOWN.members if is_welcome(member))
SUSPENDED = next(
    member
    for member in TOWN.members
    if member.status == "suspended" and member.valid_from < "2026-03-01" and member.valid_until is None
)


class Story:
    """Questions and what is on record of them, a second apart."""

    def __init__(self) -> None:
        self.log = Log(TOWN.spec)
        self.rows: list[dict[str, Any]] = []
        self.now = datetime(2026, 3, 3, 10, tzinfo=UTC)

    def ask(self, text: str, reason: str | None, *, status: int | None = -1, **more: Any) -> None:
        """Somebody is asked after; what is on record of it has this reason, None: nothing is."""
        self.now += timedelta(seconds=1)
        studio, member = more.get("studio", HERE.id), more.get("member", text)
        status = (200 if reason == "ok" else 404) if status == -1 else status
        expires_at = more.get("expires_at")
        told = more.get("told", member if status == 200 else None)
        asked = Enrolment(
            *(len(self.log.enrolments), self.now, self.now + timedelta(milliseconds=9), studio),
            *(member if member in TOWN.by_id else None, text, expires_at, more.get("cut", False), status, told),
        )
        self.log.enrolments.append(asked)
        if reason is not None:
            known = {"studio": studio, "member": member if member in TOWN.by_id else None}
            self.record(reason, **known | more.get("row", {}))
            self.rows[-1].setdefault("http_status", status)
            self.rows[-1].setdefault("undelivered", status is None)
            self.rows[-1].setdefault("code", None if expires_at is None else "fingerprint")

    def record(self, reason: str, **fields: Any) -> None:
        """A row of the record."""
        at = self.now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.rows.append({"id": f"v-{len(self.rows)}", "received_at": at, "reason": reason, **fields})

    def problems(self) -> list[str]:
        """What the auditor finds."""
        return list(Desks(TOWN, self.log, self.rows).problems())


def honest() -> Story:
    """One of each kind."""
    story = Story()
    soon = story.now + timedelta(minutes=15)
    story.ask(WELCOME.id, "ok")
    story.ask("ABCD2345", "ok", member=WELCOME.id, expires_at=soon)
    story.ask("ABCD2346", "code_expired", member=WELCOME.id, expires_at=story.now)
    story.ask(SUSPENDED.id, "membership_suspended")
    story.ask("nobody", "unknown_member")
    story.ask(WELCOME.id, "studio_inactive", studio=PAUSED.id, row={"member": None})
    story.ask(WELCOME.id, "unavailable", status=503, row={"member": None, "http_status": None, "undelivered": None})
    story.ask(WELCOME.id, "ok", status=503, told=None, row={"undelivered": True})
    story.ask(WELCOME.id, "ok", status=None)
    story.ask(WELCOME.id, None, status=None)
    story.ask(WELCOME.id, None, status=408)
    story.now += timedelta(seconds=5)  # nothing that was given up before comes as late as this
    story.ask(WELCOME.id, None, status=None, cut=True)
    return story


def test_an_honest_record_agrees() -> None:
    """Whoever asked, and whatever became of the answer."""
    assert honest().problems() == []


def alter(number: int, **fields: Any) -> Callable[[Story], None]:
    """Change a row of the record."""
    return lambda story: story.rows[number].update(fields)


LIES: dict[str, Callable[[Story], Any]] = {
    "let in against the rules": alter(3, reason="ok"),
    "turned away against them": alter(0, reason="membership_expired"),
    "another reason": alter(3, reason="membership_cancelled"),
    "another member": alter(0, member=SUSPENDED.id),
    "a member of nobody's": alter(4, member=WELCOME.id),
    "by no code": alter(1, code=None),
    "by a code": alter(0, code="fingerprint"),
    "the code was good": alter(2, reason="ok"),
    "the code was over": alter(1, reason="code_expired"),
    "throttled for nothing": alter(4, reason="throttled"),
    "another status": alter(0, http_status=404),
    "not delivered": alter(0, undelivered=True),
    "delivered after all": alter(7, undelivered=False),
    "another studio": alter(0, studio=PAUSED.id),
    "another time": alter(0, received_at="2026-03-03T10:09:00.000Z"),
    "a paused studio": alter(5, reason="ok", member=WELCOME.id),
    "missing": lambda story: story.rows.pop(0),
    "doubled": lambda story: story.rows.insert(1, dict(story.rows[0])),
    "another id was told": lambda story: setattr(story.log.enrolments[0], "told", SUSPENDED.id),
    "of a question that was cut": lambda story: story.record("ok", studio=HERE.id, member=WELCOME.id, code=None),
    "of one that came too late": lambda story: setattr(story.log.enrolments[8], "status", 408),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_changed_record_is_found(lie: str) -> None:
    """Whichever of its fields it is, and the question is named."""
    story = honest()
    LIES[lie](story)
    assert story.problems() != []


def test_guessing_is_throttled_by_what_is_on_record() -> None:
    """After so many misses nobody is told anything, until ten minutes later; and not before."""
    story = Story()
    for number in range(MOST_MISSES):
        story.ask(f"nobody-{number}", "unknown_member")
    story.ask(WELCOME.id, "throttled", row={"member": None})
    assert story.problems() == []
    story.rows[-1].update(reason="ok", member=WELCOME.id)
    assert story.problems() != []
    story.rows[-1].update(reason="throttled", member=None)
    story.now += timedelta(minutes=10)
    story.ask(WELCOME.id, "ok")
    assert story.problems() == []
    story.rows.pop(0)  # one miss less, and nobody would have been throttled
    assert any("says throttled" in problem for problem in story.problems())


def test_a_code_that_somebody_typed_by_hand() -> None:
    """Whose it was is not known from outside: whoever it let in has to be somebody who may."""
    story = Story()
    for member, told in ((WELCOME, "ok"), (SUSPENDED, "membership_suspended"), (WELCOME, "code_used")):
        row = {"member": member.id, "code": "fingerprint"}
        story.ask("abcd-2345", told, told=member.id if told == "ok" else None, row=row)
    assert story.problems() == []
    story.rows[1]["reason"] = "ok"
    assert story.problems() != []
