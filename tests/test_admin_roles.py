"""Who may do what: every route of the admin listener, with every kind of token and without one."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from gate import Gate, wait_for
from office import API, problem

from guestgate import clock, tokens
from guestgate.admin import app as admin_app
from guestgate.admin.access import MAX_BODY_BYTES
from guestgate.fingerprints import fingerprint, sha256_of
from guestgate.settings import Settings
from guestgate.tokens import Role

DOCUMENT = f"{API}/openapi.json"
# What each role may do besides what the ones before it may; written down here a second time on purpose.
WRITES = {
    Role.OPERATOR: {
        ("PUT", f"{API}/members/{{member_id}}"),
        ("PATCH", f"{API}/members/{{member_id}}"),
        ("DELETE", f"{API}/members/{{member_id}}"),
        ("POST", f"{API}/members/bulk"),
        ("POST", f"{API}/members/{{member_id}}/codes"),
        ("POST", f"{API}/visits"),
        ("POST", f"{API}/visits/{{visit_id}}/reverse"),
    },
    Role.ADMIN: {
        ("POST", f"{API}/studios"),
        ("PATCH", f"{API}/studios/{{studio_id}}"),
        ("POST", f"{API}/studios/{{studio_id}}/keys"),
        ("DELETE", f"{API}/keys/{{fingerprint}}"),
        ("POST", f"{API}/statements/{{month}}/close"),
    },
}
WITHOUT_TOKEN = {("GET", "/readyz")}
PUBLIC = {
    ("POST", "/checkin-validation"),
    ("POST", "/member-validation"),
    ("POST", "/webhook"),
    ("GET", "/healthz"),
}
GARBAGE = b'\xff\xfe{"\x00' * 1000


@pytest.fixture(scope="module")
def admin(served: Gate) -> Iterator[httpx.Client]:
    """The administrator's client; its paths are whole ones."""
    with served.office() as client:
        client.base_url = f"http://127.0.0.1:{served.admin_port}"
        yield client


@pytest.fixture(scope="module")
def routes(admin: httpx.Client) -> list[tuple[str, str]]:
    """Method and path of every operation in the document, the document itself included."""
    paths = admin.get(DOCUMENT).json()["paths"]
    found = [
        (method.upper(), path) for path, operations in paths.items() for method in operations if method != "servers"
    ]
    return [*found, ("GET", DOCUMENT)]


