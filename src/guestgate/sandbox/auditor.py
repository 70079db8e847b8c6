"""The auditor: was every answer right, and is every visit what it should be?

From the sandbox's own log and the town's plans it works out what should have been answered, and compares
that with guestgate's record and with what the doors saw. Check-ins that overlap may be decided in either order,
so it goes through them in the order of the record.

A call that was cut off while it was sent must have left nothing. A call that was given up, or came to no answer in
time, may have been decided or not, and its visit may have been taken back: what is not known from outside is
when a visit was taken back. So the auditor keeps, for each member, every set of visits that may have been taken back
by now (a world), and a decision is right if it is right in one of them; worlds that do not explain it are dropped.

Once everything has been held against the platform's history, the state of each visit follows from what happened at
the door: the sandbox knows on which answer somebody came in, and does not have to find that out by times. Of two
visits whose calls were under way at once (a second tap) an entry cannot tell which of them it was; one is confirmed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

from guestgate.sandbox.calls import Call, Log, Matching
from guestgate.sandbox.desks import Desks
from guestgate.sandbox.rulebook import Entry, Rulebook, Verdict, local_date
from guestgate.sandbox.town import Member, Studio, Town

# A visit whose answer did not arrive is taken back at once, and surely after this long.
TAKEN_BACK_WITHIN = timedelta(seconds=10)
# The endpoint may know of the end of a call a little before the caller's own clock says so.
CLOCKS_DIFFER = timedelta(milliseconds=100)
STATUS = {200: "allowed", 403: "denied", 404: "denied"}
UNDELIVERED, NO_ENTRY = "undelivered", "no entry in the platform's history"
UNDECIDED = 503
# Close enough together that no opening of a day is missed, and beyond the end of each period.
LOOK_AHEAD = [
    timedelta(minutes=20),
    *(timedelta(hours=hours) for hours in (*range(1, 25, 2), 24 * 8, 24 * 32, 24 * 64)),
]
# Each doubles the number of worlds.
MAX_DOUBTFUL = 10
JUST_BEFORE = timedelta(milliseconds=1)
GivenBack = frozenset[str]
NOTHING: GivenBack = frozenset()


@dataclass
class Findings:
    """What the audit covered and found; empty `problems` mean that everything agrees."""

    decisions: int = 0
    visits: int = 0
    calls: int = 0
    answered: int = 0
    taken_back: int = 0
    enrolments: int = 0
    validations: int = 0
    came_in: int = 0
    # By month and studio, how many visits should be paid for.
    payable: dict[str, dict[str, int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For scripts."""
        return {**vars(self), "agrees": not self.problems}


@dataclass
class _Person:
    """What is known of one member so far: entries, those that may be taken back, and the possible worlds."""

    entries: list[Entry] = field(default_factory=list)
    worlds: set[GivenBack] = field(default_factory=lambda: {NOTHING})
    # Entry id -> from when on, by the sandbox's clock, it may and it must have been taken back.
    doubtful: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)

    def pass_time(self, call: Call) -> None:
        """The worlds there may be when a call is decided: doubtful entries may have gone, overdue ones have."""
        may = [entry for entry, (first, _) in self.doubtful.items() if first <= call.ended + CLOCKS_DIFFER]
        must = frozenset(entry for entry, (_, last) in self.doubtful.items() if last < call.began)
        self.worlds = {
            world | must | frozenset(more)
            for world in self.worlds
            for count in range(len(may) + 1)
            for more in combinations(may, count)
        }
        for entry in must:  # gone in every world, so it need not be carried along
            del self.doubtful[entry]
        if must:
            self.entries = [entry for entry in self.entries if entry.id not in must]
            self.worlds = {world - must for world in self.worlds}


