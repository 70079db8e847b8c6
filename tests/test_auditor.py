"""The auditor: it agrees with a real run, and finds whatever is changed about it."""

from __future__ import annotations

import ast
import copy
import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from gate import Gate
from test_purity import PACKAGE, modules_imported
from towns import log_of, recorded, run, validated

from guestgate import model
from guestgate.decide import decide
from guestgate.plans_file import PlanDocument, document_of, plan_of
from guestgate.sandbox import setup
from guestgate.sandbox.arrivals import Load
from guestgate.sandbox.auditor import NO_ENTRY, TAKEN_BACK_WITHIN, Audit, Findings
from guestgate.sandbox.calls import Call, Log
from guestgate.sandbox.phones import Phones
from guestgate.sandbox.platform import Endpoints
from guestgate.sandbox.rulebook import Entry, Rulebook, local_date
from guestgate.sandbox.town import Member, Studio, Town, TownSpec

FAULTS = frozenset({"cut", "cancel"})
Rows = list[dict[str, Any]]


class Run(NamedTuple):
    """A real run: the sandbox's log, and guestgate's record of it."""

    town: Town
    log: Log
    decisions: Rows
    visits: Rows
    validations: Rows

    def problems(self) -> list[str]:
        """What the auditor finds."""
        record = self.decisions, self.visits, self.validations
        return Audit(self.town, self.log, *record, "authorized").run().problems


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Some seconds of a small town, with calls that are cut and given up, against a real server."""
    gate = Gate(tmp_path_factory.mktemp("audited"))
    town = Town(TownSpec(seed=2, studios=5, members=150, day=datetime.now(UTC).date().isoformat()))
    setup.put(town, gate.folder / "town", gate.database)
    gate.start()
    try:
        log = gate.folder / "run.jsonl"
        endpoints = Endpoints(gate.url, gate.url.replace("checkin", "member"), ca=gate.cert)
        codes = Phones(gate.database, "somebody's phone").code
        run(town, endpoints, Load(120, 6, seed=4, faults=FAULTS), log, codes)
        yield Run(town, log_of(log), *recorded(gate), validated(gate))
    finally:
        gate.close()


def test_a_real_run_agrees(real: Run) -> None:
    """Every answer and every visit, also at the desks; nearly every reason was there to be checked."""
    assert real.problems() == []
    reasons = {row["reason"] for row in real.decisions}
    assert {"ok", "reentry", "limit_reached", "unknown_member", "identity_conflict"} <= reasons and len(reasons) >= 9
    assert len(real.decisions) > 500 and any(not call.answered for call in real.log.calls)
    told = {(row["reason"], row["code"] is not None) for row in real.validations}
    assert {("ok", True), ("ok", False)} <= told and any(reason.startswith("membership") for reason, _ in told)


def first(rows: Rows, **wanted: Any) -> dict[str, Any]:
    """The first row like that."""
    return next(row for row in rows if all(row[name] == value for name, value in wanted.items()))


def later(instant: str, **by: float) -> str:
    """An instant moved."""
    moved = datetime.fromisoformat(instant) + timedelta(**by)
    return moved.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def change(**values: Any) -> Callable[[dict[str, Any]], None]:
    """Set fields of a row; a function is applied to what was there."""

    def apply(row: dict[str, Any]) -> None:
        for name, value in values.items():
            row[name] = value(row[name]) if callable(value) else value

    return apply


USE = {"max": 1, "per": "day", "scope": "network", "used": 1}
DECISION_LIES = {
    "another reason": ({"reason": "ok"}, change(reason="limit_reached", decision="denied")),
    "let in against the rules": ({"reason": "membership_expired"}, change(decision="allowed", reason="ok")),
    "another count": ({"reason": "limit_reached"}, change(limit=lambda limit: {**limit, "used": limit["used"] + 1})),
    "another limit": ({"reason": "limit_reached"}, change(limit=lambda limit: {**limit, "max": 99})),
    "no limit": ({"reason": "limit_reached"}, change(limit=None)),
    "a limit for nothing": (
        {"reason": "outside_hours"},
        change(limit=USE),
    ),
    "back too late": ({"reason": "outside_hours"}, change(next_allowed_at=lambda at: later(at, seconds=1))),
    "back too early": ({"reason": "outside_hours"}, change(next_allowed_at=lambda at: later(at, seconds=-1))),
    "never back": ({"reason": "outside_hours"}, change(next_allowed_at=None)),
    "back in the past": ({"reason": "outside_hours"}, change(next_allowed_at="2020-01-01T00:00:00.000Z")),
    "another time": ({"reason": "ok"}, change(received_at=lambda at: later(at, seconds=5))),
    "another member": ({"reason": "ok"}, change(member="m-100149")),
    "another studio": ({"reason": "ok"}, change(studio="nowhere")),
    "another plan": ({"reason": "limit_reached"}, change(plan="none")),
    "a plan of nobody": ({"reason": "unknown_member"}, change(plan="classic")),
    "another customer": ({"reason": "ok"}, change(customer_id=1)),
    "leans on nothing": ({"reason": "reentry"}, change(visit=None)),
    "leans on another": ({"reason": "reentry"}, change(visit="00000000-0000-7000-8000-000000000000")),
    "a denial with a visit": ({"reason": "unknown_member"}, change(visit="00000000-0000-7000-8000-000000000000")),
    "undecided": ({"reason": "ok"}, change(reason="unavailable", decision="undecided", visit=None)),
    "not delivered": ({"reason": "unknown_member"}, change(undelivered=True)),
    "nobody knows": ({"reason": "unknown_member"}, change(undelivered=None)),
    "another status": ({"reason": "unknown_member"}, change(http_status=200)),
}
VISIT_LIES = {
    "another date": change(local_date="2020-01-01"),
    "another time": change(at=lambda at: later(at, seconds=1)),
    "another member": change(member="m-100149"),
    "another studio": change(studio="nowhere"),
    "another plan": change(plan="none"),
    "taken back": change(state="reversed", reversed_why="undelivered", payable=False),
    "taken back by hand": change(state="reversed", reversed_why="a mistake", payable=False),
    "in no state": change(state="lost"),
    "payable or not": change(payable=lambda payable: not payable),
}


def lied(real: Run) -> Run:
    """A copy whose record may be changed."""
    return Run(real.town, *(copy.deepcopy(part) for part in real[1:]))


def answered(run: Run, **wanted: Any) -> dict[str, Any]:
    """A decision like that whose answer the door has seen; who came outside the hours may come back some time."""
    known = {call.decision_id for call in run.log.calls}
    told = [row for row in run.decisions if row["reason"] != "outside_hours" or row["next_allowed_at"] is not None]
    return first([row for row in told if row["id"] in known], **wanted)


@pytest.mark.parametrize("lie", DECISION_LIES)
def test_a_changed_decision_is_found(lie: str, real: Run) -> None:
    """Whichever of its fields it is."""
    found = lied(real)
    wanted, apply = DECISION_LIES[lie]
    apply(answered(found, **wanted))
    assert found.problems() != []


@pytest.mark.parametrize("lie", VISIT_LIES)
def test_a_changed_visit_is_found(lie: str, real: Run) -> None:
    """Whichever of its fields it is."""
    found = lied(real)
    visit = answered(found, reason="ok")["id"]
    VISIT_LIES[lie](first(found.visits, id=visit))
    assert any(visit in problem for problem in found.problems())


def test_a_visit_that_is_confirmed_though_nobody_came_in_is_found(real: Run) -> None:
    """By the sandbox's own word, whatever the platform's webhooks say."""
    found = lied(real)
    visit = next(visit for visit in found.visits if visit["id"] in found.log.came_in_on)
    visit["state"] = "confirmed"
    assert found.problems() == []
    found.log.came_in_on.remove(visit["id"])
    assert any("is confirmed, but should be authorized" in problem for problem in found.problems())


def test_what_is_missing_or_too_much_is_found(real: Run) -> None:
    """A decision or a visit that is gone, doubled, or that nobody asked for."""
    for rows in ("decisions", "visits"):
        for alter in (lambda rows, one: rows.remove(one), lambda rows, one: rows.append({**one, "id": "another"})):
            found = lied(real)
            visit = answered(found, reason="ok")["id"]
            alter(getattr(found, rows), first(getattr(found, rows), id=visit))
            assert found.problems() != [], rows


def test_another_order_is_found(real: Run) -> None:
    """Whoever came second cannot have been let in first: a limit is reached only after a visit."""
    found = lied(real)
    denied = answered(found, reason="limit_reached")
    found.decisions.remove(denied)
    found.decisions.insert(0, denied)
    assert found.problems() != []


@pytest.mark.parametrize("lie", ["status", "reason", "decision", "decision_id"])
def test_a_door_that_saw_something_else_is_found(lie: str, real: Run) -> None:
    """The log's side of it."""
    found = lied(real)
    call = next(call for call in found.log.calls if call.reason == "ok")
    setattr(call, lie, {"status": 403, "decision_id": "another"}.get(lie, "denied"))
    assert found.problems() != []


