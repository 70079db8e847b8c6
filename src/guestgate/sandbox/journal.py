"""The sandbox's own log: what it did and what came back, a JSON object a line.

``run``: a town and what was asked for. ``call``: one check-in call. ``enrolment``: one member validation at a desk.
``entry``: somebody came in on the answer to a call. ``kill``: whoever wrote this killed the endpoint. ``clock``: its
clock was set ahead of the sandbox's. ``webhook``: an event and its fate. Instants are the sandbox's own, ISO 8601 in
UTC.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from guestgate import clock
from guestgate.errors import OperationError, UsageError
from guestgate.sandbox.arrivals import PlannedEnrolment, PlannedTap
from guestgate.sandbox.door import Inquiry, Tap
from guestgate.sandbox.town import Town


class Journal:
    """A log that is written line by line; without a path nothing is written.

    What is in the file stays: an audit needs to know of every call.
    """

    def __init__(self, path: Path | None) -> None:
        """Open the file. Raises UsageError."""
        self._path = path
        self._file: TextIO | None = None
        if path is not None:
            try:
                # Each line goes out whole and at once, so whoever reads or kills us finds no half ones.
                self._file = path.open("a", encoding="utf-8", buffering=1)
            except OSError as error:
                raise UsageError(f"--log: {path}: {error.strerror}") from None

    def __enter__(self) -> Self:
        """The file is open already."""
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Close it."""
        if self._file is not None:
            with self._told():
                self._file.close()

    def write(self, kind: str, **fields: Any) -> None:
        """One line. Raises OperationError where it cannot be written."""
        if self._file is not None:
            with self._told():
                print(json.dumps({"kind": kind, **fields}, ensure_ascii=False), file=self._file)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OperationError(f"--log: {self._path}: {error.strerror}") from None

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

    def enrolment(
        self,
        at: datetime,
        planned: PlannedEnrolment,
        text: str,
        code_expires_at: datetime | None,
        inquiry: Inquiry,
        customer_id: int | None,
    ) -> None:
        """One member validation, begun at this instant, and who became a customer by it; nothing personal."""
        self.write(
            "enrolment",
            number=planned.number,
            at=clock.iso(at),
            studio=planned.studio.id,
            member_id=planned.member_id,
            text=text,
            code_expires_at=clock.iso(code_expires_at) if code_expires_at else None,
            fault=planned.fault.name,
            desk=inquiry.desk.value,
            http_status=inquiry.status,
            ms=inquiry.ms,
            told=inquiry.member.get("aggregatorId"),
            customer_id=customer_id,
            note=inquiry.note,
        )

    def entry(self, at: datetime, studio_id: str, customer_id: int, tap: Tap) -> None:
        """Somebody who was not in came in, since the door opened on this tap."""
        self.write("entry", at=clock.iso(at), studio=studio_id, customer_id=customer_id, decision_id=tap.decision_id)


def read(path: Path, take: Callable[[dict[str, Any]], object]) -> None:
    """Hand over each line of a log. Raises UsageError for a line that `take` cannot make sense of."""
    number = 0
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                number += 1
                take(json.loads(line))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
        raise UsageError(f"{path}:{number or 1}: this is no line of a sandbox's log") from None
