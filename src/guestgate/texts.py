"""Texts that others have chosen."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text without what would steer a terminal, or what XML has no way to say."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
