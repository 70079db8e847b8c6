"""Small runs of the sandbox's traffic, and what guestgate has on record of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from gate import Gate, wait_for

from guestgate import record
from guestgate.sandbox.arrivals import Load
from guestgate.sandbox.calls import Log
from guestgate.sandbox.journal import Journal
from guestgate.sandbox.platform import Codes, Endpoints, Platform
from guestgate.sandbox.report import Report
from guestgate.sandbox.town import Town
from guestgate.sandbox.traffic import Traffic


def run(town: Town, endpoints: Endpoints, load: Load, log: Path | None, codes: Codes | None = None) -> Report:
    """Traffic, to its end; `codes` makes those that members show at the desks."""

    async def drive(platform: Platform) -> Report:
        async with platform:
            platform.activated.update(studio.id for studio in town.studios)
            return await Traffic(platform, load).run()

    with Journal(log) as journal:
        faulty = "webhooks" in load.faults
        platform = Platform(town, endpoints, journal, seed=load.seed, faulty_webhooks=faulty, codes=codes)
        return asyncio.run(drive(platform))


def log_of(*paths: Path) -> Log:
    """What logs hold."""
    log = Log()
    for path in paths:
        log.add(path)
    return log


def recorded(gate: Gate) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """guestgate's decisions and visits, once it is known how every answer left."""

    def read_all() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        with gate.database.read() as connection:
            decisions = [row for _, row in record.decisions(connection, record.Filter())]
            visits = record.visits(connection, record.Filter(), payable_requires="authorized")
            return decisions, [row for _, row in visits]

    wait_for(lambda: all(row["undelivered"] is not None for row in read_all()[0]), "answers are not recorded", gate)
    return read_all()


def validated(gate: Gate) -> list[dict[str, Any]]:
    """guestgate's member validations, once it is known how every answer left."""

    def read_all() -> list[dict[str, Any]]:
        with gate.database.read() as connection:
            return [row for _, row in record.validations(connection, record.Filter())]

    def known() -> bool:
        return all(row["undelivered"] is not None for row in read_all() if row["reason"] != "unavailable")

    wait_for(known, "answers are not recorded", gate)
    return read_all()
