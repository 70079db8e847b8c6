"""Thirty days in town in one run of minutes: who came in, what pays, and does guestgate count the same?

A real server with both of its listeners and its clerk, under libfaketime: its clock is set from one moment of a day
to the next, and runs at its own pace in between. The sandbox's clock is set with it, and people come at each moment.
Webhooks are lost, doubled, delayed and overtaken, calls cut and given up, the database is held up so that answers
are late, the Open API is busy or broken, and with --kill the server or its clerk is killed at random instants. One
studio's history cannot be asked until the month is closed, so that the next month has adjustments.

In the end everything is reconciled. Then the auditor says of each visit what it should be and whether it pays, both
ways, by what the sandbox saw at the doors, and each studio's statements are held against that. The exit status is 1
for any difference.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import runpy
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from datetime import time as wall
from pathlib import Path
from typing import Any
from unittest.mock import patch

import structlog
from callers import children, locked, problems, rows
from cluster import Cluster
from gate import Gate, free_port
from granian.constants import Interfaces
from granian.server.embed import Server as Granian

from guestgate import clock, record, settings, statements
from guestgate.attendance.reconciliation import Reconciliation, Report
from guestgate.closing import GRACE, Closing
from guestgate.platform import accounts
from guestgate.platform.accounts import Account
from guestgate.platform.history import PlatformHistory
from guestgate.platform.secret_keys import SecretKeys, add_to, new_key
from guestgate.sandbox import open_api, setup
from guestgate.sandbox.arrivals import Load
from guestgate.sandbox.auditor import Audit, Findings
from guestgate.sandbox.calls import Log
from guestgate.sandbox.journal import Journal
from guestgate.sandbox.platform import Endpoints, Platform
from guestgate.sandbox.server import LOOPBACK, application
from guestgate.sandbox.town import Studio, Town, TownSpec
from guestgate.sandbox.traffic import Traffic

REHEARSAL = Path(__file__).parents[1] / "rehearsal.d" / "rehearsal.py"
REQUIRES = ("authorized", "confirmed")
# With a change of clocks in Europe at its end.
MONTH = 10
# Hours in UTC between which the first two moments of a day lie; at the third one it is midnight somewhere.
MOMENTS_H = ((5, 9), (15, 20))
FAULTS = frozenset({"cut", "cancel", "webhooks"})
# How long nobody comes before the clock is set, so that nothing lies on both sides.
REST_S = 0.5
# At so many moments the database is held up, longer than an answer may take.
HELD_UP, HOLD_S = 0.3, 0.6
LEAVES_SOON = 0.5
LATE_STUDIO = 1
# One that was killed keeps others from reconciling for a minute.
PATIENCE_S = 90.0


class TownClock:
    """The time in town and on the server: that of this machine, and so much ahead."""

    def __init__(self, file: Path) -> None:
        """`file` is the one that libfaketime reads."""
        self._file, self._ahead_s = file, 0

    def now_ms(self) -> int:
        """In place of `guestgate.clock.now_ms`."""
        return time.time_ns() // 1_000_000 + 1000 * self._ahead_s

    def set(self, at: datetime) -> None:
        """To this instant, to the second; clocks only go forward."""
        self._ahead_s = max(self._ahead_s, round(at.timestamp() - time.time()))
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"+{self._ahead_s}\n", "ascii")
        fresh.replace(self._file)


class Month:
    """One run. `gate` is an installation that does not serve yet."""

    def __init__(self, gate: Gate, town_clock: TownClock, options: argparse.Namespace) -> None:
        """Move the town in."""
        self.gate, self.options = gate, options
        self._clock, self._dice = town_clock, random.Random(options.seed)
        real = clock.now()
        self.first_of_month = date(real.year + (real.month >= MONTH), MONTH, 1)
        self.first_of_next = date(self.first_of_month.year, MONTH + 1, 1)
        self.first_day = self.first_of_next - timedelta(days=options.days)
        day = self.first_of_month.replace(day=15).isoformat()
        self.town = Town(TownSpec(options.seed, options.studios, options.members, day))
        self.log = gate.folder / "month.jsonl"
        self.webhooks: Counter[str] = Counter()
        self.desks: Counter[str] = Counter()
        self.killed: Counter[str] = Counter()
        self.moments = 0
        self._clock.set(datetime.combine(self.first_day, wall(), UTC))
        self._env = _fake_clock(gate.folder)
        _make_certificate(gate)
        gate.configure(f'payable_requires = "{options.payable_requires}"')
        setup.put(self.town, gate.folder / "town", gate.database)
        add_to(gate.home / "guestgate.secret", new_key())
        self._open_api_port = free_port()
        for studio in self.town.studios:
            if studio is not self.town.studios[LATE_STUDIO]:
                self._add_account(studio)

    def _add_account(self, studio: Studio) -> None:
        url = f"http://{LOOPBACK}:{self._open_api_port}/{studio.tenant}/v1"
        with self.gate.database.write() as connection:
            accounts.put(connection, self._secret_keys(), Account(studio.id, url, studio.keys["openapi"]))

    def _secret_keys(self) -> SecretKeys:
        return SecretKeys.of(settings.load(self.gate.home / "guestgate.toml"))

    async def run(self) -> None:
        """All days; returns once everything is reconciled, and the month closed."""
        webhook_url = self.gate.url.replace("/checkin-validation", "/webhook")
        endpoints = Endpoints(self.gate.url, None, webhook_url, self.gate.cert)
        with Journal(self.log) as journal:
            platform = Platform(self.town, endpoints, journal, seed=self.options.seed, faulty_webhooks=True)
            platform.activated.update(studio.id for studio in self.town.studios)
            async with self._open_api(platform):
                self._serve()
                async with platform:
                    await self._days(platform)
                await self._settle()
        self.webhooks, self.desks = platform.webhooks, Counter({desk.value: n for desk, n in platform.desks.items()})

    @asynccontextmanager
    async def _open_api(self, platform: Platform) -> Any:
        app = application(platform, open_api.troubles(self.options.seed))
        options = {"interface": Interfaces.ASGI, "log_enabled": False, "websockets": False}
        server = Granian(app, address=LOOPBACK, port=self._open_api_port, **options)
        serving = asyncio.create_task(server.serve())
        yield
        server.stop()
        await serving

    def _serve(self) -> None:
        self.gate.start(wrapper=("env", *(f"{name}={value}" for name, value in self._env.items())))

    async def _days(self, platform: Platform) -> None:
        moments = [(day, number) for day in range(self.options.days) for number in range(len(MOMENTS_H) + 1)]
        kills = set(self._dice.sample(moments, min(self.options.kill, len(moments))))
        for day, number in moments:
            self._clock.set(self._instant(self.first_day + timedelta(days=day), number))
            await self._moment(platform, kill=(day, number) in kills)
            if number == len(MOMENTS_H):
                for studio in self.town.studios:
                    platform.close_for_today(studio)
            await asyncio.sleep(REST_S)

    def _instant(self, day: date, number: int) -> datetime:
        if number < len(MOMENTS_H):
            return datetime.combine(day, wall(), UTC) + timedelta(hours=self._dice.uniform(*MOMENTS_H[number]))
        zone = self._dice.choice(self.town.studios).zone
        midnight = datetime.combine(day + timedelta(days=1), wall(), zone)
        return midnight.astimezone(UTC) - timedelta(seconds=self.options.seconds / 2)

    async def _moment(self, platform: Platform, *, kill: bool) -> None:
        self.moments += 1
        meanwhile = []
        if kill:
            meanwhile.append(self._kill(platform.journal, self._dice.uniform(0, self.options.seconds)))
        elif self._dice.random() < HELD_UP:
            meanwhile.append(asyncio.to_thread(_hold_up, self.gate))
        load = Load(self.options.rate, self.options.seconds, self.options.seed * 1000 + self.moments, FAULTS)
        await asyncio.gather(Traffic(platform, load).run(), *meanwhile)
        for studio_id, customer_id in list(platform.inside):
            if self._dice.random() < LEAVES_SOON:
                platform.check_out(self.town.studio_by_id[studio_id], customer_id)

    async def _kill(self, journal: Journal, after_s: float) -> None:
        await asyncio.sleep(after_s)
        assert self.gate.process is not None
        clerks = children(self.gate.process.pid, "guestgate-clerk")
        if clerks and self._dice.random() < 0.3:
            self.killed["clerk"] += 1
            os.kill(clerks[0], signal.SIGKILL)
            return
        self.killed["server"] += 1
        journal.write("kill", at=clock.iso(clock.now()))
        await asyncio.to_thread(self.gate.stop, signal.SIGKILL)
        await asyncio.to_thread(self._serve)

    async def _settle(self) -> None:
        """Close the month, add the account that came late, and hold everything against the history."""
        over = datetime.combine(self.first_of_next, wall(), UTC) + statements.LAST_ZONE + GRACE
        self._clock.set(over + timedelta(minutes=1))
        self.before_closing = await asyncio.to_thread(self._reconcile)
        for _ in Closing(self.gate.database, self.name, self.options.payable_requires).run("month"):
            pass
        self._add_account(self.town.studios[LATE_STUDIO])
        self.after_closing = await asyncio.to_thread(self._reconcile)
        self.once_more = await asyncio.to_thread(self._reconcile)

    @property
    def name(self) -> str:
        """Of the month."""
        return f"{self.first_of_month:%Y-%m}"

    def _reconcile(self) -> Report:
        grace = timedelta(seconds=settings.load(self.gate.home / "guestgate.toml").reconcile_grace_s)
        with PlatformHistory(self.gate.database, self._secret_keys()) as history:
            return Reconciliation(self.gate.database, history, grace).run(patience_s=PATIENCE_S)

    def audit(self, requires: str) -> Findings:
        """What the auditor makes of it."""
        log = Log()
        log.add(self.log)
        with self.gate.database.read() as connection:
            decisions = [row for _, row in record.decisions(connection, record.Filter())]
            visits = [row for _, row in record.visits(connection, record.Filter(), payable_requires=requires)]
            validations = [row for _, row in record.validations(connection, record.Filter())]
        return Audit(self.town, log, decisions, visits, validations, requires, reconciled=True).run()

    def stated(self) -> dict[str, dict[str, int]]:
        """What all statements together pay, by the month and studio of the visit."""
        paid: dict[str, Counter[str]] = {}
        with self.gate.database.read() as connection:
            for month in (self.name, f"{self.first_of_next:%Y-%m}"):
                requires = self.options.payable_requires
                for _, line in statements.statement_lines(connection, month, None, payable_requires=requires):
                    of_month = paid.setdefault(line["local_date"][:7], Counter())
                    of_month[line["studio"]] += int(line["payable"])
        return {month: {studio: n for studio, n in sorted(studios.items()) if n} for month, studios in paid.items()}

    def adjustments(self) -> int:
        """How many lines of the next month adjust the closed one."""
        with self.gate.database.read() as connection:
            month, requires = f"{self.first_of_next:%Y-%m}", self.options.payable_requires
            return len(statements.statement(connection, month, None, payable_requires=requires)["adjustments"])


def _fake_clock(folder: Path) -> dict[str, str]:
    """As a rehearsal has it, but that nothing is a second late."""
    file = folder / "clock"
    ahead = file.read_text("ascii")
    env: dict[str, str] = runpy.run_path(str(REHEARSAL))["fake_clock"](folder)
    file.write_text(ahead, "ascii")
    return env | {"FAKETIME_NO_CACHE": "1"}


def _make_certificate(gate: Gate) -> None:
    """One that is in force today and at the end of the month in town."""
    request = "req -x509 -newkey rsa:2048 -nodes -days 800 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    files = ["-keyout", str(gate.key_file), "-out", str(gate.cert)]
    subprocess.run(["openssl", *request.split(), *files], check=True, capture_output=True)


def _hold_up(gate: Gate) -> None:
    with locked(gate.database):
        time.sleep(HOLD_S)


def report(month: Month) -> int:
    """Print what was counted; returns how many differences there are."""
    sent = Counter()
    for line in month.log.read_text("utf-8").splitlines():
        entry = json.loads(line)
        if entry["kind"] == "webhook":
            sent[entry["fate"]] += 1
    differences = []
    audits = {requires: month.audit(requires) for requires in REQUIRES}
    chosen = audits[month.options.payable_requires]
    states = Counter(
        dict(tuple(row) for row in rows(month.gate.database, "SELECT state, count(*) FROM visits GROUP BY state"))
    )
    print(f"days         {month.options.days}, {month.moments} moments; killed {dict(month.killed)}")
    print(f"check-ins    {chosen.calls} calls, {chosen.answered} answered; desks {dict(month.desks)}")
    print(f"webhooks     {sent.total()} events: {dict(sent)}; deliveries {dict(month.webhooks)}")
    print(f"came in      {chosen.came_in}; {chosen.visits} visits: {dict(states)}")
    for name, done in (("closing", month.before_closing), ("late studio", month.after_closing)):
        told = f"{len(done.confirmed)} confirmed, {len(done.reversed)} reversed, {len(done.not_confirmed)} not"
        left = f"{len(done.visits_without_entry)} visits without entry, {len(done.entries_without_visit)} entries"
        print(f"{name:<12} {told}; {left} without visit; {done.asked} asked, {done.unknown} unknown")
        differences += done.problems
    if month.once_more.changed:
        differences.append("reconciling once more changed something")
    for requires, found in audits.items():
        total = sum(sum(studios.values()) for studios in found.payable.values())
        print(f"payable      {requires}: {total} by the auditor, {len(found.problems)} differences")
        differences += [f"{requires}: {problem}" for problem in found.problems]
    stated = month.stated()
    for name in sorted(stated.keys() | chosen.payable.keys()):
        ours, theirs = stated.get(name, {}), chosen.payable.get(name, {})
        print(f"statement    {name}: {sum(ours.values())} stated, {sum(theirs.values())} by the auditor")
        for studio in sorted(ours.keys() | theirs.keys()):
            if ours.get(studio, 0) != theirs.get(studio, 0):
                differences.append(
                    f"{name}, {studio}: {ours.get(studio, 0)} stated, {theirs.get(studio, 0)} expected"
                )
    print(f"adjustments  {month.adjustments()} in the month after")
    differences += problems(month.gate.database)
    for difference in differences:
        print(f"difference   {difference}")
    print(f"{len(differences)} differences")
    return len(differences)


@contextmanager
def gate_of(options: argparse.Namespace) -> Iterator[Gate]:
    """An installation in a folder that is thrown away."""
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="guestgate-month-")))
        folder.mkdir(exist_ok=True)
        url = None
        if options.postgresql:
            cluster = stack.enter_context(closing(Cluster()))
            url = cluster.url(cluster.create())
        yield stack.enter_context(closing(Gate(folder.absolute(), database_url=url)))


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=30, help="the last ones of a month (30)")
    parser.add_argument("--kill", type=int, default=0, metavar="N", help="so often, at random instants (0)")
    parser.add_argument("--payable-requires", choices=REQUIRES, default="confirmed", help="(confirmed)")
    parser.add_argument("--postgresql", action="store_true", help="rather than SQLite")
    parser.add_argument("--rate", type=float, default=8, help="people a second, at each of three moments a day (8)")
    parser.add_argument("--seconds", type=float, default=3, help="how long a moment is (3)")
    parser.add_argument("--studios", type=int, default=10)
    parser.add_argument("--members", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in this new folder and keep it")
    options = parser.parse_args()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    started = time.monotonic()
    with gate_of(options) as gate:
        town_clock = TownClock(gate.folder / "clock")
        with patch.object(clock, "now_ms", town_clock.now_ms):
            month = Month(gate, town_clock, options)
            asyncio.run(month.run())
            differences = report(month)
    print(f"in {time.monotonic() - started:.0f} s")
    return 1 if differences else 0


if __name__ == "__main__":
    raise SystemExit(main())