class Audit:
    """One audit. `decisions`, `visits` and `validations` are guestgate's record, in its order, as users see it."""

    def __init__(
        self,
        town: Town,
        log: Log,
        decisions: list[dict[str, Any]],
        visits: list[dict[str, Any]],
        validations: list[dict[str, Any]],
        requires: str,
        *,
        reconciled: bool = False,
    ) -> None:
        """`requires` is what a visit needs to be paid for, guestgate's setting ``payable_requires``.

        `reconciled`: everything has been held against the history of every studio.
        """
        self._town = town
        self._rules = Rulebook(town)
        self._log = log
        self._decisions = decisions
        self._visits = {visit["id"]: visit for visit in visits}
        self._requires = requires
        self._reconciled = reconciled
        self._matching = Matching(log, decisions)
        self._desks = Desks(town, log, validations)
        self._leaning: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for decision in decisions:
            if decision["visit"] is not None:
                self._leaning[decision["visit"]].append(decision)
        # Visit -> all that were asked for at once, itself included, where somebody came in on one of several.
        self._at_once = {visit: group for group in self._groups() for visit in group}
        self._people: dict[str, _Person] = defaultdict(_Person)
        answered = sum(call.answered for call in log.calls)
        taken_back = sum(visit["state"] == "reversed" for visit in visits)
        self.findings = Findings(
            *(len(decisions), len(visits), len(log.calls), answered, taken_back),
            *(len(log.enrolments), len(validations), len(log.came_in_on)),
        )

    def run(self) -> Findings:
        """Look at everything."""
        self.findings.problems += self._matching.findings
        for visit in self._visits.values():
            if visit["source"] != "checkin":
                self._given(visit)
        for decision in self._decisions:
            call = self._matching.calls.get(decision["id"])
            if call is not None:
                self._say(f"decision {decision['id']} for {call}", self._decision(decision, call))
        for visit in self._visits.values():
            self._say(f"visit {visit['id']} of {visit['member']}", self._visit(visit))
        for group in dict.fromkeys(map(frozenset, self._at_once.values())):
            self._say(f"visits {', '.join(sorted(group))}", self._group(group))
        self._payable()
        self.findings.problems += self._desks.problems()
        return self.findings

    def _say(self, what: str, problems: Iterator[str]) -> None:
        self.findings.problems += [f"{what}: {problem}" for problem in problems]

    def _given(self, visit: dict[str, Any]) -> None:
        """A visit that was brought along or entered by hand is a fact like the town's plans."""
        studio = self._town.studio_by_id.get(visit["studio"])
        if studio is not None and visit["state"] != "reversed":
            at = datetime.fromisoformat(visit["at"])
            self._people[visit["member"]].entries.append(Entry(visit["id"], studio, at, local_date(at, studio)))

    def _decision(self, decision: dict[str, Any], call: Call) -> Iterator[str]:
        """One decision against its call and against the rules."""
        received_at = datetime.fromisoformat(decision["received_at"]).astimezone(UTC)
        asked = (call.studio, call.aggregator_id, call.customer_id)
        if asked != (decision["studio"], decision["aggregator_id"], decision["customer_id"]):
            yield "another check-in is on record than the one that was made"
            return
        if not self._log.fits(call, received_at):
            yield f"is recorded as received at {decision['received_at']}, when the call was not under way"
        yield from self._answer(decision, call)
        if decision["reason"] == "unavailable":
            if call.answered and call.status != UNDECIDED:
                yield f"is on record as undecided, but the door saw {call.status}"
            if decision["decision"] != "undecided" or decision["visit"] is not None:
                yield f"is unavailable, but {decision['decision']} with visit {decision['visit']}"
            return
        yield from self._rule(decision, call, received_at)

    def _answer(self, decision: dict[str, Any], call: Call) -> Iterator[str]:
        """What the door saw and what the record says of it."""
        if not call.answered:
            return
        unknown = decision["undelivered"] is None and self._log.may_be_unknown(call)
        if not unknown:
            yield from self._left(decision, call)
        if call.status == UNDECIDED:
            return
        told = STATUS.get(call.status or 0)
        if not told == call.decision == decision["decision"] or call.reason != decision["reason"]:
            yield (
                f"the door saw {call.status}, {call.decision} ({call.reason}); "
                f"the record says {decision['decision']} ({decision['reason']})"
            )

    def _left(self, decision: dict[str, Any], call: Call) -> Iterator[str]:
        """How the answer left."""
        if decision["http_status"] != call.status:
            yield f"the door saw {call.status}, the record says {decision['http_status']}"
        if call.status == UNDECIDED:
            if decision["reason"] != "unavailable" and not decision["undelivered"]:
                yield "was answered 503, but the record does not call it undelivered"
        elif decision["undelivered"] is not False:
            yield "was answered, but the record does not call it delivered"

    def _rule(self, decision: dict[str, Any], call: Call, at: datetime) -> Iterator[str]:
        """Keep the worlds in which the decision is right, and enter its visit."""
        studio = self._town.studio_by_id[call.studio]
        member = self._rules.member_of(call.aggregator_id, call.customer_id)
        if decision["member"] != (member.id if member else None):
            yield f"was decided for member {decision['member']}, but the card was {member and member.id}"
            return
        if decision["plan"] != (member.plan if member else None):
            yield f"names plan {decision['plan']}, but the member's is {member and member.plan}"
        person = self._people[member.id if member else ""]
        if len(person.doubtful) > MAX_DOUBTFUL:
            yield "so many visits of this member were being taken back at once that nobody can follow"
            return
        person.pass_time(call)
        asked = _Question(self._rules, studio, member, call.customer_id, person.entries)
        right = {world for world in person.worlds if asked.explains(decision, at, world)}
        if right:
            person.worlds = right
        else:
            verdicts = {asked.verdict(at, world) for world in person.worlds}
            yield f"says {_told(decision)}, but should say {' or '.join(sorted(map(_should, verdicts)))}"
        if decision["reason"] == "ok" and member is not None:
            person.entries.append(Entry(decision["id"], studio, at, local_date(at, studio)))
            visit = self._visits.get(decision["id"])
            if visit is None:
                yield "was allowed, but made no visit"
            elif visit["state"] == "reversed":
                ends = [self._ended(leaning) for leaning in self._leaning[decision["id"]]]
                last = max(ends, default=call.ended) + TAKEN_BACK_WITHIN
                # Nobody knows from outside when the history was asked.
                last = datetime.max.replace(tzinfo=UTC) if visit["reversed_why"] == NO_ENTRY else last
                person.doubtful[decision["id"]] = call.ended, last

    def _ended(self, decision: dict[str, Any]) -> datetime:
        call = self._matching.calls.get(decision["id"])
        return datetime.min.replace(tzinfo=UTC) if call is None else call.ended

    def _visit(self, visit: dict[str, Any]) -> Iterator[str]:
        """One visit against its decision and against what became of all answers that leaned on it."""
        if visit["source"] != "checkin":
            return
        leaning = self._leaning.get(visit["id"], [])
        own = [decision for decision in leaning if decision["id"] == visit["id"]]
        if not own or own[0]["reason"] != "ok":
            yield "no allowed check-in made it"
            return
        studio = self._town.studio_by_id.get(visit["studio"])
        facts = ("member", "studio", "plan")
        if (
            studio is None
            or any(visit[name] != own[0][name] for name in facts)
            or visit["at"] != own[0]["received_at"]
        ):
            yield "differs from the check-in that made it"
            return
        date = local_date(datetime.fromisoformat(visit["at"]), studio).isoformat()
        if visit["local_date"] != date:
            yield f"bears {visit['local_date']}, but the studio's calendar showed {date}"
        yield from self._state(visit, leaning)

    def _state(self, visit: dict[str, Any], leaning: list[dict[str, Any]]) -> Iterator[str]:
        state, why = visit["state"], visit["reversed_why"]
        expected = self._states(leaning)
        if state not in expected:
            yield f"is {state}{f' ({why})' if why else ''}, but should be {' or '.join(sorted(expected))}"
        elif state == "reversed" and why not in (UNDELIVERED, NO_ENTRY):
            yield f"was taken back without need ({why})"
        elif state == "reversed" and why == UNDELIVERED and not _lost(leaning):
            yield "was taken back as undelivered, but an answer was delivered, or may have been"

    def _states(self, leaning: list[dict[str, Any]]) -> set[str]:
        """What a visit may be, by what became of the answers that let its member in.

        Whoever was in already and was let in once more did not come in again.
        """
        left = any(decision["undelivered"] is False for decision in leaning)
        came_in = any(decision["id"] in self._log.came_in_on for decision in leaning)
        at_once = any(decision["id"] in self._at_once for decision in leaning)
        told = {"confirmed"} if came_in or at_once else set()
        untold = {"authorized"} if left else {"reversed"}
        if self._reconciled:
            return told | untold if at_once else told or untold
        if _lost(leaning):
            return {"reversed"}
        # Whether it was asked about is not known here.
        return {"authorized"} | told | (untold if at_once or not came_in else set())

    def _groups(self) -> Iterator[list[str]]:
        """Visits of one member at one studio whose calls overlap, where somebody came in on one of several."""
        made: dict[tuple[str, str], list[tuple[Call, str]]] = defaultdict(list)
        for decision in self._decisions:
            call = self._matching.calls.get(decision["id"])
            if decision["reason"] == "ok" and call is not None:
                made[decision["member"], decision["studio"]].append((call, decision["id"]))
        for calls in made.values():
            groups: list[list[str]] = []
            last = datetime.min.replace(tzinfo=UTC)
            for call, visit in sorted(calls, key=lambda one: one[0].began):
                if call.began > last:
                    groups.append([])
                groups[-1].append(visit)
                last = max(last, call.ended)
            yield from (group for group in groups if len(group) > 1 and not self._log.came_in_on.isdisjoint(group))

    def _group(self, group: frozenset[str]) -> Iterator[str]:
        """As many of them are confirmed as people came in; before all has been reconciled, or fewer."""
        confirmed = sum(self._visits[visit]["state"] == "confirmed" for visit in group if visit in self._visits)
        came_in = len(self._log.came_in_on & group)
        if confirmed > came_in or (confirmed < came_in and self._reconciled):
            yield f"{confirmed} are confirmed, but {came_in} came in"

    def _payable(self) -> None:
        """Each visit of a plan that pays per visit, else the first of a member's day; never a test studio's."""
        payable: dict[str, Counter[str]] = defaultdict(Counter)
        paid_days: set[tuple[str, str]] = set()
        for visit in sorted(self._visits.values(), key=lambda visit: (visit["at"], visit["id"])):
            studio, member = self._town.studio_by_id.get(visit["studio"]), self._town.by_id.get(visit["member"])
            if studio is None or member is None or studio.test:
                expected = False
            elif visit["source"] == "import":
                expected = False
                if visit["state"] != "reversed":
                    paid_days.add((member.id, visit["local_date"]))
            elif not self._may_pay(visit):
                expected = False
            else:
                day = member.id, visit["local_date"]
                expected = self._rules.pays_per_visit(member) or day not in paid_days
                paid_days.add(day)
            if expected:
                payable[visit["local_date"][:7]][visit["studio"]] += 1
            if visit["payable"] != expected:
                self.findings.problems.append(
                    f"visit {visit['id']} of {visit['member']} should {'' if expected else 'not '}be payable"
                )
        self.findings.payable = {month: dict(sorted(studios.items())) for month, studios in sorted(payable.items())}

    def _may_pay(self, visit: dict[str, Any]) -> bool:
        """Whether its state is one that pays: that which it should be in, where only one is right."""
        state = visit["state"]
        if self._reconciled and visit["source"] == "checkin" and visit["id"] not in self._at_once:
            (state,) = self._states(self._leaning.get(visit["id"], []))
        return state == "confirmed" or (state == "authorized" and self._requires == "authorized")


