"""Closing a month where things go wrong: killed, tried twice at once, beside everything that changes visits."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from backends import Backend, copied
from callers import problems, rows
from gate import Gate, environment, wait_for
from killing import ROUNDS, SEED, kill_at, lines_of, moments, repeat
from paid import disputed, fill, lines
from past import Past, uuid7
from sqlalchemy import insert
from terminal import COMMAND, Terminal

from guestgate import adjustments, corrections, schema, sequence, statement_lines, statements, visits
from guestgate import bulk as bulk_module
from guestgate import closing as closing_module
from guestgate import database as database_module
from guestgate import postgres as postgres_module
from guestgate import sqlite as sqlite_module
from guestgate.closing import Closing
from guestgate.database import Database
from guestgate.errors import OperationError
from guestgate.forget import forget
from guestgate.prune import Prune
from guestgate.visits import Import, VisitRow

PLANS = """
[plans.daily]
name = "Daily"
reentry_minutes = 0
[plans.each]
name = "Each"
payable = "per_visit"
reentry_minutes = 0
"""
BOTH = ("daily", "each")
PEOPLE = [f"m{number}" for number in range(12)]
KILLS = 2
CHANGES = 40


def close(database: Database, month: str, requires: str = "authorized") -> None:
    """Close a month."""
    for _ in Closing(database, month, requires).run("cli:anna"):
        pass


def begin(database: Database, month: str) -> None:
    """Begin to close a month, and be broken off."""
    with closing(Closing(database, month, "authorized").run("cli:anna")) as broken_off:
        next(broken_off)  # type: ignore[call-overload]


def patiently(work: Callable[[], object]) -> None:
    """Do it, again and again where the machine is so busy that others keep the lock for longer than anybody waits."""
    while True:
        try:
            work()
            return
        except OperationError as error:
            if "locked" not in str(error) and "lock timeout" not in str(error):
                raise


def closed(database: Database) -> list[str]:
    """The months that are."""
    with database.read() as connection:
        return [one["month"] for one in statements.closed_list(connection)]


def state_of(connection: Any, visit_id: str, state: str) -> None:
    """Somebody came in after all, or what seemed to show that belongs elsewhere."""
    changed = connection.exec_driver_sql(
        f"UPDATE visits SET state = '{state}', reversed_why = NULL WHERE id = '{visit_id}' AND state != '{state}'"
    )
    if changed.rowcount:
        (seq,) = sequence.take(connection, 1)
        connection.execute(
            insert(schema.visit_changes).values(
                seq=seq, visit_id=visit_id, changed_at_ms=5, state=state, who="guestgate", why="event e1"
            )
        )


@pytest.fixture
def desk(terminal: Terminal) -> Terminal:
    """Two months of visits, and members on both plans."""
    terminal.plans(PLANS)
    terminal.studio("s1")
    terminal.members(*({"member_id": name, "plan": BOTH[n % 2]} for n, name in enumerate(PEOPLE)))
    for month in ("2026-01", "2026-02"):
        fill(terminal.database, month, 150, PEOPLE, plans=BOTH)
    return terminal


def test_a_command_killed_at_any_line_closes_nothing_and_the_next_one_all(
    desk: Terminal, backend: Backend, tmp_path: Path
) -> None:
    """A month with visits and adjustments: no line of it before, and afterwards each once."""
    close(desk.database, "2026-01")
    made = [visit for (visit,) in rows(desk.database, "SELECT id FROM visits WHERE local_date < '2026-02' LIMIT 40")]
    with desk.database.write("cli:anna") as connection:
        for visit in made:
            corrections.reverse(connection, visit, "by mistake")
    said = lines(desk.database, "2026-01", "authorized")
    desk.close()

    def command(database: Database) -> None:
        with suppress(SystemExit):
            desk.monkeypatch.setenv("GUESTGATE_DATABASE", str(url_of(database)))
            COMMAND.main(["statement", "2026-02", "--close"], prog_name="guestgate")

    modules = (closing_module, adjustments, statement_lines, bulk_module)
    modules += (database_module, sqlite_module, postgres_module)
    with copied(backend, desk.database_url, tmp_path) as database:
        count = lines_of(lambda: command(database), *modules)
        assert closed(database) == ["2026-02", "2026-01"]
        whole = lines(database, "2026-02", "authorized")
        assert len(whole) >= 150 + 40 and disputed(database) == {}
    for line in moments("closing", count, backend.name)[: ROUNDS // 2]:
        with copied(backend, desk.database_url, tmp_path) as database:
            kill_at(line, lambda: command(database), *modules)
            if "2026-02" not in closed(database):
                assert disputed(database) == {}, repeat(__file__, line)
                assert problems(database) == [], repeat(__file__, line)
                close(database, "2026-02")
            assert lines(database, "2026-02", "authorized") == whole, repeat(__file__, line)
            assert lines(database, "2026-01", "authorized") == said, repeat(__file__, line)
            assert disputed(database) == {} and problems(database) == [], repeat(__file__, line)
            attempts = rows(database, "SELECT DISTINCT attempt FROM statement_lines WHERE month = '2026-02'")
            assert len(attempts) == 1, repeat(__file__, line)


def url_of(database: Database) -> str:
    """Where it is."""
    if database.engine.dialect.name == "sqlite":
        return f"sqlite:///{database.name}"
    given = database.parameters  # type: ignore[attr-defined]
    return f"postgresql://{given['user']}@{given['host']}:{given['port']}/{given['dbname']}"


@pytest.fixture
def gate(home: Gate) -> Iterator[Gate]:
    """An installation with a month that takes a moment to close."""
    home.studio("s1")
    home.plans(PLANS)
    home.members(*(f"{name},{BOTH[number % 2]}" for number, name in enumerate(PEOPLE)))
    fill(home.database, "2026-01", 1500, PEOPLE, plans=BOTH)
    yield home


def test_what_was_broken_off_late_is_cleared_away(desk: Terminal) -> None:
    """More lines than are read at once."""
    fill(desk.database, "2026-01", database_module.PAGE, PEOPLE, plans=BOTH)
    with closing(Closing(desk.database, "2026-01", "authorized").run("cli:anna")) as broken_off:
        while next(broken_off) <= database_module.PAGE:  # type: ignore[call-overload]
            pass
    close(desk.database, "2026-01")
    attempts = rows(desk.database, "SELECT attempt, count(*) FROM statement_lines GROUP BY attempt")
    assert attempts == [(2, 150 + database_module.PAGE)]
    assert disputed(desk.database) == {} and problems(desk.database) == []


def test_what_changes_after_a_line_is_prepared(desk: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A correction is in the line or an adjustment of the next month; who is forgotten is not named any more."""
    where = f"local_date < '2026-02' AND member_id = '{PEOPLE[1]}'"
    ((taken_back,),) = rows(desk.database, f"SELECT id FROM visits WHERE {where} ORDER BY seq DESC LIMIT 1")
    prepare = Closing._prepared

    def slowly(self: Closing, visits: Any) -> Iterator[statement_lines.Line]:
        prepared = list(prepare(self, visits))
        if self.month == "2026-01":
            forget(self.database, "cli:anna", PEOPLE[0])
            with self.database.write("cli:anna") as connection:
                assert corrections.reverse(connection, taken_back, "by mistake")
        yield from prepared

    monkeypatch.setattr(Closing, "_prepared", slowly)
    for month in ("2026-01", "2026-02"):
        close(desk.database, month)
    said = [line for month in ("2026-01", "2026-02") for line in lines(desk.database, month, "authorized")]
    assert PEOPLE[0] not in {line["member"] for line in said} and PEOPLE[1] in {line["member"] for line in said}
    about = [line["payable"] for line in said if line["visit"] == taken_back]
    assert about and sum(about) == 0
    assert disputed(desk.database) == {} and problems(desk.database) == []


