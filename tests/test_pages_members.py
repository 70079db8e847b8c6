"""Finding a member on the pages, what the door would say and why, and what operators do about it."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from desk import Desk
from gate import Gate

from guestgate import clock
from guestgate.tokens import Role

PLANS = """\
[plans.busy]
name = "Busy"
reentry_minutes = 0
limits = [{ max = 1, per = "day" }, { max = 8, per = "month", scope = "studio" }]
"""
BAD = '<img src=x onerror="alert(1)">'
MEMBERS = (
    "m-1,busy,Anna,Muster",
    "m-2,busy,Anna,Müller",
    "a/b ?&é,busy,Odd,One",
    '"<img src=x onerror=""alert(1)"">",busy,"<b>Bold</b>","<script>"',
    *(f"n-{number},busy,Nam,Nguyen" for number in range(25)),
)


@pytest.fixture(scope="module")
def gate(new_gate: Callable[[], Gate]) -> Gate:
    """A serving installation with members that have names."""
    gate = new_gate()
    gate.studio("s1")
    gate.studio("far away", timezone="America/New_York")
    gate.plans(PLANS)
    gate.members(*MEMBERS, header="member_id,plan,first_name,last_name")
    gate.start()
    return gate


@pytest.fixture(scope="module")
def viewer(gate: Gate) -> Iterator[Desk]:
    """Who may look."""
    with Desk(gate, Role.VIEWER) as desk:
        yield desk


@pytest.fixture(scope="module")
def operator(gate: Gate) -> Iterator[Desk]:
    """Who may do something about it."""
    with Desk(gate, Role.OPERATOR) as desk:
        yield desk


def text(page: str) -> str:
    """What of a page is read, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def test_one_alone_is_shown_at_once(viewer: Desk) -> None:
    """By id or name; several are listed, with what tells them apart."""
    for typed in ("m-1", " anna  muster ", "MUSTER"):
        assert viewer.get("/members", params={"q": typed}).headers["location"] == "/member?id=m-1"
    listed = text(viewer.page("/members", q="anna m"))
    assert "Anna Muster m-1 · busy active" in listed and "Anna Müller m-2" in listed
    assert "Nobody is known by “nobody”" in text(viewer.page("/members", q="nobody"))


def test_while_typing_only_the_list_is_sent(viewer: Desk) -> None:
    """And it says where it was cut off."""
    answer = viewer.get("/members", params={"q": "nguyen"}, headers={"hx-request": "true"})
    assert "<html" not in answer.text and answer.text.count("Nam Nguyen") == 20
    assert "The first 20" in answer.text


def test_those_of_a_plan_page_by_page(viewer: Desk) -> None:
    """All of them, by id."""
    page = viewer.page("/members", plan="busy")
    assert "Members on plan busy" in page and page.count('class="row"') == len(MEMBERS)
    assert "m-1" not in viewer.page("/members", plan="busy", after="n-1")


def test_why_a_member_is_denied(gate: Gate, viewer: Desk) -> None:
    """The answer, the reason with figures, when the member may come again, every limit, and every rule."""
    gate.checkin("m-2")
    gate.checkin("m-2")
    page = viewer.page("/member", id="m-2", studio="s1")
    read = text(page)
    assert "Denied A limit is used up: 1 of 1 visit in the network today. May come in again" in read
    assert "1 of 1 visit in the network today 0 left" in read and "1 of 8 visits here this month 7 left" in read
    assert 'width="100.0%"' in page and 'width="12.5%"' in page
    assert "✗ Limits" in read and "✓ Suspension the membership is active" in read
    assert read.count("denied a limit is used up") == 1 and "allowed every rule is kept" in read


def test_another_studio_s_door(gate: Gate, viewer: Desk) -> None:
    """A part of the page is all that is sent; without scripts it is the whole page."""
    gate.checkin("n-3")
    asked = {"id": "n-3", "studio": "far away"}
    part = viewer.get("/member/door", params=asked, headers={"hx-request": "true"})
    assert "<html" not in part.text and "0 of 8 visits here this month" in part.text
    assert viewer.get("/member/door", params=asked).headers["location"] == "/member?id=n-3&studio=far+away"
    assert '<option value="far away" selected>' in viewer.page("/member", **asked)


