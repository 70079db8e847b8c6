"""The pages that read the record: now, one decision, studios, plans."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from desk import Desk
from gate import Gate, wait_for

from guestgate import sessions, studios, tokens
from guestgate.admin.app import create_app
from guestgate.admin.pages.live import Live
from guestgate.database import Database
from guestgate.fingerprints import fingerprint, sha256_of
from guestgate.settings import Settings
from guestgate.tokens import Role

PLANS = """\
[plans.once]
name = "Once a day"
limits = [{ max = 1, per = "day" }]

[plans.early]
name = "<i>Early"
studio_tags = ["classic"]
hours = [{ days = ["mon", "tue", "wed"], from = "06:00", until = "24:00" }]
"""


@pytest.fixture(scope="module")
def gate(new_gate: Callable[[], Gate]) -> Gate:
    """Three studios, of which one is paused and one has no key."""
    gate = new_gate()
    for studio in ("s1", "a/b ?&é", "closed"):
        gate.studio(studio)
    with gate.database.write() as connection:
        studios.add(connection, "keyless", name="<b>Keyless", timezone="UTC", tags=frozenset(), test=True)
        studios.change(connection, "closed", active=False)
    gate.plans(PLANS)
    gate.members("m-1,once", "m-2,once", "m-3,once", "e-1,early")
    gate.start()
    return gate


@pytest.fixture(scope="module")
def viewer(gate: Gate) -> Iterator[Desk]:
    """Who may look."""
    with Desk(gate, Role.VIEWER) as desk:
        yield desk


def text(page: str) -> str:
    """What of a page is read, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def test_everything_about_one_answer(gate: Gate, viewer: Desk) -> None:
    """The call, the key, the answer and its milliseconds, what became of the visit, the rules, what came next."""
    first = gate.checkin("m-1", customer=77).json()["decisionId"]
    second = gate.checkin("m-1").json()["decisionId"]
    with gate.office(name="anna") as client:
        wait_for(
            lambda: client.get(f"/decisions/{first}").json()["answer_ms"] is not None, "the answer is not on record"
        )
        client.post(f"/visits/{first}/reverse", json={"why": "left <at> once"})
    page = text(viewer.page(f"/decision/{first}"))
    assert "Allowed Every rule is kept." in page
    assert f"Key {fingerprint(sha256_of(gate.keys['s1']))} valid now" in page
    assert "aggregatorId m-1 customerId 77 Reason ok Answered with 200," in page and "ms after the call came" in page
    assert "It made a visit: reversed , not payable" in page
    assert "by token:anna: left <at> once" in page
    assert "The rules that day: once, version 1 Open to every studio. At most 1 visit a day in the network." in page
    assert f'href="/decision/{second}"' in viewer.page(f"/decision/{first}")
    page = viewer.page(f"/decision/{second}")
    assert "It went on with the visit of" in text(page) and f'href="/decision/{first}"' in page


def test_a_denial_of_nobody_known(gate: Gate, viewer: Desk) -> None:
    """There is no member, no plan and no visit to speak of."""
    stranger = gate.checkin("<u>stranger").json()["decisionId"]
    page = viewer.page(f"/decision/{stranger}")
    assert "Denied Nobody has this id. Asked" in text(page) and "It made no visit." in text(page)
    assert "Member nobody known aggregatorId <u>stranger" in text(page) and "<u>" not in page
    assert viewer.get("/decision/nothing").status_code == 404


def test_studios_that_somebody_should_look_at_come_first(gate: Gate, viewer: Desk) -> None:
    """Each with its state, its calls and when it was last heard of; one that is paused has no troubles."""
    gate.checkin("m-2", studio_id="a/b ?&é")
    gate.checkin("nobody", studio_id="a/b ?&é")
    wait_for(lambda: "2 check-ins by hour" in viewer.page("/studios"), "the calls do not appear")
    page = viewer.page("/studios")
    read = text(page)
    assert "1 to look at" in read and read.index("<b>Keyless") < read.index("a/b ?&é") and "<b>Keyless" not in page
    assert "No key in force: the platform cannot ask active test" in read
    assert "closed paused" in read and "a/b ?&é active 1 allowed 1 denied" in read
    assert text(viewer.page("/studios", q="KEYLESS")).count("active") == 1
    assert "No studio has “x<y”" in text(viewer.page("/studios", q="x<y"))


def test_one_studio(gate: Gate, viewer: Desk) -> None:
    """Its week, its last decisions, and its keys by fingerprint with what they are good for."""
    gate.checkin("m-3", studio_id="a/b ?&é")
    page = viewer.page("/studio", id="a/b ?&é")
    found = re.search(r'data-values="(.*?)"', page)
    assert found is not None
    chart = json.loads(html.unescape(found[1]))
    assert {len(chart[name]) for name in ("at", "allowed", "denied", "undecided")} == {168}
    assert sum(chart["allowed"]) >= 1 and chart["timezone"] == "Europe/Berlin"
    assert f"checkin {fingerprint(sha256_of(gate.keys['a/b ?&é']))} valid last used" in text(page)
    assert gate.keys["a/b ?&é"] not in page and 'href="/member?id=m-3"' in page
    assert viewer.get("/studio", params={"id": "nowhere"}).status_code == 404