def test_a_server_killed_while_it_closes(gate: Gate) -> None:
    """By API, at random moments: nothing is closed, doors have their answers, and the next attempt closes it all."""
    dice = random.Random(f"{SEED} server")
    for _ in range(KILLS):
        gate.start()
        token = gate.token()
        before = _attempts(gate)
        asking = threading.Thread(target=_ask_to_close, args=(gate, token))
        asking.start()
        wait_for(lambda last=before: _attempts(gate) > last, "not begun", gate)
        time.sleep(dice.random() * 0.5)  # not a wait for anything: the moment of the kill
        assert gate.stop(signal.SIGKILL) == -signal.SIGKILL
        asking.join(30)
        if closed(gate.database):  # it was quicker
            break
        assert disputed(gate.database) == {} and problems(gate.database) == []
    else:
        gate.start()
        _ask_to_close(gate, gate.token())
    assert closed(gate.database) == ["2026-01"]
    assert len(lines(gate.database, "2026-01", "authorized")) == 1500
    assert disputed(gate.database) == {} and problems(gate.database) == []


def _attempts(gate: Gate) -> int:
    """How often it was begun."""
    return int(rows(gate.database, "SELECT coalesce(max(attempt), 0) FROM statements")[0][0])


def _ask_to_close(gate: Gate, token: str) -> int:
    with suppress(httpx.HTTPError):
        return httpx.post(
            f"{gate.admin_url}/api/v1/statements/2026-01/close",
            headers={"Authorization": f"Bearer {token}"},
            timeout=120,
        ).status_code
    return 0


