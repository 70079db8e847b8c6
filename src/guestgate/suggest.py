"""Help after a slip of the pen."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`` (did you mean …?)`` where something known resembles what was given, else nothing."""
    candidates = list(known)
    similar = get_close_matches(given, candidates, n=3, cutoff=0.6)
    # Differences of upper and lower case and of a missing area ("Berlin") are the commonest.
    similar = similar or [name for name in candidates if name.lower().endswith(f"/{given.lower()}")][:3]
    return f" (did you mean {' or '.join(similar)}?)" if similar else ""
