"""Statements: what a closed month says stays, and what becomes of it later is in another month, once."""

from __future__ import annotations

import csv
import io
import random
import re
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from itertools import chain, islice, permutations
from pathlib import Path
from typing import Any

import pytest
from callers import problems, rows
from paid import disputed, said_sums, sums_of
from past import Past, uuid7
from sqlalchemy import insert, update
from terminal import Terminal

from guestgate import clock, corrections, forget, record, schema, sequence, statements, visits
from guestgate import database as database_module
from guestgate.admin.paging import place
from guestgate.check import check
from guestgate.closing import GRACE, Closing, closable
from guestgate.errors import ConflictError
from guestgate.prune import Prune
from guestgate.record import Filter
from guestgate.statement_csv import BOM, COLUMNS, csv_text
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
MONTHS = ("2026-01", "2026-02", "2026-03")


@pytest.fixture
def desk(terminal: Terminal) -> Terminal:
    """Two studios, one for tests, and a member on each plan."""
    terminal.plans(PLANS)
    terminal.studio("s1")
    terminal.studio("s2", timezone="America/New_York")
    terminal.studio("trial", test=True)
    terminal.members({"member_id": "m1", "plan": "daily"}, {"member_id": "m2", "plan": "each"})
    return terminal


def add(desk: Terminal, at: datetime, member: str = "m1", studio: str = "s1") -> str:
    """A visit by hand."""
    row = VisitRow(0, member, studio, at)
    with desk.database.write("cli:anna") as connection:
        visits.add(connection, row)
    return row.id


def reverse(desk: Terminal, visit: str, why: str = "by mistake") -> None:
    """Take a visit back."""
    with desk.database.write("cli:anna") as connection:
        corrections.reverse(connection, visit, why)


def confirm(desk: Terminal, visit: str) -> None:
    """An entry at the door shows that the member came in."""
    with desk.writing() as connection:
        done = connection.execute(
            update(schema.visits)
            .where(schema.visits.c.id == visit, schema.visits.c.state != "confirmed")
            .values(state="confirmed", reversed_why=None)
        )
        if done.rowcount:
            (seq,) = sequence.take(connection, 1)
            connection.execute(
                insert(schema.visit_changes).values(
                    seq=seq, visit_id=visit, changed_at_ms=5, state="confirmed", who="guestgate", why="event e1"
                )
            )


def close(desk: Terminal, month: str, requires: str = "authorized") -> None:
    """Close a month."""
    for _ in Closing(desk.database, month, requires).run("cli:anna"):
        pass


def lines(desk: Terminal, month: str, requires: str = "authorized") -> list[dict[str, Any]]:
    """A month's lines."""
    with desk.reading() as connection:
        return [line for _, line in statements.statement_lines(connection, month, None, payable_requires=requires)]


def day(number: int, hour: int = 12, month: int = 1) -> datetime:
    """In 2026."""
    return datetime(2026, month, number, hour, tzinfo=UTC)


def test_a_closed_month_stays_and_later_corrections_go_into_the_next(desk: Terminal) -> None:
    """Another visit of the day pays instead of a reversed one; a late one pays; each says why, who and when."""
    first, second, other = add(desk, day(5)), add(desk, day(5, 18)), add(desk, day(6), "m2")
    add(desk, day(7), studio="trial")
    confirm(desk, other)
    close(desk, "2026-01")
    said = lines(desk, "2026-01")
    assert [(line["visit"], line["payable"]) for line in said] == [(first, 1), (second, 0), (other, 1)]
    assert [line["confirmation"] for line in said] == [None, None, "event e1"]
    reverse(desk, first)
    late = add(desk, day(8))
    for month in ("before", "after"):
        found = {line["visit"]: line for line in lines(desk, "2026-02")}
        amounts = {visit: line["payable"] for visit, line in found.items()}
        assert amounts == {first: -1, second: 1, late: 1}, month
        assert (found[first]["why"], found[first]["changed_by"]) == ("by mistake", "cli:anna")
        assert found[first]["changed_at"] is not None and found[first]["adjusts"] == "2026-01"
        assert found[second]["why"] == "another visit of that day: by mistake"
        assert found[late]["why"] == "recorded after the month was closed (manual)" and found[late]["adjusts"] is None
        if month == "before":
            close(desk, "2026-02")
    assert lines(desk, "2026-01") == said and lines(desk, "2026-03") == []
    (total,) = desk.json("statement", "2026-02")[0]["totals"]
    assert total == {"studio": "s1", "visits": 0, "payable": 0, "reversed": 0, "adjustments": 1}
    assert problems(desk.database) == []


