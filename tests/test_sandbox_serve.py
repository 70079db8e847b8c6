"""`guestgate sandbox serve`: the platform as an aggregator meets it, over real sockets and in a real browser."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import chromium, complaints_of
from gate import environment, free_port, wait_for
from playwright.sync_api import Page
from receiver import Receiver

from guestgate.sandbox import export
from guestgate.sandbox.open_api import MAX_A_MINUTE, RateLimit
from guestgate.sandbox.town import Town, TownSpec

TOWN = Town(TownSpec(seed=6, studios=6, members=60))
BERLIN = TOWN.studios[0]


class Sandbox:
    """One `sandbox serve` with an aggregator of ours to call."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.receiver = Receiver(folder)
        self.port = free_port()
        self.base = f"http://localhost:{self.port}"
        self.log = folder / "sandbox.jsonl"
        export.write(TOWN, folder / "town")
        command = [sys.executable, "-m", "guestgate", "sandbox", "serve", "--json", "--town", str(folder / "town")]
        command += ["--url", f"{self.receiver.base}/checkin-validation", "--ca", str(self.receiver.cert)]
        command += ["--member-validation-url", f"{self.receiver.base}/member-validation"]
        command += ["--webhook-url", f"{self.receiver.base}/webhook", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, "--log", str(self.log), *options],
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Sandbox:
        self.receiver.__enter__()
        assert self.process.stdout is not None
        self.said = json.loads(self.process.stdout.readline())
        assert httpx.get(f"{self.base}/town").status_code == 200  # once it says so, it serves
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(timeout=30) == 0
        self.process.stdout.close()
        self.receiver.__exit__()

    def town(self) -> dict[str, Any]:
        """What the page is told."""
        state: dict[str, Any] = httpx.get(f"{self.base}/town").json()
        return state

    def do(self, what: str, **content: Any) -> httpx.Response:
        """What a form of the page does."""
        return httpx.post(f"{self.base}/town/{what}", json={"studio": BERLIN.id, **content})

    def api(self, method: str, path: str, key: str = BERLIN.keys["openapi"], **options: Any) -> httpx.Response:
        """A call of the Open API as an aggregator makes it."""
        url = f"{self.said['open_api'][BERLIN.tenant]}{path}"
        return httpx.request(method, url, headers={"x-api-key": key}, **options)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The webhooks of a type that came so far."""
        return [one.body for one in self.receiver.of("/webhook") if one.body["payload"][0]["type"] == kind]

    def event(self, kind: str, entity_id: int) -> dict[str, Any]:
        """Waits for a webhook."""
        wait_for(lambda: any(body["entityId"] == entity_id for body in self.events(kind)), f"no {kind}")
        return next(body for body in self.events(kind) if body["entityId"] == entity_id)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One for all tests of this file."""
    with Sandbox(tmp_path_factory.mktemp("sandbox")) as sandbox:
        yield sandbox


def test_a_key_is_known_by_head_on_any_path(sandbox: Sandbox) -> None:
    """200 or 401 and nothing else; a key belongs to its tenant, and only the Open API's own kind counts."""
    other = next(studio for studio in TOWN.studios if studio.tenant != BERLIN.tenant)
    for path in ("/studios/information", "/nothing/here"):
        assert sandbox.api("HEAD", path).status_code == 200
        for key in ("", "wrong", BERLIN.keys["checkin"], BERLIN.keys["webhook"], other.keys["openapi"]):
            refused = sandbox.api("HEAD", path, key=key)
            assert (refused.status_code, refused.content) == (401, b"")


