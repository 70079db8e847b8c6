"""PostgreSQL on a grown record: whatever is asked of it, it need not read through the record for the answer.

`scripts/experiment plans` asks the same of millions of decisions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from asked import questions, reading
from cluster import Cluster
from grown import SETTINGS, Grown, grow
from plan_report import judge
from plan_watch import SETTINGS as WATCHED
from plan_watch import watched, watching
from sqlalchemy import func, select

from guestgate import schema
from guestgate.check import check
from guestgate.database import Database

DECISIONS = 130_000


@pytest.fixture(scope="module")
def watched_cluster() -> Iterator[Cluster]:
    """A server that says what it executes."""
    cluster = Cluster(*SETTINGS, *WATCHED)
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def grown(watched_cluster: Cluster) -> Grown:
    """A record of fourteen months."""
    return grow(watched_cluster, DECISIONS)


def test_the_grown_record_is_one(grown: Grown) -> None:
    """It agrees with itself, and its decisions lie in the months that they were made in."""
    with Database.at(grown.url).read() as connection:
        assert check(connection) == []
        assert connection.exec_driver_sql("SELECT count(*) FROM decisions_rest").scalar_one() == 0
        counted = connection.execute(select(func.count()).select_from(schema.visits)).scalar_one()
    assert counted == DECISIONS * 16 // 20


def test_the_judge_finds_what_is_wrong(watched_cluster: Cluster, grown: Grown) -> None:
    """A column without an index, an order without one, and a count of everything."""
    d, v = schema.decisions.c, schema.visits.c
    wrong = {
        r"reads 1\d{5} rows of visits in vain": select(v.id).where(v.source == "manual"),
        r"reads all of visits": select(v.id, v.tags),
        r"aggregate of \d+ rows": select(func.count()).select_from(schema.decisions),
        r"sort of 1\d{5} rows": select(v.id).order_by(v.at_ms, v.tags).limit(100),
        r"reads \d{6} rows of decisions in vain": select(d.id)
        .where(d.key_fingerprint == "")
        .order_by(d.seq)
        .limit(9),
    }
    for fault, query in wrong.items():
        question = reading("wrong", lambda c, q=query: c.execute(q).all())
        (found,) = judge(watched_cluster, grown, [question], times=2, clocked=False)
        assert not found.is_well
        assert any(re.fullmatch(fault, told) for told in found.faults), found.faults


def test_raw_statements_are_seen(watched_cluster: Cluster, grown: Grown) -> None:
    """What goes around SQLAlchemy, as the ledger's statements do, is judged as well."""
    with watching(watched_cluster) as executed, Database.at(watched(grown.url)).read() as connection:
        cursor = connection.connection.cursor()
        cursor.execute("SELECT count(*) FROM answers WHERE answer_ms > %s", (7.0,))
        cursor.close()
    assert any("answer_ms >" in one.text for one in executed)


def test_no_question_reads_through_the_record(watched_cluster: Cluster, grown: Grown) -> None:
    """All that door, commands and admin API ask, but for what has a reason to."""
    found = judge(watched_cluster, grown, questions(grown), times=2, clocked=False)
    assert len(found) > 60
    assert all(finding.widest is not None for finding in found), [f.name for f in found if f.widest is None]
    assert {finding.name: finding.faults for finding in found if not finding.is_well} == {}
