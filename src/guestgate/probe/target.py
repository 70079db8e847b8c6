"""The endpoint that is probed, and what it is asked with."""

from __future__ import annotations

import json
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from guestgate.contract import MAX_AGGREGATOR_ID_CHARS, MAX_CUSTOMER_ID
from guestgate.errors import UsageError
from guestgate.registration import check_url
from guestgate.trust import trust

_CUSTOMER = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True)
class Card:
    """What a member holds to the reader."""

    aggregator_id: str
    customer_id: int

    @classmethod
    def parse(cls, text: str, option: str) -> Self:
        """``m-1042:293123213``; the last colon counts, since an aggregatorId may have some. Raises UsageError."""
        aggregator_id, _, customer = text.rpartition(":")
        if not 1 <= len(aggregator_id) <= MAX_AGGREGATOR_ID_CHARS:
            raise UsageError(f"{option}: {text!r} should be AGGREGATOR_ID:CUSTOMER_ID, such as m-1042:293123213")
        if not _CUSTOMER.fullmatch(customer) or not 1 <= int(customer) <= MAX_CUSTOMER_ID:
            raise UsageError(f"{option}: {customer!r} is not a customer id, an integer from 1 to {MAX_CUSTOMER_ID}")
        return cls(aggregator_id, int(customer))

    def fields(self, **different: Any) -> dict[str, Any]:
        """The body as an object; what is given is added or changed."""
        return {"aggregatorId": self.aggregator_id, "customerId": self.customer_id, **different}

    def body(self, **different: Any) -> bytes:
        """The body of a check-in."""
        return json.dumps(self.fields(**different), ensure_ascii=False).encode("utf-8", "replace")


@dataclass(frozen=True)
class MemberValidation:
    """Where the platform asks about members who register, and one who may, None where none is given."""

    url: httpx.URL
    member: str | None = None

    @classmethod
    def of(cls, url: str, member: str | None = None) -> Self:
        """Checks what was given. Raises UsageError."""
        if member is not None and not 1 <= len(member) <= MAX_AGGREGATOR_ID_CHARS:
            raise UsageError(f"--member: should be an id of 1 to {MAX_AGGREGATOR_ID_CHARS} characters")
        return cls(_https(url, "--member-validation-url"), member)


@dataclass(frozen=True)
class Target:
    """An endpoint, a studio's key for it, and two cards: one that opens the door, one that does not.

    With ``member_validation`` it is asked about members who register, too. ``trusting`` is what the key is sent
    under: the system's authorities and that in the file ``ca``.
    """

    url: httpx.URL
    key: str = field(repr=False)
    allowed: Card
    denied: Card
    ca: Path | None
    trusting: ssl.SSLContext
    member_validation: MemberValidation | None = None

    @classmethod
    def of(
        cls,
        url: str,
        key: str,
        allowed: Card,
        denied: Card,
        ca: Path | None = None,
        member_validation: MemberValidation | None = None,
    ) -> Self:
        """Checks what was given. Raises UsageError."""
        parsed = _https(url, "URL")
        if not key.isascii() or not key.isprintable():
            raise UsageError("the key should be printable ASCII characters")
        if allowed == denied:
            raise UsageError("--denied: is the same card as --allowed")
        return cls(parsed, key, allowed, denied, ca, trust(ca), member_validation)

    @property
    def host(self) -> str:
        """The host of the URL, in ASCII, as sockets and certificates know it."""
        return self.url.raw_host.decode("ascii")

    @property
    def port(self) -> int:
        """The port of the URL, 443 where it names none."""
        return self.url.port or 443


def _https(url: str, option: str) -> httpx.URL:
    parsed = check_url(url, option)
    if parsed.scheme != "https":
        raise UsageError(f"{option}: {url!r} should begin with https://; plain HTTP keeps no contract")
    if parsed.userinfo:
        raise UsageError(f"{option}: leave the user out; the platform sends the key and nothing else")
    return parsed
