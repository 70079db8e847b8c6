"""Members: files of any make, what a row changes, which rows are refused, and the commands for one member."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from gate import Gate
from hypothesis import given, settings
from hypothesis import strategies as st
from terminal import Terminal

from guestgate import members, visits
from guestgate.database import Database
from guestgate.errors import UsageError
from guestgate.members import FIELDS, BadRowError, MemberRow, Upsert, parse_row
from guestgate.rows import Row, RowFile

PLANS = """\
[plans.free]
name = "Free"
[plans.once]
name = "Once"
[plans.cycle]
name = "Cycle"
limits = [{ max = 4, per = "cycle" }]
"""
MEGABYTE = "x" * 1024 * 1024
MAX_CUSTOMER = 2**63 - 1
PROFILE = {
    "first_name": "Ada",
    "last_name": "Łukasiewicz",
    "date_of_birth": "1952-05-04",
    "email": "ada@example.com",
    "gender": "FEMALE",
    "street": 'Straße "am Tor", 2. Hof',
    "house_number": "7a",
    "zip_code": "01067",
    "city": "Dresden",
    "country": "DE",
    "phone_private": "+49 351 1",
    "phone_private_mobile": "+49 351 2",
    "phone_business": "+49 351 3",
    "phone_business_mobile": "+49 351 4",
}
FULL = {
    "member_id": "m1",
    "plan": "free",
    "status": "suspended",
    "valid_from": "2026-01-01",
    "valid_until": "2026-12-31",
    "cycle_anchor": "2026-01-31",
    **PROFILE,
}


@pytest.fixture
def desk(terminal: Terminal) -> Terminal:
    """An installation with plans free, once and cycle."""
    terminal.plans(PLANS)
    return terminal


def take(desk: Terminal, content: str | bytes, *options: str) -> dict[str, Any]:
    """Import from standard input; returns the report, whose bad rows decide the exit status."""
    done = desk.run("member", "import", "-", "--json", *options, input=content, status=None)
    report: dict[str, Any]
    (report,) = done.objects
    assert done.status == (1 if report["bad"] else 0)
    return report


def counts(report: dict[str, Any]) -> tuple[int, int, int]:
    """Added, updated, unchanged."""
    return report["added"], report["updated"], report["unchanged"]


def bad_lines(report: dict[str, Any]) -> list[int]:
    """Where the bad rows stood."""
    return [row["line"] for row in report["bad"]]


def member(desk: Terminal, member_id: str) -> dict[str, Any]:
    """One member as `member show` has it."""
    shown: dict[str, Any]
    (shown,) = desk.json("member", "show", member_id)
    return shown


def ids(desk: Terminal) -> list[str]:
    """All members' ids."""
    return [row["member_id"] for row in desk.json("member", "list")]


