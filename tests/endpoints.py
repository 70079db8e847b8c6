"""Endpoints that are not guestgate: one that keeps the contract, and a family that breaks it.

Each is a real TLS server. What a broken one breaks is one method or option, so that its own clause can be named.
"""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from authority import Issued

from guestgate.contract import MAX_BODY_BYTES, BadBodyError, parse_checkin, parse_validation
from guestgate.probe.target import Card

PATH, MEMBER_PATH = "/checkin-validation", "/member-validation"
KEY = 'Zq8"vK2/mT+5&wX9'  # looks different in JSON, HTML and a URL
ALLOWED, DENIED = Card("m:1042", 293123213), Card("m:1043", 293123214)
MEMBER = ALLOWED.aggregator_id
DATA = {"aggregatorId": MEMBER, "firstName": "Zoë", "lastName": "Nowak", "dateOfBirth": "1952-05-04", "country": "DE"}


class Call(BaseHTTPRequestHandler):
    """One call, handed to the endpoint whole."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def handle_one_call(self) -> None:
        """Read the body and let the endpoint answer."""
        self.content = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.endpoint.answer(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one_call  # noqa: N815

    def reply(self, status: int, content: bytes = b"{}", **headers: str) -> None:
        """Write a whole answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content) * (status != 204)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self._headers_buffer.append(b"\r\n")  # type: ignore[attr-defined]
        if self.command != "HEAD" and status != 204:
            self._headers_buffer.append(content)  # type: ignore[attr-defined]
        self.flush_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Endpoint:
    """Keeps the contract."""

    def answer(self, call: Call) -> None:
        """Answer one call."""
        status = self.status(call)
        told = call.path == MEMBER_PATH and status == 200 and call.command == "POST"
        call.reply(status, json.dumps(self.data() if told else {"status": status}).encode())

    def status(self, call: Call) -> int:
        """What the call is answered with."""
        if call.path not in (PATH, MEMBER_PATH):
            return 404
        if not self.takes_method(call.command):
            return 405
        refused = self.refuses_key(call.headers.get("x-api-key"))
        if refused:
            return refused
        if not self.takes_content_type(call.headers.get("content-type", "")):
            return 415
        judges = self.judges if call.path == PATH else self.judges_question
        return judges(call.content) if len(call.content) <= MAX_BODY_BYTES else 413

    def takes_method(self, method: str) -> bool:
        """Which methods are served."""
        return method == "POST"

    def refuses_key(self, key: str | None) -> int | None:
        """The status for a key that is not the one."""
        return None if key == KEY else 401

    def takes_content_type(self, content_type: str) -> bool:
        """Which content types are read."""
        return content_type.partition(";")[0] == "application/json"

    def judges(self, content: bytes) -> int:
        """The status for a body."""
        try:
            aggregator_id, customer_id = self.reads(content)
        except BadBodyError:
            return 400
        return self.decides(aggregator_id, customer_id)

    def reads(self, content: bytes) -> tuple[Any, Any]:
        """What the body says; BadBodyError where it is no check-in."""
        return parse_checkin(content)

    def decides(self, aggregator_id: Any, customer_id: Any) -> int:
        """Who may enter."""
        return 200 if aggregator_id == ALLOWED.aggregator_id else 403

    def judges_question(self, content: bytes) -> int:
        """The status for a member validation's body."""
        try:
            return 200 if parse_validation(content) == MEMBER else 404
        except BadBodyError:
            return 400

    def data(self) -> Any:
        """What is known of the member."""
        return DATA


class ServesGet(Endpoint):
    """A check-in by GET as well."""

    def takes_method(self, method: str) -> bool:
        return method in ("POST", "GET")


class FailsOnPut(Endpoint):
    """Another method is an exception."""

    def status(self, call: Call) -> int:
        return 500 if call.command == "PUT" else super().status(call)


@dataclass
class TakesKey(Endpoint):
    """Lets a key pass that is none; or refuses it with another status."""

    key: str | None
    status_for_it: int | None = None

    def refuses_key(self, key: str | None) -> int | None:
        return self.status_for_it if key == self.key else super().refuses_key(key)


class ComparesKeysLoosely(Endpoint):
    """Without regard to capitals."""

    def refuses_key(self, key: str | None) -> int | None:
        return None if (key or "").lower() == KEY.lower() else 401


class ComparesAPrefix(Endpoint):
    """Of some characters only."""

    def refuses_key(self, key: str | None) -> int | None:
        return None if (key or "").startswith(KEY[:10]) else 401


@dataclass
class Decides(Endpoint):
    """Answers each card with a status of our choice."""

    for_allowed: int = 200
    for_denied: int = 403

    def decides(self, aggregator_id: Any, customer_id: Any) -> int:
        return self.for_allowed if aggregator_id == ALLOWED.aggregator_id else self.for_denied


