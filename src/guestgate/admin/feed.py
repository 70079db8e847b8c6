"""`/api/v1/events`: everything that happens, once and in order."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import Query, Request
from starlette.concurrency import run_in_threadpool

from guestgate import clock, events
from guestgate.admin import shapes
from guestgate.admin.access import admitted, router
from guestgate.admin.context import In, Office
from guestgate.admin.paging import Size
from guestgate.tokens import Role

reading = router(Role.VIEWER)

LOOK_AGAIN_S = 0.1
MAX_WAIT_S = 60
LATEST = "latest"

Cursor = Annotated[
    str | None,
    Query(
        max_length=64,
        description="The `next` of the last call, or the `cursor` of the last event that was dealt with. "
        "Left out: from the beginning of the record. `latest`: only what comes from now on.",
    ),
]


@reading.get(
    "/events",
    response_model=shapes.Events,
    responses={410: {"description": "The database was put back; read again from the beginning"}},
    summary="Follow all that happens",
)
async def event_list(
    request: Request,
    office: In,
    after: Cursor = None,
    limit: Size = 100,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait where there is nothing yet.")] = 0,
) -> dict[str, Any]:
    """Decisions, visits, confirmations, reversals, corrections and changes in the one order they were recorded in.

    Keep `next` together with what you do with the events, and a consumer that is killed anywhere misses
    nothing and does nothing twice.
    """
    give_up_at = clock.monotonic() + wait
    found, following = await run_in_threadpool(_read, office, after, limit)
    while not found and clock.monotonic() < give_up_at:
        await asyncio.sleep(LOOK_AGAIN_S)
        if await request.is_disconnected():
            break
        if await run_in_threadpool(_position, office) != following:
            found, following = await run_in_threadpool(_read, office, following, limit)
            await admitted(request, Role.VIEWER)  # the token may have been revoked while we waited
    return {"events": found, "next": following}


def _read(office: Office, after: str | None, limit: int) -> tuple[list[dict[str, Any]], str]:
    with office.read() as connection:
        if after == LATEST:
            return [], events.end(connection)
        return events.read(connection, after, limit, payable_requires=office.payable_requires)


def _position(office: Office) -> str:
    with office.read() as connection:
        return events.end(connection)
