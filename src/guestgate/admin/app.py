"""The admin listener's application: routes, guards, errors, and the document that describes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from guestgate import __version__
from guestgate.activity import Activity
from guestgate.admin import feed, members, monitoring, nodes, openapi, problems, record, studios
from guestgate.admin.access import router
from guestgate.admin.context import Context
from guestgate.admin.outage import OutageWatch
from guestgate.admin.pages import decisions as decision_pages
from guestgate.admin.pages import entrance, errors, files, now
from guestgate.admin.pages import members as member_pages
from guestgate.admin.pages import plans as plan_pages
from guestgate.admin.pages import statements as statement_pages
from guestgate.admin.pages import studios as studio_pages
from guestgate.admin.pages.live import Live
from guestgate.database import Database
from guestgate.plans import Headcount
from guestgate.settings import Settings
from guestgate.tokens import Role

if TYPE_CHECKING:
    from guestgate.door import DoorState

API = "/api/v1"
PAGES = (
    files.anybody,
    entrance.anybody,
    entrance.reading,
    now.reading,
    member_pages.reading,
    member_pages.writing,
    decision_pages.reading,
    studio_pages.reading,
    plan_pages.reading,
    statement_pages.reading,
    statement_pages.closing,
)


def create_app(database: Database, settings: Settings, ask_door: Callable[[bool], DoorState | None]) -> FastAPI:
    """An ASGI application. Paths are matched as they are written: nothing is redirected."""
    app = FastAPI(
        title="guestgate",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        strict_content_type=False,  # what the guard lets through without a content type is JSON
    )
    app.state.context = Context(database, settings, ask_door, OutageWatch(settings))
    app.state.activity = Activity()
    app.state.headcount = Headcount()
    app.state.live = Live(app.state.context)
    problems.install(app, errors.page)
    for part in (
        members.streaming,
        members.reading,
        members.writing,
        studios.reading,
        studios.writing,
        record.reading,
        record.writing,
        record.closing_,
        feed.reading,
        nodes.reading,
    ):
        app.include_router(part, prefix=API)
    app.include_router(monitoring.reading)
    app.include_router(monitoring.anybody)
    app.include_router(_document(app, settings), prefix=API)
    for part in PAGES:
        app.include_router(part)
    return app


def _document(app: FastAPI, settings: Settings) -> Any:
    reading = router(Role.VIEWER)

    @reading.get("/openapi.json", include_in_schema=False)
    def document() -> dict[str, Any]:
        """Both listeners in one OpenAPI document."""
        return openapi.document(app, settings)

    return reading