def test_a_cut_call_that_left_a_decision_is_found(real: Run) -> None:
    """Its body never was whole, so nothing of it may be on record."""
    found = lied(real)
    call = next(call for call in found.log.calls if call.reason == "unknown_member")
    call.cut, call.status, call.decision, call.reason, call.decision_id = True, None, None, None, None
    assert any("answers no call" in problem for problem in found.problems())


# What may be either way, on a record that is made up


class Story:
    """Calls and decisions of one member, a second apart unless told otherwise."""

    def __init__(self) -> None:
        self.town = Town(TownSpec(studios=3, members=60, day="2026-03-01"))
        self.member = next(m for m in self.town.members if m.plan == "weekly" and open_to(m))
        self.studio = self.town.studios[0]
        self.log = Log(self.town.spec)
        self.decisions: Rows = []
        self.visits: Rows = []
        self.now = datetime(2026, 3, 3, 10, tzinfo=UTC)

    def call(self, *, ended: float = 0.01, **seen: Any) -> Call:
        """A call now."""
        facts = {"status": None, "decision": None, "reason": None, "decision_id": None, "cut": False} | seen
        asked = (self.studio.id, self.member.id, self.member.customers.get(self.studio.tenant, 5))
        number = len(self.log.calls)
        call = Call(number, self.now, self.now + timedelta(seconds=ended), *asked, **facts)
        self.log.calls.append(call)
        return call

    def tap(
        self, reason: str, *, delivered: bool = True, reversed_: bool = False, after: float = 1, **also: Any
    ) -> str:
        """A call and its decision; one that was not delivered was given up by the caller."""
        self.now += timedelta(seconds=after)
        id_ = f"d-{len(self.decisions)}"
        outcome = "allowed" if reason in ("ok", "reentry") else "denied"
        status = 200 if outcome == "allowed" else 403
        seen = {"status": status, "decision": outcome, "reason": reason, "decision_id": id_} if delivered else {}
        call = self.call(**seen)
        at = self.now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        row = {"id": id_, "received_at": at, "studio": call.studio, "member": self.member.id, "decision": outcome}
        row |= {"aggregator_id": call.aggregator_id, "customer_id": call.customer_id, "reason": reason, "limit": None}
        row |= {"next_allowed_at": None, "visit": id_ if reason == "ok" else None, "undelivered": not delivered}
        row |= {"http_status": status if delivered else None, "plan": self.member.plan}
        self.decisions.append(row | also)
        if reason == "ok":
            date_ = local_date(self.now, self.studio).isoformat()
            visit = {"id": id_, "member": self.member.id, "studio": call.studio, "at": at, "local_date": date_}
            visit |= {
                "state": "reversed" if reversed_ else "authorized",
                "source": "checkin",
                "plan": self.member.plan,
            }
            first_ = not any(visit["payable"] for visit in self.visits)
            self.visits.append(
                visit | {"reversed_why": "undelivered" if reversed_ else None, "payable": first_ and not reversed_}
            )
        return id_

    def denied(self, used: int = 2, **options: Any) -> None:
        """Two a day in this studio are used up; tomorrow begins at eleven at night, in UTC."""
        limit = {"max": 2, "per": "day", "scope": "studio", "used": used}
        self.tap("limit_reached", limit=limit, next_allowed_at="2026-03-03T23:00:00.000Z", **options)

    def problems(self, requires: str = "authorized", *, reconciled: bool = False) -> list[str]:
        """What the auditor finds."""
        return self.audit(requires, reconciled=reconciled).problems

    def audit(self, requires: str, *, reconciled: bool) -> Findings:
        """All that it finds."""
        return Audit(self.town, self.log, self.decisions, self.visits, [], requires, reconciled=reconciled).run()


