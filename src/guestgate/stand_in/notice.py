"""What people are told while a node stands in, or cannot: in `/readyz`, and at the top of pages."""

from __future__ import annotations

from guestgate.stand_in.copy import CopyState

# A copy is level within half a second; so old, something is wrong.
LATE_S = 60.0


def notice(state: CopyState, standing_in_s: float, can_stand_in: bool) -> str | None:
    """One sentence; None where all is as it should be. `can_stand_in` is what the door found when it checked."""
    waiting = f"; {state.waiting} decisions wait to be carried over" if state.waiting else ""
    if standing_in_s and state.problem is not None:
        return f"the shared database does not answer, and {state.problem}: check-ins are undecided{waiting}"
    if standing_in_s:
        return f"standing in for the shared database for {_span(standing_in_s)}{waiting}"
    if state.problem is None and not can_stand_in:
        return f"cannot stand in: no check-in could be decided on the copy{waiting}"
    if state.problem is not None:
        return f"cannot stand in: {state.problem}{waiting}"
    if state.age_s is not None and state.age_s >= LATE_S:
        return f"the copy is {_span(state.age_s)} old{waiting}"
    if state.oldest_waiting_s >= LATE_S:
        return f"{state.waiting} decisions wait to be carried over, the oldest for {_span(state.oldest_waiting_s)}"
    return None


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
