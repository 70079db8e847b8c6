"""Plans as people write them: the TOML file, its checks, and the JSON document that is stored.

A problem is reported with file, line and field, and nothing of the file is taken.
"""

from __future__ import annotations

import json
import re
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from guestgate import toml_lines
from guestgate.errors import UsageError
from guestgate.model import STUDIO, TAG_PREFIX, Hours, Limit, Payable, Per, Plan
from guestgate.toml_lines import line_of, place

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Tag = Annotated[str, Field(min_length=1, max_length=255)]
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


class LimitDocument(_Strict):
    """One entry of ``limits``."""

    max: int = Field(ge=1, le=1_000_000)
    per: Literal["day", "week", "month", "cycle", "total"]
    scope: str = "network"

    @field_validator("scope")
    @classmethod
    def _known(cls, scope: str) -> str:
        if scope in ("network", STUDIO) or (scope.startswith(TAG_PREFIX) and len(scope) > len(TAG_PREFIX)):
            return scope
        raise ValueError('should be "network", "studio" or "tag:NAME"')


class HoursDocument(_Strict):
    """One entry of ``hours``; days left out are all days."""

    days: tuple[Day, ...] = DAYS  # type: ignore[assignment]
    from_: str = Field(alias="from")
    until: str

    @field_validator("from_", "until")
    @classmethod
    def _time(cls, text: str) -> str:
        if _TIME.fullmatch(text) or text == "24:00":
            return text
        raise ValueError('should be a time such as "06:00" (until may be "24:00")')

    @model_validator(mode="after")
    def _not_empty(self) -> HoursDocument:
        if self.from_ == "24:00":
            raise ValueError('from should be at most "23:59"')
        if self.from_ == self.until:
            raise ValueError('from and until are equal; a whole day is from "00:00" until "24:00"')
        if not self.days:
            raise ValueError("days should name at least one day")
        return self


class PlanDocument(_Strict):
    """One plan of the file."""

    name: str = Field(min_length=1, max_length=255)
    studio_tags: tuple[Tag, ...] | None = None
    reentry_minutes: int = Field(default=10, ge=0, le=1440)
    min_gap_minutes: int = Field(default=0, ge=0, le=10_080)
    limits: tuple[LimitDocument, ...] = ()
    cycle_days: int | None = Field(default=None, ge=1, le=3660)
    hours: tuple[HoursDocument, ...] | None = None
    payable: Literal["per_member_day", "per_visit"] = "per_member_day"

    @field_validator("studio_tags", "hours")
    @classmethod
    def _some(cls, value: tuple[object, ...] | None) -> tuple[object, ...] | None:
        if value == ():
            raise ValueError("is empty, so nobody could ever enter; leave it out for no restriction")
        return value


def read(path: Path) -> dict[str, PlanDocument]:
    """The plans of a file by id. Raises UsageError naming file, line and field."""
    text, content = toml_lines.read(path)
    for key in content:
        if key != "plans":
            raise UsageError(f"{path}:{line_of(text, (key,))}: {key}: plans are written as [plans.ID]")
    plans = content.get("plans", {})
    if not isinstance(plans, dict) or not plans:
        raise UsageError(f"{path}: has no plan; plans are written as [plans.ID]")
    return {plan_id: _checked(path, text, plan_id, content) for plan_id, content in plans.items()}


def _checked(path: Path, text: str, plan_id: str, content: Any) -> PlanDocument:
    if not 1 <= len(plan_id) <= 255 or not plan_id.isprintable():
        line = line_of(text, ("plans", plan_id))
        raise UsageError(f"{path}:{line}: a plan's id has 1 to 255 characters and no control characters")
    try:
        # JSON mode takes lists for tuples while numbers and texts stay strict.
        return PlanDocument.model_validate_json(json.dumps(content, default=_no_text))
    except ValidationError as error:
        raise UsageError(place(path, text, ("plans", plan_id), error)) from None


def plan_of(plan_id: str, version: int, document: str) -> Plan:
    """A plan from its stored document."""
    content = PlanDocument.model_validate_json(document)
    return Plan(
        id=plan_id,
        version=version,
        name=content.name,
        studio_tags=None if content.studio_tags is None else frozenset(content.studio_tags),
        reentry_minutes=content.reentry_minutes,
        min_gap_minutes=content.min_gap_minutes,
        limits=tuple(Limit(limit.max, Per(limit.per), limit.scope) for limit in content.limits),
        cycle_days=content.cycle_days,
        hours=None if content.hours is None else tuple(_hours(window) for window in content.hours),
        payable=Payable(content.payable),
    )


def document_of(content: PlanDocument) -> str:
    """A plan's document as it is stored; equal plans have equal documents."""
    return content.model_dump_json(by_alias=True, exclude_none=True)


def _hours(window: HoursDocument) -> Hours:
    end = time(0) if window.until == "24:00" else time.fromisoformat(window.until)
    days = frozenset(DAYS.index(day) for day in window.days)
    return Hours(days, time.fromisoformat(window.from_), end)


def _no_text(_: object) -> object:
    """TOML's dates and times have no place in a plan; they become something no field takes."""
    return {}