@pytest.mark.parametrize("ids_at", [None, datetime(2027, 3, 1, tzinfo=UTC)])
def test_a_check_in_of_the_last_night_is_adjusted_like_any_other(desk: Terminal, ids_at: datetime | None) -> None:
    """It was February already, but not at the studio; and also where ids are from a clock that had been wrong."""
    desk.studio("west", timezone="Etc/GMT+12")
    midnight, ids = datetime(2026, 2, 1, 12, tzinfo=UTC), [uuid7(ids_at, n) if ids_at else None for n in (1, 2)]
    past = Past(desk.database)
    with closing(past):
        night = past.checkin("m2", midnight - timedelta(seconds=1), studio="west", decision_id=ids[0]).id
        morning = past.checkin("m2", midnight, studio="west", decision_id=ids[1]).id
    close(desk, "2026-01")
    for visit in (night, morning):
        reverse(desk, visit)
    assert [(line["visit"], line["kind"], line["payable"]) for line in lines(desk, "2026-01")] == [
        (night, "visit", 1)
    ]
    assert {(line["visit"], line["kind"], line["payable"]) for line in lines(desk, "2026-02")} == {
        (morning, "visit", 0),
        (night, "adjustment", -1),
    }


def test_months_are_closed_in_order_once_and_when_they_are_over(desk: Terminal) -> None:
    """By the last time zone, and six hours later."""
    add(desk, day(5)), add(desk, day(5, month=2))
    assert "the next one is 2026-01" in desk.complaint("statement", "2026-02", "--close", status=1)
    desk.run("statement", "2026-01", "--close")
    assert "closed already" in desk.complaint("statement", "2026-01", "--close", status=1)
    assert "the next one is 2026-02" in desk.complaint("statement", "2026-03", "--close", status=1)
    assert "cannot be closed yet" in desk.complaint("statement", clock.iso(clock.now())[:7], "--close", status=1)
    end = datetime(2026, 2, 1, 12, tzinfo=UTC) + GRACE
    assert closable("2026-01", end) and not closable("2026-01", end - timedelta(milliseconds=1))
    (change,) = desk.json("changes", "--subject", "2026-01")
    assert change["action"] == "statement.closed" and change["after"]["payable"] == 1


def test_the_last_of_two_that_close_at_once_does_and_one_broken_off_closes_nothing(desk: Terminal) -> None:
    """Every line is there once, though the attempts before had written theirs."""
    for number in range(1, 21):
        add(desk, day(number))
    broken_off, earlier = (Closing(desk.database, "2026-01", "authorized").run("cli:anna") for _ in range(2))
    next(broken_off)
    broken_off.close()
    assert rows(desk.database, "SELECT count(*) FROM statement_lines")[0][0] > 0
    with desk.reading() as connection:
        assert statements.closed_list(connection) == []
    next(earlier)
    close(desk, "2026-01")
    with pytest.raises(ConflictError):
        list(earlier)
    assert rows(desk.database, "SELECT count(*), sum(payable) FROM statement_lines WHERE attempt = 3") == [(20, 20)]
    assert len(lines(desk, "2026-01")) == 20 and problems(desk.database) == []


