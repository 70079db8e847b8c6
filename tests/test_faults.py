"""Real faults under a real server: a full disk, a disk that fails or is slow, foreign locks, callers that hang up.

Needs root on Linux (for a small file system of its own) and strace.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from callers import Caller, Crowd, Reply, ledger_of, locked, missing, noon_zone, problems, rows
from gate import Gate, wait_for
from sqlalchemy import text

from guestgate import checkpoints, directory
from guestgate.database import Database
from guestgate.sqlite import SqliteDatabase, safe_sqlite

pytestmark = pytest.mark.alone

BUDGET_MS = 400
PLATFORM_PATIENCE_S = 0.75
PLANS = """\
[plans.free]
name = "Free"
reentry_minutes = 0

[plans.once]
name = "Once a day"
reentry_minutes = 0
limits = [{ max = 1, per = "day" }]

[plans.fragile]
name = "A plan that a test takes away"
"""


def furnish(gate: Gate) -> None:
    """A studio, plans, and members enough."""
    gate.studio("s1", timezone=noon_zone())
    gate.plans(PLANS)
    people = [f"{plan}-{number},{plan}" for plan in ("free", "once") for number in range(40)]
    gate.members(*people, "fragile-0,fragile")


@pytest.fixture(scope="module")
def gate(new_gate: Callable[[], Gate]) -> Gate:
    """An installation, not yet serving."""
    gate = new_gate()
    furnish(gate)
    return gate


@pytest.fixture
def serving(gate: Gate) -> Iterator[Gate]:
    """The installation, serving; the next test finds it serving still, unless it was ended."""
    if gate.process is None:
        gate.start()
    yield gate
    if gate.process is not None and gate.process.poll() is not None:
        gate.process = None


def on_record(gate: Gate, decision_id: str) -> dict[str, Any]:
    """A decision and what became of its answer; empty where there is none."""
    query = """SELECT outcome, reason, http_status, answer_ms, undelivered, visits.state, visits.reversed_why
        FROM decisions LEFT JOIN answers ON decision_id = decisions.id LEFT JOIN visits ON visits.id = decisions.id
        WHERE decisions.id = :id"""
    found = rows(gate.database, query, id=decision_id)
    assert len(found) <= 1
    return found[0]._asdict() if found else {}


def answered(gate: Gate, decision_id: str) -> dict[str, Any]:
    """The same, once it is known how the answer left."""
    wait_for(
        lambda: on_record(gate, decision_id).get("answer_ms") is not None, "no row tells how the answer left", gate
    )
    return on_record(gate, decision_id)


def latest(gate: Gate, member: str) -> str:
    """The id of the latest check-in with this aggregatorId; empty where there is none."""
    query = "SELECT id FROM decisions WHERE aggregator_id = :member ORDER BY seq DESC LIMIT 1"
    found = rows(gate.database, query, member=member)
    return str(found[0][0]) if found else ""


def quiet(gate: Gate) -> None:
    """Return once the ledger has nothing left to write of earlier calls, which it would write at any moment."""
    answered(gate, call(gate, "free-39").id)


@contextmanager
def injected(gate: Gate, rule: str, calls: str = "fsync,fdatasync") -> Iterator[None]:
    """Faults in the ledger's system calls, from now on."""
    assert shutil.which("strace"), "this test needs strace; on Debian: apt-get install strace"
    log = gate.folder / "strace.log"
    command = ["strace", "-f", "-p", str(ledger_of(gate)), "-o", os.devnull]
    command += ["-e", f"trace={calls}", "-e", f"inject={calls}:{rule}"]
    with log.open("wb") as output:
        strace = subprocess.Popen(command, stderr=output)
    try:
        wait_for(lambda: b"attached" in log.read_bytes() or strace.poll() is not None, "strace did not attach", gate)
        assert strace.poll() is None, f"strace may not look into a process here: {log.read_text('utf-8')}"
        yield
    finally:
        strace.terminate()
        strace.wait(timeout=30)


def ended(gate: Gate) -> int:
    """The exit status of a server that ends by itself."""
    assert gate.process is not None
    try:
        status = gate.process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        gate.close()
        raise AssertionError("the server did not end") from None
    finally:
        gate.process = None
    return status


