"""Who may see and do what on the pages: every route with every role and without one, sessions, and forms."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from desk import Desk
from gate import Gate

from guestgate import tokens
from guestgate.admin import app as admin_app
from guestgate.admin.pages.access import MAX_FORM_BYTES, Page
from guestgate.admin.pages.admission import COOKIE
from guestgate.database import Database
from guestgate.fingerprints import fingerprint, sha256_of
from guestgate.settings import Settings
from guestgate.tokens import Role

# What takes more than a viewer; written down here a second time on purpose.
OPERATORS = {("POST", "/member/status"), ("POST", "/member/visit"), ("POST", "/visit/reverse")}
ADMINS = {("POST", "/statements/{month}/close")}
WITHOUT_SESSION = {("GET", "/login"), ("POST", "/login"), ("GET", "/static/{name}")}
STREAMS = {("GET", "/now/stream")}
ROUTES = sorted(
    (method, route.path_format)
    for part in admin_app.PAGES
    for route in part.routes
    for method in route.methods  # type: ignore[attr-defined]
)
GUARDED = [route for route in ROUTES if route not in WITHOUT_SESSION]
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def desks(served: Gate) -> Iterator[dict[str | None, Desk]]:
    """Somebody of each role, and a stranger."""
    with ExitStack() as stack:
        yield {role: stack.enter_context(Desk(served, role)) for role in (None, *Role)}


def call(client: httpx.Client, route: tuple[str, str], **options: Any) -> httpx.Response:
    """Ask a route about things that do not exist; of what never ends, only the beginning."""
    method, path = route
    path = path.replace("{decision_id}", "nothing").replace("{name}", "nothing")
    with client.stream(method, path, **options) as answer:
        if route not in STREAMS or answer.status_code != 200:
            answer.read()
        return answer


def test_every_page_is_guarded() -> None:
    """A route that needs no session is named in this file, and one that changes things has its role here."""
    assert len(ROUTES) > 8 and set(ROUTES) >= WITHOUT_SESSION
    required = {
        (method, route.path_format): route.required
        for part in admin_app.PAGES
        for route in part.routes
        if isinstance(route, Page)
        for method in route.methods
    }
    assert {route for route in ROUTES if required.get(route) is None} == WITHOUT_SESSION
    assert {route for route, role in required.items() if role not in (None, Role.VIEWER)} == OPERATORS | ADMINS
    assert all(required[route] is Role.ADMIN for route in ADMINS)
    assert all(required[route] is Role.OPERATOR for route in OPERATORS)


@pytest.mark.parametrize("route", GUARDED, ids=" ".join)
def test_without_a_session_every_route_leads_to_the_entrance(
    desks: dict[str | None, Desk], served: Gate, route: tuple[str, str]
) -> None:
    """Whatever is sent along, a token of the API included; and parts of pages take the whole page there."""
    credentials = {"authorization": f"Bearer {served.token(Role.ADMIN)}", "x-api-key": served.keys["s1"]}
    for sent in ({}, {"cookie": f"{COOKIE}=unknown"}, credentials):
        answer = call(desks[None], route, headers=sent)
        assert (answer.status_code, answer.text) == (303, "")
        assert answer.headers["location"].startswith("/login")
    answer = call(desks[None], route, headers={"hx-request": "true"})
    assert (answer.status_code, answer.text, answer.headers["hx-redirect"]) == (401, "", "/login")


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("route", GUARDED, ids=" ".join)
def test_a_role_may_do_what_it_may(desks: dict[str | None, Desk], route: tuple[str, str], role: Role) -> None:
    """403 comes before a form is looked at; whoever may do it is asked for the page's own form."""
    if route in (("POST", "/logout"), ("POST", "/theme")):
        return
    desk = desks[role]
    answer = call(desk, route, content=b"" if route[0] == "POST" else None, headers=FORM)
    required = Role.ADMIN if route in ADMINS else Role.OPERATOR if route in OPERATORS else Role.VIEWER
    if not role.includes(required):
        assert answer.status_code == 403
        assert f"a token of role {required}; yours is of role {role}" in answer.text
        return
    if route[0] == "GET":
        assert answer.status_code in (200, 303, 404), answer.text
        return
    assert answer.status_code == 403 and "is not of your session" in answer.text
    answer = call(desk, route, data={"csrf": desk.csrf})
    assert answer.status_code in (404, 422), answer.text