def test_plans_in_words(viewer: Desk) -> None:
    """All that are in force, with who is on them."""
    page = viewer.page("/plans")
    read = text(page)
    assert "<i>Early early · version 1 Open to studios tagged classic. Mon to Wed from 06:00 until 24:00." in read
    assert "As many visits as they like." in read and "At most 1 visit a day in the network." in read
    assert "1 member " in read and "3 members" in read and "<i>" not in page
    assert 'href="/members?plan=once"' in page


@contextmanager
def watching(desk: Desk) -> Iterator[Callable[[], tuple[str, str]]]:
    """The start page's events: a function that waits for the next one's name and data."""
    with desk.stream("GET", "/now/stream") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()

        def following() -> tuple[str, str]:
            name, data = "", []
            for line in lines:
                if not line and name:
                    return name, "\n".join(data)
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    data.append(value)
            raise AssertionError("the stream has ended")

        yield following


def test_the_start_page_is_whole_by_itself(gate: Gate, viewer: Desk) -> None:
    """Without scripts it shows how things are, and after that the stream says what changes."""
    decision = gate.checkin("m-2").json()["decisionId"]
    wait_for(lambda: decision in viewer.page("/"), "the check-in does not appear")
    page = text(viewer.page("/"))
    assert "answered in time, of" in page and "Door ok Ledger ok Database ok" in page


def took(rows: str, decision: str) -> bool:
    """Whether a decision is among these rows of a table, with how long its answer took."""
    row = next((row for row in rows.split("<tr") if decision in row), "")
    return re.search(r"\d ms", row) is not None


def test_check_ins_appear_as_they_happen(gate: Gate, viewer: Desk) -> None:
    """On every page that is open, with how they were answered."""
    with watching(viewer) as one, watching(viewer) as other:
        begun = [one() for _ in range(6)]
        assert {name for name, _ in begun} == {"figures", "banner", "checkins", "charts", "health", "nodes"}
        decision = gate.checkin("m-3").json()["decisionId"]
        for following in (one, other):
            name, data = following()
            while not (name == "checkins" and took(data, decision)):
                name, data = following()
        name, data = one()
        while name != "charts":
            name, data = one()
        values = re.findall(r'value="(.*?)"', data)
        calls, latency = (json.loads(html.unescape(value)) for value in values)
        assert len(calls["at"]) == len(latency["slowest"]) == 60
        assert sum(calls["allowed"]) + sum(calls["denied"]) >= 1 and max(filter(None, latency["slowest"])) > 0


def test_a_stream_ends_with_its_session(gate: Gate, viewer: Desk) -> None:
    """Whoever's token is revoked sees no more, and their page is told to leave; others go on."""
    token = gate.token(Role.VIEWER)
    with Desk(gate, token=token) as desk, watching(desk) as following, watching(viewer) as other:
        following()
        with gate.database.write() as connection:
            tokens.revoke(connection, fingerprint(sha256_of(token)))
        with pytest.raises(AssertionError, match="has ended"):
            while True:
                name, data = following()
        assert (name, data) == ("over", "")
        answer = desk.get("/now/stream", headers={"accept": "text/event-stream"})  # as the page does that comes late
        assert answer.text == "event: over\ndata: \n\n"
        decision = gate.checkin("m-4").json()["decisionId"]
        while decision not in other()[1]:
            pass


def test_many_pages_ask_the_database_no_more_than_one(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for what they show nor whether they may: each of them would on a connection of its own."""
    counts = Counter[str]()

    def count(owner: type, name: str) -> None:
        plain = getattr(owner, name)

        def counted(self: Any) -> Any:
            counts[name] += 1
            return plain(self)

        monkeypatch.setattr(owner, name, counted)

    database = Database.at(gate.database_url, pooled=True)
    live = create_app(database, Settings(), lambda with_figures: None).state.live
    several = [gate.token(Role.VIEWER) for _ in range(10)]
    with database.write() as connection:
        begun = [sessions.begin(connection, token) for token in several]
    for owner, name in ((type(database), "read"), (Live, "_look_in_thread"), (Live, "_ask_this_server")):
        count(owner, name)

    async def follow(session: str | None) -> None:
        async for _ in live.messages(session):
            pass

    async def watch() -> None:
        pages = [asyncio.create_task(follow(session)) for session in begun]
        while counts["_look_in_thread"] < 6:
            await asyncio.sleep(0.05)
        assert not any(page.done() for page in pages)
        for page in pages:
            page.cancel()

    asyncio.run(watch())
    # Whether a file can be read is asked with how this server is.
    assert counts["read"] <= counts["_look_in_thread"] + counts["_ask_this_server"]


@pytest.mark.alone
def test_the_server_stops_in_time_with_pages_open(gate: Gate, viewer: Desk) -> None:
    """A live page keeps nobody."""
    with watching(viewer) as following:
        following()
        assert gate.stop() == 0
    gate.start()