def open_to(member: Member) -> bool:
    """Whether nothing but limits stands in a member's way."""
    return member.status == "active" and member.valid_until is None and member.valid_from < "2026-03-01"


def test_an_honest_story_agrees() -> None:
    """Two visits and a denial."""
    story = Story()
    story.tap("ok")
    story.tap("ok")
    story.denied()
    assert story.problems() == []


def test_a_call_that_was_given_up_may_have_been_decided_or_not() -> None:
    """Both are right; one decision belongs to one such call only."""
    for decided in (False, True):
        story = Story()
        story.tap("ok")
        if decided:
            story.tap("ok", delivered=False, reversed_=True)
        else:
            story.call()
        assert story.problems() == []
    story.decisions.append({**story.decisions[-1], "id": "d-9", "visit": "d-9"})
    assert any("answers no call" in problem for problem in story.problems())


def test_a_call_that_came_too_late_to_be_read_left_nothing() -> None:
    """408 is an answer without a decision; one on record for it answers no call."""
    story = Story()
    story.tap("ok")
    story.call(status=408)
    assert story.problems() == []
    story.tap("ok", delivered=False, reversed_=True)
    story.log.calls[-1].status = 408
    assert any("answers no call" in problem for problem in story.problems())


@pytest.mark.parametrize("counted", [True, False])
def test_a_visit_that_is_being_taken_back_may_count_or_not(counted: bool) -> None:
    """Shortly after the call was given up nobody outside knows."""
    story = Story()
    story.tap("ok")
    story.tap("ok", delivered=False, reversed_=True)
    story.denied() if counted else story.tap("ok")
    assert story.problems() == []


