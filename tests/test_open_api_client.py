"""The platform's Open API, asked of the sandbox over real sockets, with all that goes wrong there."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice, pairwise
from pathlib import Path

import pytest
from platforms import OpenPlatform, Time

from guestgate.errors import PlatformError, UsageError
from guestgate.platform import accounts
from guestgate.platform.accounts import Account
from guestgate.platform.client import SLICE, OpenApiClient
from guestgate.platform.pace import BROKEN_ATTEMPTS, BUSY_ATTEMPTS
from guestgate.sandbox.open_api import Trouble, troubles
from guestgate.sandbox.town import Town, TownSpec
from guestgate.self_signed import make_certificate

TOWN = Town(TownSpec(seed=6, studios=6, members=60))
BERLIN = TOWN.studios[0]
NAMES = {"first_name": "Zoë", "last_name": "Nowak", "zip_code": "10115", "email": ""}
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def platform() -> Iterator[OpenPlatform]:
    """One for all tests of this file."""
    with OpenPlatform(TOWN) as platform:
        yield platform


@pytest.fixture
def time() -> Time:
    """Nobody waits."""
    return Time()


@pytest.fixture
def client(platform: OpenPlatform, time: Time) -> Iterator[OpenApiClient]:
    """The first studio's."""
    with OpenApiClient(platform.account(BERLIN), pace=time.pace()) as client:
        yield client


def test_a_key_is_valid_or_not(platform: OpenPlatform, client: OpenApiClient) -> None:
    """And another tenant's is not."""
    assert client.key_is_valid()
    other = next(studio for studio in TOWN.studios if studio.tenant != BERLIN.tenant)
    for account in (platform.account(BERLIN, key="wrong"), platform.account(other, base_url=platform.url(BERLIN))):
        with OpenApiClient(account) as stranger:
            assert not stranger.key_is_valid()
            with pytest.raises(
                PlatformError, match=r"the key is missing .* belong together \(status 401, UNAUTHORIZED"
            ):
                stranger.studio_information()


def test_the_studio(platform: OpenPlatform, client: OpenApiClient) -> None:
    """Its number, name and time zone; and webhooks, once they are confirmed."""
    found = client.studio_information()
    assert (found.studio_id, found.name, found.timezone) == (BERLIN.number, BERLIN.name, BERLIN.timezone)
    assert BERLIN.id not in platform.platform.activated
    client.confirm_activation()
    client.confirm_activation()
    assert BERLIN.id in platform.platform.activated


def test_a_customer_is_created_once(client: OpenApiClient) -> None:
    """The same member is the same customer; what the platform refuses comes in its own words."""
    one, other = (client.create_member("m-new", NAMES) for _ in range(2))
    assert one == other and one.studio_id == BERLIN.number
    with pytest.raises(PlatformError) as problem:
        client.create_member("m-nameless", {"first_name": "Zoë"})
    assert problem.value.status == 400
    assert "creating a customer for berlin-mitte: lastName should be a text" in str(problem.value)
    assert "VALIDATION_ERROR, trace " in str(problem.value)


def test_history(platform: OpenPlatform, client: OpenApiClient) -> None:
    """All of two years, in slices, without those before and after; entries at the chain's other studios as well."""
    customer = client.create_member("m-history", NAMES).customer_id
    sister = next(studio for studio in TOWN.studios if studio.tenant == BERLIN.tenant and studio is not BERLIN)
    since, until = NOON - timedelta(days=800), NOON
    wanted = {}
    for hours in range(0, 800 * 24, 100):
        at = since + timedelta(hours=hours)
        studio = sister if hours % 300 else BERLIN
        out_at = at + timedelta(hours=1) if hours % 200 else None
        wanted[platform.came_in(studio, customer, at, out_at)] = (at, out_at, studio.number)
    for at in (since - timedelta(milliseconds=1), until, until + timedelta(days=3)):
        platform.came_in(BERLIN, customer, at)
    assert len(wanted) > 3 * SLICE
    found = list(client.checkins(customer, since, until))
    assert len(found) == len(wanted)
    assert {one.id: (one.checked_in_at, one.checked_out_at, one.platform_studio_id) for one in found} == wanted
    with pytest.raises(PlatformError, match="there is no customer 1") as problem:
        list(client.checkins(1, since, until))
    assert problem.value.status == 404


