"""Reading TOML files, with messages that name the line a field stands in."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from guestgate.errors import UsageError

Location = tuple[str | int, ...]
_HEADER = re.compile(r"\s*\[{1,2}[^\[\]=]+\]{1,2}\s*(#.*)?")


def read(path: Path) -> tuple[str, dict[str, Any]]:
    """A file's text and content. Raises UsageError naming the file and, where it is known, the line."""
    try:
        text = path.read_text("utf-8")
        return text, tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as TOML: {str(error).partition(';')[0]}") from None


def line_of(text: str, location: Location) -> int:
    """The line of the deepest part of a location that can be found; 1 where none can.

    Understands ``[a.b]`` and ``[[a.b]]`` headers, ``key =`` and ``a.b.key =`` lines, and inline tables.
    """
    lines = [_without_comment(line) for line in text.splitlines()]
    found, rest = _header(lines, location)
    end = len(lines)
    while rest:
        if isinstance(rest[0], int):
            found, end = _nth_table(lines, found, rest[0])
            rest = rest[1:]
            continue
        names = [part for part in rest if isinstance(part, str)]
        line = None
        for depth in range(len(names), 0, -1):
            line = _key_line(lines[:end], found, names[:depth])
            if line is not None:
                found, rest = line, rest[depth:]
                break
        if line is None:
            break
    return found + 1


def _without_comment(line: str) -> str:
    quoted = re.sub(r"\"(\\.|[^\"\\])*\"|'[^']*'", lambda match: "x" * len(match[0]), line)
    return line[: quoted.index("#")] if "#" in quoted else line


def _dotted(names: list[str]) -> str:
    return r"\s*\.\s*".join(rf"[\"']?{re.escape(name)}[\"']?" for name in names)


def _header(lines: list[str], location: Location) -> tuple[int, Location]:
    """The line of the longest header that names the beginning of a location, and what is left of that."""
    for depth in range(len(location), 0, -1):
        head = location[:depth]
        number = head[-1] if isinstance(head[-1], int) else 0
        pattern = re.compile(
            rf"\s*\[{{1,2}}\s*{_dotted([part for part in head if isinstance(part, str)])}\s*\]{{1,2}}\s*"
        )
        found = [index for index, line in enumerate(lines) if pattern.fullmatch(line)]
        if number < len(found) and (number == 0 or lines[found[0]].lstrip().startswith("[[")):
            return found[number], location[depth:]
    return 0, location


def _key_line(lines: list[str], start: int, names: list[str]) -> int | None:
    pattern = re.compile(rf"(.*[{{,])?\s*{_dotted(names)}\s*(\.[^=]*)?=")
    for number in range(start, len(lines)):
        if number > start and _HEADER.fullmatch(lines[number]):
            return None
        if pattern.match(lines[number]):
            return number
    return None


def _nth_table(lines: list[str], start: int, index: int) -> tuple[int, int]:
    """The line of the n-th inline table of a list that begins on a line, and the line after it.

    The list's own line where it has fewer tables. A table stands on one line, as TOML wants it.
    """
    seen, open_brackets = -1, 0
    for number in range(start, len(lines)):
        value = lines[number].partition("=")[2] if number == start else lines[number]
        seen += value.count("{")
        if seen >= index:
            return number, number + 1
        open_brackets += value.count("[") - value.count("]")
        if open_brackets <= 0:
            break
    return start, start + 1


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