@pytest.mark.parametrize(
    ("method", "path", "status", "options"),
    [
        ("GET", "/studios/information", 401, {"key": "wrong"}),
        ("GET", "/nothing/here", 404, {}),
        ("DELETE", "/studios/information", 405, {}),
        ("POST", "/aggregators/member", 415, {"content": b"{}"}),
        ("POST", "/aggregators/member", 400, {"json": []}),
        ("POST", "/aggregators/member", 400, {"json": {"aggregatorId": "a", "firstName": "A"}}),
        ("POST", "/aggregators/member", 400, {"json": {"aggregatorId": 7, "firstName": "A", "lastName": "B"}}),
        ("POST", "/aggregators/member", 413, {"json": {"aggregatorId": "a" * 70_000}}),
        ("GET", "/customers/1/activities/checkins?fromDate=2026-01-01&toDate=2026-01-02", 404, {}),
        ("GET", "/customers/x/activities/checkins?fromDate=2026-01-01&toDate=2026-01-02", 400, {}),
        ("GET", "/customers/1/activities/checkins", 400, {}),
        ("GET", "/customers/1/activities/checkins?fromDate=2026-01-02&toDate=2026-01-01", 400, {}),
        ("GET", "/customers/1/activities/checkins?fromDate=2024-01-01&toDate=2026-01-01", 400, {}),
        ("GET", "/customers/1/activities/checkins?fromDate=2026-01-01&toDate=2026-01-02&sliceSize=51", 400, {}),
    ],
)
def test_errors_have_the_platform_s_body(
    method: str, path: str, status: int, options: dict[str, Any], sandbox: Sandbox
) -> None:
    """Three fields, whatever went wrong."""
    answer = sandbox.api(method, path, **options)
    assert answer.status_code == status
    assert set(answer.json()) == {"errorMessage", "errorCode", "traceId"} and all(answer.json().values())


def test_a_studio_s_information(sandbox: Sandbox) -> None:
    """Of the studio whose key it is."""
    said = sandbox.api("GET", "/studios/information").json()
    assert (said["studioId"], said["studioName"], said["zoneId"]) == (BERLIN.number, BERLIN.name, BERLIN.timezone)


def test_a_member_becomes_a_customer_once(sandbox: Sandbox) -> None:
    """Created unless there is one at this chain; the platform tells of the new one only."""
    sandbox.api("POST", "/studios/confirmActivation")
    profile = {"aggregatorId": "new-1", "firstName": "Zoë", "lastName": "O'Brien", "gender": "FEMALE"}
    made = sandbox.api("POST", "/aggregators/member", json=profile).json()
    assert made["studioId"] == BERLIN.number and made["customerId"] > 2**53
    assert sandbox.api("POST", "/aggregators/member", json=profile).json() == made
    event = sandbox.event("AGGREGATOR_MEMBER_CREATED", made["customerId"])
    assert event["payload"][0]["content"] == {"aggregatorId": "new-1"}
    known = next(member for member in TOWN.members if BERLIN.tenant in member.customers)
    again = sandbox.api("POST", "/aggregators/member", json={**profile, "aggregatorId": known.id}).json()
    assert again["customerId"] == known.customers[BERLIN.tenant]
    assert len(sandbox.events("AGGREGATOR_MEMBER_CREATED")) == 1


def test_webhooks_begin_with_the_activation_and_tell_of_a_visit(tmp_path: Path) -> None:
    """None before; then check-in and check-out, as the contract words them, with the studio's webhook key."""
    member = next(member for member in TOWN.members if BERLIN.tenant in member.customers)
    customer = member.customers[BERLIN.tenant]
    with Sandbox(tmp_path) as fresh:
        assert fresh.do("tap", aggregator_id=member.id).json()["desk"] == "open"
        assert fresh.do("leave", customer_id=str(customer)).status_code == 200
        assert fresh.do("leave", customer_id=str(customer)).status_code == 409
        assert fresh.api("POST", "/studios/confirmActivation").status_code == 200
        before = datetime.now(UTC) - timedelta(milliseconds=1)
        fresh.do("tap", aggregator_id=member.id)
        fresh.do("tap", aggregator_id=member.id)  # a second tap is no second check-in
        event = fresh.event("CUSTOMER_CHECKIN", customer)
        (happened,) = event["payload"]
        at = datetime.fromtimestamp(happened["timestamp"] / 1000, UTC)
        assert before <= at <= datetime.now(UTC) and happened["content"] == {} and len(event["uuid"]) == 36
        sent = fresh.receiver.of("/webhook")[0].headers
        assert sent["x-api-key"] == BERLIN.keys["webhook"] and sent["content-type"].startswith("application/json")
        fresh.do("leave", customer_id=str(customer))
        fresh.event("CUSTOMER_CHECKOUT", customer)
        assert len(fresh.events("CUSTOMER_CHECKIN")) == 1
    kinds = [json.loads(line)["kind"] for line in fresh.log.read_text("utf-8").splitlines()]
    assert kinds == ["run", "call", "entry", "call", "entry", "webhook", "call", "webhook"]