def csv_of(*rows: dict[str, Any], **style: Any) -> str:
    """Rows as a spreadsheet would save them."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), **style)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def rows_of(data: bytes, fields: tuple[str, ...] = FIELDS, required: tuple[str, ...] = ("member_id",)) -> list[Row]:
    """What RowFile makes of bytes."""
    with mock.patch.object(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data))):
        return list(RowFile("-", fields, required))


# What a row does.


def test_rows_insert_update_or_change_nothing(desk: Terminal) -> None:
    """Counted each by itself, in the report and in the sentence for people."""
    assert counts(take(desk, "member_id,plan\nm1,free\nm2,free\n")) == (2, 0, 0)
    assert counts(take(desk, "member_id,plan\nm1,free\nm2,once\nm3,once\n")) == (1, 1, 1)
    assert [member(desk, m)["plan"] for m in ("m1", "m2", "m3")] == ["free", "once", "once"]
    assert "0 added, 0 updated, 1 unchanged, 0 bad" in desk.run("member", "import", "-", input="member_id\nm1\n").out


def test_every_documented_column_is_stored(desk: Terminal) -> None:
    """And comes out under the same name."""
    take(desk, csv_of({**FULL, "customer_id": "12;34"}))
    assert member(desk, "m1") == {**FULL, "customers": [12, 34]}


def test_importing_twice_changes_nothing(desk: Terminal) -> None:
    """The same file, with customers, personal data and empty cells."""
    text = csv_of({**FULL, "customer_id": "12;34"}, {"member_id": "m2", "plan": "free"})
    assert counts(take(desk, text)) == (2, 0, 0)
    assert counts(take(desk, text)) == (0, 0, 2)


def test_csv_and_ndjson_say_the_same(desk: Terminal) -> None:
    """Customers as a text, a number or a list."""
    take(desk, csv_of({**FULL, "customer_id": "12;34"}))
    for customers in ("12;34", [12, 34], ["12", "34"]):
        assert counts(take(desk, json.dumps({**FULL, "customer_id": customers}) + "\n")) == (0, 0, 1)
    assert counts(take(desk, json.dumps({**FULL, "customer_id": 56}) + "\n")) == (0, 1, 0)
    assert member(desk, "m1")["customers"] == [12, 34, 56]


def test_a_column_left_out_keeps_what_is_stored(desk: Terminal) -> None:
    """Only what the file speaks of changes."""
    take(desk, csv_of({**FULL, "customer_id": "12"}))
    assert counts(take(desk, "member_id,city\nm1,Leipzig\n")) == (0, 1, 0)
    assert member(desk, "m1") == {**FULL, "city": "Leipzig", "customers": [12]}
    assert counts(take(desk, '{"member_id": "m1", "first_name": "Eva"}\n')) == (0, 1, 0)
    assert member(desk, "m1")["first_name"] == "Eva"


def test_an_empty_cell_clears(desk: Terminal) -> None:
    """Dates and personal data; the status goes back to active; null does the same in NDJSON."""
    take(desk, csv_of(FULL))
    cleared = dict.fromkeys(("status", "valid_from", "valid_until", "cycle_anchor", *PROFILE), "")
    take(desk, csv_of({"member_id": "m1", **cleared}))
    bare = {"member_id": "m1", "plan": "free", "status": "active", "customers": []}
    dates = {"valid_from": None, "valid_until": None, "cycle_anchor": None}
    assert member(desk, "m1") == {**bare, **dates}
    take(desk, csv_of(FULL))
    take(desk, json.dumps({"member_id": "m1", **dict.fromkeys(cleared)}) + "\n")
    assert member(desk, "m1") == {**bare, **dates}


def test_a_new_member_is_active_without_dates(desk: Terminal) -> None:
    """The documented defaults."""
    take(desk, "member_id,plan\nm1,free\n")
    assert member(desk, "m1") == {
        "member_id": "m1",
        "plan": "free",
        "status": "active",
        "valid_from": None,
        "valid_until": None,
        "cycle_anchor": None,
        "customers": [],
    }


def test_a_member_that_stands_there_twice_gets_both_rows(desk: Terminal) -> None:
    """In their order."""
    assert counts(take(desk, "member_id,plan,city\nm1,free,A\nm1,once,B\nm1,once,B\n")) == (1, 1, 1)
    shown = member(desk, "m1")
    assert (shown["plan"], shown["city"]) == ("once", "B")


def test_spaces_around_cells_do_not_matter(desk: Terminal) -> None:
    """Fixed-width exports."""
    take(desk, "member_id , plan , customer_id\n m1 , free , 12 ; 34 \n")
    assert (member(desk, "m1")["plan"], member(desk, "m1")["customers"]) == ("free", [12, 34])


# Customers.


def test_customers_are_64_bit_numbers(desk: Terminal) -> None:
    """To the last one, in both formats."""
    take(desk, f"member_id,plan,customer_id\nm1,free,1;{MAX_CUSTOMER}\n")
    assert member(desk, "m1")["customers"] == [1, MAX_CUSTOMER]
    take(desk, f'{{"member_id": "m2", "plan": "free", "customer_id": {MAX_CUSTOMER - 1}}}\n')
    assert member(desk, "m2")["customers"] == [MAX_CUSTOMER - 1]


@pytest.mark.parametrize(
    "value",
    ["0", "-1", str(MAX_CUSTOMER + 1), "1.5", "1e3", "abc", "12;x", "12;0", "0x10", "1_000", "١٢", "9" * 5000],
)
def test_other_customer_ids_are_bad_rows(value: str, desk: Terminal) -> None:
    """No signs, fractions, exponents, letters or digits of other scripts."""
    report = take(desk, f"member_id,plan,customer_id\nm1,free,{value}\nm2,free,5\n")
    assert bad_lines(report) == [2] and report["bad"][0]["error"].startswith("customer_id: ")
    assert ids(desk) == ["m2"]


@pytest.mark.parametrize("value", [0, -1, MAX_CUSTOMER + 1, 1.0, True, False, {}, [None], [[1]], [1, 2.5]])
def test_other_customers_in_ndjson_are_bad_rows(value: Any, desk: Terminal) -> None:
    """Numbers have to be integers."""
    report = take(desk, json.dumps({"member_id": "m1", "plan": "free", "customer_id": value}) + "\n")
    assert bad_lines(report) == [1] and report["bad"][0]["error"].startswith("customer_id: ")


def test_a_customer_named_twice_in_a_row_is_linked_once(desk: Terminal) -> None:
    """And harms neither this row nor the others of the file."""
    report = take(desk, "member_id,plan,customer_id\nm0,free,1\nm1,free,12;12\nm2,free,13\n")
    assert counts(report) == (3, 0, 0)
    assert member(desk, "m1")["customers"] == [12]


def test_a_customer_of_another_member_is_a_bad_row(desk: Terminal) -> None:
    """Linked before or by an earlier row of the same file; nothing of the row is taken."""
    take(desk, "member_id,plan,customer_id\nm1,free,12\n")
    report = take(desk, "member_id,plan,customer_id\nm2,free,12\nm3,free,13\nm4,free,14;13\nm3,once,13\n")
    assert counts(report) == (1, 1, 0)
    assert [(row["line"], "linked to member" in row["error"]) for row in report["bad"]] == [(2, True), (4, True)]
    assert "m1" in report["bad"][0]["error"] and "m3" in report["bad"][1]["error"]
    assert ids(desk) == ["m1", "m3"]


# Bad rows.


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"member_id": ""}, "member_id"),
        ({"member_id": "   "}, "member_id"),
        ({"member_id": "x" * 256}, "member_id"),
        ({"member_id": "a\x00b"}, "member_id"),
        ({"member_id": "a\x7fb"}, "member_id"),
        ({"member_id": "a\nb"}, "member_id"),
        ({"plan": ""}, "plan"),
        ({"plan": "gold"}, "plan"),
        ({"plan": "Free"}, "plan"),
        ({"status": "paused"}, "status"),
        ({"status": "ACTIVE"}, "status"),
        ({"valid_from": "01.02.2026"}, "valid_from"),
        ({"valid_from": "2026-02-30"}, "valid_from"),
        ({"valid_from": "2026-2-3"}, "valid_from"),
        ({"valid_until": "2026-01-01T00:00:00Z"}, "valid_until"),
        ({"cycle_anchor": "tomorrow"}, "cycle_anchor"),
        ({"valid_from": "2026-02-02", "valid_until": "2026-02-01"}, "valid_until"),
        ({"plan": "cycle"}, "cycle_anchor"),
        ({"date_of_birth": "4.5.1952"}, "date_of_birth"),
        ({"gender": "female"}, "gender"),
        ({"gender": "X"}, "gender"),
        ({"country": "DEU"}, "country"),
        ({"country": "D1"}, "country"),
        ({"country": "Ää"}, "country"),
        ({"first_name": "x" * 256}, "first_name"),
        ({"last_name": "a\tb"}, "last_name"),
    ],
)
def test_a_bad_row_is_reported_and_the_others_kept(row: dict[str, str], field: str, desk: Terminal) -> None:
    """With its line and a reason that begins with the field."""
    names = {"member_id": "m1", "plan": "free"} | row
    other = dict.fromkeys(names, "") | {"member_id": "other", "plan": "free"}
    report = take(desk, csv_of({**other, "member_id": "first"}, names, {**other, "member_id": "last"}))
    assert bad_lines(report) == [3] and counts(report) == (2, 0, 0)
    assert report["bad"][0]["error"].startswith(field) and "\n" not in report["bad"][0]["error"]
    assert ids(desk) == ["first", "last"]


def test_both_days_of_validity_may_be_the_same(desk: Terminal) -> None:
    """Both are inclusive: a membership for one day."""
    assert take(desk, "member_id,plan,valid_from,valid_until\nm1,free,2026-02-01,2026-02-01\n")["bad"] == []


def test_validity_is_checked_against_what_is_stored(desk: Terminal) -> None:
    """A row that moves only one end."""
    take(desk, "member_id,plan,valid_from,valid_until\nm1,free,2026-02-01,2026-03-01\n")
    assert bad_lines(take(desk, "member_id,valid_until\nm1,2026-01-31\n")) == [2]
    assert member(desk, "m1")["valid_until"] == "2026-03-01"


@pytest.mark.parametrize("column", ["cycle_anchor", "valid_from"])
def test_a_plan_with_cycles_takes_either_day(column: str, desk: Terminal) -> None:
    """cycle_anchor, else valid_from."""
    assert take(desk, f"member_id,plan,{column}\nm1,cycle,2026-01-31\n")["bad"] == []


def test_bad_rows_are_told_on_standard_error(desk: Terminal) -> None:
    """``file:line: field: reason`` each, in order of lines; the exit status is 1."""
    name = desk.file("members.csv", "member_id,plan,status\nm1,gold,\nm2,free,paused\nm3,free,\n,free,\n")
    done = desk.run("member", "import", name, status=1)
    assert [line.split(": ")[:2] for line in done.err.splitlines()] == [
        ["members.csv:2", "plan"],
        ["members.csv:3", "status"],
        ["members.csv:5", "member_id"],
    ]
    assert "1 added" in done.out and "3 bad" in done.out


def test_a_row_with_too_few_or_too_many_cells_is_bad(desk: Terminal) -> None:
    """A stray comma shall not shift somebody's data."""
    report = take(desk, "member_id,plan,city\nm1,free\nm2,free,Dresden,Sachsen\nm3,free,Bonn\n")
    assert bad_lines(report) == [2, 3] and ids(desk) == ["m3"]


