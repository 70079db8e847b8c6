"""Visits: bringing them along from an earlier system, taking them back, and which of them pay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from gate import Gate
from sqlalchemy import insert, select, update
from terminal import Terminal

from guestgate import clock, record, schema, sequence

PLANS = """\
[plans.free]
name = "Free"
reentry_minutes = 0
[plans.once]
name = "Once a day"
reentry_minutes = 0
limits = [{ max = 1, per = "day" }]
[plans.month]
name = "Twice a month"
reentry_minutes = 0
limits = [{ max = 2, per = "month", scope = "studio" }]
[plans.each]
name = "Each visit pays"
payable = "per_visit"
"""
HEADER = "member_id,studio_id,at\n"
DAY = "2026-03-04"
DECISION_FREE = {"decision": None, "source": "import", "payable": False, "plan": None, "plan_version": None}


@pytest.fixture
def desk(terminal: Terminal) -> Terminal:
    """Studios s1 (Berlin), s2 (New York) and trial (for tests); a member of each plan, named after it."""
    terminal.plans(PLANS)
    terminal.studio("s1", tags=("classic",))
    terminal.studio("s2", timezone="America/New_York")
    terminal.studio("trial", test=True)
    terminal.members(*({"member_id": plan, "plan": plan} for plan in ("free", "once", "month", "each")))
    return terminal


def take(desk: Terminal, *rows: str, header: str = HEADER) -> dict[str, Any]:
    """Import visits from standard input; returns the report."""
    text = header + "".join(f"{row}\n" for row in rows)
    done = desk.run("visit", "import", "-", "--json", input=text, status=None)
    report: dict[str, Any]
    (report,) = done.objects
    assert done.status == (1 if report["bad"] else 0)
    return report


def visits(desk: Terminal, *options: str) -> list[Any]:
    """Visits as `guestgate visits --json` has them."""
    return desk.json("visits", *options)


def verdict(desk: Terminal, member: str, studio: str = "s1", at: str | None = None) -> dict[str, Any]:
    """What the door would say."""
    answer: dict[str, Any]
    (answer,) = desk.json("explain", member, "--studio", studio, *(("--at", at) if at else ()))
    return answer


# Bringing visits along.


def test_an_imported_visit_has_the_documented_shape(desk: Terminal) -> None:
    """On the date of its studio; made by no decision and under no plan, paid for elsewhere."""
    assert take(desk, "free,s2,2026-03-05T01:30:00+00:00") == {"added": 1, "updated": 0, "unchanged": 0, "bad": []}
    (visit,) = visits(desk)
    assert visit == {
        "id": visit["id"],
        "member": "free",
        "studio": "s2",
        "at": "2026-03-05T01:30:00.000Z",
        "local_date": "2026-03-04",
        "state": "authorized",
        "reversed_why": None,
        **DECISION_FREE,
    }


def test_importing_twice_adds_nothing(desk: Terminal) -> None:
    """Nor does the same instant with another offset, nor a row that stands there twice."""
    rows = ["free,s1,2026-03-04T10:00:00+01:00", "free,s1,2026-03-04T11:00:00+01:00"]
    assert take(desk, *rows)["added"] == 2
    again = take(desk, *rows, "free,s1,2026-03-04T09:00:00Z")
    assert (again["added"], again["unchanged"]) == (0, 3)
    assert take(desk, *["once,s1,2026-03-04T10:00:00+01:00"] * 3) == {
        "added": 1,
        "updated": 0,
        "unchanged": 2,
        "bad": [],
    }
    assert len(visits(desk)) == 3


def test_a_visit_that_was_taken_back_does_not_return_with_the_next_import(desk: Terminal) -> None:
    """The correction stands."""
    take(desk, "once,s1,2026-03-04T10:00:00+01:00")
    desk.run("visit", "reverse", visits(desk)[0]["id"], "--why", "a mistake")
    assert take(desk, "once,s1,2026-03-04T10:00:00+01:00")["added"] == 0
    assert [visit["state"] for visit in visits(desk)] == ["reversed"]


def test_other_columns_orders_and_formats(desk: Terminal) -> None:
    """Columns in any order, semicolons, NDJSON, a file by name."""
    assert take(desk, "2026-03-04T10:00:00Z;free;s1", header="at;member_id;studio_id\n")["added"] == 1
    assert (
        take(desk, '{"member_id": "free", "studio_id": "s1", "at": "2026-03-04T10:00:00Z"}', header="")["unchanged"]
        == 1
    )
    name = desk.file("visits.csv", f"{HEADER}free,s1,2026-03-04T10:00:00Z\n")
    assert "0 added" in desk.run("visit", "import", name).out


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("nobody,s1,2026-03-04T10:00:00Z", "member_id"),
        (",s1,2026-03-04T10:00:00Z", "member_id"),
        ("free,nowhere,2026-03-04T10:00:00Z", "studio_id"),
        ("free,,2026-03-04T10:00:00Z", "studio_id"),
        ("free,s1,", "at"),
        ("free,s1,2026-03-04T10:00:00", "at"),
        ("free,s1,2026-03-04", "at"),
        ("free,s1,04.03.2026 10:00", "at"),
        ("free,s1,2026-02-30T10:00:00Z", "at"),
        ("free,s1,1772618400", "at"),
        ("free,s1,9999-12-31T23:59:59-12:00", "at"),
        ("free,s1,0001-01-01T00:00:00+12:00", "at"),
        ("free,s2,0001-01-01T00:00:00Z", "at"),
    ],
)
def test_a_bad_visit_is_reported_and_the_others_kept(row: str, field: str, desk: Terminal) -> None:
    """Unknown people and places, instants without offset or outside the calendar."""
    report = take(desk, "free,s1,2026-03-04T10:00:00Z", row, "free,s1,2026-03-04T11:00:00Z")
    assert [bad["line"] for bad in report["bad"]] == [3] and report["bad"][0]["error"].startswith(f"{field}: ")
    assert report["added"] == 2


def test_a_visit_of_the_future_is_a_bad_row(desk: Terminal) -> None:
    """A minute ahead is too much, a minute ago is not."""
    ahead, ago = (clock.now() + timedelta(minutes=minutes) for minutes in (1, -1))
    report = take(desk, f"free,s1,{clock.iso(ahead)}", f"free,s1,{clock.iso(ago)}")
    assert report["added"] == 1 and "future" in report["bad"][0]["error"]


def test_bad_lines_of_ndjson_are_reported(desk: Terminal) -> None:
    """Whatever they hold."""
    good = '{"member_id": "free", "studio_id": "s1", "at": "2026-03-04T10:00:00Z"}'
    report = take(
        desk,
        good.replace('"free"', '"\\ud800"'),
        good.replace('"s1"', '"\\ud800"'),
        good.replace('"free"', "5"),
        good.replace('"2026-03-04T10:00:00Z"', "1772618400"),
        good.replace('"at"', '"when"'),
        good,
        header="",
    )
    assert [bad["line"] for bad in report["bad"]] == [1, 2, 3, 4, 5] and report["added"] == 1


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("member_id,studio_id\n", "at"),
        ("member,studio_id,at\n", "did you mean member_id"),
        ("member_id,studio,at\n", "did you mean studio_id"),
        ("", "missing"),
    ],
)
def test_a_wrong_header_is_refused(header: str, words: str, desk: Terminal) -> None:
    """Exit status 2, and nothing is imported."""
    assert words in desk.complaint("visit", "import", "-", input=header)


def test_limits_carry_on(desk: Terminal) -> None:
    """An imported visit of today uses up today, everywhere; yesterday's does not."""
    now = clock.now()
    assert verdict(desk, "once")["decision"] == "allowed"
    take(desk, f"once,s1,{clock.iso(now - timedelta(days=2))}")
    assert verdict(desk, "once")["decision"] == "allowed"
    take(desk, f"once,s1,{clock.iso(now)}")
    answer = verdict(desk, "once", at=clock.iso(now))
    assert (answer["decision"], answer["reason"]) == ("denied", "limit_reached")
    assert answer["limit"] == {"max": 1, "per": "day", "scope": "network", "used": 1}