def test_a_visit_that_was_taken_back_does_not_come_back() -> None:
    """Once a decision shows that it is gone, later ones may not count it: only two of three can have been let in."""
    story = Story()
    story.tap("ok")
    story.tap("ok", delivered=False, reversed_=True)
    story.tap("ok")
    story.denied(used=3)
    assert story.problems() != []
    story = Story()
    story.tap("ok")
    story.tap("ok", delivered=False, reversed_=True)
    story.tap("ok")
    story.denied(used=2)
    assert story.problems() == []


def test_a_visit_is_taken_back_in_time_and_not_before_its_call_ended() -> None:
    """Long after it may not count any more, and before it has to."""
    story = Story()
    story.tap("ok")
    story.tap("ok", delivered=False, reversed_=True)
    story.denied(after=TAKEN_BACK_WITHIN.total_seconds() + 1)
    assert any("should say" in problem for problem in story.problems())
    story = Story()
    story.tap("ok")
    story.tap("ok", delivered=False, reversed_=True)
    story.log.calls[-1].ended += timedelta(seconds=5)
    story.tap("ok")
    assert any("should say" in problem for problem in story.problems())


def test_what_nobody_received_counts_no_visit_and_what_somebody_received_does() -> None:
    """The fate of the visit follows from the fates of all answers that leaned on it."""
    story = Story()
    story.tap("ok", delivered=False)
    assert any("is authorized, but should be reversed" in problem for problem in story.problems())
    story = Story()
    story.tap("ok", reversed_=True)
    assert any("is reversed (undelivered), but should be authorized" in problem for problem in story.problems())


