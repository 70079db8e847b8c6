"""The calls of the sandbox's log, and which of guestgate's decisions belongs to which."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from guestgate.errors import UsageError
from guestgate.sandbox import journal
from guestgate.sandbox.town import TownSpec

# An endpoint notes a call's time within these of the caller's own clock; a call that was given up may lie
# in the endpoint's buffers for longer.
ANSWERED_SLACK = timedelta(milliseconds=150)
GIVEN_UP_SLACK = timedelta(seconds=2)
# A clock that was set is set everywhere after this long: each process looks once a second.
CLOCK_SETTLES = timedelta(seconds=3)
# How an answer left is recorded so soon after it.
RECORDED_WITHIN = timedelta(seconds=2)
BODY_TOO_LATE = 408


@dataclass
class Call:
    """One check-in call, by the sandbox's own clock. ``cut``: its body never was complete."""

    number: int
    began: datetime
    ended: datetime
    studio: str
    aggregator_id: str
    customer_id: int
    cut: bool
    status: int | None
    decision: str | None
    reason: str | None
    decision_id: str | None

    @property
    def answered(self) -> bool:
        """Whether an answer came back whole."""
        return self.status is not None

    def __str__(self) -> str:
        """For a finding."""
        return f"call {self.number} ({self.aggregator_id} at {self.studio}, {self.began.isoformat()})"


@dataclass
class Enrolment:
    """One member validation at a desk, by the sandbox's own clock. ``cut``: its body never was complete.

    ``member`` is who stood there, None where the sandbox does not know; ``text`` what staff typed; ``told`` the id
    that came back.
    """

    number: int
    began: datetime
    ended: datetime
    studio: str
    member: str | None
    text: str
    code_expires_at: datetime | None
    cut: bool
    status: int | None
    told: str | None

    @property
    def answered(self) -> bool:
        """Whether an answer came back whole."""
        return self.status is not None

    def __str__(self) -> str:
        """For a finding."""
        return f"enrolment {self.number} ({self.text} at {self.studio}, {self.began.isoformat()})"


@dataclass
class Log:
    """What one or several logs hold."""

    spec: TownSpec | None = None
    calls: list[Call] = field(default_factory=list)
    enrolments: list[Enrolment] = field(default_factory=list)
    clocks: list[tuple[datetime, timedelta]] = field(default_factory=list)
    kills: list[datetime] = field(default_factory=list)
    # The decisions on which somebody came in who was not in already.
    came_in_on: set[str | None] = field(default_factory=set)

    def add(self, path: Path) -> None:
        """A log's lines. Raises UsageError for a file that is none, or one of another town."""
        journal.read(path, self._take)

    def _take(self, line: dict[str, Any]) -> None:
        if line["kind"] == "run":
            spec = TownSpec.from_dict(line["town"])
            if self.spec not in (None, spec):
                raise UsageError("the logs are of different towns")
            self.spec = spec
        elif line["kind"] == "call":
            self.calls.append(_call(line))
        elif line["kind"] == "enrolment":
            self.enrolments.append(_enrolment(line))
        elif line["kind"] == "clock":
            self.clocks.append((datetime.fromisoformat(line["at"]), timedelta(seconds=line["ahead_s"])))
        elif line["kind"] == "kill":
            self.kills.append(datetime.fromisoformat(line["at"]))
        elif line["kind"] == "entry":
            self.came_in_on.add(line["decision_id"])

    def fits(self, call: Call | Enrolment, received_at: datetime) -> bool:
        """Whether the endpoint's clock may have shown this when the call came."""
        slack = ANSWERED_SLACK if call.answered else GIVEN_UP_SLACK
        return any(
            call.began + ahead - ANSWERED_SLACK <= received_at <= call.ended + ahead + slack
            for ahead in self._ahead(call)
        )

    def may_be_unknown(self, call: Call) -> bool:
        """Whether the endpoint was killed before it had to have recorded how this call's answer left."""
        return any(call.began <= at <= call.ended + RECORDED_WITHIN for at in self.kills)

    def _ahead(self, call: Call | Enrolment) -> list[timedelta]:
        """How far the endpoint's clock may have been ahead of the sandbox's during a call."""
        found = [timedelta()]
        for at, ahead in self.clocks:
            if at + CLOCK_SETTLES < call.began:
                found.clear()
            if at <= call.ended + GIVEN_UP_SLACK:
                found.append(ahead)
        return found


def _call(line: dict[str, Any]) -> Call:
    began = datetime.fromisoformat(line["at"]).astimezone(UTC)
    return Call(
        number=line["number"],
        began=began,
        ended=began + timedelta(milliseconds=line["ms"]),
        studio=line["studio"],
        aggregator_id=line["aggregator_id"],
        customer_id=line["customer_id"],
        cut=line["fault"] == "cut",
        status=line["http_status"],
        decision=line["decision"],
        reason=line["reason"],
        decision_id=line["decision_id"],
    )


def _enrolment(line: dict[str, Any]) -> Enrolment:
    began, expires_at = datetime.fromisoformat(line["at"]).astimezone(UTC), line["code_expires_at"]
    return Enrolment(
        number=line["number"],
        began=began,
        ended=began + timedelta(milliseconds=line["ms"]),
        studio=line["studio"],
        member=line["member_id"],
        text=line["text"],
        code_expires_at=None if expires_at is None else datetime.fromisoformat(expires_at),
        cut=line["fault"] == "cut",
        status=line["http_status"],
        told=line["told"],
    )


class Matching:
    """Which call each decision answered.

    A call that was answered names its decision. One that got no answer may have been decided or not; a
    decision that nobody names belongs to such a call of the same card at the same door and time.
    """

    def __init__(self, log: Log, decisions: list[dict[str, Any]]) -> None:
        """Match everything; `calls` has a decision's call by its id, `findings` what does not fit."""
        self.calls: dict[str, Call] = {}
        self.findings: list[str] = []
        recorded = {decision["id"] for decision in decisions}
        unanswered: dict[tuple[str, str, int], list[Call]] = defaultdict(list)
        for call in log.calls:
            if call.decision_id is not None:
                self._name(call, recorded)
            elif call.status == BODY_TOO_LATE:
                continue  # said to have come too late to be read, and so nothing may be on record of it
            elif call.answered:
                self.findings.append(f"{call} was answered {call.status}, without a decision")
            elif not call.cut:
                unanswered[call.studio, call.aggregator_id, call.customer_id].append(call)
        for decision in sorted(decisions, key=lambda decision: str(decision["received_at"])):
            if decision["id"] not in self.calls:
                self._find(decision, unanswered, log)

    def _name(self, call: Call, recorded: set[str]) -> None:
        assert call.decision_id is not None
        if call.decision_id not in recorded:
            self.findings.append(f"{call} was answered {call.status} by {call.decision_id}, which is not on record")
        elif call.decision_id in self.calls:
            self.findings.append(f"{call} and {self.calls[call.decision_id]} were answered by the same decision")
        else:
            self.calls[call.decision_id] = call

    def _find(self, decision: dict[str, Any], unanswered: dict[tuple[str, str, int], list[Call]], log: Log) -> None:
        received_at = datetime.fromisoformat(decision["received_at"])
        key = decision["studio"], decision["aggregator_id"], decision["customer_id"]
        fitting = [call for call in unanswered[key] if log.fits(call, received_at)]
        if not fitting:
            self.findings.append(
                f"decision {decision['id']} of {decision['received_at']} answers no call of these logs"
            )
            return
        call = min(fitting, key=lambda call: call.ended)
        unanswered[key].remove(call)
        self.calls[decision["id"]] = call