@pytest.fixture(scope="module")
def guarded(routes: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those that take a token."""
    return [route for route in routes if route not in WITHOUT_TOKEN | PUBLIC]


def required(route: tuple[str, str]) -> Role:
    """The least role that a route takes."""
    return next((role for role, writes in WRITES.items() if route in writes), Role.VIEWER)


def call(client: httpx.Client, route: tuple[str, str], header: str | None = None, **options: Any) -> httpx.Response:
    """Ask a route about things that do not exist."""
    method, path = route
    for name in ("member_id", "studio_id", "visit_id", "decision_id", "month"):
        path = path.replace(f"{{{name}}}", "nothing")
    headers = {**({"Authorization": header} if header is not None else {}), **options.pop("headers", {})}
    return client.request(method, path.replace("{fingerprint}", "0" * 16), headers=headers, **options)


@pytest.fixture(scope="module")
def stranger(served: Gate) -> Iterator[httpx.Client]:
    """A client without a token."""
    with httpx.Client(base_url=f"http://127.0.0.1:{served.admin_port}", timeout=30) as client:
        yield client


def operations(route: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Method and path of a route, or of all that a router includes."""
    context = getattr(route, "include_context", None)
    if context is not None:
        for inner in route.original_router.routes:
            yield from operations(inner, prefix + context.prefix)
    else:
        yield from ((method, prefix + route.path_format) for method in route.methods)


def test_every_route_is_in_the_document(served: Gate, routes: list[tuple[str, str]]) -> None:
    """And nothing is in the document that is no route; pages are no part of it (see `test_pages_access`)."""
    application = admin_app.create_app(served.database, Settings(), lambda: None)
    pages = {operation for part in admin_app.PAGES for route in part.routes for operation in operations(route)}
    exist = {operation for route in application.routes for operation in operations(route)} - pages
    assert len(exist) > 20
    assert exist | PUBLIC == set(routes)


def test_every_write_is_known_here(routes: list[tuple[str, str]]) -> None:
    """A new route that changes things has to be given its role in this file too; the only other POST asks."""
    writes = {route for route in routes if route[0] != "GET"} - PUBLIC
    assert writes == WRITES[Role.OPERATOR] | WRITES[Role.ADMIN] | {("POST", f"{API}/explain")}


def test_the_document_says_which_role(admin: httpx.Client, guarded: list[tuple[str, str]]) -> None:
    """For people in the description, for programs as a security requirement."""
    paths = admin.get(DOCUMENT).json()["paths"]
    for method, path in guarded:
        if path == DOCUMENT:
            continue
        operation = paths[path][method.lower()]
        assert operation["security"] == [{"token": []}], (method, path)
        assert f"Role: {required((method, path))}." in operation["description"], (method, path)
        assert {"401", "403"} <= set(operation["responses"])


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Basic dXNlcjpwYXNz",
        "ggt_without-a-scheme",
        "Bearer ggt_unknown",
        "Bearer \xe9\xff",
        "Bearer " + "x" * 8000,
        "Token {token}",
        "Bearer {token}x",
        "Bearer {token}, Bearer {token}",
        "{token}",
    ],
)
def test_without_a_valid_token_nothing_is_done(
    served: Gate, stranger: httpx.Client, guarded: list[tuple[str, str]], header: str | None
) -> None:
    """401 at every route, whatever is in the body, and what to send instead."""
    sent = header and header.replace("{token}", served.token(Role.ADMIN))
    for route in guarded:
        answer = call(
            stranger, route, None, content=GARBAGE, headers={"Authorization": sent.encode("latin-1")} if sent else {}
        )
        assert "Bearer TOKEN" in problem(answer, 401), route
        assert answer.headers["www-authenticate"].startswith("Bearer "), route


def test_a_revoked_or_expired_token_is_none(
    served: Gate, stranger: httpx.Client, guarded: list[tuple[str, str]]
) -> None:
    """From one call to the next."""
    revoked = served.token(Role.ADMIN)
    expiring = served.token(Role.ADMIN, expires_at=clock.now() + timedelta(seconds=1))
    assert call(stranger, ("GET", f"{API}/plans"), f"Bearer {revoked}").status_code == 200
    with served.database.write("test") as connection:
        tokens.revoke(connection, fingerprint(sha256_of(revoked)))
    wait_for(
        lambda: call(stranger, ("GET", f"{API}/plans"), f"Bearer {expiring}").status_code == 401, "it never expired"
    )
    for route in guarded:
        for sent in (revoked, expiring):
            problem(call(stranger, route, f"Bearer {sent}", content=GARBAGE), 401)


@pytest.mark.parametrize("role", list(Role))
def test_a_role_may_do_what_it_may(
    served: Gate, stranger: httpx.Client, guarded: list[tuple[str, str]], role: Role
) -> None:
    """403 comes before anything is looked at; whoever may do it hears about path and body instead."""
    header = f"bearer {served.token(role)}"  # the scheme's name has no case
    for route in guarded:
        answer = call(stranger, route, header, content=GARBAGE)
        if role.includes(required(route)):
            assert answer.status_code in (200, 400, 404, 422), (route, answer.text)
        else:
            assert f"role {required(route)}; yours is of role {role}" in problem(answer, 403), route


