"""What PostgreSQL really executed, and how: every statement's plan with its counts, out of the server's own log.

The server writes them down itself (auto_explain), whoever sent the statement and however: raw cursors, prepared
statements with a plan for all values, arrays. Judged is what a plan did, not what it is called, because a walk
through an empty partition harms nobody and an index can be walked from end to end as well.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import Cluster

# For a server that is watched; whoever is watched asks for it, by `watched`.
SETTINGS = (
    "session_preload_libraries = auto_explain",
    "auto_explain.log_min_duration = -1",
    "auto_explain.log_analyze = on",
    "auto_explain.log_timing = off",
    "auto_explain.log_buffers = on",
    "auto_explain.log_format = json",
)
BIG = ("decisions", "answers", "visits", "visit_changes", "changes", "members", "customers")
# So many pages of 8 KiB are for a thousand rows by their keys, such as those of the member who came most; more for
# the rows that may be read in vain.
MOST_PAGES, ROWS_ON_A_PAGE = 10_000, 25
IN_VAIN = ("Filter", "Index Recheck", "Join Filter")
GATHERING = ("Sort", "Incremental Sort", "Hash", "Aggregate", "Materialize", "WindowAgg")

_ENTRY = re.compile(r"LOG:  duration: ([0-9.]+) ms  plan:\n((?:\t.*\n)+)")


@dataclass(frozen=True)
class Executed:
    """One statement as it was executed."""

    text: str
    ms: float
    plan: dict[str, Any]

    def nodes(self) -> Iterator[dict[str, Any]]:
        """All parts of the plan that were carried out, the outermost first."""
        waiting = [self.plan]
        while waiting:
            node = waiting.pop()
            if node["Actual Loops"]:
                yield node
            waiting += reversed(node.get("Plans", []))

    @property
    def pages(self) -> int:
        """Pages looked at, in memory or not."""
        return int(self.plan["Shared Hit Blocks"] + self.plan["Shared Read Blocks"])

    @property
    def words(self) -> str:
        """How tables were read, in a few words."""
        found: dict[str, None] = {}
        for node in self.nodes():
            kind, relation = node["Node Type"], node.get("Relation Name", "")
            if kind in GATHERING:
                found[kind.lower()] = None
            elif relation and "Scan" in kind:
                found[f"{_table(relation)} {_by(node)}"] = None
        return ", ".join(found) or self.plan["Node Type"].lower()

    def faults(self, most_rows: int) -> Iterator[str]:
        """What it did that neither a door nor a page has the time for; `most_rows` may be read for nothing."""
        in_vain, whole = Counter[str](), Counter[str]()  # of all partitions together
        for node in self.nodes():
            loops, relation = node["Actual Loops"], _table(node.get("Relation Name", ""))
            in_vain[relation] += loops * sum(node.get(f"Rows Removed by {what}", 0) for what in IN_VAIN)
            if node["Node Type"] == "Seq Scan" and relation in BIG:
                whole[relation] += loops * node["Actual Rows"]
            if node["Node Type"] in GATHERING:
                gathered = sum(part["Actual Loops"] * part["Actual Rows"] for part in node.get("Plans", []))
                if gathered > most_rows:
                    yield f"{node['Node Type'].lower()} of {gathered:.0f} rows"
        for relation, rows in in_vain.items():
            if rows > most_rows:
                yield f"reads {rows:.0f} rows of {relation or 'a join'} in vain"
        for relation, rows in whole.items():
            if rows > most_rows:
                yield f"reads all of {relation}"
        if self.pages > MOST_PAGES + most_rows // ROWS_ON_A_PAGE:
            yield f"looks at {self.pages} pages"


def _table(relation: str) -> str:
    """A partition's whole table."""
    return re.sub(r"_(\d{4}_\d{2}|rest)$", "", relation)


def _by(node: dict[str, Any]) -> str:
    if node["Node Type"] == "Seq Scan":
        return "whole"
    if node["Node Type"] == "Bitmap Heap Scan":
        return "by bitmap"
    index = str(node.get("Index Name", "tid"))
    index = re.sub(rf"^(ix_|pk_|uq_)?{node.get('Relation Name', '')}_?", "", index)
    return f"by {re.sub(r'_?(idx|key|pkey)[0-9]*$', '', index) or 'key'}"


def watched(url: str) -> str:
    """The URL of the same database, for connections whose statements are written down."""
    return f"{url}{'&' if '?' in url else '?'}options=-c%20auto_explain.log_min_duration%3D0"


@contextmanager
def watching(cluster: Cluster) -> Iterator[list[Executed]]:
    """A list that holds, at the end, what watched connections executed meanwhile."""
    executed: list[Executed] = []
    log = Path(cluster.folder) / "log"
    before = log.stat().st_size
    yield executed
    with log.open("rb") as file:
        file.seek(before)
        for ms, lines in _ENTRY.findall(file.read().decode("utf-8", "replace")):
            content = json.loads(lines.replace("\n\t", "\n"))
            executed.append(Executed(content["Query Text"], float(ms), content["Plan"]))
