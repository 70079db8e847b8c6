"""Moving a grown installation from a file to PostgreSQL: all of it or nothing, and nobody who follows it notices."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from attending import Book, deliver, entry
from backends import Server
from callers import noon_zone, problems, rows
from cluster import Cluster
from gate import Gate, wait_for
from killing import ROUNDS, kill_at, lines_of, moments, repeat
from paid import disputed, lines
from past import Past, uuid7
from terminal import Terminal

from guestgate import clock, corrections, events, nodes, schema, sequence, sessions, tokens
from guestgate import database as database_module
from guestgate import transfer as transfer_module
from guestgate.attendance.reconciliation import Reconciliation
from guestgate.closing import Closing
from guestgate.database import Database
from guestgate.errors import OperationError
from guestgate.model import Decision
from guestgate.platform import accounts, customers
from guestgate.platform.accounts import Account
from guestgate.platform.secret_keys import SecretKeys
from guestgate.settings import Settings
from guestgate.sqlite import SqliteDatabase
from guestgate.transfer import Transfer

pytestmark = pytest.mark.embedded

ODD = [
    "'; DROP TABLE visits; --",
    "a\\b\\n",
    "tab\tnew\nline\rreturn",
    "\\.",
    "\\N",
    "Łódź 東京 🏋🏽‍♀️",
    '"quoted"',
    "é",
]
PLANS = """\
[plans.free]
name = "Free"
reentry_minutes = 30

[plans.once]
name = "Once"
reentry_minutes = 0
limits = [{ max = 1, per = "day" }]
"""


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Server:
    """Makes databases with the present schema."""
    return Server(cluster)


@pytest.fixture
def target(server: Server, tmp_path: Path) -> Iterator[Database]:
    """An empty database with the present schema."""
    url = server.new(tmp_path)
    yield Database.at(url)
    server.drop(url)


@pytest.fixture
def desk(terminal: Terminal) -> Terminal:
    """An installation with everything in it: a year of check-ins, corrections, keys, tokens, links, odd texts."""
    terminal.plans(PLANS)
    terminal.studio(tags=("ä", "b c"), timezone=noon_zone())
    terminal.studio("s2", timezone="Asia/Kathmandu", test=True)
    terminal.members(
        *(
            {"member_id": name, "plan": "free", "last_name": name, "customer_id": str(2**62 + n)}
            for n, name in enumerate(name for name in ODD if name.isprintable())
        ),
        {"member_id": "m1", "plan": "once", "customer_id": "17;18"},
    )
    terminal.run("key", "add", "s1", "--key-stdin", input="a-key-that-is-long-enough-for-it\n")
    past = Past(terminal.database)

    def checkin(member: str, at: datetime, **more: Any) -> Decision:
        """With an id that says no time, as none of guestgate's."""
        return past.checkin(member, at, decision_id=str(uuid4()), **more)

    start = datetime(2026, 11, 24, 12, tzinfo=UTC)
    checkin("m1", start - timedelta(days=329))
    for days in range(330, 0, -30):
        checkin("m1", start - timedelta(days=days))
        checkin("m1", start - timedelta(days=days) + timedelta(minutes=1))
        checkin("🏋🏽‍♀️", start - timedelta(days=days), customer=2**63 - 1)
    checkin(ODD[0], start, undelivered=True)
    visit = checkin(ODD[0], start + timedelta(hours=1)).visit_id
    (issued,) = terminal.json("member", "code", "m1")
    for text in (issued["code"], "m1", "nobody"):
        past.validate(text, start)
    past.close()
    for _ in Closing(terminal.database, "2025-12", "authorized").run("cli:=1+1"):
        pass
    deliver(terminal.database, *(entry(start - timedelta(days=days), 2**63 - 1) for days in (30, 31)))
    Reconciliation(terminal.database, Book(), timedelta(hours=1)).run()
    terminal.run("visit", "reverse", str(visit), "--why", "\n".join(ODD))
    with terminal.writing() as connection:
        nodes.arrive(connection, nodes.this_server(Settings()))
        sessions.begin(connection, tokens.create(connection, tokens.Role("viewer"), name="office"))
        account = Account("s1", "https://fitwerk.open-api.perfectgym.com/v1", "an-open-api-key")
        accounts.put(connection, SecretKeys([bytes(32)], "this test"), account)
        customers.link(connection, "m1", 17, account.base_url)
        for number, (decision_id, received_at_ms) in enumerate(
            connection.exec_driver_sql("SELECT id, received_at_ms FROM decisions WHERE outcome = 'denied'").all()
        ):
            new = uuid7(clock.from_ms(received_at_ms), number)
            connection.exec_driver_sql("UPDATE decisions SET id = ? WHERE id = ?", (new, decision_id))
            connection.exec_driver_sql("UPDATE answers SET decision_id = ? WHERE decision_id = ?", (new, decision_id))
    return terminal