def test_a_studio_that_closes_checks_everybody_out(sandbox: Sandbox) -> None:
    """In one event of the studio's, with each customer and the time there."""
    sandbox.api("POST", "/studios/confirmActivation")
    members = [member for member in TOWN.members if BERLIN.tenant in member.customers][3:6]
    for member in members:
        sandbox.do("tap", aggregator_id=member.id)
    sandbox.do("close")
    content = sandbox.event("AUTOMATIC_CUSTOMER_CHECKOUT", BERLIN.number)["payload"][0]["content"]
    left = {one["customerId"]: datetime.fromisoformat(one["checkoutTime"]) for one in content["checkouts"]}
    assert {member.customers[BERLIN.tenant] for member in members} <= set(left)
    assert {at.utcoffset() for at in left.values()} == {datetime.now(BERLIN.zone).utcoffset()}


@pytest.mark.parametrize("event", ["CUSTOMER_DELETED", "CUSTOMER_ACCESS_DISABLED"])
def test_a_customer_who_goes(event: str, sandbox: Sandbox) -> None:
    """The platform says so; a customer it does not have cannot go."""
    sandbox.api("POST", "/studios/confirmActivation")
    made = sandbox.api(
        "POST", "/aggregators/member", json={"aggregatorId": event, "firstName": "A", "lastName": "B"}
    ).json()
    assert sandbox.do("remove", customer_id=str(made["customerId"]), event=event).status_code == 200
    sandbox.event(event, made["customerId"])
    assert sandbox.do("remove", customer_id="1", event=event).status_code == 409
    assert sandbox.do("remove", customer_id="1", event="SOMETHING").status_code == 400


def test_the_history_comes_in_slices(sandbox: Sandbox) -> None:
    """Of at most so many, oldest first, with times as the studio's clock showed them, until there is no next."""
    member = [member for member in TOWN.members if BERLIN.tenant in member.customers][-1]
    customer = member.customers[BERLIN.tenant]
    for _ in range(3):
        sandbox.do("tap", aggregator_id=member.id)
        sandbox.do("leave", customer_id=str(customer))
    today = datetime.now(BERLIN.zone).date()
    span = f"fromDate={today - timedelta(days=364)}&toDate={today + timedelta(days=1)}"
    path = f"/customers/{customer}/activities/checkins?{span}&sliceSize=2"
    first = sandbox.api("GET", path).json()
    assert [len(first["result"]), first["hasNext"]] == [2, True]
    second = sandbox.api("GET", f"{path}&offset={first['offset']}").json()
    assert [len(second["result"]), second["hasNext"]] == [1, False]
    entries = first["result"] + second["result"]
    assert [one["studioId"] for one in entries] == [BERLIN.number] * 3
    came = [datetime.fromisoformat(one["checkInDateTime"]) for one in entries]
    assert came == sorted(came) and came[0].utcoffset() == datetime.now(BERLIN.zone).utcoffset()
    assert all(one["checkOutDateTime"] >= one["checkInDateTime"] for one in entries)
    earlier = f"/customers/{customer}/activities/checkins?fromDate=2020-01-01&toDate=2020-12-31"
    assert sandbox.api("GET", earlier).json()["result"] == []


def test_too_many_requests_are_refused_for_a_minute() -> None:
    """A thousand a minute for each endpoint; then a minute of nothing, whoever waits or not."""
    now = [100.0]
    limit = RateLimit(lambda: now[0])
    assert all(limit.take("a") for _ in range(MAX_A_MINUTE))
    assert not limit.take("a") and limit.take("b")
    now[0] += 59.9
    assert not limit.take("a")
    now[0] += 0.2
    assert limit.take("a")
    for _ in range(3000):  # ten a second for five minutes are few enough
        now[0] += 0.1
        assert limit.take("c")


