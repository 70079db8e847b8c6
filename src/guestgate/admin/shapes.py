"""What goes in and out, for the OpenAPI document and for the checking of bodies.

The fields of a member are checked by `guestgate.members`, the same as in files; here is only their outline.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, create_model

from guestgate.contract import MAX_CUSTOMER_ID
from guestgate.directory import KeyKind
from guestgate.eligibility import Finding
from guestgate.members import MAX_CUSTOMERS, PROFILE_FIELDS
from guestgate.model import Effect, Outcome, Reason, Source, Status, VisitState
from guestgate.nodes import NodeState
from guestgate.statement_lines import Kind

Item = TypeVar("Item")


def _plain(text: str) -> str:
    if any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise ValueError("should have no control characters and be UTF-8")
    return text


def _written(value: Any) -> Any:
    """pydantic takes numbers for seconds since 1970, and "0" for one; nobody means that."""
    if not isinstance(value, str) or value.lstrip("+-").replace(".", "").isdecimal():
        raise ValueError("should be written as ISO 8601 has it")
    return value


Text = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_plain)]
CustomerId = Annotated[int, Field(ge=1, le=MAX_CUSTOMER_ID, strict=True)]
Date = Annotated[date, BeforeValidator(_written, json_schema_input_type=date)]
Moment = Annotated[datetime, BeforeValidator(_written, json_schema_input_type=datetime)]
Tags = Annotated[list[Text], Field(max_length=100)]


# Going out, instants and dates are texts already, formatted as everywhere.
Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Day = Annotated[str, Field(json_schema_extra={"format": "date"})]


class Body(BaseModel):
    """What is sent. Unknown fields are refused: they are typing errors."""

    model_config = ConfigDict(extra="forbid")


class _MemberFields(Body):
    status: Status | None = Field(None, description="active where left out")
    valid_from: Date | None = Field(None, description="first day, on the studio's calendar")
    valid_until: Date | None = Field(None, description="last day")
    cycle_anchor: Date | None = Field(None, description="the day cycles are counted from; else valid_from")
    customers: list[CustomerId] | None = Field(
        None, max_length=MAX_CUSTOMERS, description="the platform's customer ids"
    )


_profile: Any = {name: (Annotated[str, Field(max_length=255)] | None, None) for name in PROFILE_FIELDS}


class _NewMember(_MemberFields):
    plan: Text


class _MemberChange(_MemberFields):
    plan: Text | None = None


MemberBody = create_model("MemberBody", __base__=_NewMember, __doc__="A member, whole.", **_profile)
MemberPatch = create_model(
    "MemberPatch", __base__=_MemberChange, __doc__="What changes; null takes a field away (RFC 7396).", **_profile
)


class Member(BaseModel):
    """A member without personal data, as lists show it."""

    member_id: str
    plan: str
    status: Status
    valid_from: Day | None
    valid_until: Day | None
    cycle_anchor: Day | None


_known: Any = {
    "customers": (list[int], ...),
    "disabled_customers": (list[int], Field(None, description="those that the platform lets in no more")),
    **{name: (str, Field(None)) for name in PROFILE_FIELDS},
}
WholeMember = create_model(
    "WholeMember", __base__=Member, __doc__="A member with customers and personal data.", **_known
)


class CodeBody(Body):
    """How long a code is good for."""

    valid: str = Field("15m", max_length=16, examples=["15m"], description="15m, 2h; a day at most")


class Code(BaseModel):
    """A code that a member shows at a desk."""

    code: str
    expires_at: Instant


class Validation(BaseModel):
    """A member validation: the desk of a studio asked who somebody is. What was sent is not kept."""

    id: str
    received_at: Instant
    studio: str
    member: str | None = Field(description="where it was one; also where the answer did not say so")
    code: str | None = Field(description="the fingerprint of the enrolment code, where it was one")
    outcome: Outcome
    reason: Finding
    http_status: int | None
    answer_ms: float | None
    undelivered: bool | None


class BadRow(BaseModel):
    """A line that was not taken, and why."""

    line: int
    error: str


class BulkReport(BaseModel):
    """What became of the lines; those that are not under ``bad`` are stored."""

    added: int
    updated: int
    unchanged: int
    bad: list[BadRow]


class StudioBody(Body):
    """A new studio."""

    id: Text
    name: Text
    timezone: Text = Field(examples=["Europe/Berlin"])
    tags: Tags = []
    test: StrictBool = Field(False, description="its visits never count and never pay")


class StudioPatch(Body):
    """What changes."""

    name: Text | None = None
    timezone: Text | None = None
    tags: Tags | None = None
    active: StrictBool | None = Field(None, description="false: every check-in is denied, studio_inactive")


class Studio(BaseModel):
    """Who asks."""

    id: str
    name: str
    timezone: str
    tags: list[str]
    active: bool
    test: bool
    keys: int = Field(description="how many keys are in force")


class KeyBody(Body):
    """One more key of a studio: the token that the platform sends; or, of kind ``openapi``, that we send to it."""

    key: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,512}$")]
    kind: KeyKind = KeyKind.CHECKIN
    expires_at: Moment | None = None
    tenant: str | None = Field(None, description="of an Open API key", max_length=63)
    url: str | None = Field(None, description="instead of a tenant: the Open API's whole address", max_length=1000)


class Key(BaseModel):
    """A key, by fingerprint; the token itself is not shown."""

    fingerprint: str
    studio: str
    kind: KeyKind
    state: Literal["valid", "expired", "revoked"]
    created_at: Instant
    expires_at: Instant | None
    last_used_at: Instant | None = Field(description="to the minute")


class LimitUse(BaseModel):
    """How much of a limit is used up."""

    max: int
    per: str
    scope: str
    used: int


class Decision(BaseModel):
    """A check-in and what it was told. ``undelivered`` is null while nobody knows how the answer left."""

    id: str
    received_at: Instant
    studio: str
    member: str | None
    aggregator_id: str
    customer_id: int
    decision: Outcome
    reason: Reason
    limit: LimitUse | None
    next_allowed_at: Instant | None
    visit: str | None
    http_status: int | None
    answer_ms: float | None
    undelivered: bool | None
    stand_in: bool
    plan: str | None
    plan_version: int | None


class VisitBody(Body):
    """An entry that no check-in made."""

    member: Text
    studio: Text
    at: Moment | None = Field(None, description="with offset; now where left out")


class Why(Body):
    """A reason, for the record."""

    why: Text


class Visit(BaseModel):
    """An entry that counts against limits, unless it is reversed."""

    id: str
    member: str
    studio: str
    at: Instant
    local_date: Day
    state: VisitState
    reversed_why: str | None
    decision: str | None
    source: Source
    payable: bool
    plan: str | None
    plan_version: int | None


class Question(Body):
    """Whom to ask about."""

    member: Text
    studio: Text
    at: Moment | None = Field(None, description="with offset; now where left out")


class Verdict(BaseModel):
    """What one rule says."""

    rule: Reason
    verdict: Effect
    detail: str


class Explanation(BaseModel):
    """What the door would answer, and what every rule says, in order of evaluation."""

    decision: Outcome
    reason: Reason
    limit: LimitUse | None
    next_allowed_at: Instant | None
    rules: list[Verdict]


class Change(BaseModel):
    """An entry of the audit trail: what differs between before and after."""

    at: Instant
    who: str
    action: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class Event(BaseModel):
    """One thing that happened. ``id`` is the same whenever it is read."""

    id: str
    cursor: str
    type: Literal["decision", "visit", "confirmation", "reversal", "correction", "change"]
    at: Instant
    data: dict[str, Any]


class Events(BaseModel):
    """A part of the feed, and where to go on."""

    events: list[Event]
    next: str


class Page(BaseModel, Generic[Item]):
    """A part of a list; ``next`` is null at its end."""

    items: list[Item]
    next: str | None


class Node(BaseModel):
    """One server. `checkins`, the share of them `in_time` and `p99_ms` are of the minute before `seen_at`."""

    id: str = Field(description="another one with every start")
    name: str = Field(description="machine and port")
    version: str
    state: NodeState
    started_at: Instant
    seen_at: Instant = Field(description="when it was heard from last, by the database's clock")
    checkins: int
    in_time: float | None = Field(description="null where nobody came")
    p99_ms: float | None = Field(description="99 of 100 took no longer, by the edges of `guestgate_answer_seconds`")
    copy_age_s: float | None = Field(description="of its copy to stand in with; null where it has none")


class StudioTotal(BaseModel):
    """One studio's month. What pays is ``payable`` and ``adjustments`` together."""

    studio: str
    visits: int
    payable: int
    reversed: int
    adjustments: int