def test_a_clock_that_was_set_is_believed_as_far_as_it_was() -> None:
    """A decision may bear the old or the new time for a moment, and afterwards only the new one."""
    story = Story()
    ahead = timedelta(seconds=1000)
    story.log.clocks.append((story.now, ahead))
    story.tap("ok", after=1)
    assert story.problems() == []
    story.tap("ok", after=60)
    assert any("not under way" in problem for problem in story.problems())


# Its rules, against those that decide


def test_the_rulebook_says_what_decide_says() -> None:
    """Two implementations that share nothing agree on thousands of check-ins all over two years."""
    dice = random.Random(11)
    town = Town(TownSpec(seed=11, studios=12, members=300))
    rules = Rulebook(town)
    plans = {
        id_: plan_of(id_, 1, document_of(PlanDocument.model_validate_json(json.dumps(content))))
        for id_, content in town.plans.items()
    }
    reasons = set()
    for number in range(4000):
        studio, member = dice.choice(town.studios), dice.choice(town.members)
        at = datetime(2025, 6, 1, tzinfo=UTC) + timedelta(minutes=dice.randrange(2 * 365 * 1440))
        entries = [random_entry(town, at, number, dice) for number in range(dice.choice((0, 1, 2, 4, 11)))]
        customer = dice.choice([*member.customers.values(), dice.choice(list(town.linked))])
        verdict = rules.verdict(at, studio, member, customer, entries)
        facts = model.Facts(
            studio_of(studio), member_of(member, plans), town.linked.get(customer), tuple(map(visit_of, entries))
        )
        decision = decide(model.CheckIn(str(number), at, studio.id, member.id, customer), facts)
        told = f"{number}: {member} at {studio.id}, {at}, {entries}"
        assert verdict.reason == decision.reason, told
        if decision.reason == "limit_reached":
            assert decision.limit is not None and tuple(decision.limit) in verdict.limits, told
        if decision.reason == "reentry":
            assert decision.visit_id in verdict.leans_on, told
        reasons.add(decision.reason)
    assert set(model.Reason) - reasons <= {"unknown_member", "unavailable"}


def random_entry(town: Town, at: datetime, number: int, dice: random.Random) -> Entry:
    """A visit not long before, or a little after."""
    studio = dice.choice(town.studios)
    when = at - timedelta(minutes=dice.choice((-1, 0, 1, 5, 9, 30, 59, 60, dice.randrange(1440 * 40))))
    return Entry(f"v-{number}", studio, when, local_date(when, studio))


def studio_of(studio: Studio) -> model.Studio:
    """The same studio as guestgate's value."""
    tags = frozenset(studio.tags)
    return model.Studio(studio.id, studio.name, studio.zone, tags, not studio.paused, studio.test)


def member_of(member: Member, plans: dict[str, model.Plan]) -> model.Member:
    """The same member as guestgate's value."""
    dates = [
        date.fromisoformat(text) if text else None
        for text in (member.valid_from, member.valid_until, member.cycle_anchor)
    ]
    return model.Member(member.id, plans[member.plan], model.Status(member.status), *dates)


def visit_of(entry: Entry) -> model.Visit:
    """The same visit as guestgate's value."""
    return model.Visit(
        entry.id, entry.studio.id, entry.at, entry.local_date, frozenset(entry.studio.tags), entry.studio.test
    )