def test_the_limit_holds_over_the_wire(sandbox: Sandbox) -> None:
    """429 with the platform's body; other endpoints still answer, and so does HEAD."""
    key = TOWN.studios[3].keys["openapi"]  # another studio of the same chain, so that no other test waits
    assert TOWN.studios[3].tenant == BERLIN.tenant
    with httpx.Client(headers={"x-api-key": key}, base_url=sandbox.said["open_api"][BERLIN.tenant]) as client:
        statuses = [client.get("/studios/information").status_code for _ in range(MAX_A_MINUTE + 2)]
        assert statuses == [200] * MAX_A_MINUTE + [429] * 2
        assert client.get("/studios/information").json()["errorCode"] == "TOO_MANY_REQUESTS"
        assert client.head("/studios/information").status_code == 200
        assert client.post("/studios/confirmActivation").status_code == 200


def test_the_desk_registers_a_member(sandbox: Sandbox) -> None:
    """Asks by the contract, and from then on uses the permanent id that came back."""

    def answer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if body["aggregatorId"] != "code-1234":
            return 404, {}
        return 200, {"aggregatorId": "permanent-1", "firstName": "Zoë", "lastName": "<b>Bold</b>"}

    sandbox.receiver.answers["/member-validation"] = answer
    sandbox.api("POST", "/studios/confirmActivation")
    refused = sandbox.do("register", aggregator_id="nobody").json()
    assert (refused["http_status"], refused["desk"], refused["member"]) == (404, "not found in partner system", {})
    said = sandbox.do("register", aggregator_id="code-1234").json()
    asked = sandbox.receiver.of("/member-validation")[-1]
    assert asked.body == {"aggregatorId": "code-1234"} and asked.headers["x-api-key"] == BERLIN.keys["checkin"]
    assert asked.headers["content-type"] == "application/json; charset=utf-8"
    assert (said["http_status"], said["desk"]) == (200, "registered") and int(said["customer_id"]) > 2**53
    assert said["member"] == {"aggregatorId": "permanent-1", "firstName": "Zoë", "lastName": "<b>Bold</b>"}
    event = sandbox.event("AGGREGATOR_MEMBER_CREATED", int(said["customer_id"]))
    assert event["payload"][0]["content"] == {"aggregatorId": "permanent-1"}
    # Whoever is a customer already stays the same one, and nobody is told again.
    assert sandbox.do("register", aggregator_id="code-1234").json()["customer_id"] == said["customer_id"]
    told = [body for body in sandbox.events("AGGREGATOR_MEMBER_CREATED") if body["entityId"] == event["entityId"]]
    assert len(told) == 1
    sandbox.do("tap", aggregator_id="permanent-1")
    tapped = sandbox.receiver.of("/checkin-validation")[-1].body
    assert tapped == {"aggregatorId": "permanent-1", "customerId": int(said["customer_id"])}


@pytest.mark.parametrize(
    ("status", "content", "note"),
    [
        (503, {"detail": "the member could not be validated in time; try again"}, "could not be validated in time"),
        (403, {}, None),
        (200, [], "aggregatorId should be a text"),
        (200, {"firstName": "Zoë"}, "aggregatorId should be a text"),
        (200, {"aggregatorId": "m", "dateOfBirth": "4.5.1952"}, "dateOfBirth should be a date such as 1952-05-04"),
        (
            200,
            {"aggregatorId": "m", "gender": "X", "country": "Germany"},
            "gender should be MALE, FEMALE or UNISEX; ",
        ),
        (200, {"aggregatorId": "m", "email": None}, "email is null"),
    ],
)
def test_the_desk_cannot_work_with_it(status: int, content: Any, note: str | None, sandbox: Sandbox) -> None:
    """A fault, or an answer that is not as the contract words it: nobody becomes a customer."""
    sandbox.receiver.answers["/member-validation"] = (status, content)
    said = sandbox.do("register", aggregator_id="code-1").json()
    assert (said["desk"], said["http_status"]) == ("communication error, please try again", status)
    assert (said["member"], said["customer_id"]) == ({}, None)
    assert said["note"] is None if note is None else note in said["note"]
    shown = sandbox.town()
    assert shown["enrolled"][0]["text"] == "code-1" and shown["enrolled"][0]["desk"] == said["desk"]
    assert shown["enrolments"][said["desk"]] > 0
    last = json.loads(sandbox.log.read_text("utf-8").splitlines()[-1])
    assert (last["kind"], last["text"], last["http_status"], last["told"]) == ("enrolment", "code-1", status, None)


