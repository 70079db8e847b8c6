"""What a replay came to: answers before and after, what is paid for, and whose answers would change most."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

from guestgate import clock
from guestgate.model import Reason

ALLOWING = (Reason.OK.value, Reason.REENTRY.value)
EXAMPLES = 3
SUMS = ("checkins", "allowed_before", "allowed_after", "changed", "payable_before", "payable_after")


class Example(NamedTuple):
    """One check-in whose answer would change, with the reason that it was given and the one that it would be."""

    at_ms: int
    studio: str
    before: str
    after: str


class Tally:
    """Counts of one replay, of all studios or of one, with the `most_members` whose answers change most."""

    def __init__(self, studio: str | None, most_members: int) -> None:
        """Nothing has been counted yet."""
        # By plan (None: nobody's), studio, and the reasons before and after.
        self.answers: dict[tuple[str | None, str, str, str], int] = defaultdict(int)
        # By plan and studio.
        self.payable_before: Counter[tuple[str, str]] = Counter()
        self.payable_after: Counter[tuple[str, str]] = Counter()
        # By studio.
        self.unexplained: Counter[str] = Counter()
        self._studio = studio
        self._most_members = most_members
        self._members_changed = 0
        self._members: list[tuple[int, int, str, list[Example]]] = []

    def changed(self, member_id: str, changed: list[Example]) -> None:
        """A member's check-ins whose answers would change."""
        changed = [example for example in changed if self._counts(example.studio)]
        if not changed:
            return
        self._members_changed += 1
        # Of members with equally many the first ones stay.
        entry = (len(changed), -self._members_changed, member_id, changed[:EXAMPLES])
        if len(self._members) < self._most_members:
            heapq.heappush(self._members, entry)
        else:
            heapq.heappushpop(self._members, entry)

    def report(self) -> dict[str, Any]:
        """All of it as users see it."""
        changes = Counter[tuple[str, str]]()
        for (_, studio, before, after), count in self.answers.items():
            if before != after and self._counts(studio):
                changes[before, after] += count
        totals, plans, studios = self._sums(_all), self._sums(_plan), self._sums(_studio)
        return {
            **totals.get("all", dict.fromkeys(SUMS, 0)),
            "members_changed": self._members_changed,
            "unexplained": sum(count for studio, count in self.unexplained.items() if self._counts(studio)),
            "changes": [
                {"before": before, "after": after, "checkins": count}
                for (before, after), count in sorted(changes.items(), key=lambda item: (-item[1], item[0]))
            ],
            "plans": [{"plan": plan, **sums} for plan, sums in plans.items()],
            "studios": [{"studio": studio, **sums} for studio, sums in studios.items()],
            "members": [
                {"member": member_id, "changed": count, "examples": [_example(example) for example in examples]}
                for count, _, member_id, examples in sorted(self._members, reverse=True)
            ],
        }

    def _counts(self, studio: str) -> bool:
        return self._studio is None or studio == self._studio

    def _sums(self, by: Callable[[str | None, str], str | None]) -> dict[str | None, dict[str, int]]:
        """The sums of each plan, each studio or of all, in their order; nobody's plan comes last."""
        sums: dict[str | None, dict[str, int]] = defaultdict(lambda: dict.fromkeys(SUMS, 0))
        for (plan, studio, before, after), count in self.answers.items():
            if self._counts(studio):
                of = sums[by(plan, studio)]
                of["checkins"] += count
                of["allowed_before"] += count * (before in ALLOWING)
                of["allowed_after"] += count * (after in ALLOWING)
                of["changed"] += count * (before != after)
        for name, payable in (("payable_before", self.payable_before), ("payable_after", self.payable_after)):
            for (plan, studio), count in payable.items():
                if self._counts(studio):
                    sums[by(plan, studio)][name] += count
        return {key: sums[key] for key in sorted(sums, key=lambda key: (key is None, key or ""))}


def _all(plan: str | None, studio: str) -> str:
    return "all"


def _plan(plan: str | None, studio: str) -> str | None:
    return plan


def _studio(plan: str | None, studio: str) -> str:
    return studio


def _example(example: Example) -> dict[str, Any]:
    return {
        "at": clock.iso_of(example.at_ms),
        "studio": example.studio,
        "before": example.before,
        "after": example.after,
    }
