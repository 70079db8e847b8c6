"""Draw docs/dashboard-….png: the admin listener's pages over a sandbox town that has lived for eight days."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

from browser import DESK, PHONE, chromium
from gate import Gate
from past import uuid7
from playwright.sync_api import Page

from guestgate import clock, record
from guestgate.fingerprints import fingerprint, sha256_of
from guestgate.ledger import Answer, Ledger, Ticket
from guestgate.model import CheckIn, Reason
from guestgate.record import Filter, Order
from guestgate.sandbox import setup
from guestgate.sandbox.arrivals import Load, PlannedTap, taps
from guestgate.sandbox.town import Town, TownSpec

DOCS = Path(__file__).parents[2] / "docs"
SEED, MEMBERS, PEOPLE_A_SECOND = 4, 8000, 0.03
DAYS, DAY_S = 8, 86_400
BATCH = 64
QUIET = timedelta(hours=5)
MS_MEDIAN, MS_SPREAD = 4.0, 0.7


def main() -> None:
    """Move a town in, let it live, serve it, and look."""
    with tempfile.TemporaryDirectory(prefix="guestgate-") as folder:
        gate = Gate(Path(folder))
        try:
            now = clock.now()
            town = Town(TownSpec(SEED, members=MEMBERS, day=now.date().isoformat()))
            setup.put(town, Path(folder) / "town", gate.database)
            gate.keys = {studio.id: studio.keys["checkin"] for studio in town.studios}
            live(gate, town, now)
            gate.start()
            for _, tap in islice(lived(town, now), 12):
                if tap.studio.id == quiet_studio(town):
                    continue
                gate.checkin(tap.aggregator_id, tap.customer_id, tap.studio.id)
            draw(gate)
        finally:
            gate.close()


def lived(town: Town, now: datetime) -> Iterator[tuple[datetime, PlannedTap]]:
    """Whoever came in these days, and when; to one studio nobody came of late."""
    quiet = quiet_studio(town)
    begin = (now - timedelta(days=DAYS)).replace(hour=0, minute=0, second=0, microsecond=0)
    for day in range(DAYS + 1):
        for tap in taps(town, Load(PEOPLE_A_SECOND, DAY_S, SEED + day)):
            at = begin + timedelta(days=day, seconds=tap.due_s)
            if at < now - (QUIET if tap.studio.id == quiet else timedelta()):
                yield at, tap


def quiet_studio(town: Town) -> str:
    """One whose door nobody hears of."""
    return next(studio.id for studio in reversed(town.studios) if not (studio.test or studio.paused))


def live(gate: Gate, town: Town, now: datetime) -> None:
    """Have all of them decided by the ledger, with answers as they usually are."""
    ledger, dice = Ledger(gate.database, None), random.Random(SEED)
    keys = {studio: fingerprint(sha256_of(key)) for studio, key in gate.keys.items()}
    coming = lived(town, now)
    answers: list[Answer] = []
    while batch := list(islice(coming, BATCH)):
        tickets = [
            Ticket(
                CheckIn(
                    uuid7(at, dice.getrandbits(40)),
                    at,
                    tap.studio.id,
                    tap.aggregator_id,
                    tap.customer_id,
                    keys[tap.studio.id],
                ),
                math.inf,
            )
            for at, tap in batch
        ]
        decisions = ledger.process(tickets, answers)
        answers = [
            Answer(
                decision.id,
                200 if decision.outcome.value == "allowed" else 403,
                round(dice.lognormvariate(math.log(MS_MEDIAN), MS_SPREAD), 1),
                False,
            )
            for decision in decisions
        ]
    ledger.process([], answers)
    ledger.close()


def draw(gate: Gate) -> None:
    """A few pages, each as somebody may have it before them."""
    with gate.database.read() as connection:
        latest = record.decisions(connection, Filter(limit=2000, order=Order.DESCENDING))
        denied = next(one for _, one in latest if one["reason"] == Reason.LIMIT_REACHED)
    member = f"/member?id={denied['member']}&studio={denied['studio']}"
    with chromium() as browser:
        page = browser.new_page(base_url=gate.admin_url)
        page.goto("/login")
        page.fill("input[name=token]", gate.token("operator", name="anna"))
        page.press("input[name=token]", "Enter")
        page.wait_for_selector(".chart canvas")
        shoot(page, "now", "/", DESK, "dark")
        shoot(page, "member", member, DESK, "light")
        shoot(page, "studios", "/studios", DESK, "light")
        shoot(page, "phone", member, PHONE, "light")


def shoot(page: Page, name: str, address: str, size: tuple[int, int], theme: str) -> None:
    """One picture, of what fits onto the screen."""
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    page.goto(address)
    page.wait_for_load_state("load")
    page.wait_for_timeout(1000)  # the first figures by stream
    page.screenshot(path=DOCS / f"dashboard-{name}.png")


if __name__ == "__main__":
    main()
