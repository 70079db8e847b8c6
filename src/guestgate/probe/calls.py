"""One HTTP call and what came of it, bounded in time and memory whatever the other side sends."""

from __future__ import annotations

import asyncio
import base64
import html
import json
import re
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote

import httpx

from guestgate import clock
from guestgate.probe.target import Card, Target
from guestgate.sandbox.door import CONTENT_TYPE, object_of
from guestgate.texts import printable

# Longer than the platform waits, so that a slow endpoint fails where slowness is asked about and nowhere else.
PATIENCE_S = 3.0
MAX_BODY_BYTES = 64 * 1024
SHOWN_CHARS = 240
# A shorter key may stand in an answer by chance.
MIN_ECHO_CHARS = 8


@dataclass(frozen=True)
class Token:
    """What goes into X-API-Key, and what it is called where people read it."""

    name: str
    value: str = field(repr=False)


@dataclass(frozen=True)
class Call:
    """One request. Without a token there is no X-API-Key at all."""

    body: bytes
    token: Token | None
    method: str = "POST"
    content_type: str = CONTENT_TYPE

    def headers(self) -> dict[str, str]:
        """As the platform sends them."""
        key = {} if self.token is None else {"X-API-Key": self.token.value}
        return {**key, "Content-Type": self.content_type}

    def describe(self) -> str:
        """What is sent, without the key itself."""
        key = "no X-API-Key" if self.token is None else f"X-API-Key: ({self.token.name})"
        return (
            f"{self.method}, {key}, Content-Type: {self.content_type}, {_shown(self.body.decode('utf-8', 'replace'))}"
        )


@dataclass(frozen=True)
class Outcome:
    """What came back. ``status`` is None where no whole answer did; ``text`` is for people and has no key in it.

    ``connection`` is our own end of the connection, the same for calls that shared one; ``broken_off`` says that it
    ended before an answer did. ``content`` is the body where that is a JSON object.
    """

    status: int | None
    text: str
    ms: float
    connection: object = None
    broken_off: bool = False
    content: dict[str, Any] | None = field(default=None, repr=False)


class EndlessBodyError(Exception):
    """The body of an answer was still going on after MAX_BODY_BYTES."""


class Caller:
    """Calls an endpoint, one call at a time on one connection. Use as an asynchronous context manager.

    Calls whose answer repeated a key are described in ``echoes``.
    """

    def __init__(self, target: Target, echoes: set[str], *, keep_alive: bool = True) -> None:
        """Without `keep_alive` every call has a connection of its own."""
        self._target, self._echoes = target, echoes
        self._client = httpx.AsyncClient(
            verify=target.trusting,
            trust_env=False,
            # The limit of a whole call is set in `call`; a connect that is given up closes what it has opened.
            timeout=httpx.Timeout(PATIENCE_S, connect=PATIENCE_S - 0.1),
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=int(keep_alive)),
            headers={"User-Agent": "guestgate-probe", "Accept-Encoding": "identity"},
        )

    async def __aenter__(self) -> Self:
        """Open no connection yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def call(self, call: Call, url: httpx.URL | None = None) -> Outcome:
        """One call, on the endpoint unless another URL is given. Never raises for what the other side does."""
        started = clock.monotonic()
        status, end, broken_off, content = None, None, False, None
        try:
            async with (
                asyncio.timeout(PATIENCE_S),
                self._client.stream(
                    call.method, url or self._target.url, headers=call.headers(), content=call.body
                ) as response,
            ):
                end = response.extensions["network_stream"].get_extra_info("client_addr")
                body = await _read(response)
                status = response.status_code
        except (TimeoutError, httpx.TimeoutException):
            text = f"no whole answer within {PATIENCE_S:g} s"
        except EndlessBodyError:
            text = f"an answer whose body goes on after {MAX_BODY_BYTES // 1024} KiB"
        except (httpx.HTTPError, OSError) as error:
            broken_off = True
            text = f"no answer: {str(error).rstrip('.') or type(error).__name__}"
        else:
            text = self._told(call, response, body.decode("utf-8", "replace"))
            content = object_of(body)
        ms = (clock.monotonic() - started) * 1000
        return Outcome(status, _shown(self._keys_of(call).sub("(a key)", text)), ms, end, broken_off, content)

    def _told(self, call: Call, response: httpx.Response, body: str) -> str:
        """Status, where it leads, and the body; notes an echo of a key."""
        head = " ".join(f"{name}: {value}" for name, value in response.headers.items())
        keys = self._keys_of(call)
        if len(self._target.key) >= MIN_ECHO_CHARS and (keys.search(head) or keys.search(body)):
            self._echoes.add(call.describe())
        location = f", Location: {response.headers['location']}" if "location" in response.headers else ""
        return f"{response.status_code}{location} {body}".strip()

    def _keys_of(self, call: Call) -> re.Pattern[str]:
        """Finds the studio's key and the token that was sent, as an answer may spell them."""
        tokens = {self._target.key, call.token.value if call.token else ""} - {""}
        # The longest first, since one may begin with another.
        spellings = sorted({spelling for token in tokens for spelling in _spellings(token)}, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, spellings)), re.IGNORECASE)


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise EndlessBodyError
    return bytes(body)


def _spellings(token: str) -> set[str]:
    """A token as an answer may repeat it: as it is, or written as JSON, in a URL, in HTML or in Base64."""
    encoded = base64.b64encode(token.encode()).decode().rstrip("=")
    return {token, json.dumps(token)[1:-1], quote(token), quote(token, safe=""), html.escape(token), encoded}


def _shown(text: str) -> str:
    text = printable(text)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def checkin(card: Card, key: str) -> Call:
    """A check-in just as the platform makes it."""
    return Call(card.body(), Token("the key", key))


def question(aggregator_id: str, key: str) -> Call:
    """A member validation just as the platform makes it."""
    body = json.dumps({"aggregatorId": aggregator_id}, ensure_ascii=False).encode("utf-8", "replace")
    return Call(body, Token("the key", key))
