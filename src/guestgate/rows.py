"""Reading files of rows: CSV with a header, or NDJSON. A line that cannot be read is reported, not fatal."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

from guestgate.errors import UsageError
from guestgate.suggest import did_you_mean

MAX_LINE_CHARS = 64 * 1024
BOM = b"\xef\xbb\xbf"


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
        try:
            self._stream: BinaryIO = sys.stdin.buffer if name == "-" else Path(name).open("rb")  # noqa: SIM115
            self.size = 0 if name == "-" else Path(name).stat().st_size
            self.done = 0
            self._head = next(self._lines(), b"").removeprefix(BOM)
        except OSError as error:
            raise UsageError(f"{self._name}: {error.strerror}") from None
        if self._head.lstrip().startswith(b"{"):
            self._rows = self._ndjson()
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
        """The lines after the first; one that is too long comes as its beginning only."""
        while line := self._stream.readline(MAX_LINE_CHARS + 1):
            self.done += len(line)
            if len(line) > MAX_LINE_CHARS and not line.endswith(b"\n"):
                while (rest := self._stream.readline(MAX_LINE_CHARS)) and not rest.endswith(b"\n"):
                    self.done += len(rest)
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
        if any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
            return Row(line, None, "is not UTF-8 text")
        return Row(line, dict(zip(names, cells, strict=True)))

    def _ndjson(self) -> Iterator[Row]:
        lines = _chain(self._head, self._lines())
        for number, line in enumerate(lines, start=1):
            if len(line) > MAX_LINE_CHARS:
                yield Row(number, None, f"the line is longer than {MAX_LINE_CHARS} bytes")
                continue
            if not line.strip():
                continue
            try:
                content = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError:
                yield Row(number, None, "is not UTF-8 text")
                continue
            except (ValueError, RecursionError):
                yield Row(number, None, "is not JSON")
                continue
            if isinstance(content, dict):
                yield Row(number, content)
            else:
                yield Row(number, None, "is not a JSON object")


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