def test_who_is_forgotten_leaves_a_pseudonym_in_closed_months(desk: Terminal) -> None:
    """And nothing that staff wrote; the sums stay, and so does what is still to be adjusted."""
    first, second = add(desk, day(5)), add(desk, day(6))
    close(desk, "2026-01")
    reverse(desk, first, "m1 was ill")
    close(desk, "2026-02")
    reverse(desk, second, "m1 was ill again")
    name = forget.forget(desk.database, "cli:anna", "m1")
    assert {line["member"] for month in MONTHS for line in lines(desk, month)} == {name}
    assert [line["payable"] for line in lines(desk, "2026-03")] == [-1]
    assert "ill" not in str([lines(desk, month) for month in MONTHS])
    assert problems(desk.database) == []


def test_pruning_keeps_what_is_not_settled(desk: Terminal) -> None:
    """Visits of months that are not closed, and those that a later month still has to adjust."""
    settled, reversed_, open_ = add(desk, day(5)), add(desk, day(6)), add(desk, day(5, month=2))
    close(desk, "2026-01")
    reverse(desk, reversed_)
    for _ in Prune(desk.database, "1month", clock.now()).run("cli:anna"):
        pass
    assert {visit for (visit,) in rows(desk.database, "SELECT id FROM visits")} == {reversed_, open_}
    assert [line["visit"] for line in lines(desk, "2026-01")] == [settled, reversed_]
    assert [line["payable"] for line in lines(desk, "2026-02")] == [1, -1]


@pytest.mark.parametrize("file", ["plans.toml", "nowhere/lines.csv"])
def test_a_file_that_cannot_be_written_closes_nothing(desk: Terminal, file: str) -> None:
    """Closing cannot be undone, so that is found before."""
    add(desk, day(5))
    Path("plans.toml").touch()
    assert f"--csv: {file}" in desk.complaint("statement", "2026-01", "--close", "--csv", file)
    assert rows(desk.database, "SELECT count(*) FROM statements") == [(0,)]


def test_csv_opens_in_spreadsheets_and_has_no_formulas(desk: Terminal) -> None:
    """RFC 4180 with a byte order mark; what begins like a formula is a text; of a closed month the same as before."""
    desk.members({"member_id": '=HYPERLINK("x")', "plan": "each"})
    past = Past(desk.database)
    with closing(past):
        decision = past.checkin('=HYPERLINK("x")', day(5))
    confirm(desk, decision.id)
    desk.run("statement", "2026-01", "--csv", "open.csv", "--close")
    desk.run("statement", "2026-01", "--csv", "closed.csv")
    assert "open.csv is there already" in desk.complaint("statement", "2026-01", "--csv", "open.csv")
    assert {path.name for path in Path().iterdir() if "csv" in path.name} == {"open.csv", "closed.csv"}
    content = Path("open.csv").read_bytes()
    assert content == Path("closed.csv").read_bytes()
    assert (
        content.startswith(b"\xef\xbb\xbfmonth,kind,visit,") and content.count(b"\r\n") == content.count(b"\n") == 2
    )
    (row,) = csv.DictReader(content.decode("utf-8-sig").splitlines())
    assert row["member"] == '\'=HYPERLINK("x")' and row["decision"] == row["visit"] == decision.id
    assert (row["confirmation"], row["plan"], row["plan_version"], row["payable"]) == ("event e1", "each", "1", "1")


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+49 30 1", "'+49 30 1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\tx", "'\tx"),
        ("\rx", "'\rx"),
        ("\nx", "'\nx"),
        ("  =1", "'  =1"),
        ("\u00a0\u3000=1", "'\u00a0\u3000=1"),
        ("\ufeff\u200b@x", "'\ufeff\u200b@x"),
        ("\uff1d1\uff0b1", "'\uff1d1\uff0b1"),
        ("\uff0d1", "'\uff0d1"),
        ("\uff20x", "'\uff20x"),
        ("a;=1", "a;'=1"),
        ('a"\n=1', "a\"\n'=1"),
        ("a\t +1", "a\t' +1"),
        ("a=b, c-d", "a=b, c-d"),
        ("Łódź; 2-3", "Łódź; 2-3"),
        ("", ""),
    ],
)
def test_no_text_is_a_formula(text: str, cell: str) -> None:
    """Whatever stands before it, in every column, also where a program takes a semicolon for the separator."""
    line: dict[str, Any] = dict.fromkeys(COLUMNS, text)
    content = "".join(csv_text([line | {"payable": -1}, line | {"member": None}]))
    first, second = csv.DictReader(io.StringIO(content.removeprefix(BOM), newline=""))
    assert first == dict.fromkeys(COLUMNS, cell) | {"payable": "-1"}
    assert second == dict.fromkeys(COLUMNS, cell) | {"member": ""}
    other = [cell for row in csv.reader(io.StringIO(content, newline=""), delimiter=";") for cell in row]
    assert not [cell for cell in other if re.match(r"[\s\ufeff\u200b]*[=+@\uff1d\uff0b\uff0d\uff20]", cell)]


