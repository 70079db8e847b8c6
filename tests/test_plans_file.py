"""Plans as people write them: what is refused and where, what a change does, and what goes in comes out."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from terminal import Terminal

from guestgate import plans, plans_file, starter
from guestgate.errors import OperationError, UsageError

# The documented example, word for word.
DOCUMENTED = """\
[plans.classic]
name = "Classic"
studio_tags = ["classic"]     # open to studios with one of these tags; left out = every studio
reentry_minutes = 10          # default 10; 0 = off
min_gap_minutes = 0           # between visits at different studios; default 0
limits = [                    # default none
  { max = 1, per = "day",   scope = "network" },   # per: day | week | month | cycle | total
  { max = 8, per = "month", scope = "studio"  },   # scope: network | studio | tag:NAME
]
cycle_days = 28               # left out: a cycle is a month from the anchor, a 31st falling on the month's last day
hours = [{ days = ["mon", "tue", "wed", "thu", "fri"], from = "06:00", until = "16:00" }]   # left out = always
payable = "per_member_day"    # default; or "per_visit"; a re-entry never pays
"""
# Stands before every bad plan, so that a line is not found by luck.
GOOD = """\
# plans of our own, { max = 0 } is no limit
[plans.good]
name = "Good"
studio_tags = ["a"]
limits = [{ max = 1, per = "day" }]
hours = [{ from = "06:00", until = "16:00" }]

"""
GOOD_LINES = GOOD.count("\n")

# One field of [plans.bad] each: what stands there, and the field that the sentence has to name.
BAD_FIELDS = [
    ("limit = []", "limit"),
    ('nme = "Bad"', "nme"),
    ('"limits " = []', "limits "),
    ("studio_tags = []", "studio_tags"),
    ('studio_tags = "classic"', "studio_tags"),
    ("studio_tags = [1]", "studio_tags[0]"),
    ('studio_tags = ["a", ""]', "studio_tags[1]"),
    ("reentry_minutes = -1", "reentry_minutes"),
    ("reentry_minutes = 1441", "reentry_minutes"),
    ("reentry_minutes = 1.5", "reentry_minutes"),
    ('reentry_minutes = "10"', "reentry_minutes"),
    ("reentry_minutes = true", "reentry_minutes"),
    ("reentry_minutes = nan", "reentry_minutes"),
    ("min_gap_minutes = -1", "min_gap_minutes"),
    ("min_gap_minutes = 99999999", "min_gap_minutes"),
    ("cycle_days = 0", "cycle_days"),
    ("cycle_days = -28", "cycle_days"),
    ("cycle_days = false", "cycle_days"),
    ("cycle_days = 28.0", "cycle_days"),
    ('payable = "sometimes"', "payable"),
    ("payable = true", "payable"),
    ("limits = 3", "limits"),
    ('limits = { max = 1, per = "day" }', "limits"),
    ("limits = [1]", "limits[0]"),
    ("limits = [{}]", "limits[0].max"),
    ("limits = [{ max = 1 }]", "limits[0].per"),
    ('limits = [{ max = 0, per = "day" }]', "limits[0].max"),
    ('limits = [{ max = -1, per = "day" }]', "limits[0].max"),
    ('limits = [{ max = "1", per = "day" }]', "limits[0].max"),
    ('limits = [{ max = 1.0, per = "day" }]', "limits[0].max"),
    ('limits = [{ max = true, per = "day" }]', "limits[0].max"),
    ('limits = [{ max = inf, per = "day" }]', "limits[0].max"),
    ('limits = [{ max = 1, per = "year" }]', "limits[0].per"),
    ('limits = [{ max = 1, per = "Day" }]', "limits[0].per"),
    ('limits = [{ max = 1, per = "day" }, { max = 1, per = "hour" }]', "limits[1].per"),
    ('limits = [{ max = 1, per = "day", scope = "city" }]', "limits[0].scope"),
    ('limits = [{ max = 1, per = "day", scope = "tag:" }]', "limits[0].scope"),
    ('limits = [{ max = 1, per = "day", scope = "" }]', "limits[0].scope"),
    ('limits = [{ max = 1, per = "day", maximum = 2 }]', "limits[0].maximum"),
    ("hours = []", "hours"),
    ('hours = "06:00-16:00"', "hours"),
    ('hours = [{ from = "06:00" }]', "hours[0].until"),
    ('hours = [{ until = "16:00" }]', "hours[0].from"),
    ('hours = [{ from = "6:00", until = "16:00" }]', "hours[0].from"),
    ('hours = [{ from = "06:00", until = "24:01" }]', "hours[0].until"),
    ('hours = [{ from = "06:60", until = "16:00" }]', "hours[0].from"),
    ("hours = [{ from = 6, until = 16 }]", "hours[0].from"),
    ('hours = [{ from = 06:00:00, until = "16:00" }]', "hours[0].from"),
    ('hours = [{ from = "06:00", until = "06:00" }]', "hours[0]"),
    ('hours = [{ from = "24:00", until = "06:00" }]', "hours[0]"),
    ('hours = [{ days = [], from = "06:00", until = "16:00" }]', "hours[0]"),
    ('hours = [{ days = ["funday"], from = "06:00", until = "16:00" }]', "hours[0].days[0]"),
    ('hours = [{ days = ["mon", "Tue"], from = "06:00", until = "16:00" }]', "hours[0].days[1]"),
    ('hours = [{ days = "mon", from = "06:00", until = "16:00" }]', "hours[0].days"),
    ('hours = [{ days = [1], from = "06:00", until = "16:00" }]', "hours[0].days[0]"),
    ('hours = [{ from = "06:00", until = "16:00", closed = true }]', "hours[0].closed"),
]
BAD_NAMES = ['""', "5", "true", '"' + "x" * 256 + '"', "1979-05-27", '["Classic"]']


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the plans are written."""
    return tmp_path / "plans.toml"


