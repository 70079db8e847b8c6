"""`/api/v1/nodes`: the servers that share this record, and how each of them is."""

from __future__ import annotations

from typing import Any

from guestgate import nodes
from guestgate.admin import shapes
from guestgate.admin.access import router
from guestgate.admin.context import In
from guestgate.tokens import Role

reading = router(Role.VIEWER)


@reading.get("/nodes", response_model=shapes.Page[shapes.Node], summary="List the servers that share this record")
def node_list(office: In) -> dict[str, Any]:
    """Each as it said itself, every few seconds; `silent` is one that has not been heard from for longer."""
    door = office.context.ask_door(False)
    with office.read() as connection:
        return {"items": nodes.node_list(connection, None if door is None else door.node), "next": None}
