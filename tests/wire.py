"""HTTP by hand: requests as bytes, over a connection that a test holds in its own hands."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from types import TracebackType
from typing import Any, Self

from gate import PATH, Gate

JSON = "Content-Type: application/json; charset=utf-8"


@dataclass(frozen=True)
class Reply:
    """A response as it came over the wire."""

    status: int
    headers: Message
    body: bytes

    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


class Wire:
    """One connection to a gate's public listener; over TLS unless told otherwise."""

    def __init__(self, gate: Gate, *, context: ssl.SSLContext | None = None, timeout: float = 10) -> None:
        """Connect, and shake hands."""
        raw = socket.create_connection(("localhost", gate.port), timeout=timeout)
        try:
            self.socket = (context or gate.tls()).wrap_socket(raw, server_hostname="localhost")
        except BaseException:
            raw.close()
            raise
        self._stream = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        """Nothing more to do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Hang up."""
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._stream.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def reply(self, method: str = "POST") -> Reply | None:
        """The next response; None where the server has closed the connection instead."""
        try:
            line = self._stream.readline()
        except (ConnectionError, ssl.SSLEOFError):
            return None
        if not line:
            return None
        status = int(line.split()[1])
        headers = http.client.parse_headers(self._stream)
        has_body = method != "HEAD" and status >= 200
        return Reply(status, headers, self._stream.read(int(headers.get("content-length", 0))) if has_body else b"")

    def ask(self, data: bytes, method: str = "POST") -> Reply:
        """Send a request and return its response, which may come before all of the request has been sent."""
        with suppress(ConnectionError, ssl.SSLEOFError):
            self.send(data)
        reply = self.reply(method)
        assert reply is not None, "the server closed the connection without an answer"
        return reply


def ask(gate: Gate, data: bytes, method: str = "POST") -> Reply:
    """Send a request over a connection of its own and return its response."""
    with Wire(gate) as wire:
        return wire.ask(data, method)


def checkin(member: str, customer: int = 1) -> bytes:
    """A check-in's body."""
    return json.dumps({"aggregatorId": member, "customerId": customer}).encode()


def request(
    body: bytes,
    *,
    key: str | bytes | None,
    method: str = "POST",
    path: str = PATH,
    headers: Iterable[str | bytes] = (JSON,),
    chunks: int | None = None,
) -> bytes:
    """A request as bytes: with its length, or in chunks of so many bytes; without a key header where that is None."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if key is not None:
        lines.append(b"X-API-Key: " + (key.encode() if isinstance(key, str) else key))
    lines.append("Transfer-Encoding: chunked" if chunks else f"Content-Length: {len(body)}")
    head = b"\r\n".join(line.encode() if isinstance(line, str) else line for line in lines)
    return head + b"\r\n\r\n" + (chunked(body, chunks) if chunks else body)


def chunked(body: bytes, size: int) -> bytes:
    """A body in chunked encoding."""
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
