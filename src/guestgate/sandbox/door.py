"""A studio's door: one check-in call as the platform makes it, and what the desk then sees.

The call is cancelled 750 ms after it began, connection and handshake included, and connections are used
again. The desk is shown a message by status only; of the body it sees nothing.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

import httpx

from guestgate.errors import UsageError
from guestgate.registration import check_url

CANCEL_AFTER_S = 0.75
CONTENT_TYPE = "application/json; charset=utf-8"


class Desk(StrEnum):
    """What the studio's desk is shown."""

    OPEN = "open"
    NOT_ALLOWED = "not allowed"
    NOT_FOUND = "not found in partner system"
    ERROR = "communication error, please try again"


BY_STATUS = {200: Desk.OPEN, 403: Desk.NOT_ALLOWED, 404: Desk.NOT_FOUND}


@dataclass(frozen=True)
class Tap:
    """One check-in at a door. ``status`` is None where no answer came; ``note`` is for us, not for the desk."""

    desk: Desk
    status: int | None
    ms: float
    reason: str | None = None
    note: str | None = None


class Door:
    """A studio's door. Use as an asynchronous context manager."""

    def __init__(self, url: str, key: str, ca: Path | None = None) -> None:
        """`ca` is trusted besides the system's authorities. Raises UsageError for a bad URL or file."""
        check_url(url)
        if not key.isascii() or not key.isprintable():
            raise UsageError("the key should be printable ASCII characters")
        self._url = url
        try:
            self._client = httpx.AsyncClient(
                verify=trust(ca),
                trust_env=False,  # the door itself calls, not somebody's web proxy
                headers={"X-API-Key": key, "Content-Type": CONTENT_TYPE},
                # The limit of a whole call is set in `tap`; this one closes what never got connected.
                timeout=CANCEL_AFTER_S - 0.005,
                limits=httpx.Limits(max_keepalive_connections=8, keepalive_expiry=30),
            )
            httpx.URL(url)
        except httpx.InvalidURL as error:
            raise UsageError(f"--url: {url!r} is not a URL: {error}") from None

    async def __aenter__(self) -> Self:
        """Open no connection yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def tap(self, aggregator_id: str, customer_id: int) -> Tap:
        """Somebody holds a card to the reader."""
        body = {"aggregatorId": aggregator_id, "customerId": customer_id}
        started = time.perf_counter()  # how long it took, not what time it is
        try:
            async with asyncio.timeout(CANCEL_AFTER_S):
                response = await self._client.post(self._url, json=body)
        except (TimeoutError, httpx.TimeoutException):
            return Tap(Desk.ERROR, None, _ms(started), note="no answer within 750 ms; the call was cancelled")
        except httpx.HTTPError as error:
            return Tap(Desk.ERROR, None, _ms(started), note=f"no answer: {_cause(error)}")
        status, ms = response.status_code, _ms(started)
        return Tap(BY_STATUS.get(status, Desk.ERROR), status, ms, *_reason(response))


def trust(ca: Path | None) -> ssl.SSLContext:
    """The system's certificate authorities and, where given, one more. Raises UsageError for a bad file."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"--ca: {ca}: {error}") from None
    return context


def _cause(error: httpx.HTTPError) -> str:
    text = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"the certificate is not trusted ({text.rpartition(': ')[2]}); --ca FILE trusts one more"
    return text


def _ms(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 1)


def _reason(response: httpx.Response) -> tuple[str | None, str | None]:
    """The endpoint's own reason and, for an error, its detail."""
    try:
        content = response.json()
        return content.get("reason"), content.get("detail")
    except (ValueError, AttributeError):
        return None, None
