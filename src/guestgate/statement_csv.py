"""A statement as CSV (RFC 4180), for spreadsheet programs.

It begins with a byte order mark: without one, Excel takes UTF-8 for the system's old character set. LibreOffice and
Python's ``utf-8-sig`` read it, too.
"""

from __future__ import annotations

import csv
import io
import re
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
# Formulas may begin after blanks and characters that nobody sees, and with the wide forms of East Asian keyboards;
# and within a text, where a program that was told of another separator begins a cell.
_BLANK = r"[\s\x00-\x20\u00ad\u200b-\u200f\u2060\ufeff]*"
_FORMULA = re.compile(rf"^(?=[\t\r\n])|(?:^|(?<=[;\t\r\n]))(?={_BLANK}[=+\-@\uff1d\uff0b\uff0d\uff20])")
_PLAIN = re.compile(r"\w[^;\t\r\n]*")
BLOCK = 64 * 1024


def csv_text(lines: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The file in parts."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    buffer.write(BOM)
    writer.writerow(COLUMNS)
    for line in lines:
        writer.writerow([_cell(line[name]) for name in COLUMNS])
        if buffer.tell() > BLOCK:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def _cell(value: Any) -> Any:
    """What a spreadsheet would take for the beginning of a formula gets an apostrophe in front."""
    return value if not isinstance(value, str) or _PLAIN.fullmatch(value) else _FORMULA.sub("'", value)
