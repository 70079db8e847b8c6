"""The pages in a real browser: for everybody, at the desk and on a phone, in light and dark, by keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from browser import DESK, PHONE, barriers, chromium, complaints_of, width
from gate import Gate, wait_for
from playwright.sync_api import Browser, Page, expect

from guestgate import tokens
from guestgate.fingerprints import fingerprint, sha256_of
from guestgate.tokens import Role

pytestmark = pytest.mark.embedded

PLANS = """\
[plans.busy]
name = "Busy"
reentry_minutes = 0
limits = [{ max = 1, per = "day" }, { max = 8, per = "month", scope = "studio" }]
"""
PEOPLE = ("m-1,busy,Anna,Muster", "m-2,busy,Ben,Müller", "m-3,busy,Clara,Meier", "m-4,busy,Anna,Meier")
ADDRESSES = [
    "/",
    "/members?q=meier",
    "/member?id=m-1",
    "/studios",
    "/studio?id=s1",
    "/plans",
    "/decision/{decision}",
    "/decisions?studio=s1&answer=denied&member=m-1",
]


@pytest.fixture(scope="module")
def gate(new_gate: Callable[[], Gate]) -> Gate:
    """A serving installation in which Anna has come twice, and was denied once."""
    gate = new_gate()
    gate.studio("s1")
    gate.studio("s2")
    gate.plans(PLANS)
    gate.members(*PEOPLE, header="member_id,plan,first_name,last_name")
    gate.start()
    for _ in range(2):
        gate.checkin("m-1")
    return gate


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def desk(browser: Browser, gate: Gate) -> Iterator[Page]:
    """An operator's page, signed in by its form; whatever it complains about fails the test."""
    context = browser.new_context(
        base_url=gate.admin_url, viewport={"width": DESK[0], "height": DESK[1]}, color_scheme="light"
    )
    page = context.new_page()
    complaints = complaints_of(page)
    page.goto("/member?id=m-1")
    page.fill("input[name=token]", gate.token(Role.OPERATOR, name="anna"))
    page.press("input[name=token]", "Enter")
    expect(page).to_have_url(re.compile(r"/member\?id=m-1$"))
    yield page
    assert complaints == []
    context.close()