def test_the_desk_waits_no_longer_than_a_door(sandbox: Sandbox) -> None:
    """An answer that comes late registers nobody."""
    ended = threading.Event()

    def late(_: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        ended.wait(10)
        return 200, {"aggregatorId": "m"}

    sandbox.receiver.answers["/member-validation"] = late
    said = sandbox.do("register", aggregator_id="code-1").json()
    ended.set()
    assert (said["http_status"], said["customer_id"]) == (None, None) and said["ms"] >= 750
    assert said["note"] == "no answer within 750 ms; the call was cancelled"


@pytest.mark.parametrize(
    "content",
    [
        {"aggregator_id": ""},
        {"aggregator_id": 7},
        {"aggregator_id": "a" * 256},
        {"aggregator_id": "a", "customer_id": "0"},
        {"aggregator_id": "a", "customer_id": "1.5"},
        {"aggregator_id": "a", "customer_id": 2**63},
        {"aggregator_id": "a", "studio": "nowhere"},
    ],
)
def test_what_a_form_cannot_mean_is_refused(content: dict[str, Any], sandbox: Sandbox) -> None:
    """With a word on what it should be, and without a call."""
    before = len(sandbox.receiver.of("/checkin-validation"))
    answer = sandbox.do("tap", **content)
    assert answer.status_code == 400 and "should be" in answer.json()["errorMessage"]
    assert len(sandbox.receiver.of("/checkin-validation")) == before


def test_half_a_character_is_no_text(sandbox: Sandbox) -> None:
    """JSON can spell it, but nobody could pass it on."""
    content = b'{"studio": "%s", "aggregator_id": "\\ud800"}' % BERLIN.id.encode()
    headers = {"content-type": "application/json"}
    assert httpx.post(f"{sandbox.base}/town/tap", content=content, headers=headers).status_code == 400


def test_other_sites_cannot_use_the_page(sandbox: Sandbox) -> None:
    """Neither with a form of theirs nor with a name of theirs that leads here; and it listens on loopback only."""
    assert (
        httpx.post(f"{sandbox.base}/town/tap", content=b"{}", headers={"content-type": "text/plain"}).status_code
        == 415
    )
    assert httpx.get(f"{sandbox.base}/town", headers={"host": "evil.example"}).status_code == 400
    policy = httpx.get(f"{sandbox.base}/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    sockets = [line.split()[1:4] for line in Path("/proc/net/tcp").read_text("ascii").splitlines()]
    listening = [local for local, _, state in sockets if state == "0A" and local.endswith(f":{sandbox.port:04X}")]
    assert listening == [f"0100007F:{sandbox.port:04X}"]


@pytest.fixture(scope="module")
def page(sandbox: Sandbox) -> Iterator[Page]:
    """The page in a real browser; whatever it complains about fails the test."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.set_default_timeout(30_000)
        complaints = complaints_of(page)
        page.goto(sandbox.base)
        page.wait_for_selector("#studios li")
        yield page
        # A form that was refused is told so with a status, which the browser mentions.
        assert [text for text in complaints if "409 (Conflict)" not in text] == []


def tap(page: Page, member: str, studio: str = BERLIN.id) -> None:
    """By hand, with the form."""
    page.select_option("#tap select", studio)
    page.fill("#tap input[name=aggregator_id]", member)
    page.click("#tap button")


def test_a_card_is_held_to_a_reader_by_hand(page: Page, sandbox: Sandbox) -> None:
    """The desk's message and milliseconds appear, and a line in the list of last taps; then another answer."""
    tap(page, "m-100001")
    page.wait_for_selector("#desk .open")
    assert page.inner_text("#desk span") == "open" and " ms" in page.inner_text("#desk small")
    page.wait_for_selector("#taps tr >> text=m-100001")
    sandbox.receiver.answers["/checkin-validation"] = (403, {"decision": "denied", "reason": "limit_reached"})
    try:
        tap(page, "m-100002", TOWN.studios[1].id)
        page.wait_for_selector("#desk .shut")
        assert "limit_reached" in page.inner_text("#desk small")
        sandbox.receiver.answers["/checkin-validation"] = (500, {})
        tap(page, "m-100002")
        page.wait_for_selector("#desk .error")
        assert page.inner_text("#desk span") == "communication error, please try again"
    finally:
        sandbox.receiver.answers["/checkin-validation"] = (200, {"decision": "allowed", "reason": "ok"})
    row = page.wait_for_selector("#taps tr >> text=not allowed")
    assert row is not None


def test_taps_made_elsewhere_appear_by_themselves(page: Page, sandbox: Sandbox) -> None:
    """The list is live, and customers keep every digit."""
    sandbox.do("tap", aggregator_id="from-elsewhere", customer_id=str(2**63 - 1))
    page.wait_for_selector(f"#taps tr >> text=from-elsewhere · {2**63 - 1}")


def test_what_others_wrote_is_text_on_the_page(page: Page, sandbox: Sandbox) -> None:
    """Ids, reasons and names never become markup."""
    bad = '<img src=x onerror="document.title=1">'
    sandbox.receiver.answers["/checkin-validation"] = (403, {"decision": "denied", "reason": bad})
    try:
        tap(page, bad)
        page.wait_for_selector("#desk .shut")
        page.wait_for_selector("#taps tr >> text=onerror")
    finally:
        sandbox.receiver.answers["/checkin-validation"] = (200, {"decision": "allowed", "reason": "ok"})
    assert page.locator("img").count() == 0 and page.title() == "guestgate sandbox"


def test_the_page_fits_a_phone_and_follows_light_and_dark(page: Page) -> None:
    """Nothing has to be scrolled sideways, buttons can be hit, and the colours follow the device."""
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator("#tap button").bounding_box()
    assert box is not None and box["height"] >= 44
    seen = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        seen.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(set(seen)) == 2


def test_the_desk_s_forms(page: Page, sandbox: Sandbox) -> None:
    """Registering, checking out, and everybody out."""
    sandbox.receiver.answers["/member-validation"] = (
        200,
        {"aggregatorId": "p-2", "firstName": "Zoë", "lastName": "Nowak"},
    )
    page.click("summary")
    page.fill("#register input", "code-2")
    page.click("#register button")
    page.wait_for_selector("#register output >> text=Zoë Nowak is now customer")
    page.wait_for_selector("#enrolled tr:first-child >> text=registered")
    page.wait_for_selector("#enrolled tr:first-child >> text=p-2")
    page.fill("#customer input", "77")
    page.click("#customer button")
    page.wait_for_selector("#customer output >> text=customer 77 is not in")
    tap(page, "m-100007")
    page.wait_for_selector("#desk .open")
    page.click("summary")
    page.click("#studios li:first-child button")
    page.wait_for_selector(
        f"#places output >> text=checked out of {BERLIN.name}"
    )  # also with the desk's forms folded away


def test_people_come_by_themselves(tmp_path: Path) -> None:
    """With a rate, and what they do is in the log."""
    with Sandbox(tmp_path, "--rate", "40") as busy:
        wait_for(lambda: len(busy.town()["taps"]) >= 10, "nobody came")
        assert len(busy.receiver.of("/checkin-validation")) >= 10


def test_a_full_disk_ends_it_with_a_sentence(tmp_path: Path) -> None:
    """Where people come by themselves; nobody could audit what went on."""
    command = ["sandbox", "serve", "--url", "https://localhost:1/checkin-validation", "--port", str(free_port())]
    done = subprocess.run(
        [sys.executable, "-m", "guestgate", *command, "--rate", "50", "--log", "/dev/full"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "guestgate: --log: /dev/full: No space left on device\n")


def test_a_port_that_is_taken(sandbox: Sandbox, tmp_path: Path) -> None:
    """One sentence."""
    command = ["sandbox", "serve", "--url", "https://localhost:1/checkin-validation", "--port", str(sandbox.port)]
    done = subprocess.run(
        [sys.executable, "-m", "guestgate", *command],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stderr.startswith(
        f"guestgate: cannot serve on 127.0.0.1, port {sandbox.port}"
    )
    assert list(tmp_path.iterdir()) == []
