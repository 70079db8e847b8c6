"""A connection to an endpoint, used for one call after the other. h11 speaks HTTP, asyncio TLS.

A general HTTP client is not used here: the sandbox has to break calls off at a chosen byte or instant, and
to keep hundreds of calls a second from disturbing one another.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import NamedTuple, cast

import h11
import httpx

# Of an answer nobody reads more.
MAX_ANSWER_BYTES = 64 * 1024
# How long a request that is broken off may need to get onto the wire.
BREAK_OFF_S = 0.01
GOODBYE_S = 0.5


class Address(NamedTuple):
    """Where an endpoint is; ``tls`` is None for plain HTTP."""

    host: str
    port: int
    target: str
    authority: str
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, url: httpx.URL, tls: ssl.SSLContext) -> Address:
        """The parts of a URL, as `guestgate.registration.check_url` returns it."""
        secure = url.scheme == "https"
        host, target, authority = (part.decode("ascii") for part in (url.raw_host, url.raw_path, url.netloc))
        return cls(host, url.port or (443 if secure else 80), target, authority, tls if secure else None)


class Reply(NamedTuple):
    """An answer that was received to its last byte."""

    status: int
    body: bytes


class Line(asyncio.Protocol):
    """One connection. Made by `connect`; after a call, `idle` says whether there may be another."""

    def __init__(self) -> None:
        """Not connected yet."""
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_ANSWER_BYTES)
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Reply] | None = None
        self._status = 0
        self._body = bytearray()

    @classmethod
    async def connect(cls, address: Address) -> Line:
        """A connection, TLS included. Raises OSError (ssl.SSLError is one)."""
        name = address.host if address.tls else None
        try:
            _, line = await asyncio.get_running_loop().create_connection(
                cls, address.host, address.port, ssl=address.tls, server_hostname=name
            )
        except OSError:
            raise  # of which some are ValueErrors too
        except ValueError as error:
            raise ConnectionError(f"{address.host} is no possible name: {error}") from None
        return line

    @property
    def idle(self) -> bool:
        """Whether the connection stands and nothing is under way on it."""
        open_ = self._transport is not None and not self._transport.is_closing()
        return open_ and self._waiting is None and self._http.our_state is h11.IDLE

    async def call(self, method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> Reply:
        """One request and its whole answer. Cancelled, it hangs up. Raises OSError where no whole answer came."""
        transport = self._open()
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            transport.write(self._request(method, target, headers, body))
            return await self._waiting
        except BaseException:
            self.abort()
            raise
        finally:
            self._waiting = None

    async def break_off(
        self, method: str, target: str, headers: list[tuple[str, str]], body: bytes, share: float
    ) -> None:
        """Send only so much of a request, 0 to 1 and never all of it, and hang up."""
        transport = self._open()
        request = self._request(method, target, headers, body)
        transport.write(request[: min(int(len(request) * share), len(request) - 1)])
        await asyncio.sleep(BREAK_OFF_S)
        self.abort()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Hang up without a goodbye."""
        if self._transport is not None:  # a transport that is gone already cannot be aborted
            self._transport.abort()

    def _open(self) -> asyncio.Transport:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection was closed")
        return self._transport

    def _request(self, method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
        sent = [*headers, ("Content-Length", str(len(body)))]
        events = (h11.Request(method=method, target=target, headers=sent), h11.Data(body), h11.EndOfMessage())
        return b"".join(self._http.send(event) or b"" for event in events)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection stands."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own does not inherit from it

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came."""
        self._http.receive_data(data)
        self._read()

    def eof_received(self) -> None:
        """asyncio: nothing more will come; an answer without a length ends here."""
        self._http.receive_data(b"")
        self._read()

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._transport = None
        if not self.gone.done():
            self.gone.set_result(None)
        self._fail(error if isinstance(error, OSError) else ConnectionResetError("the connection was closed"))

    def _read(self) -> None:
        """Take in what there is of an answer."""
        try:
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Response):
                    self._status, self._body = event.status_code, bytearray()
                elif isinstance(event, h11.Data):
                    self._body += event.data
                    if len(self._body) > MAX_ANSWER_BYTES:
                        raise h11.RemoteProtocolError("the answer is too long")
                elif isinstance(event, h11.EndOfMessage):
                    self._finish()
                    return
                elif not isinstance(event, h11.InformationalResponse):
                    return
        except h11.RemoteProtocolError as error:
            self._fail(ConnectionAbortedError(f"what came is not HTTP: {error}"))

    def _finish(self) -> None:
        try:
            self._http.start_next_cycle()
        except h11.LocalProtocolError:
            self.close()  # the endpoint wants a new connection for the next call
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Reply(self._status, bytes(self._body)))

    def _fail(self, error: OSError) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
        self.close()


class Lines:
    """Connections to one address that are used again, the latest first, so that spare ones run out."""

    def __init__(self, address: Address, *, idle_s: float, most: int) -> None:
        """Keeps at most `most` idle connections, none of them longer than `idle_s` seconds."""
        self._address = address
        self._idle_s = idle_s
        self._most = most
        self._idle: list[tuple[float, Line]] = []
        self._open: set[Line] = set()

    async def take(self) -> Line:
        """A connection that nobody else uses. Raises OSError."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            since, line = self._idle.pop()
            if line.idle and now - since < self._idle_s:
                return line
            line.close()
        line = await Line.connect(self._address)
        self._open.add(line)
        line.gone.add_done_callback(lambda _: self._open.discard(line))
        return line

    def give_back(self, line: Line) -> None:
        """Keep a connection for the next call, unless it is used up."""
        now = asyncio.get_running_loop().time()
        while self._idle and now - self._idle[0][0] >= self._idle_s:
            self._idle.pop(0)[1].close()
        if line.idle and len(self._idle) < self._most:
            self._idle.append((now, line))
        else:
            line.close()

    async def close(self) -> None:
        """Hang up everywhere, and wait a moment for the other side to know."""
        self._idle.clear()
        for hang_up in (Line.close, Line.abort):
            if self._open:
                for line in self._open:
                    hang_up(line)
                await asyncio.wait([line.gone for line in self._open], timeout=GOODBYE_S)