def complaint(file: Path, text: str) -> str:
    """The one sentence about a bad file, without the file's name."""
    file.write_text(text, "utf-8")
    with pytest.raises(UsageError) as caught:
        plans_file.read(file)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.startswith(str(file))
    return sentence.removeprefix(str(file))


@pytest.mark.parametrize(("line", "field"), BAD_FIELDS)
def test_a_bad_field_is_named_with_its_line(line: str, field: str, file: Path) -> None:
    """``file:line: plans.ID.field: …``, with plans before and after that have the same fields."""
    text = f'{GOOD}[plans.bad]\nname = "Bad"\n\n{line}\n\n{GOOD.replace("plans.good", "plans.last")}'
    sentence = complaint(file, text)
    assert sentence.startswith(f":{GOOD_LINES + 4}: plans.bad.{field}"), sentence
    assert sentence.rpartition(": ")[2]


@pytest.mark.parametrize("value", BAD_NAMES)
def test_a_bad_name_is_named(value: str, file: Path) -> None:
    """Also one that TOML reads as a date."""
    assert complaint(file, f"{GOOD}[plans.bad]\nname = {value}\n").startswith(f":{GOOD_LINES + 2}: plans.bad.name: ")


def test_a_missing_name_is_named_at_its_plan(file: Path) -> None:
    """The only field that may not be left out."""
    sentence = complaint(file, f"{GOOD}[plans.bad]\nreentry_minutes = 5\n")
    assert sentence.startswith(f":{GOOD_LINES + 1}: plans.bad.name: ") and "missing" in sentence


