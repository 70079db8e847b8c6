"""What goes wrong is told people as a page with a way back, and programs as a problem document."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from desk import Desk
from gate import Gate
from office import API, problem

from guestgate import sessions, tokens
from guestgate.admin import app as admin_app
from guestgate.admin.pages import now
from guestgate.admin.pages.access import router
from guestgate.admin.pages.admission import COOKIE
from guestgate.database import Database
from guestgate.settings import Settings
from guestgate.tokens import Role

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
PART = {"hx-request": "true"}


@pytest.fixture(scope="module")
def operator(served: Gate) -> Iterator[Desk]:
    """Who may do things."""
    with Desk(served, Role.OPERATOR) as desk:
        yield desk


def shown(answer: httpx.Response, status: int) -> str:
    """What is read on the page of an error, which is one of ours."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.text.count("<h1>") == 1 and 'href="/"' in answer.text
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", answer.text)).split())


@pytest.mark.parametrize("path", ["/nothing", "/members/nothing", "/apis", "/static/nothing"])
def test_an_address_that_is_none(served: Gate, operator: Desk, path: str) -> None:
    """With the pages' menu for who is signed in; strangers find the way in, and programs a problem."""
    assert "Members Studios Plans" in shown(operator.get(path, headers=BROWSER), 404)
    with Desk(served) as stranger:
        read = shown(stranger.get(path, headers=BROWSER), 404)
        assert "There is nothing here." in read and "Studios" not in read
        problem(stranger.get(path), 404)


@pytest.mark.parametrize("path", [f"{API}/nothing", f"{API}/decisions/nothing", "/api/nothing", "/metrics"])
def test_what_is_of_programs_speaks_to_programs(operator: Desk, path: str) -> None:
    """Even where a browser asks."""
    answer = operator.get(path, headers=BROWSER)
    problem(answer, answer.status_code)


def test_a_way_of_asking_that_is_none(operator: Desk) -> None:
    """Pages say which there is."""
    answer = operator.put("/members", headers=BROWSER)
    assert "Use GET." in shown(answer, 405) and answer.headers["allow"] == "GET"
    problem(operator.post("/readyz", headers=BROWSER), 405)


def test_what_is_not_found_or_not_taken_leads_back(operator: Desk) -> None:
    """To the page before, where that was one of ours."""
    assert "there is no member" in shown(operator.get("/member?id=nobody"), 404).lower()
    here = {"referer": f"{operator.base_url}/member?id=free-1&x=%22"}
    answer = operator.post("/visit/reverse", data={"csrf": operator.csrf, "visit": "v", "why": ""}, headers=here)
    assert "Say why, in at most" in shown(answer, 422)
    assert 'href="/member?id=free-1&amp;x=%22"' in answer.text
    for elsewhere in ("https://evil.example/member", f"{operator.base_url}/login", "//", ""):
        answer = operator.get("/member?id=nobody", headers={"referer": elsewhere})
        assert "Back to the page before" not in shown(answer, 404)


def test_a_role_that_is_too_small(served: Gate) -> None:
    """Is told which one it takes."""
    with Desk(served, Role.VIEWER) as viewer:
        read = shown(viewer.submit("/member/status", member="free-1", status="suspended"), 403)
        assert "This is not allowed This takes a token of role operator; yours is of role viewer." in read


def test_a_part_that_cannot_be_shown_has_the_whole_page_say_why(operator: Desk) -> None:
    """An error in the middle of another page would be seen by nobody."""
    answer = operator.get("/member/door?id=free-1&studio=nowhere", headers=PART)
    assert (answer.status_code, answer.text) == (404, "")
    assert answer.headers["hx-redirect"] == "/member/door?id=free-1&studio=nowhere"


def test_a_part_of_an_ended_session_comes_back_to_its_page(served: Gate) -> None:
    """By the entrance; and no address of another site gets into that."""
    with Desk(served) as stranger:
        for url, to in (
            (f"{served.admin_url}/members?q=a%26b", "/login?to=%2Fmembers%3Fq%3Da%2526b"),
            ("https://evil.example/members", "/login?to=%2Fmembers"),
            ("nonsense", "/login?to=nonsense"),
        ):
            answer = stranger.get("/members?q=a", headers={**PART, "hx-current-url": url})
            assert (answer.status_code, answer.text, answer.headers["hx-redirect"]) == (401, "", to)


def ask(database: Database, path: str, **options: Any) -> httpx.Response:
    """A page of an application of its own, by somebody who is signed in; one of its pages is broken."""
    with database.write() as connection:
        session = sessions.begin(connection, tokens.create(connection, Role.VIEWER))
    application = admin_app.create_app(database, Settings(), lambda _: None)
    broken = router(Role.VIEWER)

    @broken.get("/broken")
    def fail() -> None:
        raise RuntimeError("secret words")

    application.include_router(broken)

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path, headers={"cookie": f"{COOKIE}={session}"}, **options)

    return asyncio.run(get())


def test_a_fault_of_ours(home: Gate) -> None:
    """Is a page as well, and says nothing of what it was."""
    read = shown(ask(home.database, "/broken"), 500)
    assert "Something went wrong" in read and "the server's log says more" in read and "secret" not in read
    assert "Members Studios Plans" in read


def test_too_many_live_pages(home: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is told so."""
    monkeypatch.setattr(now, "MAX_STREAMS", 0)
    assert "Too many live pages are open." in shown(ask(home.database, "/now/stream"), 503)