def test_blank_lines_are_passed_over(desk: Terminal) -> None:
    """And do not shift the line numbers."""
    report = take(desk, "member_id,plan\n\nm1,free\n\n\nm2,gold\n\n")
    assert counts(report) == (1, 0, 0) and bad_lines(report) == [6]
    report = take(desk, '{"member_id": "m1"}\n\n   \n{"member_id": "m2", "plan": "gold"}\n\n')
    assert counts(report) == (0, 0, 1) and bad_lines(report) == [4]


# Makes of files.


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_of_any_make(end: str, bom: bytes, delimiter: str, desk: Terminal) -> None:
    """Commas, semicolons (German spreadsheets) or tabs; Windows line ends; a byte order mark."""
    row = {**FULL, "customer_id": "12;34"}
    take(desk, bom + csv_of(row, delimiter=delimiter, lineterminator=end).encode())
    assert member(desk, "m1") == {**FULL, "customers": [12, 34]}


def test_ndjson_with_byte_order_mark_and_windows_line_ends(desk: Terminal) -> None:
    """Also without a newline at the end."""
    data = b'\xef\xbb\xbf{"member_id": "m1", "plan": "free"}\r\n{"member_id": "m2", "plan": "free"}'
    assert counts(take(desk, data)) == (2, 0, 0)