def test_a_visit_counts_on_the_date_of_the_studio_where_it_happened(desk: Terminal) -> None:
    """In New York it was still the 4th."""
    take(desk, "once,s2,2026-03-05T01:30:00Z")
    assert verdict(desk, "once", at="2026-03-05T09:00:00Z")["decision"] == "allowed"
    assert verdict(desk, "once", at="2026-03-04T22:00:00Z")["decision"] == "allowed"  # that visit is yet to come
    assert verdict(desk, "once", "s2", at="2026-03-05T03:00:00Z")["reason"] == "limit_reached"


def test_visits_at_a_test_studio_do_not_count(desk: Terminal) -> None:
    """Imported ones neither."""
    take(desk, f"once,trial,{DAY}T08:00:00Z")
    assert verdict(desk, "once", at=f"{DAY}T10:00:00Z")["decision"] == "allowed"


def test_a_limit_of_a_studio_counts_imports_there_only(desk: Terminal) -> None:
    """Two a month here, any number elsewhere."""
    take(desk, "month,s1,2026-03-01T08:00:00Z", "month,s2,2026-03-02T08:00:00Z")
    assert verdict(desk, "month", at=f"{DAY}T10:00:00Z")["decision"] == "allowed"
    take(desk, "month,s1,2026-03-03T08:00:00Z")
    answer = verdict(desk, "month", at=f"{DAY}T10:00:00Z")
    assert answer["limit"] == {"max": 2, "per": "month", "scope": "studio", "used": 2}
    assert answer["next_allowed_at"] == "2026-03-31T22:00:00.000Z"
    assert verdict(desk, "month", "s2", at=f"{DAY}T10:00:00Z")["decision"] == "allowed"


