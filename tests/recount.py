"""What a shared database has on record, held against what callers were told. It knows the tables and nothing else."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import psycopg
from gate import wait_for

OUTCOMES = {200: "allowed", 403: "denied"}
# Where a visit comes from that somebody was told of.
BY_CHECKIN = ("checkin", "stand_in")


class Answer(Protocol):
    """What a caller was told."""

    @property
    def member(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def decision(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def id(self) -> str: ...


class Record:
    """What is on record now, all of it as of one instant."""

    def __init__(self, url: str) -> None:
        with psycopg.connect(url) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            self.decisions: dict[str, list[Any]] = defaultdict(list)
            for row in connection.execute("SELECT id, member_id, outcome, reason, visit_id, stand_in FROM decisions"):
                self.decisions[row[0]].append(row[1:])
            self.visits: dict[str, list[Any]] = defaultdict(list)
            for row in connection.execute("SELECT id, member_id, local_date, state, source FROM visits"):
                self.visits[row[0]].append(row[1:])
            self.answers: dict[str, list[Any]] = defaultdict(list)
            for row in connection.execute("SELECT decision_id, http_status, undelivered FROM answers"):
                self.answers[row[0]].append(row[1:])


def recount(
    url: str, told: Iterable[Answer], *, most: Callable[[str], int | None], nodes: int = 1, unheard: int = 0
) -> list[str]:
    """Everything that is wrong with the record of these answers.

    `most` is how many visits a day a member's limit allows (None: any number); `nodes` may have let it in once
    more each; `unheard` is how many calls nobody heard the answer of. Only members in `told` are looked at.
    """
    record, heard = Record(url), {answer.id: answer for answer in told}
    members = {answer.member for answer in heard.values()}
    return [
        *_decisions(record, heard),
        *_undecided(record, heard),
        *_answers(record, heard),
        *_visits(record, heard, members, unheard),
        *_limits(record, members, most, nodes),
    ]


def stand_ins(url: str) -> int:
    """How many decisions in the shared database were made without it."""
    with psycopg.connect(url) as connection:
        ((count,),) = connection.execute("SELECT count(*) FROM decisions WHERE stand_in")
        return int(count)


def _decisions(record: Record, heard: dict[str, Answer]) -> Iterator[str]:
    """Each yes and no is there once, as it was told, and a new visit with each `ok`."""
    for answer in heard.values():
        if answer.status not in OUTCOMES:
            continue
        found = record.decisions.get(answer.id, [])
        if answer.decision != OUTCOMES[answer.status]:
            yield f"{answer} contradicts itself"
        if [row[1:3] for row in found] != [(answer.decision, answer.reason)]:
            yield f"{answer} is on record as {found}"
        elif answer.reason == "ok" and [row[2] for row in record.visits.get(answer.id, [])] not in (
            ["authorized"],
            ["confirmed"],
        ):
            yield f"{answer} has this visit: {record.visits.get(answer.id)}, decided as {found}"


def _undecided(record: Record, heard: dict[str, Answer]) -> Iterator[str]:
    """Who was told nothing: what is on record all the same was not delivered."""
    for answer in heard.values():
        if answer.status in OUTCOMES:
            continue
        for _, outcome, *_ in record.decisions.get(answer.id, []):
            if outcome != "undecided" and record.answers.get(answer.id) != [(answer.status, True)]:
                yield f"{answer} is on record as {outcome}, its answer as {record.answers.get(answer.id)}"


def _answers(record: Record, heard: dict[str, Answer]) -> Iterator[str]:
    """How an answer left is what came."""
    for answer in heard.values():
        left = record.answers.get(answer.id, [])
        if left and [status for status, _ in left] != [answer.status]:
            yield f"{answer} is on record as answered {left}"
        if answer.status in OUTCOMES and any(undelivered for _, undelivered in left):
            yield f"{answer} is on record as undelivered"


def _visits(record: Record, heard: dict[str, Answer], members: set[str], unheard: int) -> Iterator[str]:
    """Each is there once, of the kind of its decision, and counts only if its caller was told so or heard nothing."""
    unknown = 0
    for visit_id, found in record.visits.items():
        member, _, state, source = found[0]
        if member not in members or source not in BY_CHECKIN:
            continue
        if len(found) > 1:
            yield f"visit {visit_id} is there several times: {found}"
        by = record.decisions.get(visit_id, [])
        overruled = state == "reversed" and [row[4] for row in by] == [True]
        if not overruled and [row[4] for row in by] != [source == "stand_in"]:
            yield f"visit {visit_id} of {member} has source {source}, but its decision is {by}"
        if state == "reversed":
            continue
        left = record.answers.get(visit_id, [])
        if any(undelivered or status != 200 for status, undelivered in left):
            yield f"visit {visit_id} of {member} counts, but its answer is {left}"
        if visit_id not in heard:
            unknown += 1
        elif heard[visit_id].status != 200:
            yield f"visit {visit_id} of {member} counts, but {heard[visit_id]}"
    if unknown > unheard:
        yield f"{unknown} visits count that nobody was told of; {unheard} answers were not heard"


def _limits(record: Record, members: set[str], most: Callable[[str], int | None], nodes: int) -> Iterator[str]:
    """Visits of a member on a day: no more than its limit and one for each node."""
    days = Counter(
        (member, day)
        for ((member, day, state, _), *_) in record.visits.values()
        if state != "reversed" and member in members
    )
    for (member, day), count in days.items():
        limit = most(member)
        if limit is not None and count > limit + nodes:
            yield f"{member} has {count} visits on {day}; its limit is {limit}, and there are {nodes} nodes"


def wait_until_right(url: str, told: Iterable[Answer], **how: Any) -> None:
    """The record of answers is complete a little later than they are; fails with what stays wrong."""
    told = list(told)
    wrong: list[str] = []

    def right() -> bool:
        wrong[:] = recount(url, told, **how)
        return not wrong

    try:
        wait_for(right, "", seconds=10)
    except AssertionError:
        raise AssertionError(f"{len(wrong)} things are wrong with the record: " + "\n".join(wrong[:20])) from None