def test_a_file_without_a_newline_at_its_end(desk: Terminal) -> None:
    """The last row counts."""
    assert counts(take(desk, "member_id,plan\nm1,free")) == (1, 0, 0)


def test_quoted_newlines_belong_to_the_cell_and_lines_are_still_right() -> None:
    """A row is named by the line it begins on."""
    rows = rows_of(b'member_id,street\nm1,"one\r\ntwo\nthree"\nm2,"x\ny"\nm3,z\n')
    assert [(row.line, row.fields) for row in rows] == [
        (2, {"member_id": "m1", "street": "one\r\ntwo\nthree"}),
        (5, {"member_id": "m2", "street": "x\ny"}),
        (7, {"member_id": "m3", "street": "z"}),
    ]


def test_latin1_bytes_spoil_only_their_row(desk: Terminal) -> None:
    """Its neighbours are taken."""
    data = "member_id,plan,city\nm1,free,Köln\n".encode() + b"m2,free,K\xf6ln\n" + "m3,free,Köln\n".encode()
    report = take(desk, data)
    assert bad_lines(report) == [3] and "UTF-8" in report["bad"][0]["error"]
    assert ids(desk) == ["m1", "m3"]
    data = b'{"member_id": "m4", "plan": "free", "city": "K\xf6ln"}\n{"member_id": "m5", "plan": "free"}\n'
    report = take(desk, b'{"member_id": "m1"}\n' + data)
    assert bad_lines(report) == [2] and "UTF-8" in report["bad"][0]["error"]


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_line_of_a_megabyte_spoils_only_itself(quote: str, desk: Terminal) -> None:
    """Lines after it keep their numbers."""
    text = f"member_id,plan,city\nm1,free,\nm2,free,{quote}{MEGABYTE}{quote}\nm3,gold,\nm4,free,\n"
    report = take(desk, text)
    assert bad_lines(report) == [3, 4] and "long" in report["bad"][0]["error"]
    assert ids(desk) == ["m1", "m4"]


def test_long_lines_inside_one_cell_spoil_only_their_row(desk: Terminal) -> None:
    """However many there are."""
    cell = f"{MEGABYTE}\n{MEGABYTE}\n{MEGABYTE}"
    report = take(desk, f'member_id,plan,city\nm1,free,"{cell}"\nm2,free,\nm3,free,\n')
    assert bad_lines(report)[0] == 2 and ids(desk)[-1] == "m3"
    assert "m2" not in str(report["bad"]) and 5 not in bad_lines(report) and 6 not in bad_lines(report)


