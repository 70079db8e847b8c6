"""Lists in parts: ``?limit&after`` in, ``{"items", "next"}`` out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import Query

from guestgate.errors import UsageError

Size = Annotated[int, Query(ge=1, le=1000, description="At most so many.")]
After = Annotated[str | None, Query(max_length=255, description="Go on after here: the `next` of the part before.")]


def page(found: Iterable[tuple[Any, dict[str, Any]]], limit: int) -> dict[str, Any]:
    """A part of a list from up to `limit` + 1 things, each with its place in the list's order."""
    places_and_items = list(found)
    shown = places_and_items[:limit]
    more = len(places_and_items) > limit
    return {"items": [item for _, item in shown], "next": str(shown[-1][0]) if more else None}


def place(after: str | None) -> int:
    """The number that a cursor of the record stands for. Raises UsageError for what is none."""
    if after is None:
        return 0
    if not after.isascii() or not after.isdecimal() or len(after) > 18:
        raise UsageError("after: this is not a cursor; give the `next` of the part before")
    return int(after)
