"""The sandbox's own log: what it did and what came back, a JSON object a line.

``run``: a town and what was asked for. ``call``: one check-in call. ``clock``: the endpoint's clock was set ahead
of the sandbox's. ``webhook``: an event and its fate. Instants are the sandbox's own, ISO 8601 in UTC.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from guestgate import clock
from guestgate.errors import UsageError
from guestgate.sandbox.arrivals import PlannedTap
from guestgate.sandbox.door import Tap
from guestgate.sandbox.town import Town


class Journal:
    """A log that is written line by line; without a path nothing is written."""

    def __init__(self, path: Path | None) -> None:
        """Start the file anew. Raises UsageError."""
        self._file: TextIO | None = None
        if path is not None:
            try:
                self._file = path.open("w", encoding="utf-8")
            except OSError as error:
                raise UsageError(f"--log: {path}: {error.strerror}") from None

    def __enter__(self) -> Self:
        """The file is open already."""
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Close it."""
        if self._file is not None:
            self._file.close()

    def write(self, kind: str, **fields: Any) -> None:
        """One line."""
        if self._file is not None:
            print(json.dumps({"kind": kind, **fields}, ensure_ascii=False), file=self._file)

    def run(self, town: Town, **fields: Any) -> None:
        """What follows is about this town."""
        self.write("run", at=clock.iso(clock.now()), town=town.spec.as_dict(), **fields)

    def call(self, at: datetime, planned: PlannedTap, tap: Tap) -> None:
        """One check-in call, begun at this instant."""
        self.write(
            "call",
            number=planned.number,
            at=clock.iso(at),
            studio=planned.studio.id,
            aggregator_id=planned.aggregator_id,
            customer_id=planned.customer_id,
            fault=planned.fault.name,
            desk=tap.desk.value,
            http_status=tap.status,
            ms=tap.ms,
            decision=tap.decision,
            reason=tap.reason,
            decision_id=tap.decision_id,
            note=tap.note,
        )


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log. Raises UsageError for a file that is none."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                content = json.loads(line)
                if not isinstance(content, dict) or "kind" not in content:
                    raise UsageError(f"{path}:{number}: this is no line of a sandbox's log")
                yield content
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"{path}: this is no log of the sandbox") from None