# Taking visits back.


def test_reversing_gives_the_entry_back(desk: Terminal) -> None:
    """The record keeps the visit, with why; the limit is free again."""
    take(desk, f"once,s1,{DAY}T08:00:00Z")
    (before,) = visits(desk)
    assert verdict(desk, "once", at=f"{DAY}T10:00:00Z")["decision"] == "denied"
    (after,) = desk.json("visit", "reverse", before["id"], "--why", "  the gate stayed shut ")
    assert after == {**before, "state": "reversed", "reversed_why": "the gate stayed shut"}
    assert visits(desk) == [after]
    assert verdict(desk, "once", at=f"{DAY}T10:00:00Z")["decision"] == "allowed"


def test_a_reversal_is_written_down_with_who_and_when(desk: Terminal) -> None:
    """In rows that are only ever added."""
    take(desk, f"once,s1,{DAY}T08:00:00Z")
    (visit,) = visits(desk)
    desk.monkeypatch.setenv("SUDO_USER", "mia")
    desk.run("visit", "reverse", visit["id"], "--why", "test")
    with desk.reading() as connection:
        (change,) = connection.execute(select(schema.visit_changes)).all()
    assert (change.visit_id, change.state, change.why, change.who) == (visit["id"], "reversed", "test", "cli:mia")
    assert abs(clock.from_ms(change.changed_at_ms) - clock.now()) < timedelta(minutes=1)


@pytest.mark.parametrize("why", [(), ("--why", ""), ("--why", "   ")])
def test_a_reversal_needs_a_reason(why: tuple[str, ...], desk: Terminal) -> None:
    """Exit status 2, and nothing changes."""
    take(desk, f"once,s1,{DAY}T08:00:00Z")
    assert "--why" in desk.complaint("visit", "reverse", visits(desk)[0]["id"], *why)
    assert visits(desk)[0]["state"] == "authorized"


