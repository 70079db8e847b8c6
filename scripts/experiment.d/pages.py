"""Every page with millions of decisions behind it, and what live pages cost the doors.

Fills a PostgreSQL server that is thrown away afterwards and a file with the same record, and asks a real server for
every page. Cold is the first time after a start of the server, the median of some starts; whichever page was the
first of all after a start has a line of its own as well. Warm is whatever follows, for each role the median. Then
doors are asked at a steady rate, without live pages and with some, in turns. The exit status is 1 where a page takes
longer than 300 ms or reads what it need not, or live pages cost the doors 10 ms of their p99.

With --full pages are also asked while wrk asks the doors for all they can do.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import httpx
from _door import Answers, for_seconds
from _tour import Page, tour
from _work import faults
from cluster import Cluster
from gate import Gate
from grown import SETTINGS, Grown, grow, in_a_file
from plan_watch import SETTINGS as WATCHED
from sqlalchemy import func, insert, select

from guestgate import clock, schema, sessions
from guestgate.admin.pages.admission import COOKIE
from guestgate.closing import Closing
from guestgate.database import Database
from guestgate.settings import Settings
from guestgate.tokens import Role

PAGE_MS, LIVE_MS = 300.0, 10.0
AT_FULL_LOAD = 5
FIRST = "whichever is the first"
REST_S = 1.0
CONNECTIONS = 64
LUA = Path(__file__).with_name("checkins.lua")


@dataclass
class Times:
    """Milliseconds that a page took: after starts, for each role afterwards, and under full load."""

    cold: list[float] = field(default_factory=list)
    warm: dict[Role, list[float]] = field(default_factory=lambda: {role: [] for role in Role})
    full: list[float] = field(default_factory=list)
    size: int = 0

    def medians(self) -> list[float]:
        """Cold, and for each role that may see it warm; what counts is the highest."""
        return [statistics.median(times) for times in (self.cold, *self.warm.values()) if times]


class Visitor:
    """Asks a server for pages, as a browser would that is signed in."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._tokens = {role: gate.token(role.value) for role in Role}
        self.operator_token = self._tokens[Role.OPERATOR]

    def session(self, role: Role) -> str:
        """A new one each time, for there is a page that ends it."""
        with self._gate.database.write() as connection:
            session = sessions.begin(connection, self._tokens[role])
        assert session is not None
        return session

    def ask(self, page: Page, role: Role) -> tuple[float, int]:
        """Milliseconds and bytes; of a live page the first message's."""
        session = self.session(role)
        with httpx.Client(base_url=self._gate.admin_url, headers=page.headers(session), timeout=120) as client:
            started, size = time.perf_counter(), 0
            with client.stream(page.method, page.path, data=page.fields(session)) as answer:
                for piece in answer.iter_raw():
                    size += len(piece)
                    if page.live:
                        break
                took = (time.perf_counter() - started) * 1000
        if answer.status_code != page.status:
            raise SystemExit(f"{page.name} ({page.path}): {answer.status_code} and not {page.status}")
        return took, size


@contextmanager
def serving(gate: Gate) -> Iterator[None]:
    """A server that was just started."""
    gate.start(copied=False)
    try:
        yield
    finally:
        gate.stop()


def time_pages(gate: Gate, pages: Sequence[Page], starts: int, times: int) -> dict[str, Times]:
    """All of them, after each start in another order; what changes something is for operators."""
    visitor, found = Visitor(gate), {name: Times() for name in (FIRST, *(page.name for page in pages))}
    for number in range(starts):
        first = number * len(pages) // starts
        with serving(gate):
            for page in (*pages[first:], *pages[:first]):
                took, found[page.name].size = visitor.ask(page, Role.OPERATOR)
                found[page.name].cold.append(took)
            found[FIRST].cold.append(found[pages[first].name].cold[-1])
            for page, role in product(pages, Role):
                if page.form is None or role.includes(Role.OPERATOR):
                    found[page.name].warm[role] += [visitor.ask(page, role)[0] for _ in range(times)]
    return found


