"""`/metrics` for Prometheus and `/readyz` for whoever restarts things."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from sqlalchemy import Connection, func, select
from starlette.concurrency import run_in_threadpool

from guestgate import __version__, clock, expiry, schema, sequence, studios
from guestgate.admin.access import Watching, router
from guestgate.admin.context import Context
from guestgate.attendance import progress
from guestgate.door import STALLED_S, DoorState
from guestgate.errors import GuestgateError
from guestgate.sqlite import SqliteDatabase
from guestgate.stand_in.copy import CopyState
from guestgate.stand_in.notice import notice
from guestgate.tokens import Role

reading, anybody = router(Role.VIEWER, Watching), APIRouter()


@reading.get("/metrics", response_class=PlainTextResponse, summary="Figures for Prometheus")
async def metrics(request: Request) -> Response:
    """The door's, and what the database knows."""
    context: Context = request.app.state.context
    recorded: list[Metric] = []
    with suppress(GuestgateError):
        recorded = await context.ask_soon(lambda connection: list(_recorded(connection)))
    text = await run_in_threadpool(_text, _Figures(context, recorded))
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _text(figures: Collector) -> bytes:
    registry = CollectorRegistry()
    registry.register(figures)
    return generate_latest(registry)


@anybody.get(
    "/readyz",
    response_model=dict[str, Any],
    responses={503: {"model": dict[str, Any], "description": "Something is not ready; its part says what"}},
    summary="Can check-ins be answered?",
)
def readyz(request: Request) -> JSONResponse:
    """200, or 503 with the part that is not ready. While the machine stands in, it is ready."""
    found, ready = parts(request.app.state.context)
    return JSONResponse({"status": "ready" if ready else "not ready", "parts": found}, 200 if ready else 503)


def parts(context: Context) -> tuple[dict[str, str], bool]:
    """Each part with ``ok``, or what is wrong with it, and whether check-ins can be answered.

    Nothing secret, for it takes no token.
    """
    door = context.ask_door(False)
    found = {
        "door": "ok" if door is not None else "does not answer",
        "ledger": "ok" if door is not None and door.stalled_s < STALLED_S else "is held up",
        "database": "ok",
    }
    if context.outage.database_is_away():
        found["database"] = "does not answer"
    elif isinstance(context.database, SqliteDatabase):  # which nobody has asked
        try:
            with context.database.read() as connection:
                sequence.position(connection)
        except GuestgateError:
            found["database"] = "cannot be read"
    certificate = context.settings.tls_cert
    if certificate is not None:
        until = _valid_until(certificate)
        found["certificate"] = "cannot be read" if until is None else "ok" if until > clock.now() else "has expired"
    wrong = {name for name, state in found.items() if state != "ok"}
    if context.settings.stands_in:
        sentence, works = stand_in(context, door)
        found["stand_in"] = sentence or "ok"
        if works:
            wrong -= {"ledger", "database"}
    return found, not wrong


def stand_in(context: Context, door: DoorState | None) -> tuple[str | None, bool]:
    """What people are told of this machine's stand-in, None where all is as it should be; and whether it works."""
    copy, can_stand_in = context.outage.state(), door is not None and door.can_stand_in
    if copy is None:
        return "its copy cannot be read", False
    sentence = notice(copy, 0.0 if door is None else door.standing_in_s, can_stand_in)
    return sentence, copy.problem is None and can_stand_in


def _valid_until(certificate: Path) -> datetime | None:
    try:
        return expiry.certificate(certificate).not_valid_after_utc
    except (OSError, ValueError):
        return None


