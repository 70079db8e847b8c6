"""What decides is pure, and only one module knows the time."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import guestgate

PACKAGE = Path(guestgate.__file__).parent
PURE = ("model", "periods", "decide", "eligibility")
TIME = ("time", "time_ns", "monotonic", "monotonic_ns", "sleep")
CLOCKS = {
    *(f"time.{name}" for name in TIME),
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.datetime.today",
    "datetime.date.today",
}


def imported(tree: ast.AST, package: str) -> Iterator[tuple[str, str]]:
    """Each imported name with what it stands for, wherever in the module the import is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                # "import a.b" binds "a"; "import a.b as c" binds "a.b".
                yield (
                    (alias.asname or alias.name.partition(".")[0]),
                    (alias.name if alias.asname else alias.name.partition(".")[0]),
                )
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                yield alias.asname or alias.name, f"{module}.{alias.name}"


def modules_imported(tree: ast.AST, package: str) -> set[str]:
    """The modules that are imported, those of the package by their full name, others by their first part."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module != package:
            names = [str(node.module)]
        elif isinstance(node, ast.ImportFrom):
            names = [name for _, name in imported(ast.Module([node], []), package)]
        else:
            continue
        found |= {name if name.startswith(package) else name.partition(".")[0] for name in names}
    return found


def readings_of_a_clock(tree: ast.AST, package: str) -> list[str]:
    """Every mention of a function that reads or waits for a clock, called or handed on."""
    meaning = dict(imported(tree, package))

    def full_name(node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            return meaning.get(node.id, "")
        if isinstance(node, ast.Attribute):
            return f"{full_name(node.value)}.{node.attr}"
        return ""

    mentions = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Name)]
    return [f"line {node.lineno}: {full_name(node)}" for node in mentions if full_name(node) in CLOCKS]


def parsed(path: Path) -> tuple[ast.Module, str]:
    """A source file and the package that its relative imports start from."""
    parts = path.parent.relative_to(PACKAGE.parent).parts
    return ast.parse(path.read_text("utf-8"), str(path)), ".".join(parts)


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_only_one_another_and_the_standard_library(name: str) -> None:
    """No database, no settings, no clock can slip into a decision."""
    found = modules_imported(*parsed(PACKAGE / f"{name}.py"))
    own = {f"guestgate.{pure}" for pure in PURE}
    assert found - own - sys.stdlib_module_names == set()
    assert found.isdisjoint({"time", "os", "io", "pathlib", "random", "socket", "sqlite3", "threading"})


def test_only_the_clock_module_knows_the_time() -> None:
    """Everything else is handed instants, so that tests and replays decide which."""
    found = {
        str(path.relative_to(PACKAGE)): readings
        for path in sorted(PACKAGE.rglob("*.py"))
        if (readings := readings_of_a_clock(*parsed(path)))
    }
    assert set(found) == {"clock.py"}, found


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.monotonic()",
        "import time as t\nt.sleep(1)",
        "from time import time_ns\ntime_ns()",
        "from time import monotonic as ticks\nticks()",
        "def f():\n    import time\n    time.time()",
        "import datetime\ndatetime.datetime.now()",
        "import datetime as dt\ndt.date.today()",
        "from datetime import datetime\ndatetime.now(tz)",
        "from datetime import datetime as D\nD.utcnow()",
        "from datetime import date, datetime\ndatetime.today(), date.today()",
        "from datetime import datetime\nfield(default_factory=datetime.now)",
    ],
)
def test_a_reading_of_the_clock_is_found(source: str) -> None:
    """The search sees through aliases, late imports and functions that are handed on."""
    assert readings_of_a_clock(ast.parse(source), "guestgate")


@pytest.mark.parametrize(
    "source",
    [
        "from guestgate import clock\nclock.now(), clock.monotonic()",
        "from datetime import datetime, time\ndatetime.fromisoformat(text), time(0), time.min",
        "import asyncio\nasyncio.sleep(1)",
        "time.time()",
    ],
)
def test_other_uses_are_not_mistaken_for_one(source: str) -> None:
    """The package's own clock, wall times and names that only look alike are no readings."""
    assert readings_of_a_clock(ast.parse(source), "guestgate") == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import sqlalchemy.orm", {"sqlalchemy"}),
        ("from sqlalchemy.orm import Mapped", {"sqlalchemy"}),
        ("def f():\n    import httpx", {"httpx"}),
        ("from guestgate import ledger", {"guestgate.ledger"}),
        ("from guestgate.ledger import Ledger", {"guestgate.ledger"}),
        ("from . import ledger", {"guestgate.ledger"}),
        ("from .ledger import Ledger", {"guestgate.ledger.Ledger"}),
        ("from __future__ import annotations", {"__future__"}),
    ],
)
def test_an_import_is_found(source: str, expected: set[str]) -> None:
    """Whole packages, parts of them, late and relative imports are all seen."""
    assert modules_imported(ast.parse(source), "guestgate") == expected
