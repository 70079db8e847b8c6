"""Help after a slip of the pen."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MAX_CHARS = 255


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`` (did you mean …?)`` where something known resembles what was given, else nothing."""
    candidates = list(known)
    # Differences of upper and lower case and of a missing area ("Berlin") are the commonest.
    lower = given.lower()
    similar = [name for name in candidates if name.lower() == lower or name.lower().endswith(f"/{lower}")][:3]
    similar = similar or get_close_matches(given[:MAX_CHARS], candidates, n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(similar)}?)" if similar else ""