def test_lines_come_in_parts_with_every_adjustment(desk: Terminal) -> None:
    """Page by page by their places, of an open month and of a closed one, as all at once."""
    made = [add(desk, day(number)) for number in range(1, 8)]
    add(desk, day(5, month=2)), add(desk, day(6, month=2))
    close(desk, "2026-01")
    for visit in made[::2]:
        reverse(desk, visit)
    for is_closed in (False, True):
        if is_closed:
            close(desk, "2026-02")
        whole, parts, after = lines(desk, "2026-02"), [], 0
        assert [line["kind"] for line in whole] == ["visit"] * 2 + ["adjustment"] * 4
        while True:
            with desk.reading() as connection:
                found = statements.statement_lines(
                    connection, "2026-02", None, payable_requires="authorized", after=place(str(after))
                )
                part = list(islice(found, 1))
            if not part:
                break
            after = part[0][0]
            parts += [line for _, line in part]
        assert parts == whole
    with desk.reading() as connection:
        content = statements.statement(connection, "2026-02", None, payable_requires="authorized")
    assert content["adjustments"] == whole[2:] and content["totals"][0]["adjustments"] == -4


def test_the_first_month_is_the_first_in_which_a_visit_could_pay(desk: Terminal) -> None:
    """Nothing is closed before there is one; what a wrong clock dated is taken back first."""
    assert "nothing to close" in desk.complaint("statement", "2026-01", "--close", status=1)
    wrong = add(desk, datetime(2006, 1, 5, 12, tzinfo=UTC))
    add(desk, day(5))
    assert "the next one is 2006-01" in desk.complaint("statement", "2026-01", "--close", status=1)
    reverse(desk, wrong)
    close(desk, "2026-01")
    confirm(desk, wrong)
    assert [(line["visit"], line["payable"]) for line in lines(desk, "2026-02")] == [(wrong, 1)]


@pytest.mark.parametrize("requires", ["authorized", "confirmed"])
def test_what_a_month_comes_to_is_the_sum_of_its_lines(requires: str, desk: Terminal) -> None:
    """Also on days whose first visits settle nothing, or are of another plan, another studio or an earlier system."""
    days = list(permutations(("reversed", "authorized", "confirmed", "import"), 3))
    for number, states in enumerate(days, start=1):
        for member in ("m1", "m2"):
            add(desk, day(number, 7), member, "trial")
            for hour, state in enumerate(states, start=8):
                studio = "s1" if hour % 2 else "s2"
                if state == "import":
                    with desk.writing() as connection:
                        Import()(connection, [VisitRow(1, member, studio, day(number, hour))])
                    continue
                visit = add(desk, day(number, hour), member, studio)
                if state == "reversed":
                    reverse(desk, visit)
                elif state == "confirmed":
                    confirm(desk, visit)
    said = {studio: said_sums(desk.database, "2026-01", requires, studio) for studio in (None, "s1", "s2", "trial")}
    those = lines(desk, "2026-01", requires)
    assert said[None] == sums_of(those)
    for studio in ("s1", "s2"):
        assert said[studio] == sums_of(line for line in those if line["studio"] == studio)
    assert said["trial"] == {}
    pays = {
        plan: sum(sums[1] for (_, name), sums in said[None].items() if name == plan) for plan in ("daily", "each")
    }
    assert 0 < pays["daily"] < pays["each"]


