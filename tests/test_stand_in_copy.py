"""A node's file, what is said of it, and what a door remembers of visits that the file does not have yet."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestgate import clock
from guestgate.database import Database
from guestgate.errors import ConflictError, UsageError
from guestgate.model import CheckIn
from guestgate.stand_in import copy, recent
from guestgate.stand_in.copy import CopyState, StandInCopy
from guestgate.stand_in.notice import LATE_S, notice
from guestgate.stand_in.recent import RecentVisit, RecentVisits

OLD = "the copy is 7200 s old, and may be 3600"


@pytest.mark.parametrize(
    ("standing_in_s", "problem", "age_s", "waiting", "waits_s", "sentence"),
    [
        (0.0, None, 0.3, 0, 0, None),
        (0.0, None, 0.3, 5, 1, None),
        (0.0, None, LATE_S - 1, 0, 0, None),
        (0.0, None, LATE_S, 0, 0, "the copy is 60 s old"),
        (0.0, None, 7100.0, 2, 0, "the copy is 118 min old; 2 decisions wait to be carried over"),
        (0.0, None, 0.3, 3, 300, "3 decisions wait to be carried over, the oldest for 5 min"),
        (0.0, OLD, 7200.0, 0, 0, f"cannot stand in: {OLD}"),
        (0.0, "the copy is not complete yet", None, 0, 0, "cannot stand in: the copy is not complete yet"),
        (12.3, None, 12.0, 0, 0, "standing in for the shared database for 12 s"),
        (
            9000.0,
            None,
            9000.0,
            7,
            0,
            "standing in for the shared database for 2 h; 7 decisions wait to be carried over",
        ),
        (9.0, OLD, 7200.0, 0, 0, f"the shared database does not answer, and {OLD}: check-ins are undecided"),
    ],
)
def test_what_people_are_told(
    standing_in_s: float, problem: str | None, age_s: float | None, waiting: int, waits_s: int, sentence: str | None
) -> None:
    """One sentence, or none where all is well."""
    oldest = clock.now_ms() - waits_s * 1000 if waiting else None
    state = CopyState(problem, None if age_s is None else 1, age_s, waiting, oldest, 0, 0, 1)
    assert notice(state, standing_in_s, can_stand_in=True) == sentence


def test_a_copy_that_no_ledger_can_decide_on() -> None:
    """People are told, however young it is."""
    state = CopyState(None, 1, 0.3, 0, None, 0, 0, None)
    sentence = "cannot stand in: no check-in could be decided on the copy"
    assert notice(state, 0.0, can_stand_in=False) == sentence


def checkin(number: int, person: int) -> CheckIn:
    """Somebody's."""
    return CheckIn(f"id-{number}", clock.from_ms(number), "s1", f"m{person % 2}", person)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.integers(1, 50)),
        st.tuples(st.just("forget"), st.integers(-10, 60)),
    )
)


@given(STEPS)
def test_visits_of_the_last_moments(steps: list[tuple[str, int]]) -> None:
    """Each person's own, oldest first, until whoever is to know of them does; of too many the oldest go."""
    most, now_ms = 6, 1_000_000
    kept: list[tuple[int, int, RecentVisit]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recent, "MOST", most)
        patch.setattr(clock, "now_ms", lambda: now_ms)
        visits = RecentVisits()
        for number, (what, value) in enumerate(steps):
            if what == "add":
                visits.add(checkin(number, value))
                kept = [*kept, (now_ms, value, RecentVisit(f"id-{number}", "s1", number))][-most:]
            elif what == "wait":
                now_ms += value
            else:
                visits.forget(now_ms - value)
                kept = [each for each in kept if each[0] >= now_ms - value]
            for person in range(4):
                assert visits.of(checkin(0, person)) == tuple(visit for _, one, visit in kept if one == person)


def test_a_file_is_one_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one that was given the same file is told so; one that comes after it may have it."""
    monkeypatch.setattr(copy, "OWNER_PATIENCE_S", 0.3)
    path = tmp_path / "copy.db"
    used = pytest.raises(ConflictError, match=r"stand_in_file: .*copy\.db is used by another server")
    with StandInCopy(path).owned(), used, StandInCopy(path).owned():
        pass
    with StandInCopy(path).owned():
        pass


def test_a_file_that_cannot_be(tmp_path: Path) -> None:
    """Is named with its setting, and what to do."""
    (tmp_path / "file").write_text("no folder", "utf-8")
    for path in (tmp_path / "file" / "copy.db", tmp_path / "file"):
        with pytest.raises(UsageError, match=r"stand_in_file: .*stand_in = \"refuse\""):
            StandInCopy(path).prepare()
    with pytest.raises(UsageError, match="stand_in_file: "), StandInCopy(tmp_path / "file" / "copy.db").owned():
        pass


def test_a_file_is_made_once(tmp_path: Path) -> None:
    """And is private; what is in it stays when the server starts again."""
    own = StandInCopy(tmp_path / "copy.db")
    own.prepare()
    with own.database.write() as connection:
        copy.counted(connection, 3, 1)
    own.prepare()
    state = own.read_state(60)
    assert (state.carried_over, state.over_limit, state.waiting, state.oldest_waiting_s) == (3, 1, 0, 0.0)
    assert (state.problem, state.copied_at_ms, state.age_s) == ("the copy is not complete yet", None, None)
    assert own.path.stat().st_mode & 0o077 == 0
    Database.open(own.url).engine.dispose()  # every tool for a record works on it


@pytest.mark.parametrize(
    ("age_s", "problem"), [(0, None), (59, None), (-5, None), (75, "the copy is 75 s old, and may be 60")]
)
def test_how_old_a_copy_may_be(tmp_path: Path, age_s: int, problem: str | None) -> None:
    """As the setting says; a clock that was put back does not make it young or old."""
    own = StandInCopy(tmp_path / "copy.db")
    own.prepare()
    with own.database.write() as connection:
        copy.note(connection, timeline="t", copied_at_ms=clock.now_ms() - age_s * 1000)
    state = own.read_state(60)
    assert state.problem == problem
    assert state.age_s is not None and max(0, age_s) <= state.age_s < max(0, age_s) + 60