@pytest.mark.parametrize("route", [route for route in GUARDED if route[0] == "POST"], ids=" ".join)
def test_forms_of_other_pages_are_refused(
    desks: dict[str | None, Desk], served: Gate, route: tuple[str, str]
) -> None:
    """Without the session's value, with another session's, and from another site even with it."""
    desk = desks[Role.ADMIN]
    with Desk(served, Role.ADMIN) as other:
        values = ("", "é", other.csrf)
    for fields in ({"other": "field"}, *({"csrf": value} for value in values)):
        assert call(desk, route, data=fields).status_code == 403
    for elsewhere in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ):
        assert call(desk, route, data={"csrf": desk.csrf}, headers=elsewhere).status_code == 403
    assert desk.get("/members").status_code == 200  # nobody signed us out


def test_other_sites_cannot_sign_anybody_in(desks: dict[str | None, Desk], served: Gate) -> None:
    """Into an account of theirs, that is."""
    answer = desks[None].post("/login", data={"token": served.token()}, headers={"origin": "https://evil.example"})
    assert answer.status_code == 403 and "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{}", "application/json", 415),
        (b"a=b", "text/plain", 415),
        (b"a=%ff", FORM["content-type"], 415),
        (b"&".join(b"a=b" for _ in range(100)), FORM["content-type"], 415),
        (b"a=%00", FORM["content-type"], 422),
        (b"a=" + b"x" * MAX_FORM_BYTES, FORM["content-type"], 413),
    ],
    ids=["json", "text", "not UTF-8", "many fields", "NUL", "huge"],
)
def test_what_is_no_form(desks: dict[str | None, Desk], content: bytes, kind: str, status: int) -> None:
    """Is not taken."""
    answer = desks[Role.ADMIN].post("/member/status", content=content, headers={"content-type": kind})
    assert answer.status_code == status and "<h1>" in answer.text