@pytest.mark.parametrize("trouble", [Trouble.BUSY, Trouble.OVERLOADED, Trouble.BROKEN])
def test_what_goes_wrong_is_asked_again(
    trouble: Trouble, platform: OpenPlatform, client: OpenApiClient, time: Time
) -> None:
    """A few times it goes well in the end, whatever was asked; a customer is not created twice by it."""
    asked: list[Callable[[], object]] = [
        client.studio_information,
        lambda: client.create_member(f"m-{trouble}", NAMES),
        lambda: list(client.checkins(client.create_member("m-new", NAMES).customer_id, NOON, NOON)),
    ]
    for ask in asked:
        platform.troubles.extend([trouble] * 3)
        time.waited.clear()
        ask()
        assert len(time.waited) == 3 and not platform.troubles
        least = 1.0 if trouble is Trouble.OVERLOADED else 0.0  # it asks for a second
        assert all(least < wait < least + 4 for wait in time.waited) and time.waited == sorted(time.waited)
    customer = client.create_member(f"m-{trouble}", NAMES).customer_id
    assert platform.platform.tenants[BERLIN.tenant].customer_of[f"m-{trouble}"] == customer


def test_a_slow_answer_is_waited_for(platform: OpenPlatform, client: OpenApiClient, time: Time) -> None:
    """And asked for once."""
    platform.troubles.append(Trouble.SLOW)
    assert client.studio_information().name == BERLIN.name
    assert time.waited == []


@pytest.mark.parametrize(
    ("trouble", "attempts", "sentence"),
    [
        (Trouble.BUSY, BUSY_ATTEMPTS, r"status 429, TOO_MANY_REQUESTS"),
        (Trouble.OVERLOADED, BUSY_ATTEMPTS, r"status 503, UNAVAILABLE"),
        (Trouble.BROKEN, BROKEN_ATTEMPTS, r"cannot be asked \("),
    ],
)
def test_it_is_given_up_at_last(
    trouble: Trouble, attempts: int, sentence: str, platform: OpenPlatform, client: OpenApiClient, time: Time
) -> None:
    """With the platform's last word."""
    platform.troubles.extend([trouble] * attempts)
    with pytest.raises(PlatformError, match=sentence):
        client.studio_information()
    assert len(time.waited) == attempts - 1 and not platform.troubles


def test_a_refusal_is_not_asked_again(client: OpenApiClient, time: Time) -> None:
    """It would be refused again."""
    with pytest.raises(PlatformError):
        client.create_member("m-nameless", {})
    assert time.waited == []