class PlanTotal(StudioTotal):
    """The same of one plan; of null, visits of an earlier system."""

    plan: str | None


class StatementLine(BaseModel):
    """A visit of the month, or, with 1 or -1 payable, what has become of one of a month that was closed."""

    month: str
    kind: Kind
    visit: str
    member: str
    studio: str
    at: Instant
    local_date: Day
    state: VisitState
    source: Source
    payable: int
    decision: str | None
    confirmed_at: Instant | None
    confirmed_by: str | None
    confirmation: str | None
    plan: str | None
    plan_version: int | None
    adjusts: str | None
    changed_at: Instant | None
    changed_by: str | None
    why: str | None


class ClosedMonth(BaseModel):
    """A month that is closed, with its sums."""

    month: str
    closed_at: Instant
    closed_by: str
    payable_requires: Literal["authorized", "confirmed"]
    lines: int
    visits: int
    payable: int
    reversed: int
    adjustments: int


class Correction(BaseModel):
    """What somebody changed about a visit."""

    visit: str
    member: str
    studio: str
    local_date: Day
    state: VisitState
    at: Instant
    who: str
    why: str


class Statement(BaseModel):
    """A month of visits, by the dates at the studios; adjustments of earlier months; corrections of these visits."""

    month: str
    open: bool
    closed_at: Instant | None
    closed_by: str | None
    payable_requires: Literal["authorized", "confirmed"]
    totals: list[StudioTotal]
    plan_totals: list[PlanTotal]
    adjustments: list[StatementLine]
    corrections: list[Correction]


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
