"""A statement as CSV (RFC 4180), for spreadsheet programs.

It begins with a byte order mark: without one, Excel takes UTF-8 for the system's old character set. LibreOffice and
Python's ``utf-8-sig`` read it, too.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

BOM = "\ufeff"
COLUMNS = (
    "month",
    "kind",
    "visit",
    "member",
    "studio",
    "at",
    "local_date",
    "state",
    "source",
    "payable",
    "decision",
    "confirmed_at",
    "confirmed_by",
    "confirmation",
    "plan",
    "plan_version",
    "adjusts",
    "changed_at",
    "changed_by",
    "why",
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_text(lines: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The file in parts, a line of the statement each."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    buffer.write(BOM)
    writer.writerow(COLUMNS)
    for line in lines:
        writer.writerow([_cell(line[name]) for name in COLUMNS])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
