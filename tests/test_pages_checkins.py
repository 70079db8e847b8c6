"""The page of check-ins: those that somebody chooses, as the address says, page by page. Nothing is served here."""

from __future__ import annotations

import asyncio
import html
import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import httpx
import pytest
from gate import Gate
from past import Past

from guestgate import clock, sessions, tokens
from guestgate.admin.app import create_app
from guestgate.admin.pages.admission import COOKIE
from guestgate.admin.pages.decisions import ON_PAGE
from guestgate.settings import Settings
from guestgate.tokens import Role

ODD = "a/b ?&é"
TOKYO = ZoneInfo("Asia/Tokyo")


class Viewer:
    """Somebody who is signed in to an application of its own."""

    def __init__(self, gate: Gate) -> None:
        with gate.database.write() as connection:
            session = sessions.begin(connection, tokens.create(connection, Role.VIEWER))
        self._headers = {"cookie": f"{COOKIE}={session}"}
        self._app = create_app(gate.database, Settings(), lambda _: None)

    def get(self, path: str, **asked: str) -> httpx.Response:
        """A page as it is."""

        async def get() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.get(path, params=asked or None, headers=self._headers)

        return asyncio.run(get())

    def page(self, path: str = "/decisions", **asked: str) -> str:
        """Its text; fails the test unless there is one."""
        answer = self.get(path, **asked)
        assert answer.status_code == 200, answer.text
        return answer.text


@pytest.fixture
def gate(home: Gate) -> Gate:
    """Two studios, one of them far away."""
    home.studio("s1")
    home.studio(ODD, timezone=TOKYO.key)
    home.plans()
    home.members("once-1,once", "once-2,once")
    return home


def text(page: str) -> str:
    """What of a page is read, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def shown(page: str) -> list[str]:
    """The decisions that a list has, by id."""
    return re.findall(r'<td class="when"><a href="/decision/([^"]+)"', page)


def came(gate: Gate, *calls: tuple[str, datetime, str]) -> list[str]:
    """Some check-ins, one after the other: their decisions' ids."""
    past = Past(gate.database)
    ids = [past.checkin(member, at, studio=studio).id for member, at, studio in calls]
    past.close()
    return ids


def test_check_ins_that_somebody_chooses(gate: Gate) -> None:
    """By studio, answer, reason and member, each by itself and together; the latest come first."""
    at = clock.now() - timedelta(minutes=5)
    long_ago = at - timedelta(days=3)
    calls = (("once-1", long_ago, "s1"), ("once-1", at, "s1"), ("stranger", at, "s1"), ("once-2", at, ODD))
    old, allowed, stranger, odd = came(gate, *calls)
    viewer = Viewer(gate)
    for asked, wanted in (
        ({}, [odd, stranger, allowed]),
        ({"studio": ODD}, [odd]),
        ({"answer": "allowed"}, [odd, allowed]),
        ({"answer": "undecided"}, []),
        ({"reason": "unknown_member"}, [stranger]),
        ({"member": "once-1"}, [allowed, old]),
        ({"member": "once-1", "answer": "denied"}, []),
        ({"studio": "s1", "answer": "allowed"}, [allowed]),
        ({"studio": "nowhere"}, []),
    ):
        page = viewer.page(**asked)
        assert shown(page) == wanted, asked
        assert wanted or "that are so." in text(page)
    page = viewer.page(studio=ODD, reason="ok")
    assert '<option value="a/b ?&amp;é" selected>' in page and '<option value="ok" selected>' in page


def test_a_day_is_the_studio_s_where_one_is_chosen(gate: Gate) -> None:
    """Else it is one in UTC; its first instant belongs to it, and that of the next day does not."""
    noon = (clock.now() - timedelta(days=2)).replace(hour=12, minute=0, second=0, microsecond=0)
    day = noon.astimezone(TOKYO).date()
    first = datetime(day.year, day.month, day.day, tzinfo=TOKYO)
    next_ = first + timedelta(days=1)
    calls = [("once-1", at, ODD) for at in (first - timedelta(seconds=1), first, next_ - timedelta(seconds=1), next_)]
    before, begins, ends, after = came(gate, *calls)
    viewer = Viewer(gate)
    assert shown(viewer.page(studio=ODD, day=day.isoformat())) == [ends, begins]
    assert shown(viewer.page(studio=ODD, day=day.isoformat(), member="once-1")) == [ends, begins]
    assert "Day at the studio" in text(viewer.page(studio=ODD))
    assert first.astimezone(UTC).date() < day  # in Tokyo a day begins when in UTC it is the evening before
    assert shown(viewer.page(day=day.isoformat())) == [after, ends]
    assert shown(viewer.page(day=(day - timedelta(days=1)).isoformat())) == [begins, before]
    assert shown(viewer.page(day=(day + timedelta(days=9)).isoformat())) == []


@pytest.mark.parametrize(
    "asked", [{"answer": "<i>"}, {"reason": "x"}, {"day": "2026-02-30"}, {"day": "9999-12-31"}, {"after": "-1"}]
)
def test_check_ins_that_cannot_be_chosen(gate: Gate, asked: dict[str, str]) -> None:
    """The page says what is wrong."""
    answer = Viewer(gate).get("/decisions", **asked)
    assert answer.status_code == 422 and "This cannot be done" in answer.text and "<i>" not in answer.text


def test_check_ins_page_by_page(gate: Gate) -> None:
    """None twice and none left out, whoever comes meanwhile; what was chosen stays chosen."""
    at = clock.now() - timedelta(minutes=5)
    ids = came(gate, *[("stranger", at, "s1")] * (ON_PAGE + 3))
    viewer = Viewer(gate)
    page = viewer.page(studio="s1", reason="unknown_member")
    came(gate, ("stranger", at, "s1"))
    further = re.search(r'<a href="([^"]+)" rel="next">', page)
    assert further is not None and "studio=s1&amp;reason=unknown_member" in further[1]
    last = viewer.page(html.unescape(further[1]))
    assert [*shown(page), *shown(last)] == ids[::-1]
    assert "Earlier ones" not in text(last) and "The latest" in text(last)


def test_one_check_in_has_its_member_s_name(gate: Gate) -> None:
    """And leads to others like it; of a limit it says what was used where."""
    gate.members("named,once,Zoë,<b>", header="member_id,plan,first_name,last_name")
    at = clock.now() - timedelta(minutes=5)
    _, denied, stranger = came(gate, ("named", at, "s1"), ("named", at, "s1"), ("stranger", at, "s1"))
    viewer = Viewer(gate)
    page = viewer.page(f"/decision/{denied}")
    assert "Member Zoë <b> named aggregatorId" in text(page) and "<b>" not in page.partition("Member</dt>")[2][:200]
    assert "A limit is used up: 1 of 1 visit a day in the network." in text(page)
    assert 'href="/decisions?studio=s1&amp;reason=limit_reached"' in page
    assert "Member nobody known aggregatorId stranger" in text(viewer.page(f"/decision/{stranger}"))


def test_a_decision_is_found_by_its_id(gate: Gate) -> None:
    """In the box that finds members."""
    (decision,) = came(gate, ("once-1", clock.now(), "s1"))
    answer = Viewer(gate).get("/members", q=f" {decision} ")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/decision/{decision}")
    assert "Nobody is known by" in text(Viewer(gate).page("/members", q=decision[:-1]))
