"""Studios as they were: their tags and time zones at any place of the record, by the audit trail."""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, select

from guestgate import schema
from guestgate.directory import studio_of
from guestgate.model import Studio

_c = schema.changes.c
# What of a studio a decision rests on, and what makes it of the trail's value.
_READ: dict[str, Any] = {"timezone": ZoneInfo, "tags": frozenset, "active": bool}


class PastStudios:
    """Every studio at every number of the record. Where the trail was pruned, the oldest known state holds."""

    def __init__(self, connection: Connection) -> None:
        """Read studios and what was changed about them."""
        now = [studio_of(row) for row in connection.execute(select(schema.studios))]
        # For each studio its states, oldest first, and the numbers of the changes between them.
        self._states = {studio.id: [studio] for studio in now}
        self._changed: dict[str, list[int]] = {studio.id: [] for studio in now}
        changes = (
            select(_c.seq, _c.subject, _c.before)
            .where(_c.subject.in_(select(schema.studios.c.id)), _c.action == "studio.changed")
            .order_by(_c.seq.desc())
        )
        for seq, studio_id, before in connection.execute(changes):
            values = {name: _READ[name](value) for name, value in json.loads(before).items() if name in _READ}
            if values:
                self._states[studio_id].insert(0, replace(self._states[studio_id][0], **values))
                self._changed[studio_id].insert(0, seq)

    def always(self, studio_id: str) -> Studio | None:
        """The studio, where it was the same all along."""
        states = self._states.get(studio_id, ())
        return states[0] if len(states) == 1 else None

    def at(self, studio_id: str, seq: int) -> Studio:
        """The studio as it was for what has this number."""
        states = self._states[studio_id]
        return states[0] if len(states) == 1 else states[bisect_right(self._changed[studio_id], seq)]