def time_at_full_load(gate: Gate, grown: Grown, pages: Sequence[Page], found: dict[str, Times]) -> str:
    """The same while doors are asked as much as they can answer; returns what wrk says of them."""
    visitor = Visitor(gate)
    command = ["wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", "600s", "--timeout", "10s"]
    command += ["--latency", "--script", str(LUA), gate.url, "--", grown.key, str(grown.members)]
    with serving(gate):
        wrk = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            for page in pages:
                found[page.name].full += [visitor.ask(page, Role.OPERATOR)[0] for _ in range(AT_FULL_LOAD)]
        finally:
            wrk.send_signal(signal.SIGINT)  # it says what it has seen so far
            said, _ = wrk.communicate(timeout=30)
    return " ".join(line.strip() for line in said.splitlines() if "99%" in line or "Requests/sec" in line)


@asynccontextmanager
async def watching(gate: Gate, session: str) -> AsyncIterator[list[int]]:
    """A live page that is open; the list gets the sizes of what comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.admin_port)
    writer.write(f"GET /now/stream HTTP/1.1\r\nHost: localhost\r\nCookie: {COOKIE}={session}\r\n\r\n".encode())
    sizes: list[int] = []

    async def read() -> None:
        while piece := await reader.read(65536):
            sizes.append(len(piece))

    reading = asyncio.create_task(read())
    try:
        yield sizes
    finally:
        reading.cancel()
        writer.close()


async def doors_beside_live_pages(gate: Gate, grown: Grown, load: argparse.Namespace) -> tuple[Answers, Answers, int]:
    """All answers of the rounds without live pages and with them, and the bytes that these got."""
    visitor, members = Visitor(gate), [grown.member(number) for number in range(2000)]
    without, beside, got = Answers(), Answers(), 0
    await for_seconds(gate, load.rate, min(2.0, load.seconds), members)
    for _ in range(load.rounds):
        without.add(await for_seconds(gate, load.rate, load.seconds, members))
        async with AsyncExitStack() as stack:
            people = [visitor.session(Role.VIEWER) for _ in range(load.live)]
            open_pages = [await stack.enter_async_context(watching(gate, session)) for session in people]
            await asyncio.sleep(REST_S)
            beside.add(await for_seconds(gate, load.rate, load.seconds, members))
            silent = sum(not sizes for sizes in open_pages)
            if silent:
                raise SystemExit(f"{silent} live pages got nothing")
            got += sum(map(sum, open_pages))
        await asyncio.sleep(REST_S)
    return without, beside, got


def close_months(grown: Grown) -> None:
    """All before the present one. Of most of them the lines are left out, which nobody asks for."""
    database, (first, second, *others, present) = Database.at(grown.url), grown.months
    for month in (first, second):
        for _ in Closing(database, month, Settings().payable_requires).run("cli:operator"):
            pass
    with database.write() as connection:
        earlier = schema.visits.c.local_date < f"{present}-01"
        position = connection.execute(select(func.max(schema.visits.c.seq)).where(earlier)).scalar_one()
        values = {"attempt": 1, "closed_at_ms": clock.now_ms(), "closed_by": "cli:operator", "position": position}
        values |= {"payable_requires": Settings().payable_requires, "line_count": 0, "totals": "[]"}
        connection.execute(insert(schema.statements), [{"month": month, **values} for month in others])
    database.engine.dispose()


def measure(cluster: Cluster, grown: Grown, folder: Path, chosen: argparse.Namespace) -> bool:
    """Print what pages and doors take on one record; whether all is well."""
    folder.mkdir()
    gate = Gate(folder, database_url=grown.url)
    gate.keys["s-1"] = gate.keys["s1"] = grown.key
    kind = gate.database.engine.dialect.name
    try:
        pages = tour(grown, gate.token("operator"))
        wrong = faults(grown, pages, cluster)
        found = time_pages(gate, pages, chosen.starts, chosen.times)
        said = time_at_full_load(gate, grown, pages, found) if chosen.full else ""
        print(f"\n{kind:35}{'cold':>8}{''.join(f'{role.value:>10}' for role in Role)}{'kB':>8}  (ms)")
        for name, times in found.items():
            print(row(name, times), flush=True)
        slow = [name for name, times in found.items() if max(times.medians()) > PAGE_MS]
        if said:
            print(f"at full load, by wrk: {said}")
        for name, fault in wrong.items():
            print(f"FAULT {name}: {' '.join(fault.split()):.300}")
        print(f"{len(pages)} pages on {kind}, {len(slow)} over {PAGE_MS:.0f} ms, {len(wrong)} with faults")
        return compare_doors(gate, grown, chosen) and not wrong and (chosen.untimed or not slow)
    finally:
        gate.close()


def row(name: str, times: Times) -> str:
    """A line of the table; who may not see a page has no figure."""
    cold, *warm = (f"{statistics.median(ms):.1f}" if ms else "" for ms in (times.cold, *times.warm.values()))
    full = f"  at full load {statistics.median(times.full):.0f}" if times.full else ""
    late = "  OVER" if max(times.medians()) > PAGE_MS else ""
    return f"{name:35}{cold:>8}{''.join(f'{ms:>10}' for ms in warm)}{times.size / 1000:8.1f}{full}{late}"


def compare_doors(gate: Gate, grown: Grown, chosen: argparse.Namespace) -> bool:
    """Whether doors do not notice live pages."""
    if not chosen.rounds:
        return True
    with serving(gate):
        without, beside, got = asyncio.run(doors_beside_live_pages(gate, grown, chosen))
    more = beside.percentile(0.99) - without.percentile(0.99)
    print(f"doors, {chosen.rate:g} check-ins a second, {chosen.rounds} rounds of {chosen.seconds:g} s each, in turns")
    print(f"    no live page:  {without}")
    print(f"    {chosen.live} live pages: {beside}; {got / chosen.rounds / 1000:.0f} kB for them a round")
    print(f"    p99 {more:+.1f} ms{'' if more < LIVE_MS else '  OVER'}", flush=True)
    in_time = chosen.untimed or more < LIVE_MS
    return in_time and not without.failed and not beside.failed


def run(chosen: argparse.Namespace) -> bool:
    """Whether all is well."""
    started = time.monotonic()
    cluster = Cluster(*SETTINGS, *WATCHED, fsync=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            grown = grow(cluster, chosen.decisions, chosen.members)
            in_file = in_a_file(grown, Path(folder, "record.db"))
            print(f"{grown.decisions:,} decisions, {grown.members:,} members, {grown.studios} studios", end="")
            for one in (in_file, grown):
                close_months(one)
            print(f": filled twice in {time.monotonic() - started:.0f} s", flush=True)
            return all(
                [
                    measure(cluster, in_file, Path(folder, "sqlite"), chosen),
                    measure(cluster, grown, Path(folder, "postgresql"), chosen),
                ]
            )
    finally:
        cluster.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=5_000_000)
    parser.add_argument("--members", type=int, default=1_000_000)
    parser.add_argument("--starts", type=int, default=3, help="of the server")
    parser.add_argument("--times", type=int, default=5, help="that each page is asked for afterwards, by each role")
    parser.add_argument("--full", action="store_true", help="ask for pages at full load as well")
    parser.add_argument("--untimed", action="store_true", help="whatever takes long, it is well")
    parser.add_argument("--rate", type=float, default=200, help="check-ins a second beside live pages")
    parser.add_argument("--live", type=int, default=10, help="live pages")
    parser.add_argument("--rounds", type=int, default=5, help="without live pages and with them; 0: none")
    parser.add_argument("--seconds", type=float, default=8, help="of a round")
    raise SystemExit(0 if run(parser.parse_args()) else 1)