def call(gate: Gate, member: str) -> Reply:
    """One check-in over a connection of its own, shaken hands before the clock runs."""
    caller = Caller(gate)
    caller.connect()
    reply = caller.call(member)
    caller.close()
    assert reply is not None, "no answer"
    return reply


# A foreign lock


def test_a_lock_held_longer_than_the_budget(serving: Gate) -> None:
    """Undecided, in time; on record once the lock is gone; and the next call is let in."""
    with locked(serving.database, "once-0"):
        replies = [call(serving, "once-0") for _ in range(3)]
    assert {reply[1:4] for reply in replies} == {(503, "undecided", "unavailable")}
    again = call(serving, "once-0")
    assert (again.status, again.reason) == (200, "ok")
    records = [answered(serving, reply.id) for reply in replies]
    for record in records:
        assert (record["outcome"], record["http_status"], record["state"]) == ("undecided", 503, None)
    in_time(replies, records)
    assert problems(serving.database) == []


def in_time(replies: list[Reply], records: list[dict[str, Any]]) -> None:
    """The best of them counts: a machine that is busy for a moment may delay an answer, a database may not."""
    assert min(record["answer_ms"] for record in records) <= BUDGET_MS
    assert min(reply.seconds for reply in replies) < PLATFORM_PATIENCE_S


def test_calls_at_a_locked_database_are_recorded_without_another_call(serving: Gate) -> None:
    """Nobody has to check in for the record to be complete: it is, soon after the lock is gone."""
    with locked(serving.database):
        reply = call(serving, "free-0")
        time.sleep(0.5)  # the lock outlives the first attempt to write how the answer left
    assert reply.status == 503
    assert answered(serving, reply.id)["outcome"] == "undecided"


def test_calls_at_a_locked_database_are_recorded_before_the_server_ends(serving: Gate) -> None:
    """SIGTERM while there are still news to write: they are written."""
    with locked(serving.database):
        reply = call(serving, "free-1")
        time.sleep(0.5)  # as above
    assert serving.stop() == 0
    record = on_record(serving, reply.id)
    assert (record.get("outcome"), record.get("http_status")) == ("undecided", 503)


def test_a_lock_that_goes_in_time_costs_nothing(serving: Gate) -> None:
    """A call that came while the database was locked is decided when the lock is gone."""
    for member in (f"free-{number}" for number in range(2, 12)):
        caller = Caller(serving)
        caller.connect()
        with locked(serving.database, member):
            caller.send(member)
        reply = caller.receive()
        caller.close()
        assert reply is not None and (reply.status, reply.reason) == (200, "ok")


def test_a_caller_that_hangs_up_while_it_waits(serving: Gate) -> None:
    """The decision is made all the same; an allow that nobody got is reversed and uses up no limit."""
    outcomes = []
    for member in (f"once-{number}" for number in range(1, 7)):
        before = latest(serving, member)
        caller = Caller(serving)
        caller.connect()
        with locked(serving.database, member):
            caller.send(member)
            time.sleep(0.15)  # for the server to see the call, and us to be noticed missing
            caller.close()
            time.sleep(0.05)
        wait_for(lambda member=member, before=before: latest(serving, member) != before, "the call got lost", serving)
        record = answered(serving, latest(serving, member))
        outcomes.append(record["outcome"])
        assert (record["http_status"], bool(record["undelivered"])) == (None, True)
        if record["outcome"] == "allowed":
            assert (record["state"], record["reversed_why"]) == ("reversed", "undelivered")
        reply = call(serving, member)
        assert (reply.status, reply.reason) == (200, "ok")
        assert on_record(serving, reply.id)["state"] == "authorized"
    # On a machine that is busy for a moment a call may have been too late to be decided; not all of them.
    assert "allowed" in outcomes
    assert problems(serving.database) == []


# A slow, a failing and a full disk


