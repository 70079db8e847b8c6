"""Reading files of rows: CSV with a header, or NDJSON. A line that cannot be read is reported, not fatal."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, NamedTuple, Protocol, Self, TypeVar

from guestgate import strict_json
from guestgate.errors import UsageError
from guestgate.strict_json import NotJsonError
from guestgate.suggest import did_you_mean

Item = TypeVar("Item")

MAX_LINE_CHARS = 64 * 1024
NOT_UTF8 = re.compile("[\udc80-\udcff]")
MAX_LINES_IN_MEMORY_BYTES = 1024 * 1024
BOM = b"\xef\xbb\xbf"


class BadRowError(ValueError):
    """A row cannot be taken as given; the message names the field and the cause."""


class BadRow(NamedTuple):
    """A row that is not taken: its line and what is wrong with it."""

    line: int
    why: str


class BadRows(Protocol):
    """Takes bad rows. A list does."""

    def append(self, bad: BadRow, /) -> None:
        """One more."""

    def __iter__(self) -> Iterator[BadRow]:
        """All of them."""

    def __len__(self) -> int:
        """How many there are."""


class SpooledRows:
    """Bad rows in a temporary file: however many there are, memory stays flat and none goes unreported.

    Use as a context manager.
    """

    def __init__(self) -> None:
        """Empty; small ones stay in memory."""
        self._file = SpooledTemporaryFile(max_size=MAX_LINES_IN_MEMORY_BYTES, mode="w+", encoding="utf-8")  # noqa: SIM115
        self._count = 0

    def __enter__(self) -> Self:
        """Ready to take rows."""
        return self

    def __exit__(self, *_: object) -> None:
        """Away with them."""
        self._file.close()

    def append(self, bad: BadRow, /) -> None:
        """One more."""
        self._file.write(json.dumps(bad) + "\n")
        self._count += 1

    def __iter__(self) -> Iterator[BadRow]:
        """All of them; afterwards none can be added."""
        self._file.seek(0)
        for text in self._file:
            yield BadRow(*json.loads(text))

    def __len__(self) -> int:
        """How many there are."""
        return self._count


def in_memory() -> BadRows:
    """For few."""
    rows: list[BadRow] = []
    return rows


@dataclass
class Report:
    """What became of the rows."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    bad: BadRows = field(default_factory=in_memory)

    @property
    def taken(self) -> int:
        """How many rows are stored."""
        return self.added + self.updated + self.unchanged


class Row:
    """One row: its line, and its fields or what is wrong with it."""

    def __init__(self, line: int, fields: dict[str, Any] | None, problem: str = "") -> None:
        """`fields` is None where there is a `problem`."""
        self.line = line
        self.fields = fields
        self.problem = problem


class RowFile:
    """A file, or standard input for ``-``. Iterating yields its rows; memory stays small."""

    def __init__(self, name: str, fields: tuple[str, ...], required: tuple[str, ...]) -> None:
        """Opens the file. Raises UsageError where that fails or where the header is wrong."""
        self._name = "standard input" if name == "-" else name
        self._fields, self._required = fields, required
        self.done = 0
        try:
            self._stream: BinaryIO = sys.stdin.buffer if name == "-" else Path(name).open("rb")  # noqa: SIM115
            self.size = 0 if name == "-" else Path(name).stat().st_size
            self._head = next(self._lines(), b"").removeprefix(BOM)
        except OSError as error:
            raise UsageError(f"{self._name}: {error.strerror}") from None
        if self._head.lstrip().startswith(b"{"):
            self._rows = ndjson(_chain(self._head, self._lines()))
        else:
            self._rows = self._csv(self._header())

    def __enter__(self) -> Self:
        """The file is open already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        if self._stream is not sys.stdin.buffer:
            self._stream.close()

    def __iter__(self) -> Iterator[Row]:
        """The rows after the header; the file is closed after the last one."""
        with self:
            yield from self._rows

    def _lines(self) -> Iterator[bytes]:
        """The lines after those that were read; `done` bytes of the file are behind us."""
        for line, length in lines_of(self._stream):
            self.done += length
            yield line

    def _header(self) -> list[str]:
        if len(self._head) > MAX_LINE_CHARS:
            raise UsageError(f"{self._name}:1: the line is longer than {MAX_LINE_CHARS} bytes")
        try:
            text = self._head.decode("utf-8")
            self._delimiter = max(",;\t", key=text.count)
            names = [name.strip() for name in next(csv.reader([text], delimiter=self._delimiter, strict=True), [])]
        except UnicodeDecodeError:
            raise UsageError(f"{self._name}:1: is not UTF-8 text") from None
        except csv.Error as error:
            raise UsageError(f"{self._name}:1: the columns cannot be read: {error}") from None
        for name in names:
            if name not in self._fields:
                similar = did_you_mean(name, self._fields)
                raise UsageError(f"{self._name}:1: there is no column {name[:64]!a}{similar}")
            if names.count(name) > 1:
                raise UsageError(f"{self._name}:1: column {name} stands there twice")
        for name in self._required:
            if name not in names:
                raise UsageError(f"{self._name}:1: the column {name} is missing")
        return names

    def _csv(self, names: list[str]) -> Iterator[Row]:
        problems: list[str] = []

        def texts() -> Iterator[str]:
            for line in self._lines():
                if len(line) > MAX_LINE_CHARS:
                    problems.append(f"the line is longer than {MAX_LINE_CHARS} bytes")
                    yield "\n"
                else:
                    yield line.decode("utf-8", errors="surrogateescape")

        reader = csv.reader(texts(), delimiter=self._delimiter, strict=True)
        while True:
            first = reader.line_num + 2
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(first, None, f"is not CSV: {error}")
                continue
            if problems:
                yield Row(first, None, problems.pop())
            elif any(cells):
                yield self._csv_row(first, names, cells)

    def _csv_row(self, line: int, names: list[str], cells: list[str]) -> Row:
        if len(cells) != len(names):
            return Row(line, None, f"has {len(cells)} cells where the header has {len(names)}")
        if any(NOT_UTF8.search(cell) for cell in cells):
            return Row(line, None, "is not UTF-8 text")
        return Row(line, dict(zip(names, cells, strict=True)))


def lines_of(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Each line, and how long it was; one that is too long comes as its beginning only."""
    while line := stream.readline(MAX_LINE_CHARS + 1):
        length = len(line)
        if length > MAX_LINE_CHARS and not line.endswith(b"\n"):
            while rest := stream.readline(MAX_LINE_CHARS):
                length += len(rest)
                if rest.endswith(b"\n"):
                    break
        yield line, length


def ndjson(lines: Iterable[bytes]) -> Iterator[Row]:
    """A row for each line that is not blank."""
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(BOM)  # noqa: PLW2901
        if len(line) > MAX_LINE_CHARS:
            yield Row(number, None, f"the line is longer than {MAX_LINE_CHARS} bytes")
            continue
        if not line.strip():
            continue
        try:
            content = strict_json.loads(line, any_text=True)
        except NotJsonError as error:
            yield Row(number, None, str(error))
            continue
        if isinstance(content, dict):
            yield Row(number, content)
        else:
            yield Row(number, None, "is not a JSON object")


def parsed(rows: Iterable[Row], parse: Callable[[int, dict[str, Any]], Item]) -> Iterator[Item | BadRow]:
    """What can be read of the rows, and in its place what cannot."""
    for row in rows:
        try:
            if row.fields is None:
                raise BadRowError(row.problem)
            yield parse(row.line, row.fields)
        except BadRowError as error:
            yield BadRow(row.line, str(error))


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