def test_the_auditor_shares_no_code_with_what_decides() -> None:
    """Neither it nor anything it imports: no rules, no calendar, no facts, not even their values."""
    seen: set[str] = set()
    pending = ["guestgate.sandbox.auditor"]
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        path = PACKAGE.parent / Path(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not file.exists():  # a name in a module, not a module
            continue
        found = modules_imported(ast.parse(file.read_text("utf-8")), "guestgate")
        pending += [name for name in found if name.startswith("guestgate.")]
    assert "guestgate.sandbox.rulebook" in seen
    shared = {f"guestgate.{name}" for name in ("decide", "periods", "facts", "model", "ledger", "explain", "words")}
    assert seen.isdisjoint(shared)


# What a visit has to be once everything was held against the platform's history


class Evening(Story):
    """One visit, and what became of its answer."""

    def __init__(self, *, came_in: bool, left: bool | None, state: str, why: str | None = None) -> None:
        super().__init__()
        self.tap("ok")
        (visit,), (decision,) = self.visits, self.decisions
        decision["undelivered"] = None if left is None else not left
        visit |= {"state": state, "reversed_why": why}
        if came_in:
            self.log.came_in_on.add(visit["id"])
        if left is None:
            self.log.kills.append(self.now + timedelta(seconds=1))
        elif not left:
            call = self.log.calls[-1]
            call.status = call.decision = call.reason = call.decision_id = decision["http_status"] = None
        self.visit = visit

    def agrees(self, *, reconciled: bool = True) -> bool:
        """Whether the state is right, and what pays is what should."""
        for requires, states in (("confirmed", {"confirmed"}), ("authorized", {"confirmed", "authorized"})):
            self.visit["payable"] = self.visit["state"] in states
            if self.problems(requires, reconciled=reconciled):
                return False
        return True


@pytest.mark.parametrize(
    ("came_in", "left", "state", "why"),
    [
        (True, True, "confirmed", None),
        (True, None, "confirmed", None),
        (False, True, "authorized", None),
        (False, None, "reversed", NO_ENTRY),
        (False, False, "reversed", "undelivered"),
    ],
)
def test_what_a_visit_is_in_the_end(came_in: bool, left: bool | None, state: str, why: str | None) -> None:
    """Exactly that, by who came in and how the answer left; before that an authorized one may be undecided."""
    states = [("confirmed", None), ("authorized", None), ("reversed", NO_ENTRY), ("reversed", "undelivered")]
    right = [one for one in states if Evening(came_in=came_in, left=left, state=one[0], why=one[1]).agrees()]
    # Of one whose answer did not leave it is all the same by what it was taken back.
    assert right == [one for one in states if one == (state, why) or (left is False and one[0] == "reversed")]
    early = Evening(came_in=came_in, left=left, state="authorized").agrees(reconciled=False)
    assert early == (left is not False)


def test_what_pays_is_counted_by_month_and_studio() -> None:
    """By the auditor's own states."""
    story = Evening(came_in=True, left=True, state="confirmed")
    studio = story.studio.id
    assert story.audit("confirmed", reconciled=True).payable == {"2026-03": {studio: 1}}
    story.log.came_in_on.clear()
    assert story.audit("confirmed", reconciled=True).payable == {}
    assert story.audit("authorized", reconciled=True).payable == {"2026-03": {studio: 1}}


def test_who_was_killed_may_not_know_how_an_answer_left() -> None:
    """Just before it; otherwise it has to."""
    story = Evening(came_in=True, left=None, state="confirmed")
    assert story.agrees()
    story.log.kills[0] += timedelta(seconds=5)
    assert not story.agrees()


@pytest.mark.parametrize("after", [0.005, 1])
@pytest.mark.parametrize("confirmed", [(0,), (1,), (0, 1), ()])
def test_of_two_taps_at_once_an_entry_may_be_either(after: float, confirmed: tuple[int, ...]) -> None:
    """One of them is confirmed; where the first had been answered before the second, it has to be that one."""
    story = Story()
    first = story.tap("ok")
    story.tap("ok", after=after)
    story.log.came_in_on.add(first)
    for index in confirmed:
        story.visits[index]["state"] = "confirmed"
    right = len(confirmed) == 1 and (after < 1 or confirmed == (0,))
    assert (story.problems("authorized", reconciled=True) == []) == right
    early = confirmed == () or right
    assert (story.problems("authorized") == []) == early
