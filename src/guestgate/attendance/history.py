"""What the platform's history says of who came in: the evidence that a webhook's absence is not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol


class Stay(NamedTuple):
    """An entry in the platform's history. ``left_at`` is None while nobody knows."""

    id: int
    studio_id: str
    entered_at: datetime
    left_at: datetime | None = None


class History(Protocol):
    """The platform's history, for studios whose account we have."""

    def studios(self) -> Collection[str]:
        """The studios that can be asked about, by our ids."""

    def stays(self, studio_id: str, customer_id: int, since: datetime, until: datetime) -> Sequence[Stay] | None:
        """All entries of a customer between two instants, at least those at this studio, with our studios' ids.

        None where the platform knows no such customer any more. Raises OperationError where it cannot be asked.
        """
