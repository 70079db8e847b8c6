"""One request as a page's code sees it, and how its answer is rendered."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from guestgate import __version__, clock, words
from guestgate.admin import monitoring
from guestgate.admin.context import Office
from guestgate.admin.pages import files
from guestgate.tokens import Holder, Role

# Its own scripts load parts of pages with this header.
PART = "hx-request"
THEME = "guestgate_theme"
THEMES = ("auto", "light", "dark")
# What a form did, told on the page that it leads to. Only these texts: an address is anybody's to write.
DONE = {
    "suspended": "The member is suspended; the door denies from now on.",
    "active": "The member is active again.",
    "reversed": "The visit is taken back; it counts no more.",
    "added": "The visit is added; it counts like any other.",
    "closed": "The month is closed; its lines stay as they are.",
    "there": "That visit was there already.",
}


class View:
    """One request: who asks, what the form says, and ways to answer."""

    def __init__(self, request: Request) -> None:
        """Nobody is signed in, until the guard says who is."""
        self.request = request
        self.holder: Holder | None = None
        self.csrf: str | None = None
        self.form: Mapping[str, str] = {}

    @property
    def office(self) -> Office:
        """Access to the record, in the name of whoever is signed in."""
        assert self.holder is not None
        return Office(self.request.app.state.context, self.holder.who)

    def may(self, role: str) -> bool:
        """Whether whoever is signed in may do what takes this role."""
        return self.holder is not None and self.holder.role.includes(Role(role))

    @property
    def theme(self) -> str:
        """The one that was chosen; ``auto`` is the device's."""
        chosen = self.request.cookies.get(THEME)
        return chosen if chosen in THEMES else "auto"

    @property
    def path(self) -> str:
        """The page's address."""
        return self.request.url.path

    @property
    def address(self) -> str:
        """The same with what is asked of it."""
        return self.path + (f"?{self.request.url.query}" if self.request.url.query else "")

    @property
    def here(self) -> str:
        """Where a form that changes nothing of this page leads back to."""
        return self.address if self.request.method == "GET" else "/"

    @property
    def stand_in(self) -> str | None:
        """What people are told of this server's stand-in; None where all is as it should be."""
        context = self.request.app.state.context
        if not context.settings.stands_in:
            return None
        return monitoring.stand_in(context, context.ask_door(False))[0]

    @property
    def done(self) -> str | None:
        """What the form did that led here, in words."""
        return DONE.get(self.request.query_params.get("done", ""))

    def asked(self, name: str) -> str:
        """What the address says of this, without spaces around it; empty where it says nothing."""
        return self.request.query_params.get(name, "").strip()

    def render(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page, or a part of one."""
        return HTMLResponse(part(template, view=self, **values), status)

    def go(self, path: str) -> Response:
        """After a form, on to a page."""
        return RedirectResponse(path, 303)


def _view(request: Request) -> View:
    view: View = request.state.view
    return view


In = Annotated[View, Depends(_view)]


def moment(iso: str | None, timezone: str = "UTC") -> str:
    """An instant on a studio's wall clock: ``Thu 26 Nov 2026, 18:02:05``."""
    return "" if iso is None else _local(iso, timezone).strftime("%a %-d %b %Y, %H:%M:%S")


def minute(iso: str | None, timezone: str = "UTC") -> str:
    """The same to the minute, and without this year: ``Thu 26 Nov, 18:02``."""
    if iso is None:
        return ""
    local = _local(iso, timezone)
    year = "" if local.year == clock.now().year else " %Y"
    return local.strftime(f"%a %-d %b{year}, %H:%M")


def second(iso: str, timezone: str) -> str:
    """Only the time of day: ``18:02:05``."""
    return _local(iso, timezone).strftime("%H:%M:%S")


def _local(iso: str, timezone: str) -> datetime:
    return datetime.fromisoformat(iso).astimezone(ZoneInfo(timezone))


def ago(iso: str | None) -> str:
    """How long ago an instant is, in its largest unit: ``3 hours ago``."""
    if iso is None:
        return "never"
    seconds = (clock.now() - datetime.fromisoformat(iso)).total_seconds()
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"


def percent(share: float | None) -> str:
    """``99.98 %``; a hundred only where nothing is missing."""
    if share is None:
        return "–"
    return "100 %" if share == 1 else f"{min(100 * share, 99.99):.2f} %"


def part(template: str, **values: Any) -> str:
    """A part of a page that is the same for everybody."""
    return _templates.get_template(template).render(**values)


_templates = Environment(
    loader=PackageLoader("guestgate.admin.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters.update(moment=moment, minute=minute, second=second, ago=ago, percent=percent)
_templates.globals.update(static=files.address, version=__version__, words=words, themes=THEMES)
# Compiled at the start, and not while somebody waits for the first page.
for _name in _templates.list_templates():
    _templates.get_template(_name)