def test_a_visit_is_reversed_once(desk: Terminal) -> None:
    """The second attempt fails, names the first reason and changes nothing."""
    take(desk, f"once,s1,{DAY}T08:00:00Z")
    (visit,) = visits(desk)
    desk.run("visit", "reverse", visit["id"], "--why", "first")
    assert "first" in desk.complaint("visit", "reverse", visit["id"], "--why", "second", status=1)
    assert visits(desk)[0]["reversed_why"] == "first"
    with desk.reading() as connection:
        assert len(connection.execute(select(schema.visit_changes)).all()) == 1


@pytest.mark.parametrize("visit_id", ["nothing", "", "00000000-0000-0000-0000-000000000000", "%"])
def test_an_unknown_visit_cannot_be_reversed(visit_id: str, desk: Terminal) -> None:
    """Exit status 1."""
    take(desk, f"once,s1,{DAY}T08:00:00Z")
    assert "no visit" in desk.complaint("visit", "reverse", visit_id, "--why", "x", status=1)


def test_a_reason_that_is_not_utf8_is_no_traceback(desk: Terminal) -> None:
    """Nor is such an id."""
    take(desk, f"once,s1,{DAY}T08:00:00Z")
    (visit,) = visits(desk)
    assert desk.run("visit", "reverse", "\udcff", "--why", "x", status=None).status in (1, 2)
    done = desk.run("visit", "reverse", visit["id"], "--why", "K\udcf6ln", status=None)
    assert done.status in (0, 2) and len(visits(desk)) == 1


@pytest.mark.parametrize("why", ["[/b]", "[red]x", ":x:", "back\\slash", "100 %"])
def test_a_reason_is_shown_as_it_was_written(why: str, desk: Terminal) -> None:
    """In the list for people too."""
    take(desk, f"once,s1,{DAY}T08:00:00Z")
    desk.run("visit", "reverse", visits(desk)[0]["id"], "--why", why)
    assert why in desk.run("visits").out


# Lists.


def test_visits_can_be_chosen(desk: Terminal) -> None:
    """By member, studio, beginning and number; of a number the latest, still the oldest first."""
    days = ("2026-03-01", "2026-03-02", "2026-03-03")
    take(
        desk,
        *(
            f"{member},{studio},{day}T08:00:00Z"
            for day in days
            for member, studio in (("free", "s1"), ("once", "s2"))
        ),
    )
    assert len(visits(desk)) == 6
    assert {visit["member"] for visit in visits(desk, "--member", "free")} == {"free"}
    assert {visit["studio"] for visit in visits(desk, "--studio", "s2")} == {"s2"}
    since = visits(desk, "--since", "2026-03-03T00:00:00Z", "--member", "free")
    assert [visit["local_date"] for visit in since] == ["2026-03-03"]
    assert [visit["local_date"] for visit in visits(desk, "--limit", "2", "--member", "free")] == list(days[1:])
    assert visits(desk, "--member", "nobody") == []
    assert "nothing recorded" in desk.run("visits", "--member", "nobody").out