def test_a_server_that_is_told_to_end_while_it_closes_ends(gate: Gate) -> None:
    """In order and soon, with the month as it was or closed."""
    gate.start()
    asking = threading.Thread(target=_ask_to_close, args=(gate, gate.token()))
    asking.start()
    wait_for(lambda: _attempts(gate), "not begun", gate)
    assert gate.stop() == 0
    asking.join(30)
    assert problems(gate.database) == [] and disputed(gate.database) == {}


def test_commands_and_servers_that_close_the_same_month_at_once_close_it_once(gate: Gate) -> None:
    """Real ones: one of them does; the others say that they gave way, or that it is closed."""
    gate.start()
    command = [sys.executable, "-m", "guestgate", "statement", "2026-01", "--close"]
    command += ["--config", str(gate.home / "guestgate.toml")]
    token = gate.token()
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(_ask_to_close, gate, token) for _ in range(2)]
        commands = [
            subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        ended = [one.communicate(timeout=120) for one in commands]
        statuses = [future.result() for future in asked]
    assert sum(one.returncode == 0 for one in commands) + statuses.count(200) == 1, (ended, statuses)
    assert set(statuses) <= {200, 409}
    for one, (_, complaint) in zip(commands, ended, strict=True):
        said = "closed already" in complaint or "gave way" in complaint
        assert (one.returncode, said) in ((0, False), (1, True)), complaint
    assert len(rows(gate.database, "SELECT 1 FROM changes WHERE action = 'statement.closed'")) == 1
    assert rows(gate.database, "SELECT count(*), count(DISTINCT attempt) FROM statement_lines") == [(1500, 1)]
    assert disputed(gate.database) == {} and problems(gate.database) == []


def test_everything_that_changes_visits_beside_closing(desk: Terminal) -> None:
    """Corrections, confirmations, imports, late visits, undelivered answers, forgetting: each counts once."""
    database, stop = desk.database, threading.Event()
    fill(database, "2026-01", 300, PEOPLE, plans=BOTH)
    failures: list[BaseException] = []

    def change(number: int) -> None:
        """Somebody who does not wait for the closing."""
        dice = random.Random(f"{SEED} {number}")
        ours = Database.at(desk.database_url)
        past = Past(ours)
        try:
            with closing(past):
                for _ in range(CHANGES):
                    patiently(partial(_change_something, ours, past, dice))
                    if stop.wait(dice.random() * 0.05):
                        break
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=change, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    frozen: dict[str, Any] = {}
    try:
        for month in ("2026-01", "2026-02", "2026-03"):
            patiently(partial(begin, database, month))
            if month == "2026-02":
                patiently(partial(forget, database, "cli:anna", PEOPLE[0]))
                patiently(partial(forget, database, "cli:anna", PEOPLE[1]))
            patiently(partial(close, database, month))
            frozen[month] = _without_names(lines(database, month, "authorized"))
        patiently(partial(forget, database, "cli:anna", PEOPLE[2]))
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert failures == []
    assert disputed(database) == {}
    assert {month: _without_names(lines(database, month, "authorized")) for month in frozen} == frozen
    assert problems(database) == []
    for _ in Prune(database, "1month", datetime.now(UTC)).run("cli:anna"):
        pass
    assert {month: _without_names(lines(database, month, "authorized")) for month in frozen} == frozen
    assert problems(database) == []
    names = {line["member"] for month in frozen for line in lines(database, month, "authorized")}
    assert names.isdisjoint(PEOPLE[:3])


def _change_something(database: Database, past: Past, dice: random.Random) -> None:
    at = datetime(2026, dice.randrange(1, 4), dice.randrange(1, 28), dice.randrange(6, 22), tzinfo=UTC)
    at = at.replace(microsecond=dice.randrange(1000) * 1000)
    member = dice.choice(PEOPLE[3:])  # others may be forgotten by now
    what = dice.choice(("checkin", "undelivered", "late", "import", "reverse", "reverse", "confirm", "take back"))
    if what in ("checkin", "undelivered"):
        past.checkin(member, at, undelivered=what == "undelivered", decision_id=uuid7(at, dice.getrandbits(40)))
        return
    with database.write("cli:anna") as connection:
        if what == "late":
            visits.add(connection, VisitRow(0, member, "s1", at))
        elif what == "import":
            Import()(connection, [VisitRow(1, member, "s1", at)])
        else:
            some = connection.exec_driver_sql("SELECT id FROM visits WHERE local_date < '2026-04'").scalars().all()
            if what == "reverse":
                corrections.reverse(connection, dice.choice(some), "by mistake")
            else:
                state_of(connection, dice.choice(some), "confirmed" if what == "confirm" else "authorized")


def _without_names(said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What forgetting leaves as it is."""
    hidden = ("member", "confirmation", "why")
    return [{name: value for name, value in line.items() if name not in hidden} for line in said]