@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_json_line_of_a_megabyte_spoils_only_itself(place: int, desk: Terminal) -> None:
    """The first one too."""
    lines = [json.dumps({"member_id": f"m{number}", "plan": "free"}) for number in (1, 2, 3, 4)]
    lines[place - 1] = json.dumps({"member_id": "long", "plan": "free", "city": MEGABYTE})
    lines[3] = json.dumps({"member_id": "m4", "plan": "gold"})
    assert bad_lines(take(desk, "\n".join(lines) + "\n")) == [place, 4]
    assert len(ids(desk)) == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("not json", "JSON"),
        ("[1, 2]", "object"),
        ('"m1"', "object"),
        ("null", "object"),
        ('{"member_id": "m1"', "JSON"),
        ('{"member_id": 5, "plan": "free"}', "member_id"),
        ('{"member_id": null, "plan": "free"}', "member_id"),
        ('{"plan": "free"}', "member_id"),
        ('{"member_id": "m1", "plan": ["free"]}', "plan"),
        ('{"member_id": "m1", "plan": "free", "status": true}', "status"),
        ('{"member_id": "m1", "plan": "free", "memberid": "m2"}', "memberid"),
        ('{"member_id": "\\ud800", "plan": "free"}', "member_id"),
        ('{"member_id": "m1", "plan": "free", "\\ud800": ""}', "field"),
        ('{"member_id": "m1", "plan": "free", "city": "\\udcff"}', "city"),
        ('{"member_id": "m1", "plan": "free", "city": "\\u0000"}', "city"),
        ('{"member_id": "m1", "plan": "\\ud800"}', "plan"),
        ('{"member_id": "m1", "customer_id": 1' + "0" * 5000 + "}", "customer_id"),
        ("[" * 10_000 + "]" * 10_000, "JSON"),
    ],
)
def test_a_bad_line_of_ndjson_is_reported(line: str, words: str, desk: Terminal) -> None:
    """Whatever it is, and its neighbours are taken."""
    first, last = '{"member_id": "a", "plan": "free"}', '{"member_id": "z", "plan": "free"}'
    report = take(desk, f"{first}\n{line}\n{last}\n")
    assert bad_lines(report) == [2] and words in report["bad"][0]["error"]
    assert ids(desk) == ["a", "z"]


def test_a_bad_quote_spoils_only_its_row(desk: Terminal) -> None:
    """Something after the closing quote."""
    report = take(desk, 'member_id,plan,city\nm1,free,"Bonn"x\nm2,free,"Bonn"\n')
    assert bad_lines(report) == [2] and ids(desk) == ["m2"]


def test_a_quote_that_never_closes_is_reported_where_it_opens(desk: Terminal) -> None:
    """What stands before it is kept."""
    report = take(desk, 'member_id,plan,city\nm1,free,Bonn\nm2,free,"Bonn\nm3,free,Bonn\n')
    assert bad_lines(report) == [3] and ids(desk) == ["m1"]


# The file as a whole is wrong: exit status 2, and nothing of it is taken.


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "member_id"),
        ("\n", "member_id"),
        ("plan,city\nfree,Bonn\n", "member_id"),
        ("member_id,plan,firstname\nm1,free,Ada\n", "did you mean first_name"),
        ("Member_Id,plan\nm1,free\n", "did you mean member_id"),
        ("member_id,plan,member_id\nm1,free,m2\n", "twice"),
        ("member_id,plan,\nm1,free,\n", "column"),
        ('"member_id,plan\nm1,free\n', "column"),
        ("member_id|plan\nm1|free\n", "column"),
        ("member_id,plan\rm1,free\r", ":1: "),
        (b"member_id,plan,stra\xdfe\nm1,free,x\n", "UTF-8"),
        ("member_id,plan\nm1,free\n".encode("utf-16"), "UTF-8"),
        (f"member_id,{MEGABYTE}\nm1,free\n", ":1: "),
        ("member_id,plan,id\x00\nm1,free,x\n", "column"),
    ],
)
def test_a_wrong_header_is_refused(content: str | bytes, words: str, desk: Terminal) -> None:
    """One sentence that names the line, and the column that was meant."""
    sentence = desk.complaint("member", "import", "-", input=content)
    assert words in sentence and len(sentence) < 1000
    assert ids(desk) == []


def test_a_header_alone_is_no_fault(desk: Terminal) -> None:
    """An export of nobody."""
    assert take(desk, "member_id,plan\n") == {"added": 0, "updated": 0, "unchanged": 0, "bad": []}


def test_files_that_cannot_be_read_are_refused(desk: Terminal) -> None:
    """Missing, or a folder."""
    assert desk.complaint("member", "import", "missing.csv").startswith("missing.csv: ")
    assert desk.complaint("member", "import", ".").startswith(".: ")


