"""Whose a customer is: the platform's last word, but for what was linked by hand."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestgate.attendance.links import Link, Step, link_of
from guestgate.attendance.webhook import Kind

C, D, X = Kind.CREATED, Kind.DELETED, Kind.DISABLED


@pytest.mark.parametrize(
    "steps, expected",
    [
        ([], Link(None)),
        ([Step(1, C, "ada")], Link("ada")),
        ([Step(1, C, "ada"), Step(2, C, "bob")], Link("bob")),
        ([Step(1, C, "ada"), Step(2, D)], Link(None)),
        ([Step(1, D), Step(2, C, "ada")], Link("ada")),
        ([Step(1, C, "ada"), Step(2, X)], Link("ada", disabled=True)),
        ([Step(1, C, "ada"), Step(2, X), Step(3, D), Step(4, C, "ada")], Link("ada")),
        ([Step(1, C, "eve", by_hand=True), Step(2, C, "ada")], Link("eve", by_hand=True, disputed=True)),
        ([Step(1, C, "eve", by_hand=True), Step(2, C, "eve")], Link("eve", by_hand=True)),
        ([Step(1, C, "eve", by_hand=True), Step(2, D), Step(3, C, "ada")], Link("ada")),
        ([Step(1, C, "ada"), Step(2, D, by_hand=True)], Link(None)),
        ([Step(1, C, "ada"), Step(2, D, by_hand=True), Step(3, C, "ada")], Link("ada")),
    ],
)
def test_what_follows(steps: list[Step], expected: Link) -> None:
    """From what happened in this order."""
    assert link_of(steps) == expected


steps_ = st.lists(
    st.builds(Step, st.integers(0, 5), st.sampled_from([C, D, X]), st.just("ada") | st.just("bob"), st.booleans())
)


@given(steps_, st.randoms(use_true_random=False))
def test_order_plays_no_part(steps: list[Step], dice: random.Random) -> None:
    """Of learning, that is; also where several things happened in one millisecond."""
    steps = [step._replace(reference=str(number)) for number, step in enumerate(steps)]
    before = link_of(steps)
    dice.shuffle(steps)
    assert link_of(steps) == before