class _Figures(Collector):
    """All figures at one moment."""

    def __init__(self, context: Context, recorded: list[Metric]) -> None:
        """What is `recorded` is the database's; nothing where it does not answer."""
        self._context = context
        self._recorded = recorded

    def collect(self) -> Iterator[Metric]:
        """The door's figures and the database's; those that cannot be had are left out, and `up` says so."""
        yield InfoMetricFamily("guestgate_build", "The version.", {"version": __version__})
        door = self._context.ask_door(True)
        yield _gauge("guestgate_door_up", "Whether the door says how it is.", float(door is not None))
        if door is not None:
            yield _gauge(
                "guestgate_ledger_stalled_seconds", "How long the ledger has been at its batch.", door.stalled_s
            )
            yield from door.metrics
        certificate = self._context.settings.tls_cert
        until = None if certificate is None else _valid_until(certificate)
        if until is not None:
            yield _gauge(
                "guestgate_certificate_expires_timestamp_seconds", "When the certificate ends.", until.timestamp()
            )
        yield from self._files()
        if self._context.settings.stands_in:
            yield from _stand_in(self._context.outage.state(), door)
        yield _gauge("guestgate_database_up", "Whether the database can be read.", float(bool(self._recorded)))
        yield from self._recorded

    def _files(self) -> Iterator[Metric]:
        database = self._context.database
        if not isinstance(database, SqliteDatabase):
            return
        for name, what, path in (
            ("guestgate_database_bytes", "The database file.", database.path),
            ("guestgate_database_log_bytes", "Its write-ahead log.", database.wal_path),
        ):
            if path.exists():
                yield _gauge(name, what, path.stat().st_size)
        free = shutil.disk_usage(database.path.parent).free
        yield _gauge("guestgate_disk_free_bytes", "What is left on the database's disk.", free)


def _stand_in(copy: CopyState | None, door: DoorState | None) -> Iterator[Metric]:
    standing_in = door is not None and door.standing_in_s > 0
    yield _gauge("guestgate_stand_in_open", "Whether check-ins go past the shared database.", float(standing_in))
    ready = copy is not None and copy.problem is None and door is not None and door.can_stand_in
    yield _gauge("guestgate_stand_in_ready", "Whether this machine's copy could stand in.", float(ready))
    if copy is None:
        return
    if copy.age_s is not None:
        yield _gauge("guestgate_stand_in_copy_age_seconds", "How old the copy is.", copy.age_s)
    yield _gauge("guestgate_stand_in_waiting", "Decisions that wait to be carried over.", copy.waiting)
    for name, what, value in (
        ("guestgate_stand_in_carried_over", "Decisions carried over to the shared database.", copy.carried_over),
        ("guestgate_stand_in_over_limit", "Visits among them that went beyond a limit.", copy.over_limit),
    ):
        yield CounterMetricFamily(name, what, value)


def _recorded(connection: Connection) -> Iterator[Metric]:
    if connection.dialect.name != "sqlite":
        size = connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one()
        yield _gauge("guestgate_database_bytes", "The database file.", size)
    _, last = sequence.position(connection)
    yield _gauge("guestgate_recorded_rows", "The last number of the event feed.", last)
    waiting = progress.waiting(connection)
    age_s = 0.0 if waiting.oldest_ms is None else max(0.0, (clock.now_ms() - waiting.oldest_ms) / 1000)
    yield _gauge("guestgate_webhooks_waiting", "Webhooks that have not been read yet.", waiting.count)
    yield _gauge("guestgate_webhooks_oldest_waiting_seconds", "The age of the oldest of them.", age_s)
    reconciled_at_ms = progress.reconciled_at_ms(connection)
    if reconciled_at_ms:
        yield _gauge(
            "guestgate_reconciled_timestamp_seconds", "When visits were reconciled last.", reconciled_at_ms / 1000
        )
    unmatched = select(func.count()).select_from(schema.sightings).where(schema.unmatched, schema.sightings.c.ours)
    yield _gauge(
        "guestgate_entries_without_visit",
        "Entries of our members' customers that no answer explains.",
        connection.execute(unmatched).scalar_one(),
    )
    active = connection.execute(select(schema.studios.c.active)).scalars().all()
    family = GaugeMetricFamily("guestgate_studios", "Studios by state.", labels=["state"])
    family.add_metric(["active"], sum(active))
    family.add_metric(["paused"], len(active) - sum(active))
    yield family
    used = GaugeMetricFamily(
        "guestgate_key_last_used_timestamp_seconds", "When a key was last used.", labels=["studio", "key", "kind"]
    )
    expires = GaugeMetricFamily(
        "guestgate_key_expires_timestamp_seconds", "When a key ends.", labels=["studio", "key", "kind"]
    )
    for key in studios.key_list(connection):
        if key["state"] == "revoked":
            continue
        labels = [key["studio"], key["fingerprint"], key["kind"]]
        for figure, at in ((used, key["last_used_at"]), (expires, key["expires_at"])):
            if at is not None:
                figure.add_metric(labels, datetime.fromisoformat(at).timestamp())
    yield used
    yield expires


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value)
