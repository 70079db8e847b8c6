"""The recount of a record by plain SQL: it finds nothing where all is well, and everything that may be wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backends import Server
from callers import Caller, Reply
from gate import Gate
from recount import recount

from guestgate.database import Database

Told = list[Reply]
UNDECIDED = {"status": 503, "decision": "undecided", "reason": "unavailable"}


@pytest.fixture(scope="module")
def told_and_url(tmp_path_factory: pytest.TempPathFactory, postgres: Server) -> Iterator[tuple[Told, str]]:
    """What a few callers were told, the second time without a visit, and where it is on record."""
    folder = tmp_path_factory.mktemp("recount")
    url = postgres.new(folder)
    gate = Gate(folder, database_url=url, furnished=True)
    gate.studio("s1")
    gate.plans()
    gate.members("once-1,once", "free-1,free")
    gate.start()
    caller = Caller(gate)
    replies = [caller.call(member) for member in ("once-1", "once-1", "free-1", "free-1")]
    caller.close()
    assert gate.stop() == 0
    yield [reply for reply in replies if reply is not None], url
    postgres.drop(url)


def most(member: str) -> int | None:
    """The limit of a member's plan."""
    return 1 if member.startswith("once") else None


def changed(told: Told, which: int, **values: object) -> Told:
    """One of them says something else."""
    return [*told[:which], told[which]._replace(**values), *told[which + 1 :]]


def test_a_record_that_is_right(told_and_url: tuple[Told, str]) -> None:
    """Nothing is found, also by who allows for more than there was."""
    told, url = told_and_url
    assert [reply.status for reply in told] == [200, 403, 200, 200]
    assert recount(url, told, most=most, nodes=0) == []
    assert recount(url, told, most=most, nodes=2, unheard=3) == []


@pytest.mark.parametrize(
    ("what", "tell"),
    [
        ("is on record as []", lambda told: changed(told, 0, id="00000000-0000-7000-8000-000000000000")),
        ("is on record as [('once-1', 'denied'", lambda told: changed(told, 1, reason="too_soon")),
        ("contradicts itself", lambda told: changed(told, 1, status=200)),
        ("is on record as answered [(200, False)]", lambda told: changed(told, 2, **UNDECIDED)),
        ("is on record as allowed, its answer", lambda told: changed(told, 2, **UNDECIDED)),
        ("counts, but Reply(", lambda told: changed(told, 2, status=403, decision="denied")),
        ("1 visits count that nobody was told of", lambda told: told[:3]),
    ],
)
def test_callers_who_were_told_something_else(
    what: str, tell: Callable[[Told], Told], told_and_url: tuple[Told, str]
) -> None:
    """Whatever differs is named."""
    told, url = told_and_url
    found = recount(url, tell(told), most=most)
    assert any(what in problem for problem in found), found


def test_visits_beyond_a_limit(told_and_url: tuple[Told, str]) -> None:
    """As many as there are nodes are allowed for, and no more."""
    told, url = told_and_url
    assert recount(url, told, most=lambda _: 1, nodes=1) == []
    (problem,) = recount(url, told, most=lambda _: 1, nodes=0)
    assert problem.startswith("free-1 has 2 visits on ")


@pytest.mark.parametrize(
    ("what", "statement"),
    [
        ("has this visit: [('free-1',", "UPDATE visits SET state = 'reversed'"),
        ("has source stand_in, but its decision is", "UPDATE visits SET source = 'stand_in'"),
        ("is on record as undelivered", "UPDATE answers SET undelivered = true"),
        ("counts, but its answer is", "UPDATE answers SET undelivered = true"),
        ("has source checkin, but its decision is", "UPDATE decisions SET stand_in = true"),
    ],
)
def test_a_record_that_is_wrong(
    what: str, statement: str, told_and_url: tuple[Told, str], postgres: Server, tmp_path: Path
) -> None:
    """Whatever was changed is named."""
    told, url = told_and_url
    copy = postgres.copy(url, tmp_path)
    with Database.at(copy).write() as connection:
        connection.exec_driver_sql(statement)
    found = recount(copy, told, most=most)
    postgres.drop(copy)
    assert any(what in problem for problem in found), found