def test_json_lists_all_and_text_the_latest_fifty(desk: Terminal) -> None:
    """More than a page of the database's."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    take(desk, *(f"free,s1,{clock.iso(start + timedelta(minutes=number))}" for number in range(1100)))
    listed = visits(desk)
    assert len(listed) == 1100 and [visit["at"] for visit in listed] == sorted(visit["at"] for visit in listed)
    lines = desk.run("visits").out.splitlines()
    assert len(lines) == 50 and "18:19:00Z" in lines[-1]


# Which visits pay.


def enter(desk: Terminal, *entries: tuple[str, str, dict[str, Any]], plan: str = "once") -> None:
    """Visits as check-ins make them: name, time on DAY at UTC, and what is different from an ordinary one."""
    with desk.writing() as connection:
        for name, at, different in entries:
            instant = datetime.fromisoformat(f"{DAY}T{at}:00+00:00")
            values = {
                "seq": sequence.take(connection, 1)[0],
                "id": name,
                "member_id": plan,
                "studio_id": "s1",
                "at_ms": clock.to_ms(instant),
                "local_date": DAY,
                "tags": "[]",
                "test": False,
                "state": "authorized",
                "source": "checkin",
                "plan_id": plan,
                "plan_version": 1,
            }
            connection.execute(insert(schema.visits).values({**values, **different}))


def paid(desk: Terminal, requires: str = "authorized") -> list[str]:
    """The names of the visits that pay."""
    with desk.reading() as connection:
        rows = list(record.visits(connection, record.Filter(), payable_requires=requires))
        for _, row in rows:
            assert record.visit(connection, row["id"], payable_requires=requires) == row
    return [row["id"] for _, row in rows if row["payable"]]


REVERSED: dict[str, Any] = {"state": "reversed", "reversed_why": "test"}
CONFIRMED: dict[str, Any] = {"state": "confirmed"}
TEST: dict[str, Any] = {"test": True, "studio_id": "trial"}
IMPORTED: dict[str, Any] = {"source": "import", "plan_id": None, "plan_version": None}
NEXT_DAY: dict[str, Any] = {"local_date": "2026-03-05"}
OTHER: dict[str, Any] = {"member_id": "free"}


@pytest.mark.parametrize(
    ("entries", "pays"),
    [
        ([("a", "08:00", {}), ("b", "09:00", {})], ["a"]),
        ([("b", "09:00", {}), ("a", "08:00", {})], ["a"]),  # recorded later, happened earlier
        ([("a", "08:00", {}), ("b", "08:00", {})], ["a"]),  # the same millisecond
        ([("a", "08:00", {}), ("b", "09:00", {"studio_id": "s2"})], ["a"]),
        ([("a", "08:00", {}), ("b", "23:30", NEXT_DAY)], ["a", "b"]),
        ([("a", "08:00", {}), ("b", "09:00", OTHER)], ["a", "b"]),
        ([("a", "08:00", REVERSED), ("b", "09:00", {})], ["b"]),
        ([("a", "08:00", {}), ("b", "09:00", REVERSED)], ["a"]),
        ([("a", "08:00", REVERSED)], []),
        ([("a", "08:00", TEST), ("b", "09:00", {})], ["b"]),
        ([("a", "08:00", TEST)], []),
        ([("a", "08:00", IMPORTED), ("b", "09:00", {})], []),
        ([("a", "08:00", {}), ("b", "09:00", IMPORTED)], ["a"]),
        ([("a", "08:00", {**IMPORTED, **REVERSED}), ("b", "09:00", {})], ["b"]),
        ([("a", "08:00", {**IMPORTED, **NEXT_DAY}), ("b", "09:00", {})], ["b"]),
        ([("a", "08:00", {**IMPORTED, **OTHER}), ("b", "09:00", {})], ["b"]),
        ([("a", "08:00", {**IMPORTED, **TEST}), ("b", "09:00", {})], ["b"]),
        ([("a", "08:00", CONFIRMED), ("b", "09:00", CONFIRMED)], ["a"]),
        ([("a", "08:00", {}), ("b", "09:00", CONFIRMED)], ["a"]),
        ([("a", "08:00", {"source": "stand_in"})], ["a"]),
        ([("a", "08:00", {"source": "manual"})], ["a"]),
    ],
)
def test_a_members_first_visit_of_a_day_pays(
    entries: list[tuple[str, str, dict[str, Any]]], pays: list[str], desk: Terminal
) -> None:
    """per_member_day: not one that was taken back, at a test studio or brought along, which still has its day."""
    enter(desk, *entries)
    assert paid(desk) == pays


@pytest.mark.parametrize(
    ("entries", "pays"),
    [
        ([("a", "08:00", {}), ("b", "09:00", {})], ["a", "b"]),
        ([("a", "08:00", REVERSED), ("b", "09:00", {}), ("c", "10:00", TEST), ("d", "11:00", IMPORTED)], ["b"]),
        ([("a", "08:00", IMPORTED), ("b", "09:00", {})], ["b"]),
        ([("a", "08:00", CONFIRMED), ("b", "09:00", {})], ["a", "b"]),
    ],
)
def test_every_visit_pays_where_the_plan_says_so(
    entries: list[tuple[str, str, dict[str, Any]]], pays: list[str], desk: Terminal
) -> None:
    """per_visit: all but those that never pay."""
    enter(desk, *entries, plan="each")
    assert paid(desk) == pays


@pytest.mark.parametrize(
    ("plan", "entries", "pays"),
    [
        ("once", [("a", "08:00", {})], []),
        ("once", [("a", "08:00", CONFIRMED)], ["a"]),
        ("once", [("a", "08:00", {}), ("b", "09:00", CONFIRMED)], ["b"]),
        ("once", [("a", "08:00", CONFIRMED), ("b", "09:00", CONFIRMED)], ["a"]),
        ("once", [("a", "08:00", IMPORTED), ("b", "09:00", CONFIRMED)], []),
        ("once", [("a", "08:00", {**CONFIRMED, **TEST})], []),
        ("each", [("a", "08:00", CONFIRMED), ("b", "09:00", {}), ("c", "10:00", CONFIRMED)], ["a", "c"]),
    ],
)
def test_only_confirmed_visits_pay_where_that_is_required(
    plan: str, entries: list[tuple[str, str, dict[str, Any]]], pays: list[str], desk: Terminal
) -> None:
    """payable_requires = "confirmed"."""
    enter(desk, *entries, plan=plan)
    assert paid(desk, "confirmed") == pays


def test_the_plan_version_of_the_visit_decides(desk: Terminal) -> None:
    """A plan that changes later changes nothing of what was made before."""
    enter(desk, ("a", "08:00", {}), ("b", "09:00", {}))
    desk.plans('[plans.once]\nname = "Once"\npayable = "per_visit"\n')
    enter(desk, ("c", "10:00", {"plan_version": 2}))
    assert paid(desk) == ["a", "c"]


def test_the_setting_payable_requires_is_obeyed(desk: Terminal) -> None:
    """By `visits` and by the answer of `visit reverse`."""
    enter(desk, ("a", "08:00", {}), ("b", "09:00", {}), plan="each")
    assert [visit["payable"] for visit in visits(desk)] == [True, True]
    desk.monkeypatch.setenv("GUESTGATE_PAYABLE_REQUIRES", "confirmed")
    assert [visit["payable"] for visit in visits(desk)] == [False, False]
    with desk.writing() as connection:
        connection.execute(update(schema.visits).where(schema.visits.c.id == "b").values(state="confirmed"))
    assert [visit["payable"] for visit in visits(desk)] == [False, True]
    (reversed_,) = desk.json("visit", "reverse", "b", "--why", "test")
    assert reversed_["payable"] is False


def test_a_check_in_makes_a_visit_that_pays(served: Gate) -> None:
    """Through the real door: the visit names its decision, plan and version; a denied one makes none."""
    decision = served.checkin("once-5").json()["decisionId"]
    served.checkin("once-5")
    (visit,) = served.json("visits", "--member", "once-5")
    assert visit["id"] == visit["decision"] == decision
    facts = {name: visit[name] for name in ("state", "source", "payable", "plan", "plan_version", "studio")}
    assert facts == {
        "state": "authorized",
        "source": "checkin",
        "payable": True,
        "plan": "once",
        "plan_version": 1,
        "studio": "s1",
    }
    served.cli("visit", "reverse", visit["id"], "--why", "let in by mistake")
    assert served.checkin("once-5").status_code == 200
    assert [visit["payable"] for visit in served.json("visits", "--member", "once-5")] == [False, True]