@dataclass
class JudgesBadly(Endpoint):
    """A body that is no JSON, or has a field too few, or of the wrong type, gets another status than it should."""

    not_json: int = 400
    field_missing: int = 400
    wrong_type: int = 400

    def judges(self, content: bytes) -> int:
        try:
            given = json.loads(content)
        except ValueError:
            return self.not_json
        if isinstance(given, dict) and not {"aggregatorId", "customerId"} <= set(given):
            return self.field_missing
        if not isinstance(given, dict):
            return self.wrong_type
        if not isinstance(given["aggregatorId"], str) or type(given["customerId"]) is not int:
            return self.wrong_type
        return super().judges(content)


class IsLenient(Endpoint):
    """Takes what nobody means; only what the contract names is refused."""

    def takes_content_type(self, content_type: str) -> bool:
        return True

    def reads(self, content: bytes) -> tuple[Any, Any]:
        try:
            given = json.loads(content.decode("utf-8", "replace"))
            aggregator_id, customer_id = str(given["aggregatorId"] or ""), int(given["customerId"])
        except (ValueError, TypeError, KeyError, LookupError):
            raise BadBodyError from None
        if not isinstance(given["aggregatorId"], str):
            raise BadBodyError
        return aggregator_id, customer_id


class KnowsAllProperties(Endpoint):
    """Refuses a body with a property more."""

    def reads(self, content: bytes) -> tuple[Any, Any]:
        read = super().reads(content)
        if len(json.loads(content)) > 2:
            raise BadBodyError
        return read


@dataclass
class HasSmallIntegers(Endpoint):
    """A database column that is too narrow."""

    bits: int
    status_for_it: int

    def decides(self, aggregator_id: Any, customer_id: Any) -> int:
        return self.status_for_it if customer_id >= 1 << self.bits else super().decides(aggregator_id, customer_id)


class WantsBareJson(Endpoint):
    """No charset beside it."""

    def takes_content_type(self, content_type: str) -> bool:
        return content_type == "application/json"


class WantsSmallLetters(Endpoint):
    """Of the charset."""

    def takes_content_type(self, content_type: str) -> bool:
        return content_type in ("application/json", "application/json; charset=utf-8")


class HangsUp(Endpoint):
    """After every answer."""

    def answer(self, call: Call) -> None:
        call.close_connection = True
        call.reply(self.status(call), Connection="close")


class HangsUpOnMistakes(Endpoint):
    """Silently, after each answer to a call that was no check-in."""

    def answer(self, call: Call) -> None:
        status = self.status(call)
        call.close_connection = status not in (200, 403)
        call.reply(status)


class HangsUpSilently(HangsUp):
    """Without a word of it."""

    def answer(self, call: Call) -> None:
        call.close_connection = True
        call.reply(self.status(call))


class ThinksLongOfDenials(Endpoint):
    """So long that nobody waits."""

    def decides(self, aggregator_id: Any, customer_id: Any) -> int:
        status = super().decides(aggregator_id, customer_id)
        if status == 403:
            time.sleep(0.8)
        return status


class HangsUpOnDenials(Endpoint):
    """Without an answer."""

    def answer(self, call: Call) -> None:
        if self.status(call) == 403:
            call.close_connection = True
        else:
            super().answer(call)


@dataclass
class ThinksOfOneAtATime(Endpoint):
    """Everybody else waits."""

    lock: threading.Lock = field(default_factory=threading.Lock)

    def decides(self, aggregator_id: Any, customer_id: Any) -> int:
        with self.lock:
            time.sleep(0.03)
        return super().decides(aggregator_id, customer_id)


@dataclass
class TakesFourAtATime(Endpoint):
    """And tells everybody else to come again."""

    places: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(4))

    def decides(self, aggregator_id: Any, customer_id: Any) -> int:
        if not self.places.acquire(blocking=False):
            return 429
        time.sleep(0.02)
        self.places.release()
        return super().decides(aggregator_id, customer_id)


class LeadsElsewhere(Endpoint):
    """To the same path with a slash, as some frameworks do."""

    def answer(self, call: Call) -> None:
        call.reply(308, Location=f"{PATH}/")


class LeadsStrangersToALogin(Endpoint):
    """A call without a valid key is a person, surely."""

    def answer(self, call: Call) -> None:
        if self.status(call) == 401:
            call.reply(302, Location="/login")
        else:
            super().answer(call)


class LeadsTheDeniedElsewhere(Endpoint):
    """To where memberships are sold."""

    def answer(self, call: Call) -> None:
        if self.status(call) == 403:
            call.reply(303, Location="https://shop.example.com/")
        else:
            super().answer(call)


@dataclass
class Repeats(Endpoint):
    """The key, in the body or a header of an answer with this status."""

    when: int
    spelled: Any = str
    header: bool = False

    def answer(self, call: Call) -> None:
        status = self.status(call)
        key = self.spelled(call.headers.get("x-api-key") or "") if status == self.when else ""
        if self.header:
            call.reply(status, X_Debug=key)
        else:
            call.reply(status, f"the key {key} was sent".encode())


class TellsTheRightKey(Endpoint):
    """To who comes with a wrong one."""

    def answer(self, call: Call) -> None:
        status = self.status(call)
        call.reply(status, f"expected {KEY}".encode() if status == 401 else b"{}")


