"""Studios: which doors are open, busy or quiet, with their keys; and all about one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from fastapi import Response
from sqlalchemy import Connection

from guestgate import activity, clock, record, studios
from guestgate.activity import HOUR_MS, NONE, WEEK, Activity, Hour
from guestgate.admin.pages.access import router
from guestgate.admin.pages.view import In
from guestgate.directory import KeyKind
from guestgate.record import Filter, Order
from guestgate.tokens import Role

reading = router(Role.VIEWER)

SHOWN = 20
ON_PAGE = 100
ENDS_SOON = timedelta(days=30)


@reading.get("/studios")
def every(view: In) -> Response:
    """Each with its last day, the ones first that somebody should look at; or those whose name has a text in it."""
    text, page = view.asked("q"), _number(view.asked("page"))
    kept: Activity = view.request.app.state.activity
    with view.office.read() as connection:
        today, week_ago = kept.day(connection), kept.day(connection, ago=WEEK)
        keys = _keys(connection)
        found = [
            {**_state(studio, keys.get(studio["id"], []), week_ago), **_day(today, studio["id"])}
            for studio in studios.studio_list(connection)
            if text.casefold() in f"{studio['id']} {studio['name']}".casefold()
        ]
    found.sort(key=lambda studio: (not studio["troubles"], studio["name"].casefold(), studio["id"]))
    return view.render(
        "studios.html",
        studios=found[page * ON_PAGE :][:ON_PAGE],
        text=text,
        page=page,
        pages=-(-len(found) // ON_PAGE),
        troubled=sum(bool(studio["troubles"]) for studio in found),
    )


@reading.get("/studio")
def one(view: In) -> Response:
    """Its state, its keys, its week hour by hour, and its last decisions."""
    studio_id = view.asked("id")
    kept: Activity = view.request.app.state.activity
    with view.office.read() as connection:
        studio = studios.studio_dict(connection, studio_id)
        keys = studios.key_list(connection, studio_id)
        calls = activity.week(connection, studio_id)
        week_ago = kept.day(connection, ago=WEEK)
        latest = Filter(studio=studio_id, limit=SHOWN, order=Order.DESCENDING, since=clock.now() - timedelta(days=7))
        decisions = [decision for _, decision in record.decisions(connection, latest)]
    first = activity.this_hour() - len(calls) + 1
    return view.render(
        "studio.html",
        all_keys=keys,
        soon=clock.iso(clock.now() + ENDS_SOON),
        decisions=decisions,
        places={studio_id: studio},
        chart={
            "at": [(first + hour) * HOUR_MS // 1000 for hour in range(len(calls))],
            "allowed": [hour.allowed for hour in calls],
            "denied": [hour.denied for hour in calls],
            "undecided": [hour.undecided for hour in calls],
            "timezone": studio["timezone"],
        },
        **_state(studio, keys, week_ago),
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0


def _keys(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """Every studio's."""
    keys: dict[str, list[dict[str, Any]]] = {}
    for key in studios.key_list(connection):
        keys.setdefault(key["studio"], []).append(key)
    return keys


def _day(today: list[Hour], studio_id: str) -> dict[str, Any]:
    """A studio's last day in sums, and as two shapes of bars for a drawing of 240 by 32."""
    calls = [hour.get(studio_id, NONE) for hour in today]
    highest = max(1, *(hour.all for hour in calls))
    return {
        "allowed": sum(hour.allowed for hour in calls),
        "denied": sum(hour.denied for hour in calls),
        "undecided": sum(hour.undecided for hour in calls),
        "all_bars": _bars([hour.all / highest for hour in calls]),
        "refused_bars": _bars([(hour.all - hour.allowed) / highest for hour in calls]),
    }


def _bars(heights: list[float]) -> str:
    """An SVG path; heights are parts of the whole one."""
    return "".join(
        f"M{10 * place} 32v-{32 * part:.0f}h8v{32 * part:.0f}z" for place, part in enumerate(heights) if part
    )


def _state(studio: dict[str, Any], keys: list[dict[str, Any]], week_ago: list[Hour]) -> dict[str, Any]:
    """The studio, with its last call and what somebody should look at."""
    # A key is used with each call, and says when to the minute.
    used = [key["last_used_at"] for key in keys if key["kind"] == KeyKind.CHECKIN and key["last_used_at"]]
    last = max(used, default=None)
    return {**studio, "last_call": last, "troubles": list(_troubles(studio, keys, week_ago, last))}


def _troubles(
    studio: dict[str, Any], keys: list[dict[str, Any]], week_ago: list[Hour], last: str | None
) -> Iterator[str]:
    """What somebody should look at, in words; nothing about a studio that is paused on purpose."""
    if not studio["active"]:
        return
    ends = [key["expires_at"] for key in keys if key["kind"] == KeyKind.CHECKIN and key["state"] == "valid"]
    if not ends:
        yield "no key in force: the platform cannot ask"
        return
    if None not in ends and max(ends) < clock.iso(clock.now() + ENDS_SOON):
        yield f"its last key ends on {max(ends)[:10]}"
    if last is None:
        return
    called_at = datetime.fromisoformat(last)
    missed = activity.missed(called_at, week_ago, studio["id"])
    if clock.now() - called_at > timedelta(hours=WEEK):
        yield "quiet for more than a week"
    elif missed is not None:
        yield f"gone quiet; in the same hours a week ago {missed} came"
