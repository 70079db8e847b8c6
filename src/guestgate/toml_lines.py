"""Where in a TOML file a field stands, so that a message can name the line."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import ValidationError

Location = tuple[str | int, ...]


def line_of(text: str, location: Location) -> int:
    """The line of the deepest part of a location that can be found; 1 where none can.

    Understands ``[a.b]`` and ``[[a.b]]`` headers, ``key =`` lines and the n-th ``{`` of an inline list.
    """
    lines = text.splitlines()
    start = 0
    for depth in range(len(location), 0, -1):
        header = _header_line(lines, location[:depth])
        if header is not None:
            start = header
            location = location[depth:]
            break
    found = start
    for part in location:
        next_line = _nth_table(lines, found, part) if isinstance(part, int) else _key_line(lines, found, part)
        if next_line is None:
            break
        found = next_line
    return found + 1


def _header_line(lines: list[str], location: Location) -> int | None:
    index = location[-1] if isinstance(location[-1], int) else 0
    names = [re.escape(str(part)) for part in location if isinstance(part, str)]
    dotted = r"\s*\.\s*".join(rf"[\"']?{name}[\"']?" for name in names)
    pattern = re.compile(rf"\s*\[\[?\s*{dotted}\s*\]\]?\s*(#.*)?")
    found = [number for number, line in enumerate(lines) if pattern.fullmatch(line)]
    return found[index] if index < len(found) else None


def _key_line(lines: list[str], start: int, key: str) -> int | None:
    pattern = re.compile(rf"(.*[{{,])?\s*[\"']?{re.escape(key)}[\"']?\s*(\.[^=]*)?=")
    for number in range(start, len(lines)):
        if number > start and re.match(r"\s*\[+[^\]=]+\]+\s*(#.*)?$", lines[number]):
            return None
        if pattern.match(lines[number]):
            return number
    return None


def _nth_table(lines: list[str], start: int, index: int) -> int | None:
    seen = -1
    for number in range(start, len(lines)):
        seen += lines[number].count("{")
        if seen >= index:
            return number
    return None


def place(path: Path, text: str, prefix: Location, error: ValidationError) -> str:
    """One sentence for the first problem pydantic found: ``file:line: field: what is wrong``."""
    problem = error.errors(include_url=False)[0]
    location = (*prefix, *problem["loc"])
    return f"{path}:{line_of(text, location)}: {dotted(location)}: {sentence(problem['type'], problem['msg'])}"


def dotted(location: Location) -> str:
    """``plans.classic.limits[0].per``"""
    name = ""
    for part in location:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name


def sentence(kind: str, message: str) -> str:
    """pydantic's message in plainer words."""
    if kind == "extra_forbidden":
        return "is not a field that exists here"
    if kind == "missing":
        return "is missing"
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    return message[:1].lower() + message[1:]