@pytest.mark.parametrize(
    ("text", "place"),
    [
        # A table of its own for each limit.
        (
            '[plans.x]\nname = "X"\n[[plans.x.limits]]\nmax = 1\nper = "day"\n'
            '[[plans.x.limits]]\nmax = 0\nper = "day"\n',
            ":7: plans.x.limits[1].max: ",
        ),
        (
            '[plans.x]\nname = "X"\n[[plans.x.limits]]\nmax = 1\nper = "day"\n\n[[plans.x.limits]]\nmax = 1\n',
            ":7: plans.x.limits[1].per: ",
        ),
        (
            '[plans.x]\nname = "X"\n[[plans.x.hours]]\nfrom = "06:00"\nuntil = "25:00"\n[plans.y]\nname = "Y"\n',
            ":5: plans.x.hours[0].until: ",
        ),
        (
            '[plans.x]\nname = "X"\n[[plans.y.limits]]\nmax = 1\nper = "day"\n'
            '[[plans.x.limits]]\nmax = 0\nper = "day"\n[plans.y]\nname = "Y"\n',
            ":7: plans.x.limits[0].max: ",
        ),
        # Lists over several lines, with remarks between.
        (
            '[plans.x]\nname = "X"\nlimits = [\n  { max = 1, per = "day" },\n  { max = 1, per = "ever" },\n]\n',
            ":5: plans.x.limits[1].per: ",
        ),
        (
            '[plans.x]\nname = "X"\nlimits = [\n  # { max = 1, per = "day" },\n  { max = 0, per = "day" },\n]\n',
            ":5: plans.x.limits[0].max: ",
        ),
        (
            '[plans.x]\nname = "X"\nlimits = [\n  { per = "day" },\n  { max = 1, per = "month" },\n]\n',
            ":4: plans.x.limits[0].max: ",
        ),
        (
            '[plans.x]\nname = "X"\n# min_gap_minutes = 5 is too little\nmin_gap_minutes = -5\n',
            ":4: plans.x.min_gap_minutes: ",
        ),
        (
            '[plans.x]\nname = "X"\nhours = [\n  { from = "06:00", until = "08:00" },\n  { days = [\n    "mon",\n'
            '    "moon",\n  ], from = "06:00", until = "08:00" },\n]\n',
            ":5: plans.x.hours[1].days[1]: ",
        ),
        # Other ways of saying the same.
        ('plans.x.name = "X"\nplans.x.cycle_days = 0\n', ":2: plans.x.cycle_days: "),
        ('plans = { x = { name = "X", cycle_days = 0 } }\n', ":1: plans.x.cycle_days: "),
        ('[plans]\nx = { name = "X", cycle_days = 0 }\n', ":2: plans.x.cycle_days: "),
        ('[plans."x y"]\nname = "X"\ncycle_days = 0\n', ":3: plans.x y.cycle_days: "),
        ("[ plans . 'x.y' ] # a remark\nname = 'X'\n'cycle_days' = 0\n", ":3: plans.x.y.cycle_days: "),
        ('[plans.x]\r\nname = "X"\r\ncycle_days = 0\r\n', ":3: plans.x.cycle_days: "),
    ],
)
def test_the_line_is_found_however_the_plan_is_written(text: str, place: str, file: Path) -> None:
    """Tables of their own, lists over several lines, quoted ids, remarks that look like fields."""
    sentence = complaint(file, text)
    assert sentence.startswith(place), sentence


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing yet\n",
        "[plans]\n",
        "plans = 3\n",
        "plans = []\n",
        '[plans]\nclassic = "Classic"\n',
        "[[plans]]\nname = 'X'\n",
        "[[plans.x]]\nname = 'X'\n",
        '[plan.classic]\nname = "Classic"\n',
        '[classic]\nname = "Classic"\n',
        'name = "Classic"\n',
        f'{DOCUMENTED}\n[prices]\nclassic = "50"\n',
        '[plans.""]\nname = "Nameless"\n',
        f'[plans.{"x" * 256}]\nname = "Long"\n',
        '[plans."a\\u0000b"]\nname = "NUL"\n',
    ],
)
def test_a_file_without_plans_of_its_shape_is_refused(text: str, file: Path) -> None:
    """Including one that says something else besides."""
    assert complaint(file, text)


@pytest.mark.parametrize(
    "text", ['[plans.x]\nname = "X\n', "[plans.x]\nname = \n", "[plans.x]\n[plans.x]\n", "[plans.x]\nname X\n"]
)
def test_a_toml_error_is_named_with_its_line(text: str, file: Path) -> None:
    """The second line of each of these is broken."""
    assert "line 2" in complaint(file, text)