def test_denied_calls_change_nothing(served: Gate, stranger: httpx.Client) -> None:
    """What would have been a change, told by somebody who may not."""
    viewer = f"Bearer {served.token(Role.VIEWER)}"
    with served.office() as client:
        before = client.get("/changes", params={"order": "desc", "limit": 1}).json()
        for header, status in ((viewer, 403), (None, 401)):
            for method in ("PUT", "PATCH", "DELETE"):
                answer = call(stranger, (method, f"{API}/members/free-0"), header, json={"plan": "once"})
                problem(answer, status)
        assert client.get("/members/free-0").json()["plan"] == "free"
        assert client.get("/changes", params={"order": "desc", "limit": 1}).json() == before


@pytest.mark.parametrize(("role", "status"), [(None, 401), (Role.VIEWER, 403), (Role.OPERATOR, 413)])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_huge_body_is_not_taken_in(
    served: Gate, stranger: httpx.Client, role: Role | None, status: int, chunked: bool
) -> None:
    """Refused after at most a megabyte; the answer arrives although most of the body is unread."""
    header = f"Bearer {served.token(role)}" if role else None
    chunks = [b"x" * 65536] * 32
    assert sum(map(len, chunks)) > MAX_BODY_BYTES
    options = {"content": iter(chunks)} if chunked else {"content": b"".join(chunks)}
    route = ("PUT", f"{API}/members/free-0")
    problem(call(stranger, route, header, headers={"Content-Type": "application/json"}, **options), status)
    assert stranger.get("/readyz").status_code == 200


@pytest.mark.parametrize("role", [None, Role.VIEWER])
def test_a_body_that_never_comes_is_not_waited_for(served: Gate, role: Role | None) -> None:
    """A caller who may not is told so, and cannot keep a connection by announcing a body."""
    header = f"Authorization: Bearer {served.token(role)}\r\n" if role else ""
    with socket.create_connection(("127.0.0.1", served.admin_port), timeout=20) as stream:
        stream.sendall(
            f"PUT {API}/members/free-0 HTTP/1.1\r\nHost: x\r\n{header}Content-Length: 1000\r\n\r\n{{".encode()
        )
        assert stream.recv(12) == (b"HTTP/1.1 403" if role else b"HTTP/1.1 401")


def test_callers_who_hang_up_leave_no_trace(served: Gate) -> None:
    """No traceback in the log of a caller without a token that goes away in the middle of its body."""
    logged = served.log.stat().st_size
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", served.admin_port), timeout=20) as stream:
            stream.sendall(f"PUT {API}/members/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{".encode())
    with served.office() as client:
        assert client.get("/plans").status_code == 200
    assert b"failed" not in served.log.read_bytes()[logged:]


def test_the_two_listeners_share_no_route(
    served: Gate, stranger: httpx.Client, routes: list[tuple[str, str]]
) -> None:
    """Neither port answers what belongs to the other, with every credential that there is."""
    credentials = {
        "Authorization": f"Bearer {served.token(Role.ADMIN)}",
        "X-API-Key": served.keys["s1"],
        "Content-Type": "application/json",
    }
    body = json.dumps({"aggregatorId": "free-0", "customerId": 1}).encode()
    with httpx.Client(base_url=f"https://localhost:{served.port}", verify=served.tls(), timeout=30) as public:
        for route in routes:
            here, there = (stranger, public) if route in PUBLIC else (public, stranger)
            problem(call(here, route, headers=credentials, content=body), 404)
            assert call(there, route, headers=credentials, content=body).status_code != 404 or "{" in route[1]


def test_the_methods_of_a_path(stranger: httpx.Client, guarded: list[tuple[str, str]], served: Gate) -> None:
    """405 names all that a path takes, not only those of the first route that has the path."""
    header = f"Bearer {served.token(Role.ADMIN)}"
    answer = call(stranger, ("POST", f"{API}/members/free-0"), header)
    problem(answer, 405)
    assert answer.headers["allow"].split(", ") == ["GET", "PUT", "PATCH", "DELETE"]
    assert call(stranger, ("DELETE", f"{API}/studios"), header).headers["allow"] == "GET, POST"
    assert call(stranger, ("POST", "/readyz"), header).headers["allow"] == "GET"