def _lost(leaning: list[dict[str, Any]]) -> bool:
    """Whether the record says of all answers that led to a visit that they did not leave."""
    return all(decision["undelivered"] is True for decision in leaning)


@dataclass
class _Question:
    """One check-in, to be judged in different worlds."""

    rules: Rulebook
    studio: Studio
    member: Member | None
    customer_id: int
    entries: list[Entry]

    def verdict(self, at: datetime, world: GivenBack) -> Verdict:
        """What should be answered where these visits have been taken back."""
        entries = [entry for entry in self.entries if entry.id not in world]
        return self.rules.verdict(at, self.studio, self.member, self.customer_id, entries)

    def explains(self, decision: dict[str, Any], at: datetime, world: GivenBack) -> bool:
        """Whether the recorded decision is right in this world, in everything it says."""
        verdict = self.verdict(at, world)
        outcome = "allowed" if verdict.allowed else "denied"
        if (decision["decision"], decision["reason"]) != (outcome, verdict.reason):
            return False
        if verdict.reason == "ok":
            return bool(decision["visit"] == decision["id"])
        if verdict.reason == "reentry":
            return decision["visit"] in verdict.leans_on
        if decision["visit"] is not None:
            return False
        limit = decision["limit"]
        named = None if limit is None else (limit["max"], limit["per"], limit["scope"], limit["used"])
        if (verdict.limits and named not in verdict.limits) or (named is not None and not verdict.limits):
            return False
        return self._next_is_right(decision["next_allowed_at"], at, world)

    def _next_is_right(self, told: str | None, at: datetime, world: GivenBack) -> bool:
        """Allowed at that instant and not just before it; where none is told, at no instant that is tried."""
        if told is None:
            return not any(self.verdict(at + later, world).allowed for later in LOOK_AHEAD)
        instant = datetime.fromisoformat(told)
        if instant <= at:
            return False
        return self.verdict(instant, world).allowed and not self.verdict(instant - JUST_BEFORE, world).allowed


def _told(decision: dict[str, Any]) -> str:
    limit, later = decision["limit"], decision["next_allowed_at"]
    return f"{decision['reason']}{f' {limit}' if limit else ''}{f', next at {later}' if later else ''}"


def _should(verdict: Verdict) -> str:
    return f"{verdict.reason}{f' {[use._asdict() for use in verdict.limits]}' if verdict.limits else ''}"