def test_a_file_that_was_read_is_closed(tmp_path: Path) -> None:
    """Warnings are errors here, and an open file warns when it is forgotten."""
    file = tmp_path / "members.csv"
    file.write_text("member_id\nm1\n", "utf-8")
    source = RowFile(str(file), FIELDS, ("member_id",))
    assert [row.fields for row in source] == [{"member_id": "m1"}]
    assert source.size == file.stat().st_size


# Trying it first.


def test_a_dry_run_writes_nothing(desk: Terminal) -> None:
    """And says so."""
    take(desk, "member_id,plan\nm1,free\n")
    text = "member_id,plan,customer_id\nm1,once,12\nm2,free,13\nm3,gold,\n"
    done = desk.run("member", "import", "-", "--dry-run", input=text, status=1)
    assert "1 would be added, 1 would be updated, 0 unchanged, 1 bad" in done.out
    assert ids(desk) == ["m1"] and member(desk, "m1")["plan"] == "free" and member(desk, "m1")["customers"] == []


@pytest.mark.parametrize(
    "text",
    [
        "member_id,plan\nm1,free\nm2,once\nm3,gold\n",
        "member_id,plan\nm1,free\nm1,free\nm1,once\n",
        "member_id,plan,customer_id\nm1,free,12\nm2,free,12\n",
        "member_id,plan,city\nm1,free,Bonn\nm1,,Bonn\n",
        "member_id,city\nm1,Bonn\n",
        "member_id,plan,valid_from,valid_until\nm1,free,2026-02-01,\nm1,free,2026-02-01,2026-01-01\n",
    ],
)
def test_a_dry_run_foretells_the_import(text: str, desk: Terminal) -> None:
    """Rows that rest on earlier rows of the same file included."""
    foretold = take(desk, text, "--dry-run")
    assert take(desk, text) == foretold


def test_an_import_of_many_rows_is_the_same_in_parts(desk: Terminal) -> None:
    """More rows than one transaction takes, with bad ones in between."""
    lines = [f"m{number:05},{'gold' if number % 100 == 0 else 'free'},{number + 1}" for number in range(3000)]
    report = take(desk, "member_id,plan,customer_id\n" + "\n".join(lines) + "\n")
    assert counts(report) == (2970, 0, 0)
    assert bad_lines(report) == [2 + number for number in range(0, 3000, 100)]
    assert counts(take(desk, "member_id,plan,customer_id\n" + "\n".join(lines[1:100]) + "\n")) == (0, 0, 99)


# One member.


def test_set_adds_changes_and_clears(desk: Terminal) -> None:
    """What is not given stays."""
    desk.run("member", "set", "m1", "--plan", "free", "--valid-from", "2026-01-01", "--valid-until", "2026-06-30")
    (shown,) = desk.json("member", "set", "m1", "--status", "suspended", "--cycle-anchor", "2026-01-15")
    assert shown == member(desk, "m1")
    assert (shown["plan"], shown["status"], shown["valid_from"]) == ("free", "suspended", "2026-01-01")
    (shown,) = desk.json("member", "set", "m1", "--valid-until", "", "--valid-from", "")
    assert (shown["valid_from"], shown["valid_until"], shown["cycle_anchor"]) == (None, None, "2026-01-15")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "nothing to set"),
        (("--plan", "gold"), "gold"),
        (("--status", "paused"), "--status"),
        (("--valid-from", "soon"), "valid_from"),
        (("--valid-until", "2025-12-31"), "valid_until"),
        (("--plan", ""), "plan"),
        (("--plan", "cycle", "--valid-from", ""), "cycle_anchor"),
    ],
)
def test_set_refuses_what_an_import_refuses(options: tuple[str, ...], words: str, desk: Terminal) -> None:
    """In one sentence; the member stays as it was."""
    desk.run("member", "set", "m1", "--plan", "free", "--valid-from", "2026-01-01")
    before = member(desk, "m1")
    assert words in desk.complaint("member", "set", "m1", *options)
    assert member(desk, "m1") == before


def test_spaces_around_an_id_do_not_matter(desk: Terminal) -> None:
    """For a command as for a file."""
    (shown,) = desk.json("member", "set", " m1 ", "--plan", "free")
    assert shown["member_id"] == "m1" and ids(desk) == ["m1"]


def test_setting_something_of_nobody_names_the_member(desk: Terminal) -> None:
    """A slip in the id is told as that, and not as a missing plan."""
    desk.run("member", "set", "m1", "--plan", "free")
    assert "m2" in desk.run("member", "set", "m2", "--status", "suspended", status=None).err