@pytest.mark.embedded
def test_an_allow_that_came_too_late_is_reversed(serving: Gate) -> None:
    """The disk takes longer than the budget: 503 in time, and the visit that it made after all does not count."""
    quiet(serving)
    with injected(serving, "delay_enter=600000"):
        reply = call(serving, "once-10")
        assert (reply.status, reply.decision) == (503, "undecided")
        record = answered(serving, reply.id)
    assert (record["outcome"], record["reason"]) == ("allowed", "ok")
    assert (record["http_status"], bool(record["undelivered"])) == (503, True)
    assert (record["state"], record["reversed_why"]) == ("reversed", "undelivered")
    again = call(serving, "once-10")
    assert (again.status, again.reason) == (200, "ok")
    assert call(serving, "once-10").reason == "limit_reached"
    assert problems(serving.database) == []


@pytest.mark.embedded
def test_a_denial_that_came_too_late_stays_a_denial(serving: Gate) -> None:
    """The record says what was decided and that it was not delivered."""
    assert call(serving, "once-11").status == 200
    quiet(serving)
    with injected(serving, "delay_enter=600000"):
        reply = call(serving, "once-11")
        record = answered(serving, reply.id)
    assert reply.status == 503
    assert (record["outcome"], record["reason"], bool(record["undelivered"])) == ("denied", "limit_reached", True)
    assert call(serving, "once-11").reason == "limit_reached"


def test_a_ledger_that_hangs(serving: Gate) -> None:
    """A stopped process answers nothing: 503 in time, and when it goes on everything goes on."""
    assert call(serving, "free-20").status == 200
    ledger = ledger_of(serving)
    os.kill(ledger, signal.SIGSTOP)
    try:
        replies = [call(serving, "once-12") for _ in range(3)]
    finally:
        os.kill(ledger, signal.SIGCONT)
    assert [reply.status for reply in replies] == [503] * 3
    again = call(serving, "once-12")
    assert (again.status, again.reason) == (200, "ok")
    records = [answered(serving, reply.id) for reply in replies]
    for record in records:
        assert (record["outcome"], record["http_status"], record["state"]) == ("undecided", 503, None)
    in_time(replies, records)


@pytest.mark.embedded
@pytest.mark.parametrize("failing", ["1+", "1", "2"], ids=["all", "the first", "the second"])
def test_a_failed_fsync_ends_the_server(serving: Gate, failing: str) -> None:
    """Nothing is answered that may not be on disk, nor anything after it; a restart finds a sound record."""
    names = [f"{plan}-{number}" for plan in ("free", "once") for number in range(20, 40)]
    gate = serving
    before = [call(gate, name) for name in ("free-21", "free-22")]
    for reply in before:
        answered(gate, reply.id)  # so that no news are left to be written
    with injected(gate, f"error=EIO:when={failing}"), Crowd(gate, names, failing) as crowd:
        status = ended(gate)
    assert status > 0
    decided = [reply for reply in crowd.replies if reply.status != 503]
    if failing != "2":
        assert decided == []
    assert crowd.broken
    assert missing(gate.database, before + decided) == []

    gate.start()
    free, once = call(gate, "free-23"), call(gate, "once-39")
    again = call(gate, "once-39")
    assert free.status == 200
    assert again.reason == "limit_reached"
    assert gate.stop() == 0
    assert missing(gate.database, [*before, *decided, free, once, again]) == []
    assert problems(gate.database) == []
    counting = "SELECT member_id FROM visits WHERE member_id LIKE 'once-%' AND state != 'reversed'"
    members = [row[0] for row in rows(gate.database, counting)]
    assert len(set(members)) == len(members)


