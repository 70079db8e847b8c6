"""Which visit an entry belongs to: cases by hand, and that the order of learning plays no part."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestgate.attendance.matching import MAX_STAY_MS, WINDOW_MS, Opening, Sighting, Witness, visits_of
from guestgate.attendance.webhook import Kind

S = 1000


def opening(at_s: float, visit: str, *, decision: str | None = None, undelivered: bool = False) -> Opening:
    return Opening(round(at_s * S), decision or visit, visit, undelivered)


def entry(at_s: float, reference: str = "e", source: Witness = Witness.WEBHOOK) -> Sighting:
    return Sighting(round(at_s * S), Kind.ENTRY, source, reference)


def leaving(at_s: float, reference: str = "x") -> Sighting:
    return Sighting(round(at_s * S), Kind.EXIT, Witness.WEBHOOK, reference)


W = WINDOW_MS / S


@pytest.mark.parametrize(
    "openings, entries, expected",
    [
        pytest.param([opening(0, "a")], [entry(1)], {"e": "a"}, id="a second later"),
        pytest.param([opening(0, "a")], [entry(-W)], {"e": "a"}, id="the platform's clock is behind"),
        pytest.param([opening(0, "a")], [entry(W + 0.001)], {}, id="too late"),
        pytest.param([], [entry(0)], {}, id="nobody was let in"),
        pytest.param(
            [opening(0, "a"), opening(60, "b")],
            [entry(40, "e"), entry(100, "f")],
            {"e": "b", "f": "a"},
            id="two visits, and a clock that is 40 s ahead: both are confirmed",
        ),
        pytest.param(
            [opening(0, "a")], [entry(1, "e"), entry(20, "f")], {"e": "a", "f": "a"}, id="two readers, one visit"
        ),
        pytest.param(
            [opening(0, "a"), opening(60, "a", decision="r")],
            [entry(1, "e"), entry(61, "f")],
            {"e": "a", "f": "a"},
            id="a re-entry is the same visit",
        ),
        pytest.param(
            [opening(0, "a", undelivered=True), opening(20, "b")],
            [entry(1)],
            {"e": "b"},
            id="the answer that left lets in, also where another one is nearer",
        ),
        pytest.param([opening(0, "a", undelivered=True)], [entry(1)], {"e": "a"}, id="it seemed not to have left"),
        pytest.param(
            [opening(0, "a", undelivered=True), opening(20, "b")],
            [entry(20, "e"), entry(21, "7", Witness.HISTORY)],
            {"e": "b", "7": "b"},
            id="both witnesses tell of one entry",
        ),
        pytest.param(
            [opening(0, "a"), opening(0.3, "b")],
            [entry(0.4, "e"), entry(0, "7", Witness.HISTORY)],
            {"e": "a", "7": "a"},
            id="who tapped twice while the answer took its time came in once",
        ),
        pytest.param(
            [opening(0, "a"), opening(30, "b")],
            [entry(29, "f"), entry(0, "7", Witness.HISTORY), entry(29, "8", Witness.HISTORY)],
            {"f": "b", "7": "a", "8": "b"},
            id="who came in twice did, though a webhook was lost",
        ),
    ],
)
def test_entries(openings: list[Opening], entries: list[Sighting], expected: dict[str, str]) -> None:
    """Each entry belongs to the visit that it should."""
    assert {one.reference: visit for one, visit in visits_of(openings, entries).items()} == expected


def test_whoever_leaves_came_in_last() -> None:
    """An exit ends the stay that began last before it, if that was ours and not days ago."""
    openings = [opening(0, "a"), opening(7200, "b")]
    day = MAX_STAY_MS / S
    seen = [entry(1, "e"), leaving(3600, "x"), entry(7201, "f"), leaving(7201 + day, "y"), leaving(7202 + day, "z")]
    found = visits_of(openings, seen)
    assert {one.reference: visit for one, visit in found.items()} == {"e": "a", "x": "a", "f": "b", "y": "b"}
    assert visits_of(openings, [*seen, entry(7000, "other")])[leaving(3600, "x")] == "a"
    assert leaving(3600, "x") not in visits_of(openings, [*seen, entry(3000, "without a visit")])


times = st.integers(0, 900).map(float)
openings_ = st.lists(
    st.builds(opening, times, st.sampled_from("abcde"), decision=st.uuids().map(str), undelivered=st.booleans()),
    max_size=6,
    unique_by=lambda one: one.id,
)
sightings = st.lists(
    st.builds(
        Sighting,
        st.integers(0, 900_000),
        st.sampled_from([Kind.ENTRY, Kind.EXIT]),
        st.sampled_from(Witness),
        st.uuids().map(str),
    ),
    max_size=8,
    unique_by=lambda one: one.reference,
)


@given(openings_, sightings, st.randoms(use_true_random=False))
def test_order_plays_no_part(openings: list[Opening], seen: list[Sighting], dice: random.Random) -> None:
    """However it is shuffled, the same comes out."""
    before = visits_of(openings, seen)
    dice.shuffle(openings)
    dice.shuffle(seen)
    assert visits_of(openings, seen) == before


@given(openings_, sightings)
def test_entries_are_explained_where_they_can_be(openings: list[Opening], seen: list[Sighting]) -> None:
    """An entry has a visit exactly where an answer is near it, and one that was not sent only where no other is."""
    found = visits_of(openings, seen)
    for one in seen:
        if one.kind is Kind.ENTRY:
            near = [each for each in openings if abs(each.at_ms - one.at_ms) <= WINDOW_MS]
            sent = [each for each in near if not each.undelivered]
            if all(other.source is one.source for other in seen):
                assert (one in found) == bool(near)
                assert one not in found or found[one] in {each.visit_id for each in sent or near}
            assert one in found or not near


@given(openings_, sightings)
def test_no_entry_confirms_two_visits(openings: list[Opening], seen: list[Sighting]) -> None:
    """What webhooks tell and what the history tells beside it is one."""
    entries = [one for one in seen if one.kind is Kind.ENTRY]
    confirmed = set(visits_of(openings, entries).values())
    webhooks = [one for one in entries if one.source is Witness.WEBHOOK]
    both = [one._replace(source=Witness.HISTORY, reference=f"h{one.reference}") for one in webhooks]
    assert len(confirmed) <= len(entries)
    assert visits_of(openings, webhooks + both).items() >= visits_of(openings, webhooks).items()


@given(openings_, sightings, st.sampled_from(Witness))
def test_more_entries_confirm_no_fewer_visits(openings: list[Opening], seen: list[Sighting], by: Witness) -> None:
    """What is confirmed stays so, whatever else a witness tells; another one, or an answer that turns up later, may
    change that.
    """
    entries = [one for one in seen if one.kind is Kind.ENTRY and one.source is by]
    confirmed: set[str] = set()
    for count in range(len(entries) + 1):
        now = set(visits_of(openings, entries[:count]).values())
        assert now >= confirmed
        confirmed = now
