"""Calls that break on their way, and endpoints that answer oddly."""

from __future__ import annotations

import asyncio
import threading
from socket import create_server, socket
from typing import Any

import pytest
from gate import Gate, wait_for
from terminal import Terminal

from guestgate.sandbox.door import Desk, Door, Fault, Tap

# Nothing here differs from one database to another.
pytestmark = pytest.mark.embedded

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Plain:
    """An endpoint over plain HTTP that says the same to everybody and keeps what it was sent."""

    def __init__(self, answer: bytes, *, close: bool = False) -> None:
        self._answer, self._close = answer, close
        self._listener = create_server(("localhost", 0))
        self.url = f"http://localhost:{self._listener.getsockname()[1]}/checkin-validation"
        self.heard: list[bytes] = []
        self.connections = 0

    def __enter__(self) -> Plain:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(stream,), daemon=True).start()

    def _talk(self, stream: socket) -> None:
        with stream:
            try:
                while data := stream.recv(65536):
                    self.heard.append(data)
                    if data.endswith(b"}"):
                        stream.sendall(self._answer)
                        if self._close:
                            return
            except ConnectionError:
                pass


def tapped(url: str, *faults: Fault, times: int = 1, key: str = "k", ca: Any = None) -> list[Tap]:
    """Taps one after the other at one door."""

    async def go() -> list[Tap]:
        async with Door(url, key, ca) as door:
            seen = []
            for fault in faults or (Fault(),) * times:
                seen.append(await door.tap("m-1", 7, fault))
                await asyncio.sleep(0.02)  # a connection that was closed over there is known to be by now
            return seen

    return asyncio.run(go())


def test_the_call_is_the_contract_s_to_the_letter() -> None:
    """One POST with the key, the content type with its charset, and the two fields; one connection for all."""
    with Plain(OK) as endpoint:
        seen = tapped(endpoint.url, times=3)
        assert [tap.desk for tap in seen] == [Desk.OPEN] * 3 and endpoint.connections == 1
        head, _, body = endpoint.heard[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /checkin-validation HTTP/1.1"
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    assert headers["x-api-key"] == "k" and headers["content-type"] == "application/json; charset=utf-8"
    assert headers["host"] == endpoint.url.split("/")[2] and int(headers["content-length"]) == len(body)
    assert body == b'{"aggregatorId": "m-1", "customerId": 7}'


@pytest.mark.parametrize(
    ("answer", "desk", "note"),
    [
        (b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", Desk.NOT_ALLOWED, None),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", Desk.NOT_FOUND, None),
        (b"HTTP/1.1 302 Go\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", Desk.ERROR, None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", Desk.OPEN, None),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, Desk.OPEN, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n[1,2,3]", Desk.OPEN, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Desk.OPEN, None),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Desk.ERROR, "not HTTP"),
    ],
)
def test_what_the_desk_sees_of_an_answer(answer: bytes, desk: Desk, note: str | None) -> None:
    """The status says it; no redirect is followed, and no body is needed."""
    with Plain(answer) as endpoint:
        (seen,) = tapped(endpoint.url)
    assert seen.desk is desk and (note is None or note in (seen.note or ""))


@pytest.mark.parametrize("host", ["a..b", ".b", "x" * 64 + ".example"])
def test_a_name_that_cannot_be_is_a_communication_error(host: str) -> None:
    """As one that is not there."""
    (seen,) = tapped(f"https://{host}/checkin-validation")
    assert (seen.desk, seen.status) == (Desk.ERROR, None) and "no answer" in (seen.note or "")


def test_an_address_in_any_script_is_called() -> None:
    """Its path as it goes over the wire, in ASCII."""
    with Plain(OK) as endpoint:
        (seen,) = tapped(endpoint.url.replace("checkin", "größe") + "?ü=1")
    assert seen.status == 200
    assert endpoint.heard[0].startswith(b"POST /gr%C3%B6%C3%9Fe-validation?%C3%BC=1 HTTP/1.1\r\n")


def test_words_that_nobody_can_write_are_dropped() -> None:
    """Half a character can be read from JSON, but neither logged nor shown; the status is all the desk needs."""
    body = b'{"reason": "\\ud800", "decision": "allowed"}'
    with Plain(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as endpoint:
        (seen,) = tapped(endpoint.url)
    assert (seen.desk, seen.reason, seen.decision) == (Desk.OPEN, None, None)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"])
def test_half_an_answer_is_none(answer: bytes) -> None:
    """The door stays shut, whatever the first half said."""
    with Plain(answer, close=True) as endpoint:
        (seen,) = tapped(endpoint.url)
    assert (seen.desk, seen.status) == (Desk.ERROR, None) and "no answer" in (seen.note or "")


def test_an_endpoint_that_closes_is_called_on_a_new_connection() -> None:
    """With a word or without one."""
    with Plain(OK, close=True) as silent:
        assert [tap.status for tap in tapped(silent.url, times=3)] == [200] * 3 and silent.connections == 3
    with Plain(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) as polite:
        assert [tap.status for tap in tapped(polite.url, times=3)] == [200] * 3 and polite.connections == 3


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95, 1.0])
def test_a_connection_that_is_cut_never_sent_all(share: float) -> None:
    """At no share of the request is its last byte sent, and the next call takes another connection."""
    with Plain(OK) as endpoint:
        cut, whole = tapped(endpoint.url, Fault(cut=share), Fault())
        assert (cut.desk, cut.status, whole.status) == (Desk.ERROR, None, 200)
        assert not any(heard.endswith(b"}") for heard in endpoint.heard[:-1]) and endpoint.connections == 2


def test_a_call_that_is_given_up_early() -> None:
    """There would have been time; the connection is closed."""
    with Plain(b"") as endpoint:
        (seen,) = tapped(endpoint.url, Fault(cancel_s=0.05))
    assert (seen.desk, seen.status) == (Desk.ERROR, None) and "within 50 ms" in (seen.note or "")
    assert seen.ms < 700


def test_a_cut_call_leaves_nothing_on_record(served: Gate) -> None:
    """Half a check-in is none; a whole one on the same door is."""
    shares = [Fault(cut=share / 10) for share in range(11)]
    seen = tapped(served.url, *shares, Fault(), key=served.keys["s1"], ca=served.cert)
    assert [tap.status for tap in seen] == [None] * 11 + [403]
    wait_for(lambda: len(served.json("decisions")) >= 1, "nothing was recorded", served)
    assert [row["aggregator_id"] for row in served.json("decisions")] == ["m-1"]
    assert seen[-1].decision == "denied" and seen[-1].decision_id == served.json("decisions")[0]["id"]


def test_an_endpoint_does_not_steer_the_terminal(terminal: Terminal) -> None:
    """What it gives as its reason is shown, and does nothing."""
    body = b'{"reason": "\\u001b]0;owned\\u0007[bold]"}'
    with Plain(b"HTTP/1.1 403 No\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as endpoint:
        arguments = ("sandbox", "tap", "m", "--studio", "s1", "--url", endpoint.url, "--key-stdin")
        shown = terminal.run(*arguments, input="k").out
    assert "owned" in shown and "[bold]" in shown and not any(character in shown for character in "\x1b\x07")