@pytest.mark.embedded
@pytest.mark.parametrize("failing", ["1", "3+2"], ids=["the first", "every other"])
def test_a_failed_write_forgets_nothing(serving: Gate, failing: str) -> None:
    """Whether the server goes on or ends: no answer is given that is not on record, and the record is sound."""
    gate = serving
    logged = len(gate.log.read_text("utf-8"))
    with (
        injected(gate, f"error=EIO:when={failing}", "pwrite64"),
        Crowd(gate, ["free-14", "free-15"], failing) as crowd,
    ):
        wait_for(
            lambda: len(crowd.replies) > 20 or gate.process is None or gate.process.poll() is not None, "no answers"
        )
        time.sleep(0.5)
    assert gate.process is not None
    if '"stopping"' in gate.log.read_text("utf-8")[logged:]:
        assert gate.process.wait(timeout=30) > 0
        gate.start()
    after = [call(gate, name) for name in ("free-14", "free-15")]
    assert {reply.status for reply in crowd.replies} <= {200, 503}
    assert [reply.status for reply in after] == [200, 200]
    assert gate.stop() == 0
    assert missing(gate.database, [*crowd.replies, *after]) == []
    assert problems(gate.database) == []


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """An installation on a file system of 16 MiB that is its own."""
    folder = tmp_path_factory.mktemp("full") / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    assert mounted.returncode == 0, (
        f"this test needs root and the right to mount a small tmpfs at {folder}: {mounted.stderr.strip()}"
    )
    try:
        gate = Gate(folder)
        furnish(gate)
        yield gate
        gate.close()
    finally:
        subprocess.run(["umount", str(folder)], check=False, capture_output=True)
        if os.path.ismount(folder):
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full(folder: Path) -> Iterator[Any]:
    """The disk is full, and stays so; yields a function that fills what has become free."""
    ballast = folder / "ballast"

    def fill() -> None:
        with ballast.open("ab", buffering=0) as file, suppress(OSError):
            for size in (1024 * 1024, 4096, 1):
                with suppress(OSError):
                    while file.write(b"x" * size):
                        pass

    try:
        fill()
        yield fill
    finally:
        ballast.unlink()


@pytest.fixture(params=["elsewhere", "on the same disk"])
def on_small_disk(small_disk: Gate, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gate]:
    """The installation on the small disk, serving; its log is there too, or not."""
    log = small_disk.log
    if request.param == "elsewhere":
        small_disk.log = tmp_path / "server.log"
    small_disk.start()
    yield small_disk
    small_disk.close()
    small_disk.log = log


def until_undecided(gate: Gate, fill: Any, member: str) -> list[Reply]:
    """Check in until the disk is really full: what the database gave back is filled up again."""
    replies: list[Reply] = []
    caller = Caller(gate)
    while len(replies) < 500 and [reply.status for reply in replies[-3:]] != [503] * 3:
        fill()
        reply = caller.call(member)
        assert reply is not None, "the server did not survive a full disk"
        replies.append(reply)
    caller.close()
    assert [reply.status for reply in replies[-3:]] == [503] * 3, "the disk did not get full"
    return replies


@pytest.mark.embedded
def test_a_full_disk(on_small_disk: Gate) -> None:
    """503 while it is full; with space again 200 again, without a restart and without a gap in the record."""
    gate = on_small_disk
    replies = [call(gate, "free-0")]
    assert replies[0].status == 200
    with full(gate.folder) as fill:
        replies += until_undecided(gate, fill, "free-1")
        assert {(reply.status, reply.decision) for reply in replies} <= {(200, "allowed"), (503, "undecided")}
    after = call(gate, "free-2")
    assert (after.status, after.reason) == (200, "ok")
    for reply in (*replies, after):
        record = answered(gate, reply.id)
        assert (record["outcome"], record["http_status"]) == (reply.decision, reply.status)
    assert gate.stop() == 0
    assert gate.cli("db", "check").returncode == 0


@pytest.mark.embedded
def test_a_server_that_ends_after_a_full_disk_forgets_nothing(small_disk: Gate) -> None:
    """Space again, no further call, SIGTERM: what could not be decided is on record."""
    gate = small_disk
    gate.start()
    with full(gate.folder) as fill:
        replies = until_undecided(gate, fill, "free-3")
    assert gate.stop() == 0
    recorded = {reply.id: on_record(gate, reply.id).get("outcome") for reply in replies}
    assert recorded == {reply.id: reply.decision for reply in replies}
    assert problems(gate.database) == []