def test_confirmations_are_no_corrections(desk: Terminal) -> None:
    """Nearly every visit has one, and its line names it; one that puts a visit back is a correction."""
    plain, back = add(desk, day(5)), add(desk, day(6))
    confirm(desk, plain)
    reverse(desk, back)
    confirm(desk, back)
    with desk.reading() as connection:
        content = statements.statement(connection, "2026-01", None, payable_requires="authorized")
    assert [(made["visit"], made["state"]) for made in content["corrections"]] == [
        (back, "reversed"),
        (back, "confirmed"),
    ]


def test_a_day_is_forgotten_at_once(desk: Terminal) -> None:
    """A visit by hand and one at the door: at no step of forgetting do both pay, as if two had come."""
    past = Past(desk.database)
    with closing(past):
        first = past.checkin("m1", day(5)).id
        add(desk, day(5, 18)), add(desk, day(6))
    pay = {first, *(line["visit"] for line in lines(desk, "2026-01") if line["local_date"] == "2026-01-06")}
    seen = []
    write_many = desk.database.write_many

    def watched(*arguments: Any) -> Iterator[int]:
        for done in write_many(*arguments):
            seen.append({line["visit"] for line in lines(desk, "2026-01") if line["payable"]})
            seen.append(problems(desk.database))
            yield done

    desk.monkeypatch.setattr(desk.database, "write_many", watched)
    forget.forget(desk.database, "cli:anna", "m1")
    assert len(seen) > 4 and all(found in (pay, []) for found in seen)


def test_days_are_pruned_whole(desk: Terminal) -> None:
    """Where the visits of a day lie far apart in the record, none is left that would pay instead."""
    first = add(desk, day(5))
    for number in range(6, 28):
        add(desk, day(number))
    second = add(desk, day(5, 18))
    close(desk, "2026-01")
    rest = [line for line in lines(desk, "2026-01") if line["payable"]]
    desk.monkeypatch.setattr(database_module, "CHUNK", 1)
    with closing(Prune(desk.database, "1month", clock.now()).run("cli:anna")) as begun:
        next(begun)  # type: ignore[call-overload]
    left = {visit for (visit,) in rows(desk.database, "SELECT id FROM visits")}
    assert left and left.isdisjoint({first, second})
    assert lines(desk, "2026-02") == [] and [line for line in lines(desk, "2026-01") if line["payable"]] == rest


def test_a_copy_knows_closed_months_and_one_that_was_being_closed(desk: Terminal, tmp_path: Path) -> None:
    """Put back from a backup, or copied on a server: what was closed is, and what was not is closed anew."""
    for number in range(1, 8):
        add(desk, day(number)), add(desk, day(number, month=2))
    close(desk, "2026-01")
    said = lines(desk, "2026-01")
    with closing(Closing(desk.database, "2026-02", "authorized").run("cli:anna")) as begun:
        next(begun)  # type: ignore[call-overload]
    if desk.database_url.startswith("sqlite"):
        desk.run("backup", "copy.db")
        close(desk, "2026-02")
        desk.close()
        desk.run("restore", "copy.db")
    else:
        with desk.database.write() as connection:
            sequence.settle_down(connection)
    with desk.reading() as connection:
        assert [month["month"] for month in statements.closed_list(connection)] == ["2026-01"]
    reverse(desk, said[0]["visit"])
    close(desk, "2026-02")
    assert lines(desk, "2026-01") == said
    assert [line["payable"] for line in lines(desk, "2026-02")] == [1] * 7 + [-1]
    assert disputed(desk.database) == {} and problems(desk.database) == []