def test_show_names_an_unknown_member(desk: Terminal) -> None:
    """Exit status 1."""
    assert "no member nobody" in desk.complaint("member", "show", "nobody", status=1)


def test_list_filters_and_keeps_personal_data_to_itself(desk: Terminal) -> None:
    """By plan and status, by id, not more than asked for."""
    take(
        desk,
        csv_of({**FULL, "member_id": "b"}, {"member_id": "a", "plan": "once"}, {"member_id": "c", "plan": "free"}),
    )
    keys = {"member_id", "plan", "status", "valid_from", "valid_until", "cycle_anchor"}
    assert all(set(row) == keys for row in desk.json("member", "list"))
    assert ids(desk) == ["a", "b", "c"]
    assert [row["member_id"] for row in desk.json("member", "list", "--plan", "free")] == ["b", "c"]
    assert [row["member_id"] for row in desk.json("member", "list", "--status", "suspended")] == ["b"]
    assert len(desk.json("member", "list", "--limit", "2")) == 2
    assert "did you mean free" in desk.complaint("member", "list", "--plan", "fre", status=1)
    text = desk.run("member", "list").out
    assert "once" in text and "Łukasiewicz" not in text


def test_link_and_unlink(desk: Terminal) -> None:
    """A customer has one member; a member may have several customers."""
    for name in ("m1", "m2"):
        desk.run("member", "set", name, "--plan", "free")
    for customer in (str(MAX_CUSTOMER), "12"):
        assert desk.json("member", "link", "m1", customer) == [
            {"member_id": "m1", "customer_id": int(customer), "linked": True}
        ]
    desk.run("member", "link", "m1", "12")  # again is no fault
    assert member(desk, "m1")["customers"] == [12, MAX_CUSTOMER]
    assert "m1" in desk.complaint("member", "link", "m2", "12", status=1)
    assert "not linked" in desk.complaint("member", "unlink", "m2", "12", status=1)
    desk.run("member", "unlink", "m1", "12")
    assert "not linked" in desk.complaint("member", "unlink", "m1", "12", status=1)
    desk.run("member", "link", "m2", "12")
    assert [member(desk, m)["customers"] for m in ("m1", "m2")] == [[MAX_CUSTOMER], [12]]


@pytest.mark.parametrize("customer", ["0", "-5", str(MAX_CUSTOMER + 1), "abc", "", "1;2", "1.0"])
def test_linking_takes_one_customer_id(customer: str, desk: Terminal) -> None:
    """Anything else is wrong usage."""
    desk.run("member", "set", "m1", "--plan", "free")
    assert desk.complaint("member", "link", "m1", "--", customer)


@pytest.mark.parametrize("command", ["link", "unlink"])
def test_linking_needs_a_member(command: str, desk: Terminal) -> None:
    """Exit status 1."""
    assert "no member nobody" in desk.complaint("member", command, "nobody", "12", status=1)


@pytest.mark.parametrize(
    "odd", ["[/b]", "[red]m[/red]", "gym:m:1", "a\\", "\\[x]", "-- m", "Ünïcødé 🏋", "a'b\"c", "%s"]
)
def test_ids_are_shown_as_they_are(odd: str, desk: Terminal) -> None:
    """Nothing in an id is read as colours, pictures or options."""
    desk.run("member", "set", "--plan", "free", "--", odd)
    assert odd in desk.run("member", "list").out
    assert odd in desk.run("member", "show", "--", odd).out
    assert odd in desk.run("member", "set", "--plan", "once", "--", odd).out
    assert odd in desk.run("member", "link", "--", odd, "12").out
    assert ids(desk) == [odd]


def test_an_argument_that_is_not_utf8_is_an_unknown_member(desk: Terminal) -> None:
    """Bytes from a file name or an old terminal; never a traceback."""
    for command in (("show",), ("link", "12"), ("unlink", "12")):
        arguments = (command[0], "\udcff", *command[1:])
        assert desk.run("member", *arguments, status=None).status in (1, 2)


# Whatever it is, the readers do not fall over it.

TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    TEXTS,
    st.text("0123456789;-., ", max_size=25),
    st.dates().map(date.isoformat),
    st.lists(st.one_of(st.integers(), TEXTS, st.none()), max_size=3),
    st.dictionaries(TEXTS, st.integers(), max_size=2),
)
MEMBER_ROWS = st.dictionaries(st.one_of(st.sampled_from(FIELDS), TEXTS), VALUES, max_size=8)
VISIT_ROWS = st.dictionaries(st.one_of(st.sampled_from(visits.FIELDS), TEXTS), VALUES, max_size=5)


