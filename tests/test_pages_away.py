"""The pages while the shared database is away: what doors do, and since when; and nobody is let in."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest
from backends import Server
from browser import DESK, PHONE, barriers, chromium, width
from desk import Desk
from gate import wait_for
from outage import Node, dark, down
from playwright.sync_api import expect

from guestgate.tokens import Role

pytestmark = pytest.mark.alone

PART = {"hx-request": "true"}
# Whoever stands at the desk does not wait for a database that says nothing; generous for a busy machine.
PATIENCE_S = 15.0


@pytest.fixture
def new_node(tmp_path: Path, postgres: Server) -> Iterator[Callable[..., Node]]:
    """Makes one server on a database of its own, not yet serving."""
    made: list[tuple[Node, str]] = []

    def new(**settings: str | int) -> Node:
        url = postgres.new(tmp_path)
        node = Node(tmp_path / "node", url, **settings)  # type: ignore[arg-type]
        node.furnish("free-1")
        made.append((node, url))
        return node

    yield new
    for node, url in made:
        node.close()
        postgres.drop(url)


def read(answer: httpx.Response, status: int = 503) -> str:
    """What is read on a page."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", answer.text)).split())


def stand_in(node: Node) -> None:
    """Have people come, always others, until the server says that it stands in."""
    names = (f"nobody-{number}" for number in count())

    def stands_in() -> bool:
        node.gate.checkin(next(names))
        return node.stand_in.readiness()[1]["stand_in"].startswith("standing in")

    wait_for(stands_in, "it does not say that it stands in", node.gate)


def test_a_server_that_stands_in(new_node: Callable[..., Node]) -> None:
    """Everybody reads that doors go on, and nothing else; forms do nothing; afterwards all is as before."""
    node = new_node()
    node.start()
    with Desk(node.gate, Role.OPERATOR) as desk, Desk(node.gate) as stranger:
        assert "banner" not in desk.page("/studios")
        with dark(node):
            stand_in(node)
            answer = desk.get("/member?id=free-1&studio=s1")
            page = read(answer)
            assert "The database does not answer It was heard of last on" in page
            assert "go on This server answers check-ins on its own copy" in page
            assert "This server: standing in for the shared database for" in page
            assert '<meta http-equiv="refresh" content="5;url=/member?id=free-1&amp;studio=s1">' in answer.text
            assert "free-1" not in page and "the operator" not in page and "s1" not in page
            for path in ("/", "/now/stream", "/members?q=a"):
                assert "go on" in read(desk.get(path))
            made_up = stranger.get("/members", headers={"cookie": "guestgate_session=made-up"})
            assert "go on" in read(made_up)
            assert stranger.get("/members").headers["location"].startswith("/login")
            assert "go on" in read(stranger.post("/login", data={"token": "unknown"}))
            form = desk.submit("/member/status", member="free-1", status="suspended")
            assert "Do not send the form again yet." in read(form) and 'content="5;url=/"' in form.text
            part = desk.get("/members?q=a", headers=PART)
            assert (part.status_code, part.text, part.headers["hx-redirect"]) == (503, "", "/members?q=a")
        node.stand_in.wait_until_over()
        assert '<span class="pill active">active</span>' in desk.page("/member?id=free-1")


def test_a_server_that_cannot_stand_in(new_node: Callable[..., Node]) -> None:
    """Says that doors stay shut, and why; nor is anybody kept waiting from the first moment on."""
    node = new_node(stand_in_max_age_s=2)
    node.start()
    with Desk(node.gate, Role.VIEWER) as desk, dark(node):
        desk.timeout = PATIENCE_S
        assert "The database does not answer" in read(desk.get("/studios"))
        wait_for(lambda: "do not go on" in desk.get("/studios").text, "it is not told", node.gate)
        page = read(desk.get("/studios"))
        assert "its check-ins are not decided and doors stay shut" in page and "old, and may be 2" in page
        assert "Let people in by hand" in page


def test_a_server_that_shall_not_stand_in(new_node: Callable[..., Node]) -> None:
    """Doors need the database then."""
    node = new_node(stand_in="refuse")
    node.gate.start()
    with Desk(node.gate, Role.VIEWER) as desk:
        with down(node):
            page = read(desk.get("/studios"))
            assert "It was heard of last on" in page and "need the database" in page
        wait_for(lambda: desk.get("/studios").status_code == 200, "the page does not come back", node.gate)


def test_the_words_of_a_stand_in_stand_on_every_page(new_node: Callable[..., Node]) -> None:
    """As `/readyz` has them: here of a copy that cannot be made, while the database is there."""
    node = new_node()
    node.start()
    with Desk(node.gate, Role.VIEWER) as desk:
        follower = node.follower
        assert follower is not None
        with node.gate.database.engine.connect():
            (node.gate.home / "guestgate-standin.db").rename(node.gate.home / "elsewhere.db")
            wait_for(lambda: node.stand_in.readiness()[1]["stand_in"] != "ok", "it is not noticed", node.gate)
            sentence = node.stand_in.readiness()[1]["stand_in"]
            for path in (
                "/",
                "/members",
                "/member?id=free-1",
                "/studios",
                "/studio?id=s1",
                "/plans",
                "/member?id=no",
            ):
                wait_for(
                    lambda path=path: f"This server: {sentence}." in html.unescape(desk.get(path).text),
                    f"{path} does not say: {sentence}",
                    node.gate,
                )


def test_at_the_desk(new_node: Callable[..., Node]) -> None:
    """In a real browser: the live page says that the server stands in, others wait and come back by themselves."""
    node = new_node()
    node.start()
    with chromium() as browser:
        context = browser.new_context(base_url=node.gate.admin_url)
        page = context.new_page()
        page.goto("/studios")
        page.fill("input[name=token]", node.gate.token(Role.VIEWER))
        page.press("input[name=token]", "Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Studios")
        live = context.new_page()
        live.goto("/")
        expect(live.locator(".nodes")).to_contain_text("serving")
        with dark(node):
            stand_in(node)
            expect(live.locator(".banner:visible")).to_contain_text(
                "standing in for the shared database", timeout=30_000
            )
            expect(live.locator(".nodes")).to_contain_text("standing in", timeout=30_000)
            page.reload()
            expect(page.get_by_role("heading", level=1)).to_have_text("The database does not answer")
            for of, theme in ((DESK, "light"), (PHONE, "dark")):
                page.set_viewport_size({"width": of[0], "height": of[1]})
                page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
                assert barriers(page) == [] and width(page) <= of[0]
        expect(page.get_by_role("heading", level=1)).to_have_text("Studios", timeout=60_000)
        expect(live.locator(".banner:visible")).to_have_count(0, timeout=60_000)