def test_the_check_finds_statements_that_do_not_add_up(desk: Terminal) -> None:
    """A line that is gone, one that says something else, a visit that is settled twice, a month that is skipped."""
    made = add(desk, day(5))
    close(desk, "2026-01"), close(desk, "2026-02"), close(desk, "2026-03")
    line = rows(desk.database, "SELECT * FROM statement_lines")[0]._asdict()
    for change, complaint in (
        ("DELETE FROM statement_lines", "has 0 lines and should have 1"),
        ("UPDATE statement_lines SET payable = 0", "says that 1 visits pay, and its lines come to 0"),
        ("UPDATE statement_lines SET month = '2026-03'", "the statement of 2026-03 has 1 lines and should have 0"),
        ("DELETE FROM statements WHERE month = '2026-02'", "2026-01 and 2026-03 are closed"),
    ):
        with desk.writing() as connection:
            connection.exec_driver_sql(change)
            assert any(complaint in found for found in check(connection)), change
            connection.rollback()
    with desk.writing() as connection:
        connection.execute(insert(schema.statement_lines).values(**line | {"month": "2026-02"}))
    assert f"visit {made} has lines" in " ".join(problems(desk.database))


@pytest.mark.parametrize("seed", range(2))
def test_all_statements_together_are_what_pays_now(seed: int, desk: Terminal) -> None:
    """Whatever was added, imported, corrected, closed and broken off; and no closed line ever changes."""
    dice = random.Random(seed)
    requires = dice.choice(("authorized", "confirmed"))
    with desk.database.write("cli:anna") as connection:
        visits.add(connection, VisitRow(0, "m2", "s1", day(1)))
    made: list[str] = []
    frozen: dict[str, list[dict[str, Any]]] = {}
    for step in range(45):
        at = day(dice.randrange(1, 4), dice.randrange(24), dice.randrange(1, 4))
        member, studio = dice.choice(("m1", "m2")), dice.choice(("s1", "s2", "trial"))
        what = dice.choice(
            ("add", "add", "add", "import", "reverse", "reverse", "confirm", "confirm", "close", "break")
        )
        if what == "add":
            made.append(add(desk, at, member, studio))
        elif what == "import":
            row = VisitRow(1, member, studio, at)
            made.append(row.id)
            with desk.writing() as connection:
                Import()(connection, [row])
        elif what == "reverse" and made:
            reverse(desk, dice.choice(made))
        elif what == "confirm" and made:
            confirm(desk, dice.choice(made))
        elif len(frozen) < len(MONTHS) and what in ("close", "break") and dice.random() < 0.4:
            month = MONTHS[len(frozen)]
            if what == "break":
                with suppress(StopIteration), closing(Closing(desk.database, month, requires).run("x")) as begun:
                    next(begun)  # type: ignore[call-overload]
            if what == "close":
                close(desk, month, requires)
                frozen[month] = lines(desk, month)
        found = {month: lines(desk, month, requires) for month in (*MONTHS, "2026-04")}
        for month, those in found.items():
            assert said_sums(desk.database, month, requires) == sums_of(those), (seed, step, what)
        paid: dict[str, int] = {}
        for line in chain.from_iterable(found.values()):
            paid[line["visit"]] = paid.get(line["visit"], 0) + line["payable"]
        with desk.reading() as connection:
            pays = {
                visit["id"]
                for _, visit in record.visits(connection, Filter(), payable_requires=requires)
                if visit["payable"]
            }
        assert {visit for visit, amount in paid.items() if amount} == pays, (seed, step, what)
        assert set(paid.values()) <= {0, 1}, (seed, step, what)
        assert all(lines(desk, month) == said for month, said in frozen.items()), (seed, step, what)
    assert problems(desk.database) == []