@given(st.integers(1, 9), MEMBER_ROWS)
def test_a_member_row_of_anything_is_read_or_bad(line: int, row: dict[str, Any]) -> None:
    """BadRowError and nothing else; what is read can be stored."""
    try:
        read = parse_row(line, row)
    except BadRowError as error:
        assert str(error)
        return
    assert isinstance(read, MemberRow) and read.line == line
    for text in (read.member_id, *read.values.values()):
        assert text is None or (text.strip() and text.encode())
    assert all(1 <= customer <= MAX_CUSTOMER for customer in read.customers)


@given(st.integers(1, 9), VISIT_ROWS)
def test_a_visit_row_of_anything_is_read_or_bad(line: int, row: dict[str, Any]) -> None:
    """BadRowError and nothing else; what is read has an id."""
    try:
        read = visits.parse_row(line, row)
    except BadRowError as error:
        assert str(error)
        return
    assert read.line == line and read.id


# Bytes that mean something to the reader turn up often, and lines that are too long.
MARKS = (b"member_id", b"plan", b",", b";", b"\t", b"\n", b"\r", b"\r\n", b'"', b"{", b"}", b"\x00", b"<long>")
PIECES = st.one_of(st.sampled_from(MARKS), st.sampled_from(MARKS), st.binary(max_size=8))
HEADS = st.sampled_from((b"member_id,plan\n", b'{"member_id": "m"}\n', b"member_id", b"{", b""))


@settings(max_examples=400)
@given(HEADS, st.lists(PIECES, max_size=20).map(b"".join))
def test_a_file_of_anything_is_read_or_refused(head: bytes, rest: bytes) -> None:
    """UsageError and nothing else; lines rise and lie in the file; a row has fields or a problem."""
    data = (head + rest).replace(b"<long>", b"x" * 70_000)
    try:
        rows = rows_of(data)
    except UsageError as error:
        assert str(error) and "\n" not in str(error)
        return
    lines = [row.line for row in rows]
    assert lines == sorted(set(lines)) and all(1 <= line <= data.count(b"\n") + 1 for line in lines)
    assert all((row.fields is None) == bool(row.problem) for row in rows)


CELLS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


@given(
    st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=6),
    st.sampled_from((",", ";", "\t")),
    st.sampled_from(("\n", "\r\n")),
    st.booleans(),
)
def test_what_a_spreadsheet_writes_is_read_as_it_was(
    table: list[tuple[str, str, str]], delimiter: str, end: str, quotes: bool
) -> None:
    """Any cells, quoted where needed; rows of empty cells are nothing."""
    if not quotes:  # Python's own writer forgets to quote a carriage return
        table = [tuple(cell.replace("\r", "") for cell in cells) for cells in table]  # type: ignore[misc]
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if quotes else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(("member_id", "plan", "city"))
    writer.writerows(table)
    rows = rows_of(text.getvalue().encode())
    read = [tuple((row.fields or {}).values()) for row in rows]
    assert read == [cells for cells in table if any(cells)]


@pytest.fixture(scope="module")
def database(new_gate: Callable[[], Gate]) -> Database:
    """A database with plan free, written to by many examples."""
    gate = new_gate()
    gate.plans(PLANS)
    return gate.database


# What is left of a text once a row has been read.
KEPT = CELLS.filter(lambda text: text and not members.UNWANTED.search(text))
ROWS = st.builds(
    lambda member_id, values, customers: MemberRow(1, member_id, {"plan": "free", **values}, customers),
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=3).filter(
        lambda text: text == text.strip()
    ),
    st.dictionaries(st.sampled_from(sorted(PROFILE)), st.one_of(st.none(), KEPT), max_size=3),
    st.lists(st.integers(1, 6), max_size=3).map(tuple),
)


@settings(max_examples=30)
@given(st.lists(ROWS, max_size=8))
def test_any_rows_together_are_stored_or_bad(database: Database, rows: list[MemberRow]) -> None:
    """Members and customers in any combination; a second time the good ones are unchanged."""
    first, second = Upsert(), Upsert()
    with database.write() as connection:
        first(connection, rows)
    report = first.report
    assert report.added + report.updated + report.unchanged + len(report.bad) == len(rows)
    with database.write() as connection:
        second(connection, rows)
    assert second.report.added == 0 and len(second.report.bad) == len(report.bad)
    if not report.bad:
        with database.read() as connection:
            shown = {shown["member_id"] for shown in members.member_list(connection)}
        assert shown >= {row.member_id for row in rows}