@pytest.mark.parametrize("value", ["1" * 5000, "[" * 5000 + "]" * 5000], ids=["a long number", "lists in lists"])
def test_toml_that_the_parser_gives_up_on_is_one_sentence_too(value: str, file: Path) -> None:
    """Not a traceback."""
    assert complaint(file, f'[plans.x]\nname = "X"\ncycle_days = {value}\n')


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """Missing, a folder, not UTF-8."""
    latin = tmp_path / "latin.toml"
    latin.write_bytes('[plans.x]\nname = "Früh"\n'.encode("latin-1"))
    for path in (tmp_path / "missing.toml", tmp_path, latin):
        with pytest.raises(UsageError) as caught:
            plans_file.read(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_nothing_of_a_bad_file_is_applied(terminal: Terminal) -> None:
    """Exit status 2, the good plans before the bad one included, and what was in force stays."""
    terminal.plans('[plans.old]\nname = "Old"\n')
    name = terminal.file(
        "bad.toml", f'[plans.old]\nname = "New"\n\n{GOOD}[plans.bad]\nname = "Bad"\ncycle_days = 0\n'
    )
    assert terminal.complaint("plan", "apply", name).startswith(f"bad.toml:{GOOD_LINES + 6}: plans.bad.cycle_days: ")
    assert [(row["id"], row["name"], row["version"]) for row in terminal.json("plan", "list")] == [("old", "Old", 1)]


def test_the_documented_example_comes_out_as_it_went_in(terminal: Terminal) -> None:
    """`plan list --json` says what the file says."""
    (applied,) = terminal.json("plan", "apply", terminal.file("plans.toml", DOCUMENTED))
    assert applied == {"id": "classic", "outcome": "added"}
    (listed,) = terminal.json("plan", "list")
    assert listed == {"id": "classic", "version": 1, "members": 0, **tomllib.loads(DOCUMENTED)["plans"]["classic"]}


def test_a_plan_needs_nothing_but_a_name(terminal: Terminal) -> None:
    """And the defaults are the documented ones."""
    terminal.plans('[plans.free]\nname = "Free"\n')
    (listed,) = terminal.json("plan", "list")
    assert listed == {
        "id": "free",
        "version": 1,
        "members": 0,
        "name": "Free",
        "reentry_minutes": 10,
        "min_gap_minutes": 0,
        "limits": [],
        "payable": "per_member_day",
    }
    assert "Free" in terminal.run("plan", "list").out


def test_the_plans_that_init_writes_are_in_order(terminal: Terminal) -> None:
    """The example can be applied as it is."""
    assert terminal.file("plans.toml", starter.PLANS)
    outcomes = {row["outcome"] for row in terminal.json("plan", "apply", "plans.toml")}
    assert outcomes == {"added"}


def test_equal_plans_get_no_new_version(terminal: Terminal) -> None:
    """However they are written: defaults spelt out, other order, remarks."""
    terminal.plans('[plans.x]\nname = "X"\nlimits = [{ max = 1, per = "day" }]\n')
    again = (
        '[plans.x]\nreentry_minutes = 10\nmin_gap_minutes = 0\npayable = "per_member_day"\nname = "X" # still\n'
        '[[plans.x.limits]]\nscope = "network"\nper = "day"\nmax = 1\n'
    )
    (outcome,) = terminal.json("plan", "apply", terminal.file("again.toml", again))
    assert outcome == {"id": "x", "outcome": "unchanged"}
    assert terminal.json("plan", "list")[0]["version"] == 1


def test_a_changed_plan_gets_a_new_version_and_keeps_its_members(terminal: Terminal) -> None:
    """Each change one more; plans that the file leaves out stay as they are."""
    terminal.plans('[plans.x]\nname = "X"\n[plans.y]\nname = "Y"\n')
    terminal.run("member", "set", "m1", "--plan", "x")
    for version, minutes in ((2, 5), (3, 10)):
        text = f'[plans.x]\nname = "X"\nreentry_minutes = {minutes}\n'
        (outcome,) = terminal.json("plan", "apply", terminal.file("changed.toml", text))
        assert outcome == {"id": "x", "outcome": "changed"}
        x, y = terminal.json("plan", "list")
        assert (x["version"], x["reentry_minutes"], x["members"]) == (version, minutes, 1)
        assert (y["id"], y["version"]) == ("y", 1)


def test_a_plan_with_members_cannot_be_removed(terminal: Terminal) -> None:
    """Exit status 1, with how many they are."""
    terminal.plans('[plans.x]\nname = "X"\n')
    terminal.run("member", "set", "m1", "--plan", "x")
    sentence = terminal.complaint("plan", "remove", "x", status=1)
    assert "x" in sentence and "1 member" in sentence
    assert terminal.json("plan", "list")[0]["members"] == 1


def test_a_removed_plan_is_gone_until_it_is_applied_again(terminal: Terminal) -> None:
    """Then its versions go on where they stopped: decisions of before name them."""
    text = '[plans.x]\nname = "X"\n'
    terminal.plans(text)
    assert terminal.json("plan", "remove", "x") == [{"id": "x", "removed": True}]
    assert terminal.json("plan", "list") == []
    assert "no plan" in terminal.complaint("member", "set", "m1", "--plan", "x")
    assert "no plan x" in terminal.complaint("plan", "remove", "x", status=1)
    (outcome,) = terminal.json("plan", "apply", terminal.file("again.toml", text))
    assert outcome == {"id": "x", "outcome": "added"}
    assert terminal.json("plan", "list")[0]["version"] == 2
    terminal.run("member", "set", "m1", "--plan", "x")


def test_removing_a_plan_that_does_not_exist_suggests_one(terminal: Terminal) -> None:
    """Slips of the pen are met with help."""
    terminal.plans('[plans.classic]\nname = "Classic"\n')
    assert "did you mean classic" in terminal.complaint("plan", "remove", "clasic", status=1)


@pytest.mark.parametrize("anchor", ["--cycle-anchor", "--valid-from"])
def test_a_plan_with_cycles_needs_members_with_a_day_to_count_from(anchor: str, terminal: Terminal) -> None:
    """Else nothing of the file is applied, and the members without one are named."""
    terminal.plans('[plans.x]\nname = "X"\n')
    for member in ("m1", "m2"):
        terminal.run("member", "set", member, "--plan", "x")
    text = '[plans.y]\nname = "Y"\n[plans.x]\nname = "X"\nlimits = [{ max = 4, per = "cycle" }]\n'
    name = terminal.file("cycles.toml", text)
    terminal.run("member", "set", "m1", anchor, "2026-01-31")
    sentence = terminal.complaint("plan", "apply", name, status=1)
    assert "m2" in sentence and "m1" not in sentence
    assert [(row["id"], row["version"]) for row in terminal.json("plan", "list")] == [("x", 1)]
    terminal.run("member", "set", "m2", anchor, "2026-01-31")
    assert [row["outcome"] for row in terminal.json("plan", "apply", name)] == ["added", "changed"]
    sentence = terminal.complaint("member", "set", "m2", anchor, "")
    assert "cycle_anchor" in sentence


def test_applying_is_part_of_the_callers_transaction(terminal: Terminal, file: Path) -> None:
    """A failure halfway leaves no plan behind."""
    terminal.plans('[plans.x]\nname = "X"\n')
    terminal.run("member", "set", "m1", "--plan", "x")
    file.write_text('[plans.a]\nname = "A"\n[plans.x]\nname = "X"\nlimits = [{ max = 4, per = "cycle" }]\n', "utf-8")
    with pytest.raises(OperationError), terminal.writing() as connection:
        plans.apply(connection, plans_file.read(file))
    with terminal.reading() as connection:
        assert [row["id"] for row in plans.plan_list(connection)] == ["x"]
