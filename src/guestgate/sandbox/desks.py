"""The auditor's word on member validations: was every answer at the desks right, and is it on record?

An answer does not name its record. So each record has to be what one question of the logs should have been told at
that time, and no question has two. Guessing is throttled by what is on record before, which is known here too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from guestgate.sandbox.calls import BODY_TOO_LATE, Enrolment, Log
from guestgate.sandbox.rulebook import Rulebook
from guestgate.sandbox.town import Town

MISSES = ("unknown_member", "code_used", "code_expired")
MOST_MISSES, MISSED_WITHIN = 20, timedelta(minutes=10)
UNDECIDED = 503


class Desks:
    """The questions of the logs against guestgate's record of them, which is in its own order."""

    def __init__(self, town: Town, log: Log, validations: list[dict[str, Any]]) -> None:
        """Nothing is compared yet."""
        self._town, self._rules, self._log, self._validations = town, Rulebook(town), log, validations
        self._misses: dict[str, list[datetime]] = defaultdict(list)

    def problems(self) -> Iterator[str]:
        """All that differs."""
        # Where two explain the same record, it is the one that was told.
        ordered = sorted(self._log.enrolments, key=lambda one: (not one.answered, one.ended))
        waiting = [one for one in ordered if not one.cut and one.status != BODY_TOO_LATE]
        for row in self._validations:
            at = datetime.fromisoformat(row["received_at"]).astimezone(UTC)
            near = [one for one in waiting if one.studio == row["studio"] and self._log.fits(one, at)]
            near = [one for one in near if _was_told(one, row)]
            right = [one for one in near if self._explains(one, row, at)]
            if right:
                waiting.remove(right[0])
            elif near:
                waiting.remove(near[0])
                yield f"member validation {row['id']} for {near[0]} says {row['reason']} of {row['member']}"
            else:
                yield f"member validation {row['id']} of {row['received_at']} answers no question of these logs"
            if row["reason"] in MISSES:
                self._misses[row["studio"]].append(at)
        for one in waiting:
            if one.answered and one.status != UNDECIDED:
                yield f"{one} was answered {one.status}, which is not on record"

    def _explains(self, one: Enrolment, row: dict[str, Any], at: datetime) -> bool:
        """Whether this is what the question should have been told."""
        told = row["reason"], row["member"]
        if row["reason"] == "unavailable":
            return not one.answered or one.status == UNDECIDED
        studio = self._town.studio_by_id[one.studio]
        if studio.paused:
            return told == ("studio_inactive", None)
        if sum(miss > at - MISSED_WITHIN for miss in self._misses[one.studio]) >= MOST_MISSES:
            return told == ("throttled", None)
        member = self._town.by_id.get(one.member or one.text)
        if member is None and row["code"] is not None:  # typed by hand: whose code it was is not known here
            member = self._town.by_id.get(row["member"] or "")
            if member is None or row["reason"] in ("code_used", "code_expired"):
                return member is not None
        elif (row["code"] is None) != (one.code_expires_at is None):
            return False
        if one.code_expires_at is not None and one.code_expires_at <= at:
            return told == ("code_expired", one.member)
        return told == (self._rules.registration(at, studio, member), member and member.id)


def _was_told(one: Enrolment, row: dict[str, Any]) -> bool:
    """Whether the desk was told what is on record."""
    if not one.answered:
        return True
    if one.status == UNDECIDED:
        return row["reason"] == "unavailable" or row["undelivered"] is True
    should = 200 if row["reason"] == "ok" else 404
    delivered = row["http_status"] == one.status and row["undelivered"] is False
    return one.status == should and delivered and one.told == (row["member"] if should == 200 else None)
