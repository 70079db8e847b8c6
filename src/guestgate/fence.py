"""Which primary of a PostgreSQL cluster is an old one.

A standby that is promoted begins a new timeline. The primary that it replaced still takes writes on the old one
once it is resumed or started again, and libpq, which takes the first host that does, may choose it: what is read
there is stale, and what is written is lost or waits for its standby for ever. So the newest timeline is
remembered that anybody here has seen, and whoever is behind it is not used.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

import structlog

from guestgate.occupancy import give_to_owner

log = structlog.get_logger()

_LINE = re.compile(r"(-?\d{1,20}) (\d{1,10})")


class History(NamedTuple):
    """What a primary writes: the identifier of its cluster, which all copies share, and the timeline it is on."""

    system: int
    timeline: int


class Fence:
    """The newest timeline of each cluster that was seen. Threads may share it, and processes its file."""

    def __init__(self, path: Path | None = None, *, writes: bool = True) -> None:
        """`path` is the file, whether it exists or not; without one, nobody else learns what this one sees.

        Nor without `writes`: a command may look at a copy of the cluster, such as in a rehearsal of its recovery.
        """
        self._path, self._writes = path, writes
        self._lock = threading.Lock()
        self._newest: dict[int, int] = {}
        self._version: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        """Where it knows from: the file, to be deleted where what it says is wrong."""
        return "memory" if self._path is None else str(self._path)

    def newest(self, system: int) -> int:
        """The newest timeline of a cluster; 0 where none was seen."""
        with self._lock:
            self._look()
            return self._newest.get(system, 0)

    def saw(self, history: History) -> None:
        """Somebody is on this timeline. Raises nothing: where the file cannot be written, the log says so."""
        with self._lock:
            self._look()
            if history.timeline > self._newest.get(history.system, 0):
                self._newest[history.system] = history.timeline
                self._write()

    def _look(self) -> None:
        """Take over what the file says, where that has changed."""
        if self._path is None:
            return
        try:
            found = self._path.stat()
            version = (found.st_ino, found.st_mtime_ns, found.st_size)
            if version == self._version:
                return
            self._version = version
            text = self._path.read_text("ascii", "replace")
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("the newest timeline could not be read", file=str(self._path), error=str(error))
            return
        on_file = _parse(text)
        if on_file is None:
            log.warning("the file of the newest timeline is damaged and counts as empty", file=str(self._path))
            on_file = {}
        for system, timeline in on_file.items():
            self._newest[system] = max(timeline, self._newest.get(system, 0))
        if on_file != self._newest:  # two wrote at once, and the other one did not know this
            self._write()

    def _write(self) -> None:
        if self._path is None or not self._writes:
            return
        lines = [f"{system} {timeline}\n" for system, timeline in sorted(self._newest.items())]
        try:
            handle, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
            new = Path(name)
            try:
                with open(handle, "w", encoding="ascii") as file:  # noqa: PTH123 - it is open already
                    file.writelines(lines)
                    file.flush()
                    os.fsync(handle)
                give_to_owner(new, self._path)
                new.replace(self._path)
            finally:
                new.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the newest timeline could not be written", file=str(self._path), error=str(error))


def _parse(text: str) -> dict[int, int] | None:
    """Timelines by cluster; None for what nobody here has written."""
    found = [_LINE.fullmatch(line) for line in text.splitlines()]
    if not all(found):
        return None
    return {int(line[1]): int(line[2]) for line in found if line}