@dataclass
class AnswersMembers(Endpoint):
    """Check-ins well; a member validation with the status that a function makes of it, None for the right one."""

    differs: Callable[[Call], int | None]

    def status(self, call: Call) -> int:
        differing = self.differs(call) if call.path == MEMBER_PATH else None
        return super().status(call) if differing is None else differing


@dataclass
class TellsOfMembers(Endpoint):
    """Something else than it should."""

    told: Any

    def data(self) -> Any:
        return self.told


class ThinksLongOfMembers(Endpoint):
    """So long that nobody waits."""

    def judges_question(self, content: bytes) -> int:
        status = super().judges_question(content)
        if status == 200:
            time.sleep(0.8)
        return status


class HangsUpOnMembers(Endpoint):
    """Without an answer."""

    def answer(self, call: Call) -> None:
        if call.path == MEMBER_PATH:
            call.close_connection = True
        else:
            super().answer(call)


class LeadsMembersElsewhere(Endpoint):
    """To the same path with a slash."""

    def answer(self, call: Call) -> None:
        if call.path == MEMBER_PATH:
            call.reply(308, Location=f"{MEMBER_PATH}/")
        else:
            super().answer(call)


class RepeatsToMembers(Endpoint):
    """The key, where it refuses a question."""

    def answer(self, call: Call) -> None:
        status = self.status(call)
        if call.path == MEMBER_PATH and status == 401:
            call.reply(status, f"the key {call.headers.get('x-api-key')} was sent".encode())
        else:
            super().answer(call)


class Hostile(Endpoint):
    """Answers with something that is no answer; below in many kinds."""

    def answer(self, call: Call) -> None:
        call.close_connection = True
        with suppress(OSError):
            self.attacks(call.connection)

    def attacks(self, stream: socket.socket) -> None:
        """Write what should bring a caller down."""
        raise NotImplementedError


class NeverAnswers(Hostile):
    def attacks(self, stream: socket.socket) -> None:
        stream.recv(1)  # until the caller has had enough


class NeverEnds(Hostile):
    def attacks(self, stream: socket.socket) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            stream.sendall(b"a" * 16384)


class NeverEndsInChunks(Hostile):
    def attacks(self, stream: socket.socket) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            stream.sendall(b"1\r\na\r\n" * 1000)


class Drips(Hostile):
    def attacks(self, stream: socket.socket) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            stream.sendall(b"a")
            time.sleep(0.05)


class DripsHeaders(Hostile):
    def attacks(self, stream: socket.socket) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while True:
            stream.sendall(b"a")
            time.sleep(0.05)


class SendsHugeHeaders(Hostile):
    def attacks(self, stream: socket.socket) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            stream.sendall(b"X-More: " + b"a" * 8000 + b"\r\n")


class AlwaysContinues(Hostile):
    def attacks(self, stream: socket.socket) -> None:
        while True:
            stream.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


class Resets(Hostile):
    def attacks(self, stream: socket.socket) -> None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        socket.socket(fileno=stream.detach()).close()


class BreaksOff(Hostile):
    def attacks(self, stream: socket.socket) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")


class Babbles(Hostile):
    def attacks(self, stream: socket.socket) -> None:
        stream.sendall(b"\xff\x00 \x1b[31mwelcome\r\n\r\n" + KEY.encode() + b"\r\n")


class ClaimsALength(Hostile):
    def attacks(self, stream: socket.socket) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\nContent-Length: 7\r\n\r\n")


class InventsAStatus(Hostile):
    def attacks(self, stream: socket.socket) -> None:
        stream.sendall(b"HTTP/1.1 999 \xf0\x9f\x9a\xaa\r\nContent-Length: 0\r\nLocation: \xff\xfe\r\n\r\n")


class Listener(socketserver.ThreadingTCPServer):
    """A TLS server for one endpoint. ``plain`` serves plain HTTP too where a caller begins with it."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128
    address_family = socket.AF_INET

    def __init__(
        self, endpoint: Endpoint, tls: ssl.SSLContext | None, *, plain: bool, address: tuple[str, int]
    ) -> None:
        """Bind; without `tls` nothing but plain HTTP is served."""
        self.endpoint, self.tls, self.plain = endpoint, tls, plain
        super().__init__(address, Call)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """One connection, in a thread of its own."""
        request.settimeout(20)
        with suppress(OSError):
            if not self.plain or request.recv(1, socket.MSG_PEEK) == b"\x16":
                assert self.tls is not None
                request = self.tls.wrap_socket(request, server_side=True)
            try:
                super().finish_request(request, client_address)
            finally:
                request.close()


def context(certificate: Issued) -> ssl.SSLContext:
    """TLS 1.2 and 1.3."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.load_cert_chain(certificate.chain, certificate.key)
    return tls


@contextmanager
def serving(
    endpoint: Endpoint,
    tls: ssl.SSLContext | None,
    *,
    plain: bool = False,
    address: tuple[str, int] = ("127.0.0.1", 0),
) -> Iterator[str]:
    """Serve an endpoint, on any free port; yields its URL."""
    with Listener(endpoint, tls, plain=plain, address=address) as listener:
        thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"https://localhost:{listener.server_address[1]}{PATH}"
        finally:
            listener.shutdown()
            thread.join()