class Other:
    """Some other server; `answer` is status, headers and body of every answer."""

    def __init__(self, folder: Path | None = None) -> None:
        self.answer: tuple[int, dict[str, str], bytes] = (200, {}, b"")
        self.headers: list[dict[str, str]] = []
        other = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                other.headers.append({name.lower(): value for name, value in self.headers.items()})
                status, headers, body = other.answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Callers hang up; that is their business."""

        self._server = Server(("localhost", 0), Handler)
        self.base = f"http://localhost:{self._server.server_address[1]}/v1"
        if folder is not None:
            self.cert, key = make_certificate(folder)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.cert, key)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self.base = self.base.replace("http:", "https:")

    def __enter__(self) -> Other:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


GOOD = {"studioId": 1, "studioName": "Berlin", "zoneId": "Europe/Berlin", "more": [None]}


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (200, b"<html>", "not as agreed"),
        (200, b"[]", "not as agreed"),
        (200, json.dumps({**GOOD, "studioId": "1"}).encode(), r"not as agreed \(studioId: "),
        (200, json.dumps({**GOOD, "studioId": 2**63}).encode(), r"not as agreed \(studioId: "),
        (200, b" " * 2_000_000, "longer than"),
        (403, b"secret-key-of-berlin \x1b[31m", r"Forbidden \(status 403\)"),
        (404, b'{"errorMessage": "no \\u001b secret-key-of-berlin"}', r"no \\x1b \(the key\) \(status 404\)"),
        (500, b'{"errorMessage": 7, "errorCode": "X", "traceId": "t"}', r"\(status 500, X, trace t\)"),
        (400, b"[" * 100_000, r"status 400"),
    ],
)  # fmt: skip
def test_odd_answers(status: int, body: bytes, sentence: str, time: Time) -> None:
    """One sentence, at once, without the key or what would steer a terminal."""
    with (
        Other() as other,
        OpenApiClient(Account("berlin-1", other.base, "secret-key-of-berlin"), pace=time.pace()) as client,
    ):
        other.answer = (status, {}, body)
        with pytest.raises(PlatformError, match=sentence) as problem:
            client.studio_information()
    assert "secret-key" not in str(problem.value) and str(problem.value).isprintable()
    assert len(other.headers) == 1


def test_the_key_goes_nowhere_else(time: Time) -> None:
    """A redirect is not followed."""
    with Other() as trap, Other() as other:
        other.answer = (307, {"Location": trap.base}, b"")
        with (
            OpenApiClient(Account("berlin-1", other.base, "secret"), pace=time.pace()) as client,
            pytest.raises(PlatformError, match="leads elsewhere"),
        ):
            client.studio_information()
        assert trap.headers == [] and other.headers[0]["x-api-key"] == "secret"


def test_a_history_without_end_ends(time: Time) -> None:
    """A platform that always says that there is more, and tells the same again."""
    checkin = {"checkinId": 1, "checkInDateTime": NOON.isoformat(), "studioId": 1}
    with Other() as other, OpenApiClient(Account("s1", other.base, "secret"), pace=time.pace()) as client:
        other.answer = (200, {}, json.dumps({"result": [checkin], "hasNext": True, "offset": "50"}).encode())
        with pytest.raises(PlatformError, match="there is more"):
            list(client.checkins(5, NOON, NOON + timedelta(days=1)))
    assert len(other.headers) == 2


def test_certificates_are_verified(tmp_path: Path, time: Time) -> None:
    """One that nobody trusts gets no key and is not asked again; --ca trusts one more."""
    with Other(tmp_path) as other:
        other.answer = (200, {}, json.dumps(GOOD).encode())
        account = Account("berlin-1", other.base, "secret")
        with (
            OpenApiClient(account, pace=time.pace()) as client,
            pytest.raises(PlatformError, match=r"certificate is not trusted \(self-signed certificate\); --ca FILE"),
        ):
            client.studio_information()
        assert other.headers == [] and time.waited == []
        with OpenApiClient(account, ca=other.cert) as client:
            assert client.studio_information().name == "Berlin"


def test_the_sandboxs_troubles() -> None:
    """From a seed; all of them come, none twice in a row, and most calls go well."""
    first = list(islice(troubles(3), 1000))
    assert first == list(islice(troubles(3), 1000)) != list(islice(troubles(4), 1000))
    assert set(first) == {None, *Trouble} and first.count(None) > 700
    assert all(one is None or one is not other for one, other in pairwise(first))


def test_where_a_key_may_go() -> None:
    """Over https, or to this machine."""
    url = accounts.base_url("Fit-Werk", None)
    assert url == "https://fit-werk.open-api.perfectgym.com/v1"
    for given in (
        "https://fitwerk.open-api.magicline.com/v1/",
        "http://127.0.0.1:8500/fitwerk/v1",
        "http://[::1]/v1",
    ):
        assert accounts.base_url(None, given) == given.rstrip("/")
    refused = ["http://example.com/v1", "ftp://localhost", "https://u:p@x.com/v1", "https://x.com/v1?a=b", "x", ""]
    for given in (*refused, "http://localhost.example.com/v1", "https://x.com/v1#", "http://127.0.0.1.example.com"):
        with pytest.raises(UsageError, match="--url"):
            accounts.base_url(None, given)
    for tenant in ("", "a.b", "x/y", "evil.com#", "-a", "a" * 64):
        with pytest.raises(UsageError, match="--tenant"):
            accounts.base_url(tenant, None)
    for both in ((None, None), ("fitwerk", "https://x.com/v1")):
        with pytest.raises(UsageError, match="--tenant"):
            accounts.base_url(*both)
    with pytest.raises(UsageError, match="https only"):
        OpenApiClient(Account("s1", "http://example.com/v1", "secret"))
