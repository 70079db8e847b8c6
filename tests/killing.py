"""Work that is killed at a certain line: every step between two lines of ours gets its turn."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

SEED = int(os.environ.get("GUESTGATE_TEST_SEED", "1"))
ROUNDS = int(os.environ.get("GUESTGATE_TEST_ROUNDS", "12"))


def lines_of(work: Callable[[], object], *modules: ModuleType) -> int:
    """How many lines of these modules the work runs; it is done in a process of its own, to its end."""
    reading, writing = os.pipe()
    pid = _start(work, modules, None, writing)
    os.close(writing)
    with os.fdopen(reading) as report:
        text = report.read()
    assert os.waitpid(pid, 0)[1] == 0, "the work failed by itself"
    return int(text)


def kill_at(line: int, work: Callable[[], object], *modules: ModuleType) -> None:
    """Do the work in a process of its own that is killed when it comes to its so-manyth line."""
    pid = _start(work, modules, line, None)
    status = os.waitpid(pid, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, f"the work failed by itself ({status})"


def moments(name: str, lines: int, kind: str = "sqlite") -> list[int]:
    """At which lines to kill, in this run; fewer on a server, where each costs a database and many connections."""
    rounds = ROUNDS if kind == "sqlite" else ROUNDS // 2
    return random.Random(f"{SEED} {name}").sample(range(1, lines), min(rounds, lines - 1))


def repeat(test_file: str, line: int) -> str:
    """What a failed round prints."""
    settings = f"GUESTGATE_TEST_SEED={SEED} GUESTGATE_TEST_ROUNDS={ROUNDS}"
    return f"killed at line {line}; {settings} python -m pytest {test_file}"


def _start(work: Callable[[], object], modules: tuple[ModuleType, ...], line: int | None, report: int | None) -> int:
    pid = os.fork()
    if pid:
        return pid
    files = {str(Path(module.__file__ or "")) for module in modules}
    count = 0

    def each_line(_frame: FrameType, event: str, _value: Any) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            if count == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return each_line

    def each_call(frame: FrameType, _event: str, _value: Any) -> Any:
        return each_line if frame.f_code.co_filename in files else None

    status = 1
    try:
        sys.settrace(each_call)
        work()
        sys.settrace(None)
        if report is not None:
            os.write(report, str(count).encode())
        status = 0
    finally:
        os._exit(status)