def content(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, apart from what tells of the move itself."""
    found = {
        table.name: sorted(map(tuple, rows(database, f"SELECT * FROM {table.name}")), key=repr)
        for table in schema.metadata.sorted_tables
    }
    found["changes"] = [row for row in found["changes"] if "record.moved" not in row]
    return found


def move(desk: Terminal, target: Database) -> Transfer:
    """All of it."""
    transfer = Transfer(f"sqlite:///{desk.database.name}", target_url(target))
    for _ in transfer.run("cli:test"):
        pass
    return transfer


def target_url(target: Database) -> str:
    """Where it is; the tests' server trusts whoever comes from this machine."""
    given = target.parameters  # type: ignore[attr-defined]
    return f"postgresql://{given['user']}@{given['host']}:{given['port']}/{given['dbname']}"


def test_all_of_it_is_there_afterwards(desk: Terminal, target: Database) -> None:
    """Every row of every table as it was, with its number; and both sides agree with themselves."""
    before = content(desk.database)
    (report,) = desk.json("db", "copy", f"sqlite:///{desk.database.name}", target_url(target))
    assert content(target) == before == content(desk.database)
    assert report["rows"] == {name: len(found) for name, found in before.items()}
    assert all(before.values()), "the test's own record should have something in every table"
    assert problems(target) == []
    with desk.reading() as connection:
        assert (report["timeline"], report["seq"]) == sequence.position(connection)
    (change,) = rows(target, "SELECT who, after FROM changes WHERE action = 'record.moved'")
    assert change.who.startswith("cli:")
    assert json.loads(change.after)["recorded_until"] == report["seq"]


def test_each_month_of_the_record_has_its_partition(desk: Terminal, target: Database) -> None:
    """Decisions lie in the month of their id; ids that say no time, and those of a future, in the rest."""
    future = uuid7(datetime(2031, 5, 6, tzinfo=UTC), 1)
    with desk.writing() as connection:
        connection.exec_driver_sql(
            "UPDATE decisions SET id = ? WHERE id = (SELECT id FROM decisions WHERE outcome = 'denied' LIMIT 1)",
            (future,),
        )
        connection.exec_driver_sql(
            "UPDATE answers SET decision_id = ? WHERE decision_id NOT IN "
            "(SELECT id FROM decisions UNION SELECT id FROM validations)",
            (future,),
        )
    move(desk, target)
    where = dict(rows(target, "SELECT id, tableoid::regclass::text FROM decisions"))
    answered = "SELECT decision_id, replace(tableoid::regclass::text, 'answers', 'decisions') FROM answers"
    assert where == dict(rows(target, f"{answered} WHERE decision_id NOT IN (SELECT id FROM validations)"))
    timed = {name: at for name, at in rows(target, "SELECT id, received_at_ms FROM decisions") if name[14] == "7"}
    del timed[future]
    assert len(timed) == 21
    for name, at_ms in timed.items():
        assert where[name] == f"decisions_{clock.from_ms(at_ms):%Y_%m}"
    assert where[future] == "decisions_rest"
    assert set(where.values()) > {"decisions_2026_01", "decisions_rest"}


def test_who_follows_the_feed_goes_on_with_its_cursor(desk: Terminal, target: Database) -> None:
    """Half of it from the file, half from the server, then what is new: no gap, nothing twice."""

    def read(database: Database, cursor: str | None, until: int = 10**9) -> tuple[list[str], str | None]:
        seen: list[str] = []
        while len(seen) < until:
            with database.read() as connection:
                found, cursor = events.read(connection, cursor, 7, payable_requires="authorized")
            seen += [event["id"] for event in found]
            if not found:
                break
        return seen, cursor

    def new(number: int) -> str:
        past = Past(target)
        decision = past.checkin("m1", datetime(2026, 11, 24, number, tzinfo=UTC))
        past.close()
        return f"decision-{decision.id}"

    everything, _ = read(desk.database, None)
    first, cursor = read(desk.database, None, len(everything) // 2)
    end = everything[:]
    _, at_the_end = read(desk.database, None)
    move(desk, target)
    second, cursor = read(target, cursor)
    assert first + second[:-1] == everything
    assert second[-1].startswith("change-")  # the move itself
    expected = [new(number) for number in range(5)]
    third, _ = read(target, cursor)
    assert [event for event in third if event.startswith("decision-")] == expected
    from_the_end, _ = read(target, at_the_end)
    assert from_the_end == [second[-1], *third]
    from_the_beginning, _ = read(target, None)
    assert from_the_beginning == [*end, *from_the_end]
    assert len(set(from_the_beginning)) == len(from_the_beginning)


def test_closed_months_stay_and_are_adjusted_there(desk: Terminal, target: Database) -> None:
    """What was corrected before the move and after it is in the next month, once each."""
    visits = "SELECT id FROM visits WHERE local_date < '2026-01' ORDER BY seq"
    before, after = (visit for (visit,) in rows(desk.database, visits))
    with desk.writing() as connection:
        corrections.reverse(connection, before, "before the move")
    said = lines(desk.database, "2025-12", "authorized")
    assert [line["payable"] for line in said] == [1, 1]
    move(desk, target)
    with target.write("cli:anna") as connection:
        corrections.reverse(connection, after, "after the move")
    for month in ("2026-01", "2026-02"):
        for _ in Closing(target, month, "authorized").run("cli:anna"):
            pass
    adjusted = [line for line in lines(target, "2026-01", "authorized") if line["adjusts"] == "2025-12"]
    assert {line["visit"]: line["payable"] for line in adjusted} == {before: -1, after: -1} and len(adjusted) == 2
    assert lines(target, "2025-12", "authorized") == said
    assert disputed(target) == {} and problems(target) == []


def test_after_a_restore_and_pruning_no_number_is_given_out_again(desk: Terminal, target: Database) -> None:
    """A restored file's numbers are large, and the last of them may belong to rows that are gone."""
    with desk.writing() as connection:
        sequence.begin_timeline(connection)
        sequence.take(connection, 100)
        _, last = sequence.position(connection)
    move(desk, target)
    with target.write() as connection:
        assert min(sequence.take(connection, 1)) > last
    assert problems(target) == []


def test_a_server_on_the_new_database_knows_members_keys_and_limits(
    desk: Terminal, target: Database, tmp_path: Path
) -> None:
    """Through the door: the old key opens, and today's visit counts."""
    past = Past(desk.database)
    past.checkin("m1", clock.now())
    past.close()
    move(desk, target)
    (tmp_path / "moved").mkdir()
    gate = Gate(tmp_path / "moved", database_url=target_url(target))
    try:
        gate.keys["s1"] = "a-key-that-is-long-enough-for-it"
        gate.start()
        assert gate.checkin("m1").json()["reason"] == "limit_reached"
        assert gate.checkin("é").json()["reason"] == "ok"
        assert gate.stop() == 0
    finally:
        gate.close()
    assert problems(target) == []


def test_an_empty_database_gets_the_schema_first(desk: Terminal, cluster: Cluster) -> None:
    """What `init --database` would have made is made on the way, where there is nothing at all."""
    name = cluster.create()
    move(desk, Database.at(cluster.url(name)))
    assert problems(Database.open(cluster.url(name))) == []
    cluster.drop(name)


def test_killed_anywhere_the_target_stays_empty(desk: Terminal, server: Server, tmp_path: Path) -> None:
    """At any line: nothing of it is there, and another run copies all."""
    before = content(desk.database)
    target = Database.at(server.new(tmp_path))

    def work() -> None:
        move(desk, target)

    def anew() -> Database:
        server.drop(target_url(target))
        return Database.at(server.new(tmp_path))

    count = lines_of(work, transfer_module)
    assert content(target) == before
    for line in moments("transfer", count)[: ROUNDS // 2]:
        target = anew()
        kill_at(line, work, transfer_module)
        wait_for(lambda: settled(target), "the killed connection is still there")  # noqa: B023
        found = content(target)
        if rows(target, "SELECT 1 FROM changes WHERE action = 'record.moved'"):
            assert found == before, repeat(__file__, line)
        else:
            assert not any(found[name] for name in found.keys() - {"directory_version", "feed"}), repeat(
                __file__, line
            )
            work()
        assert content(target) == before, repeat(__file__, line)
    server.drop(target_url(target))


def settled(target: Database) -> bool:
    """Whether nobody else is at work in the database."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()"
    return bool(rows(target, others)[0][0] == 0)


def refused(desk: Terminal, *arguments: str, status: int) -> str:
    """The one sentence of a move that does not begin; the file is as it was."""
    before = content(desk.database)
    said = desk.complaint("db", "copy", *arguments, status=status)
    assert content(desk.database) == before
    return said


def test_a_running_server_is_told_to_stop_first(home: Gate, target: Database) -> None:
    """Nothing is copied that goes on changing."""
    home.studio()
    home.start()
    said = home.cli("db", "copy", f"sqlite:///{home.database.name}", target_url(target), status=1).stderr
    assert said.count("\n") == 1 and "is in use: stop the server" in said
    assert rows(target, "SELECT * FROM studios") == []


def test_nobody_opens_the_source_meanwhile(desk: Terminal, target: Database) -> None:
    """A server that starts during the move is told so; one that starts afterwards is not."""
    moving = Transfer(f"sqlite:///{desk.database.name}", target_url(target)).run("cli:test")
    next(moving)
    desk.run("serve", "--behind-proxy", "--host", "127.0.0.1", status=1)
    assert "try again afterwards" in desk.complaint("studio", "list", status=1)
    list(moving)
    desk.run("studio", "list")


def test_only_an_empty_database_takes_it(desk: Terminal, target: Database) -> None:
    """What is there already stays as it is."""
    with target.write("cli:test") as connection:
        tokens.create(connection, tokens.Role("viewer"), name="office", expires_at=None)
    before = content(target)
    source = f"sqlite:///{desk.database.name}"
    assert "is not empty: changes has rows already" in refused(desk, source, target_url(target), status=1)
    assert content(target) == before
    with target.write() as connection:
        for table in (schema.tokens, schema.changes):
            connection.execute(table.delete())
    move(desk, target)
    assert "is not empty" in refused(desk, source, target_url(target), status=1)


def test_what_came_in_at_the_last_moment_stays_too(desk: Terminal, target: Database) -> None:
    """Emptiness is looked at again where nobody else writes any more."""
    desk.monkeypatch.setattr(transfer_module, "check", lambda connection: meanwhile() or [])

    def meanwhile() -> None:
        with target.write() as connection:
            tokens.create(connection, tokens.Role("viewer"), name="office", expires_at=None)

    assert "is not empty: changes has rows already" in refused(
        desk, f"sqlite:///{desk.database.name}", target_url(target), status=1
    )
    assert len(rows(target, "SELECT * FROM tokens")) == 1


@pytest.mark.parametrize(
    "source, given, status, says",
    [
        ("sqlite:///guestgate.db", "sqlite:///other.db", 2, "TARGET: should be postgresql://"),
        ("postgresql://127.0.0.1/a", "postgresql://127.0.0.1/b", 2, "pg_dump"),
        ("postgresql://127.0.0.1/a", "sqlite:///other.db", 2, "only a SQLite database can be moved"),
        ("sqlite:///nowhere.db", "SERVER", 2, "there is no database at nowhere.db"),
        ("guestgate.db", "SERVER", 2, "is not a database URL"),
        ("sqlite:///notes.db", "SERVER", 2, "file is not a database"),
        ("sqlite:///guestgate.db", "mysql://127.0.0.1/a", 2, "TARGET: should be postgresql://"),
        ("sqlite:///guestgate.db", "postgresql://127.0.0.1:1/a", 2, "Connection refused"),
        ("sqlite:///guestgate.db", "postgresql+asyncpg://127.0.0.1/a", 2, "postgresql+asyncpg is not supported"),
    ],
)
def test_databases_between_which_nothing_can_be_moved(
    desk: Terminal, target: Database, source: str, given: str, status: int, says: str
) -> None:
    """One sentence each."""
    desk.file("notes.db", "these are notes, and no database at all; " * 100)
    assert says in refused(desk, source, given.replace("SERVER", target_url(target)), status=status)
    assert not Path("nowhere.db.lock").exists()


def test_without_a_target_it_is_the_configured_one(desk: Terminal, target: Database) -> None:
    """So that a password need not stand on the command line."""
    source = f"sqlite:///{desk.database.name}"
    assert "TARGET: should be postgresql://" in refused(desk, source, status=2)
    desk.monkeypatch.setenv("GUESTGATE_DATABASE", target_url(target))
    said = desk.run("db", "copy", source).out
    assert re.search(r"[\d,]+ rows were copied, 36 decisions among them, up to number \d+; both sides agree", said)
    assert content(target) == content(desk.database)


def test_a_source_of_an_older_guestgate_is_upgraded_first(desk: Terminal, target: Database) -> None:
    """By its own command, which says what it does."""
    old = SqliteDatabase("sqlite:///old.db")
    with old.engine.connect() as connection:
        database_module.migrate(connection.execution_options(guestgate_begin="BEGIN IMMEDIATE"), "0001")
    said = refused(desk, "sqlite:///old.db", target_url(target), status=2)
    assert "has the schema of an older guestgate (0001" in said and "db upgrade" in said


def test_a_target_of_another_version_is_refused(desk: Terminal, target: Database) -> None:
    """A newer schema is not ours to fill."""
    with target.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        connection.exec_driver_sql("UPDATE cluster SET oldest_user = '9999'")
    said = refused(desk, f"sqlite:///{desk.database.name}", target_url(target), status=2)
    assert "was made by a newer guestgate" in said


def test_a_source_that_disagrees_with_itself_is_not_copied(desk: Terminal, target: Database) -> None:
    """The first problem is named."""
    with desk.writing() as connection:
        connection.exec_driver_sql("DELETE FROM visits WHERE seq = (SELECT max(seq) FROM visits)")
    said = refused(desk, f"sqlite:///{desk.database.name}", target_url(target), status=1)
    assert "does not agree with itself, so nothing was copied" in said and "its visit is missing" in said
    assert rows(target, "SELECT * FROM studios") == []


def test_what_postgresql_cannot_keep_is_named(desk: Terminal, target: Database) -> None:
    """A NUL character, which no way into the record lets in, and a text that is too long: table and row."""
    source = f"sqlite:///{desk.database.name}"
    with desk.writing() as connection:
        connection.exec_driver_sql("UPDATE studios SET name = 'a' || char(0) || 'b' WHERE id = 's2'")
    said = refused(desk, source, target_url(target), status=1)
    assert "studios: the row of 's2' cannot be copied" in said and "NUL" in said
    with desk.writing() as connection:
        connection.exec_driver_sql("UPDATE studios SET name = 'b', timezone = ? WHERE id = 's2'", ("x" * 65,))
    said = refused(desk, source, target_url(target), status=1)
    assert "value too long" in said and "COPY studios, line 2, column timezone" in said
    assert rows(target, "SELECT * FROM plans") == []


def test_a_server_that_goes_away_leaves_nothing_half_done(desk: Terminal, target: Database) -> None:
    """The connection is ended in the middle; the move fails in one sentence, and can be begun again."""
    desk.monkeypatch.setattr(transfer_module, "REPORT_EVERY", 5)
    moving = Transfer(f"sqlite:///{desk.database.name}", target_url(target)).run("cli:test")
    total = next(moving)[1]
    while next(moving)[0] < total // 2:
        pass
    with target.engine.connect() as connection, connection.begin():
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid != pg_backend_pid()"
        )
    with pytest.raises(OperationError, match="could not be used"):
        list(moving)
    assert rows(target, "SELECT * FROM studios") == rows(target, "SELECT * FROM changes") == []
    move(desk, target)
    assert content(target) == content(desk.database)