def test_whoever_is_not_there(viewer: Desk) -> None:
    """404 as a page that says so; a studio that is not there is no reason to hide the member."""
    answer = viewer.get("/member", params={"id": "nobody"})
    assert answer.status_code == 404 and "There is no member nobody" in answer.text
    assert "There is no such studio" in viewer.page("/member", id="m-1", studio="nowhere")


@pytest.mark.parametrize("member", ["a/b ?&é", BAD])
def test_every_id_has_its_page_and_no_text_becomes_markup(viewer: Desk, operator: Desk, member: str) -> None:
    """Wherever it stands: in links, forms, lists and titles."""
    for desk in (viewer, operator):
        page = desk.page("/member", id=member)
        assert html.escape(member, quote=False) in page.replace("&#34;", '"').replace("&#39;", "'")
        assert "<img src=x" not in page and "<b>Bold" not in page and "<script>" not in page
    assert "<img src=x" not in viewer.page("/members", plan="busy")
    assert "<b>Bold" not in viewer.page("/members", q="<b>nobody")


def test_suspending_and_reactivating(gate: Gate, operator: Desk) -> None:
    """The door follows at once, and the trail says who."""
    answer = operator.submit("/member/status", member="n-1", status="suspended")
    page = text(operator.page(answer.headers["location"]))
    assert "The member is suspended" in page and "Denied The membership is suspended" in page
    assert "member.changed by token:the operator: status active → suspended" in page
    assert gate.checkin("n-1").json()["reason"] == "membership_suspended"
    operator.submit("/member/status", member="n-1", status="active")
    assert gate.checkin("n-1").json()["decision"] == "allowed"


def test_taking_a_visit_back_with_a_reason(gate: Gate, operator: Desk) -> None:
    """It counts no more, and the page says why and by whom it was taken back."""
    visit = gate.checkin("n-2").json()["decisionId"]
    assert gate.checkin("n-2").status_code == 403
    for why in ("", "  ", "two\nlines", "x" * 256):
        assert operator.submit("/visit/reverse", visit=visit, why=why).status_code == 422
    answer = operator.submit("/visit/reverse", visit=visit, why="the turnstile stuck")
    page = text(operator.page(answer.headers["location"]))
    assert "The visit is taken back" in page and "reversed the turnstile stuck" in page
    assert gate.checkin("n-2").status_code == 200
    assert operator.submit("/visit/reverse", visit="nothing", why="x").status_code == 404


def test_adding_a_visit_by_the_studio_s_clock(gate: Gate, operator: Desk) -> None:
    """Once, and never in the future."""
    at = (clock.now() - timedelta(days=40)).strftime("%Y-%m-%dT12:00")
    form = {"member": "n-4", "studio": "far away", "at": at}
    answer = operator.submit("/member/visit", **form)
    assert "The visit is added" in operator.page(answer.headers["location"])
    with gate.office() as client:
        (visit,) = client.get("/visits", params={"member": "n-4"}).json()["items"]
    assert (visit["source"], visit["local_date"], visit["at"][11:13]) in {
        ("manual", at[:10], hour) for hour in ("16", "17")
    }
    assert operator.submit("/member/visit", **form).headers["location"].endswith("done=there")
    for wrong in ("", "yesterday", "2999-01-01T00:00", "2026-01-01T00:00+01:00"):
        assert operator.submit("/member/visit", **{**form, "at": wrong}).status_code == 422
    for field, wrong in (("member", "nobody"), ("studio", "nowhere")):
        assert operator.submit("/member/visit", **{**form, field: wrong}).status_code == 404


def test_viewers_are_offered_nothing_that_they_may_not_do(viewer: Desk, operator: Desk) -> None:
    """Their pages have no such forms."""
    forms = re.compile(r'action="(/(?:member/|visit/)\w+)"')
    assert forms.findall(viewer.page("/member", id="m-2")) == []
    offered = set(forms.findall(operator.page("/member", id="m-2")))
    assert offered == {"/member/status", "/member/visit", "/visit/reverse"}