def test_signing_in_and_out(served: Gate) -> None:
    """The cookie is no token, no script's and no other site's; signed out, it is worth nothing."""
    token = served.token(Role.VIEWER, name="front desk")
    with Desk(served) as desk:
        answer = desk.post("/login", data={"token": f" {token} ", "to": "/member?id=free-1"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/member?id=free-1")
        cookie = answer.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
        assert token not in cookie and "Secure" not in cookie
        assert "front desk" in desk.page("/members")
    with Desk(served, token=token) as desk:
        kept = dict(desk.cookies)
        assert desk.submit("/logout").headers["location"] == "/login"
        assert COOKIE not in desk.cookies
        desk.cookies.update(kept)
        assert desk.get("/members").status_code == 303


def test_whoever_signs_in_again_ends_the_session_before(served: Gate) -> None:
    """At a desk that people share, nothing of the one before stays good."""
    with Desk(served, Role.OPERATOR) as desk, Desk(served) as thief:
        before = {"cookie": f"{COOKIE}={desk.cookies[COOKIE]}"}
        assert thief.get("/members", headers=before).status_code == 200
        desk.post("/login", data={"token": served.token(Role.VIEWER)})
        assert desk.get("/members").status_code == 200
        assert thief.get("/members", headers=before).status_code == 303


def test_behind_a_proxy_that_speaks_tls_the_cookie_is_secure(served: Gate) -> None:
    """As it is where this listener speaks TLS itself."""
    with Desk(served) as desk:
        answer = desk.post("/login", data={"token": served.token()}, headers={"x-forwarded-proto": "https"})
        assert "; Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize("token", ["", "unknown", "x" * 10_000])
def test_a_wrong_token_opens_nothing(served: Gate, token: str) -> None:
    """And the page says so."""
    with Desk(served) as desk:
        answer = desk.post("/login", data={"token": token, "to": '"><b>'})
        assert answer.status_code == 401 and "unknown, revoked or expired" in answer.text
        assert not desk.cookies and '"><b>' not in answer.text


@pytest.mark.parametrize(
    "to", ["https://evil.example", "//evil.example", "/\\evil.example", "evil", "", "/a\r\nb: c"]
)
def test_signing_in_leads_to_pages_of_ours_only(served: Gate, to: str) -> None:
    """Whatever the link said that somebody followed."""
    with Desk(served) as desk:
        assert desk.post("/login", data={"token": served.token(), "to": to}).headers["location"] == "/"


def test_a_revoked_token_ends_its_sessions_at_once(served: Gate) -> None:
    """From one page to the next."""
    token = served.token(Role.ADMIN)
    with Desk(served, token=token) as desk:
        with served.database.write() as connection:
            tokens.revoke(connection, fingerprint(sha256_of(token)))
        assert desk.get("/members").status_code == 303


def test_the_entrance_remembers_where_somebody_wanted_to_go(served: Gate) -> None:
    """With all of its address."""
    with Desk(served) as desk:
        answer = desk.get("/member", params={"id": "a/b&c"})
        assert answer.headers["location"] == "/login?to=%2Fmember%3Fid%3Da%252Fb%2526c"
        assert 'value="/member?id=a%2Fb%26c"' in desk.page(answer.headers["location"])


def test_a_link_from_elsewhere_is_asked_for_again_by_a_page_of_ours(served: Gate) -> None:
    """The browser keeps the cookie from links of other sites. Forms are no links."""
    elsewhere = {"sec-fetch-site": "cross-site"}
    with Desk(served) as desk:
        answer = desk.get("/member?id=free-1", headers=elsewhere)
        assert answer.status_code == 200 and 'http-equiv="refresh" content="0"' in answer.text
        assert len(answer.text) < 200 and answer.headers["cache-control"] == "no-store"
        assert desk.post("/logout", headers=elsewhere).status_code == 303


def test_light_and_dark(served: Gate) -> None:
    """A choice that is kept, of three; anything else changes nothing."""
    with Desk(served, Role.VIEWER) as desk:
        assert 'data-theme="auto"' in desk.page("/members")
        assert desk.submit("/theme", theme="dark", to="/members").headers["location"] == "/members"
        assert 'data-theme="dark"' in desk.page("/members")
        assert 'name="to" value="/members?q=anna&amp;plan="' in desk.page("/members?q=anna&plan=")
        desk.submit("/theme", theme="pink")
        assert 'data-theme="dark"' in desk.page("/members")


def test_what_every_answer_says_to_the_browser(desks: dict[str | None, Desk]) -> None:
    """No page runs what is not ours, is shown inside another, or is kept; errors and redirects are no exception."""
    for path in ("/members", "/member?id=nobody", "/login", "/static/pages.css", "/static/nothing"):
        answer = desks[Role.VIEWER].get(path)
        policy = answer.headers.get("content-security-policy", "")
        if path != "/static/nothing":
            assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
        kept = "immutable" if path == "/static/pages.css" else "no-store"
        assert path == "/static/nothing" or kept in answer.headers["cache-control"]
    assert desks[None].get("/members").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "name", ["nothing", "../view.py", "%2e%2e/view.py", "vendor/", "vendor/htmx-LICENSE.txt", ""]
)
def test_only_the_pages_own_files_are_given_out(desks: dict[str | None, Desk], name: str) -> None:
    """Nothing else of the package, and nothing beside it."""
    assert desks[None].get(f"/static/{name}").status_code == 404


@pytest.mark.parametrize("path", ["/", "/login", "/members?q=anna"])
def test_a_database_that_cannot_be_read_is_not_named_to_strangers(tmp_path: Path, path: str) -> None:
    """503, as a page."""
    database = Database.at(f"sqlite:///{tmp_path / 'secret-place' / 'gone.db'}")
    application = admin_app.create_app(database, Settings(), lambda: None)

    async def ask() -> tuple[httpx.Response, httpx.Response]:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            stranger = await client.get("/login")
            return stranger, await client.get(path, headers={"cookie": f"{COOKIE}=somebody"})

    stranger, answer = asyncio.run(ask())
    assert stranger.status_code == 200
    assert answer.status_code == 503 and "The database does not answer" in answer.text
    assert "secret-place" not in answer.text
