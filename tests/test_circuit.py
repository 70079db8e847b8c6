"""When the shared ledger is asked, by what check-ins meet and what checks find; instants are given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestgate.circuit import CARRY_OVER_PATIENCE_S, LEVEL_S, OPEN_AFTER_S, QUICK_CHECKS, Circuit

# What happens at an instant: a check-in that was met or missed, or a check and the age of what waits.
Event = tuple[float, str, float]


def after(*events: tuple[float, str] | Event) -> list[bool]:
    """Whether it is open after each of these."""
    circuit = Circuit()
    found = []
    for now, what, *waits in events:
        before = circuit.is_open
        if what == "met":
            circuit.met()
        elif what == "missed":
            assert circuit.missed(now) == (circuit.is_open and not before)
        else:
            assert circuit.checked(what == "quick", *(waits or [0.0]), now) == (before and not circuit.is_open)
        found.append(circuit.is_open)
    return found


@pytest.mark.parametrize(
    ("events", "opens"),
    [
        ([(0.0, "missed")], False),
        ([(0.0, "missed"), (OPEN_AFTER_S - 0.01, "missed")], False),
        ([(0.0, "missed"), (OPEN_AFTER_S, "missed")], True),
        ([(0.0, "missed"), (0.3, "met"), (OPEN_AFTER_S, "missed")], False),
        ([(0.0, "missed"), (0.3, "met"), (0.4, "missed"), (OPEN_AFTER_S + 0.4, "missed")], True),
        ([(0.0, "missed"), (0.3, "quick"), (OPEN_AFTER_S, "missed")], True),  # only check-ins count
        ([(0.0, "slow"), (9.0, "slow")], False),
    ],
)
def test_opens_after_nothing_but_misses(events: list[tuple[float, str]], opens: bool) -> None:
    """For half a second; one check-in that is decided in time begins it anew."""
    assert after(*events)[-1] is opens


OPEN: list[tuple[float, str]] = [(0.0, "missed"), (1.0, "missed")]


@pytest.mark.parametrize(
    ("events", "closes"),
    [
        ([(2.0, "quick")], False),
        ([(2.0, "quick"), (2.5, "quick")], True),
        ([(2.0, "quick"), (2.5, "slow"), (3.0, "quick")], False),
        ([(2.0, "quick"), (2.5, "slow"), (3.0, "quick"), (3.5, "quick")], True),
        ([(2.0, "quick"), (2.2, "met"), (2.3, "missed"), (2.5, "quick")], True),  # a late answer tells nothing
        ([(2.0, "quick", LEVEL_S), (2.5, "quick", LEVEL_S)], False),
        ([(2.0, "quick", LEVEL_S), (2.5, "quick", LEVEL_S - 0.1)], True),
        ([(2.0, "quick", 60.0), (2.5, "quick", 60.0), (2.0 + CARRY_OVER_PATIENCE_S - 0.1, "quick", 60.0)], False),
        ([(2.0, "quick", 60.0), (2.5, "quick", 60.0), (2.0 + CARRY_OVER_PATIENCE_S, "quick", 60.0)], True),
        ([(2.0, "quick", 60.0), (9.0, "slow", 60.0), (9.5, "quick", 60.0), (12.1, "quick", 60.0)], False),
    ],
)
def test_closes_after_quick_checks_in_a_row(events: list[Event], closes: bool) -> None:
    """And once what was decided meanwhile is carried over, for which it waits some seconds and no longer."""
    found = after(*OPEN, *events)
    assert found[:2] == [False, True]
    assert found[-1] is not closes
    assert all(found[1:-1]), "it closed too early"


def test_it_tells_since_when_it_is_open() -> None:
    """For people; and opens as a new one does after it was closed."""
    circuit = Circuit()
    circuit.missed(3.0)
    circuit.missed(4.0)
    assert circuit.open_since == 4.0
    assert not circuit.missed(9.0)
    assert circuit.open_since == 4.0
    for now in range(QUICK_CHECKS):
        circuit.checked(True, 0.0, 10.0 + now)
    assert circuit.open_since is None
    assert not circuit.missed(20.0), "what was missed before it closed is long ago"
    assert circuit.missed(20.0 + OPEN_AFTER_S)


@given(st.lists(st.tuples(st.sampled_from(["met", "missed", "quick", "slow"]), st.floats(0, 3), st.floats(0, 9))))
def test_it_never_opens_or_closes_for_less(steps: list[tuple[str, float, float]]) -> None:
    """Opened by a miss, with none but misses for half a second; closed by a quick check that follows another one."""
    now, missing_since, quick = 0.0, None, 0
    circuit = Circuit()
    for what, pause, waits in steps:
        now += pause
        was_open = circuit.is_open
        if what == "met":
            circuit.met()
            missing_since = None
        elif what == "missed":
            missing_since = now if missing_since is None else missing_since
            circuit.missed(now)
        else:
            quick = quick + 1 if what == "quick" and was_open else 0
            circuit.checked(what == "quick", waits, now)
        if circuit.is_open and not was_open:
            assert what == "missed" and missing_since is not None and now - missing_since >= OPEN_AFTER_S
            missing_since, quick = None, 0
        if was_open and not circuit.is_open:
            assert what == "quick" and quick >= QUICK_CHECKS
            missing_since = None
        if was_open:
            missing_since = None