@pytest.mark.embedded
def test_a_full_disk_does_not_end_the_care_of_the_log(
    small_disk: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that found no space is made up for later: the database file takes in the log again."""
    path = Path(shutil.copy(small_disk.database.path, small_disk.folder / "log.db"))
    database = SqliteDatabase(f"sqlite:///{path}", door=True)
    failed: list[Exception] = []
    checkpoint = SqliteDatabase.checkpoint

    def observed(self: SqliteDatabase, mode: str = "PASSIVE") -> None:
        try:
            checkpoint(self, mode)
        except Exception as error:
            failed.append(error)
            raise

    monkeypatch.setattr(SqliteDatabase, "checkpoint", observed)
    monkeypatch.setattr(checkpoints, "CHECKPOINT_S", 0.02)
    monkeypatch.setattr(checkpoints, "MIN_WAL_BYTES", 1)
    writer = database.connect_writer()
    with writer.begin():
        for number in range(2000):
            writer.exec_driver_sql("INSERT INTO answers VALUES (?, 200, 1.5, 0)", (f"{number:036}",))
    before = path.stat().st_size
    care = checkpoints.Checkpoints(database)
    with full(small_disk.folder):
        care.start()
        wait_for(lambda: failed, "a checkpoint found space on a full disk")
    wait_for(lambda: path.stat().st_size > before, "the log is not copied any more")
    writer.close()
    care.stop()
    assert not database.wal_path.exists() or database.wal_path.stat().st_size == 0
    for file in small_disk.folder.glob("log.db*"):
        file.unlink()


# A fault in one check-in


def test_a_fault_in_one_check_in(serving: Gate) -> None:
    """503 for this one, yes or no for the others; the log says what failed, and nothing of the person."""
    with serving.database.write() as connection:
        connection.execute(text("UPDATE plans SET removed_at_ms = 1 WHERE id = 'fragile'"))
        directory.changed(connection)
    logged = serving.log.stat().st_size
    replies = [call(serving, name) for name in ("free-30", "fragile-0", "free-31", "fragile-0")]
    assert [reply.status for reply in replies] == [200, 503, 200, 503]
    assert [answered(serving, reply.id)["http_status"] for reply in replies] == [200, 503, 200, 503]
    assert serving.stop() == 0
    lines = serving.log.read_bytes()[logged:].decode("utf-8")
    assert "could not be decided" in lines
    assert "fragile-0" not in lines


# What `db check` finds

# Of the first visit, and the second, that nobody has taken back.
COUNTING = "SELECT id FROM visits WHERE state = 'authorized' ORDER BY seq LIMIT 1"
VISIT = f"({COUNTING})"
SECOND = f"({COUNTING} OFFSET 1)"
DENIAL = "(SELECT id FROM decisions WHERE outcome = 'denied' ORDER BY seq LIMIT 1)"
UNDECIDED = "(SELECT id FROM decisions WHERE outcome = 'undecided' ORDER BY seq LIMIT 1)"
INSERT_VISIT = """INSERT INTO visits (id, member_id, studio_id, at_ms, local_date, tags, test, state, source)
    SELECT id,
    coalesce(member_id, 'free-0'), studio_id, received_at_ms, '2026-11-23', '[]', 0, 'authorized', 'checkin'
    FROM decisions WHERE id = """
INSERT_CHANGE = """INSERT INTO visit_changes (visit_id, changed_at_ms, state, who, why)
    VALUES ({}, 0, 'reversed', 'somebody', 'a reason')"""
BREAKS = {
    "a visit is gone": (f"DELETE FROM visits WHERE id = {VISIT}", "visit is missing"),
    "an allow names no visit": (f"UPDATE decisions SET visit_id = NULL WHERE id = {VISIT}", "missing"),
    "a denial names a visit": (f"UPDATE decisions SET visit_id = {VISIT} WHERE id = {DENIAL}", "names a visit"),
    "a denial has a visit": (INSERT_VISIT + DENIAL, "visit"),
    "an undecided call has a visit": (INSERT_VISIT + UNDECIDED, "visit"),
    "an allow on another's visit": (
        f"UPDATE decisions SET visit_id = {SECOND} WHERE id = {VISIT}",
        "another decision's visit",
    ),
    "a decision is gone": (f"DELETE FROM decisions WHERE id = {VISIT}", "decision is missing"),
    "a visit of another member": (f"UPDATE visits SET member_id = 'once-39' WHERE id = {VISIT}", "decision"),
    "an answer without a decision": (
        "INSERT INTO answers (decision_id, http_status, answer_ms, undelivered) VALUES ('x', 200, 1, 0)",
        "decision x",
    ),
    "reversed by nobody": (f"UPDATE visits SET state = 'reversed' WHERE id = {VISIT}", "corrections say authorized"),
    "not reversed": (INSERT_CHANGE.format(VISIT), "corrections say reversed"),
    "another reason": (
        f"{INSERT_CHANGE.format(VISIT)};"
        f"UPDATE visits SET state = 'reversed', reversed_why = 'another' WHERE id = {VISIT}",
        "reason",
    ),
    "a correction of nothing": (INSERT_CHANGE.format("'x'"), "x"),
    "a key of no studio": ("UPDATE keys SET studio_id = 'nowhere'", "a row of keys"),
    "a member of no plan": ("UPDATE members SET plan_id = 'nothing' WHERE id = 'free-0'", "a row of members"),
    "a plan without its version": ("UPDATE plans SET version = 99 WHERE id = 'free'", "plan"),
}


@pytest.fixture(scope="module")
def sound(gate: Gate) -> Path:
    """A small record of every kind, sound."""
    if gate.process is None:
        gate.start()
    assert call(gate, "free-0").status == 200
    assert [call(gate, "once-13").status for _ in range(2)] == [200, 403]
    with locked(gate.database):
        assert call(gate, "free-1").status == 503
    assert call(gate, "nobody").status == 403
    assert gate.stop() == 0
    copy = gate.folder / "sound.db"
    shutil.copy(gate.database.path, copy)
    return copy


@pytest.fixture
def record(sound: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copy(sound, tmp_path / "record.db"))


@pytest.mark.embedded
def test_a_sound_record_is_clean(gate: Gate, record: Path) -> None:
    """The other tests break something that was whole."""
    assert problems(Database.at(f"sqlite:///{record}")) == []


@pytest.mark.embedded
@pytest.mark.parametrize("damage", BREAKS)
def test_a_check_finds(record: Path, damage: str) -> None:
    """Each kind of disagreement is found and named."""
    statements, words = BREAKS[damage]
    connection = safe_sqlite().connect(record, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = OFF")
    changed = 0
    for statement in statements.split(";"):
        changed = connection.execute(statement).rowcount
    connection.close()
    assert changed > 0, "nothing was broken"
    found = problems(Database.at(f"sqlite:///{record}"))
    assert found, "nothing was found"
    assert words in " ".join(found)


@pytest.mark.embedded
def test_a_check_by_command(gate: Gate, record: Path) -> None:
    """Exit status 1, a line for each problem, and the same as JSON."""
    gate.home.joinpath("broken.toml").write_text(f'database = "sqlite:///{record}"\n', "utf-8")
    config = ("--config", str(gate.home / "broken.toml"))
    connection = safe_sqlite().connect(record, isolation_level=None)
    connection.execute(f"DELETE FROM visits WHERE id = {VISIT}")
    connection.close()
    done = gate.cli("db", "check", *config, status=1, config=False)
    assert "visit is missing" in done.stdout and "1 problems found" in done.stdout
    (found,) = (json.loads(gate.cli("db", "check", "--json", *config, status=1, config=False).stdout),)
    assert (found["ok"], len(found["problems"])) == (False, 1)


@pytest.mark.embedded
@pytest.mark.parametrize("name", ["ix_visits_member_id_local_date", "decisions"])
def test_a_check_of_a_damaged_file(gate: Gate, record: Path, name: str) -> None:
    """Exit status 1 and a sentence, no traceback, where pages of the file are gone."""
    gate.home.joinpath("damaged.toml").write_text(f'database = "sqlite:///{record}"\n', "utf-8")
    connection = safe_sqlite().connect(record)
    ((page,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchall()
    ((size,),) = connection.execute("PRAGMA page_size").fetchall()
    connection.close()
    with record.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\0" * size)
    config = ("--config", str(gate.home / "damaged.toml"))
    done = gate.cli("db", "check", *config, status=1, config=False)
    assert done.stdout + done.stderr and "Traceback" not in done.stderr