def size(page: Page, of: tuple[int, int], theme: str) -> None:
    """Look at it on another device."""
    page.set_viewport_size({"width": of[0], "height": of[1]})
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ADDRESSES)
def test_everybody_can_use_every_page(desk: Page, gate: Gate, address: str) -> None:
    """No barriers, in light and dark; nothing to be scrolled sideways, and the colours are the device's."""
    with gate.office() as client:
        decision = client.get("/decisions", params={"limit": 1}).json()["items"][0]["id"]
    seen = set()
    for of, theme in ((DESK, "light"), (PHONE, "dark")):
        size(desk, of, theme)
        desk.goto(address.replace("{decision}", decision))
        assert barriers(desk) == [], (of, theme)
        assert width(desk) <= of[0]
        seen.add(desk.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(seen) == 2
    size(desk, DESK, "light")


def test_the_entrance_is_no_barrier(browser: Browser, gate: Gate) -> None:
    """Not even with a wrong token."""
    page = browser.new_page(base_url=gate.admin_url)
    page.goto("/")
    assert barriers(page) == []
    page.fill("input[name=token]", "wrong")
    page.press("input[name=token]", "Enter")
    expect(page.get_by_role("alert")).to_contain_text("unknown, revoked or expired")
    assert barriers(page) == []
    page.close()


def test_why_somebody_was_denied_by_keyboard_alone(desk: Page) -> None:
    """From the start page: a name, Enter, and there it stands."""
    desk.goto("/")
    desk.keyboard.press("Tab")
    expect(desk.get_by_text("To the content")).to_be_focused()
    for _ in range(10):
        desk.keyboard.press("Tab")
        if desk.evaluate("document.activeElement.name") == "q":
            break
    desk.keyboard.type("anna mus")
    desk.keyboard.press("Enter")
    expect(desk.get_by_role("heading", level=1)).to_contain_text("Anna Muster")
    expect(desk.locator(".answer")).to_contain_text("A limit is used up: 1 of 1 visit in the network today")


def test_names_are_found_while_typing(desk: Page) -> None:
    """And the list can be walked through by keyboard."""
    desk.goto("/members")
    expect(desk.locator("main [name=q]")).to_be_focused()  # which a busy browser sees to a little after loading
    desk.keyboard.type("meier")
    expect(desk.locator("#results a")).to_have_count(2)
    desk.keyboard.type(", clara")
    expect(desk.locator("#results a")).to_have_count(1)
    desk.keyboard.press("Tab")
    desk.keyboard.press("Enter")
    expect(desk.get_by_role("heading", level=1)).to_contain_text("Clara Meier")


def test_check_ins_and_charts_are_live(desk: Page, gate: Gate) -> None:
    """They appear on a page that is open, without loading it again."""
    desk.goto("/")
    expect(desk.locator(".chart canvas")).to_have_count(2)
    desk.evaluate("window.same = true")
    decision = gate.checkin("nobody").json()["decisionId"]
    row = desk.locator("tr", has=desk.locator(f'a[href="/decision/{decision}"]'))
    expect(row).to_contain_text("nobody has this id")
    expect(desk.locator(".chart canvas")).to_have_count(2)
    assert desk.evaluate("window.same")


def test_the_list_stands_still_for_whoever_is_in_it(desk: Page, gate: Gate) -> None:
    """By keyboard or with the mouse: what they are about to open stays, and what came meanwhile follows."""
    desk.goto("/")
    first = desk.locator("#coming tbody a").first
    for enter, leave in (
        (first.focus, lambda: desk.locator("input[name=q]").focus()),
        (first.hover, lambda: desk.mouse.move(1, 1)),
    ):
        enter()
        expect(desk.locator("#held")).to_be_visible()
        address, hour = first.get_attribute("href"), desk.locator(".figures").inner_text()
        decision = gate.checkin("nobody").json()["decisionId"]
        expect(desk.locator(".figures")).not_to_have_text(hour, use_inner_text=True)  # told with the list
        newest = desk.locator(f'#coming a[href="/decision/{decision}"]')
        assert newest.count() == 0 and first.get_attribute("href") == address
        leave()
        expect(newest).to_have_count(1)
        expect(desk.locator("#held")).to_be_hidden()


def test_what_is_quicker_by_key_or_button(desk: Page) -> None:
    """Ctrl+K leads to the search, from a field as well; an id is copied."""
    desk.goto("/decisions")
    desk.locator("input[name=member]").focus()
    desk.keyboard.press("Control+k")
    expect(desk.locator("input[name=q]")).to_be_focused()
    desk.context.grant_permissions(["clipboard-read", "clipboard-write"])
    desk.goto("/member?id=m-1")
    desk.get_by_role("button", name="Copy m-1").click()
    expect(desk.get_by_text("Copied")).to_be_visible()
    assert desk.evaluate("navigator.clipboard.readText()") == "m-1"


def test_another_studio_s_door_is_asked_at_once(desk: Page) -> None:
    """When it is chosen; and the page stays as it is."""
    desk.goto("/member?id=m-1&studio=s1")
    expect(desk.locator("#door")).to_contain_text("1 of 8 visits here this month")
    desk.select_option("select[name=studio] >> nth=0", "s2")
    expect(desk.locator("#door")).to_contain_text("0 of 8 visits here this month")


def test_suspending_and_reactivating(desk: Page, gate: Gate) -> None:
    """By two clicks, so that nobody does it by mistake; the door follows."""
    desk.goto("/member?id=m-2")
    expect(desk.get_by_role("button", name="Suspend this member")).to_be_hidden()
    desk.get_by_text("Suspend…").click()
    desk.get_by_role("button", name="Suspend this member").click()
    expect(desk.get_by_role("status").first).to_contain_text("The member is suspended")
    assert gate.checkin("m-2").json()["reason"] == "membership_suspended"
    desk.get_by_role("button", name="Reactivate").click()
    expect(desk.locator(".answer")).to_contain_text("Allowed")


def test_a_visit_added_and_taken_back(desk: Page, gate: Gate) -> None:
    """With a reason; afterwards it does not count."""
    desk.goto("/member?id=m-3&studio=s1")
    desk.get_by_text("Add a visit…").click()
    desk.fill("input[name=at]", desk.evaluate("new Date(Date.now() - 864e5).toISOString().slice(0, 16)"))
    desk.get_by_role("button", name="Add this visit").click()
    expect(desk.get_by_role("status").first).to_contain_text("The visit is added")
    desk.get_by_text("Take back…").click()
    desk.get_by_label("Why").fill("the turnstile stuck")
    desk.get_by_role("button", name="Take this visit back").click()
    expect(desk.get_by_role("status").first).to_contain_text("taken back")
    expect(desk.locator("section", has_text="Last visits").last).to_contain_text("reversed")
    expect(desk.locator("body")).to_contain_text("the turnstile stuck")


def test_light_and_dark_can_be_chosen(desk: Page) -> None:
    """Against the device's own choice, and back again."""
    size(desk, DESK, "light")
    desk.goto("/plans")
    light = desk.evaluate("getComputedStyle(document.body).backgroundColor")
    for theme, same in (("Dark", False), ("Light", True), ("Auto", True)):
        desk.locator(".menu summary").click()
        desk.get_by_role("button", name=theme).click()
        desk.wait_for_load_state()
        assert (desk.evaluate("getComputedStyle(document.body).backgroundColor") == light) is same, theme


def test_the_menu_closes_as_menus_do(desk: Page) -> None:
    """By a click elsewhere, and by Escape, which leads back to where it was opened."""
    desk.goto("/plans")
    menu, name = desk.locator(".menu > div"), desk.locator(".menu summary")
    name.click()
    expect(menu).to_be_visible()
    desk.get_by_role("heading", level=1).click()
    expect(menu).to_be_hidden()
    name.press("Enter")
    expect(menu).to_be_visible()
    desk.keyboard.press("Tab")
    desk.keyboard.press("Escape")
    expect(menu).to_be_hidden()
    expect(name).to_be_focused()


def test_a_link_in_a_message_opens_the_page(desk: Page, gate: Gate) -> None:
    """For whoever is signed in, although it comes from another site."""
    other = desk.context.new_page()
    other.set_content(f'<a href="{gate.admin_url}/member?id=m-1">Anna</a>')
    other.click("a")
    expect(other.get_by_role("heading", level=1)).to_contain_text("Anna Muster")
    other.close()


@pytest.fixture
def passing(browser: Browser, gate: Gate) -> Iterator[tuple[Page, str]]:
    """A page whose session will end while it is open, and its token."""
    token = gate.token(Role.VIEWER)
    page = browser.new_page(base_url=gate.admin_url)
    page.goto("/")
    page.fill("input[name=token]", token)
    page.press("input[name=token]", "Enter")
    expect(page.locator(".figures")).to_be_visible()
    yield page, token
    page.close()


def revoke(gate: Gate, token: str) -> None:
    """End a token, and its sessions with it."""
    with gate.database.write() as connection:
        tokens.revoke(connection, fingerprint(sha256_of(token)))


def test_a_live_page_leaves_with_its_session(passing: tuple[Page, str], gate: Gate) -> None:
    """For the entrance, by itself."""
    page, token = passing
    expect(page.locator(".nodes")).to_contain_text("This server")
    revoke(gate, token)
    expect(page).to_have_url(re.compile("/login$"))
    expect(page.get_by_label("Token")).to_be_visible()


def test_whose_session_has_ended_comes_back_to_the_page(passing: tuple[Page, str], gate: Gate) -> None:
    """What is typed gets no entrance into the list of results, but the whole page one."""
    page, token = passing
    page.goto("/members?q=anna")
    revoke(gate, token)
    page.get_by_label("Name, id or customer number").press_sequentially("x")
    expect(page).to_have_url(re.compile(r"/login\?to="))
    page.fill("input[name=token]", gate.token(Role.VIEWER))
    page.press("input[name=token]", "Enter")
    expect(page).to_have_url(re.compile(r"/members\?q=anna$"))


def test_the_tab_says_that_something_is_wrong(passing: tuple[Page, str]) -> None:
    """Here that the page hears nothing from its server; and no longer, once it does."""
    page, _ = passing
    page.route("**/now/stream", lambda route: route.abort())
    page.goto("/")
    expect(page).to_have_title("⚠ Now · guestgate")
    expect(page.locator("#cut")).to_be_visible()
    page.unroute("**/now/stream")
    expect(page).to_have_title("Now · guestgate", timeout=30_000)
    expect(page.locator("#cut")).to_be_hidden()


def test_an_error_is_no_barrier(passing: tuple[Page, str]) -> None:
    """And leads back."""
    page, _ = passing
    for of, theme in ((DESK, "light"), (PHONE, "dark")):
        size(page, of, theme)
        page.goto("/plans")
        page.evaluate("location.href = '/member?id=nobody'")
        expect(page.get_by_role("alert")).to_contain_text("nobody")
        assert barriers(page) == [] and width(page) <= of[0]
        page.get_by_text("Back to the page before").click()
        expect(page).to_have_url(re.compile("/plans$"))


def test_signing_out(browser: Browser, gate: Gate) -> None:
    """And nothing of the pages is left behind."""
    page = browser.new_page(base_url=gate.admin_url)
    page.goto("/")
    page.fill("input[name=token]", gate.token(Role.VIEWER))
    page.press("input[name=token]", "Enter")
    page.locator(".menu summary").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(re.compile("/login$"))
    page.go_back()
    wait_for(lambda: "/login" in page.url, "a page was kept")
    page.close()
