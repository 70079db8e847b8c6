"""What pages have a database do, in figures that a busy machine does not change.

On PostgreSQL the server's own account of each statement; on SQLite the steps of its virtual machine, of which a row
that is read costs ten or so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx
from _tour import Page
from cluster import Cluster
from fastapi import FastAPI
from grown import SPAN, Grown
from plan_report import SLACK
from plan_watch import watched, watching
from sqlalchemy import event

from guestgate import sessions, tokens
from guestgate.admin.app import create_app
from guestgate.database import Database
from guestgate.settings import Settings
from guestgate.tokens import Role

# A studio's page tells of a week.
DAYS = 8
STEPS_A_ROW, STEPS_AT_ONCE = 20, 100


def faults(grown: Grown, pages: Sequence[Page], cluster: Cluster) -> dict[str, str]:
    """What is wrong with pages that read for nothing what grows with the record, by their names.

    Live pages go on and on, and are left out, as are those that have a reason to.
    """
    most_rows = SLACK + grown.decisions * DAYS // SPAN.days
    found = {}
    for page in pages:
        if not page.live and not page.walks:
            on_server = grown.url.startswith("postgresql")
            found[page.name] = (
                _on_server(grown.url, page, most_rows, cluster) if on_server else _in_file(grown.url, page, most_rows)
            )
    return {name: wrong for name, wrong in found.items() if wrong}


def _on_server(url: str, page: Page, most_rows: int, cluster: Cluster) -> str:
    with watching(cluster) as executed:
        _visit(Database.at(watched(url), pooled=True), page)
    return "; ".join(f"{fault}: {one.text}" for one in executed for fault in one.faults(most_rows))


def _in_file(url: str, page: Page, most_rows: int) -> str:
    database, steps = Database.at(url), 0

    def count() -> int:
        nonlocal steps
        steps += STEPS_AT_ONCE
        return 0

    event.listen(
        database.engine, "connect", lambda connection, _: connection.set_progress_handler(count, STEPS_AT_ONCE)
    )
    _visit(database, page)
    return f"takes {steps} steps" if steps > most_rows * STEPS_A_ROW else ""


def _visit(database: Database, page: Page) -> None:
    """Ask an admin listener for the page that has not been asked for anything yet."""
    with database.write() as connection:
        session = sessions.begin(connection, tokens.create(connection, Role.OPERATOR))
    assert session is not None
    answer = asyncio.run(_ask(create_app(database, Settings(), lambda with_figures: None), page, session))
    database.engine.dispose()
    if answer.status_code != page.status:
        raise SystemExit(f"{page.name} ({page.path}): {answer.status_code} and not {page.status}")


async def _ask(app: FastAPI, page: Page, session: str) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost", headers=page.headers(session)
    ) as client:
        return await client.request(page.method, page.path, data=page.fields(session))
