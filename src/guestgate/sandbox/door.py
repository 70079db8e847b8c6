"""A studio's door and desk: one call as the platform makes it, and what staff then see.

The call is cancelled 750 ms after it began, connection and handshake included, and connections are used
again. Of a check-in the desk is shown a message by status only; of the body it sees nothing. Of a member who
registers it is shown what came back, unless that is not as the contract words it: then nobody can work with it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Self

from guestgate.errors import UsageError
from guestgate.registration import check_url
from guestgate.sandbox import member_data
from guestgate.sandbox.line import Address, Line, Lines, Reply
from guestgate.trust import trust

CANCEL_AFTER_S = 0.75
CONTENT_TYPE = "application/json; charset=utf-8"
IDLE_S = 30
MAX_IDLE = 64


class Desk(StrEnum):
    """What the studio's desk is shown."""

    OPEN = "open"
    NOT_ALLOWED = "not allowed"
    NOT_FOUND = "not found in partner system"
    ERROR = "communication error, please try again"


class Reception(StrEnum):
    """What the desk is shown where staff register an aggregator's member."""

    REGISTERED = "registered"
    NOT_FOUND = Desk.NOT_FOUND.value
    ERROR = Desk.ERROR.value


BY_STATUS = {200: Desk.OPEN, 403: Desk.NOT_ALLOWED, 404: Desk.NOT_FOUND}


class Fault(NamedTuple):
    """How a call goes wrong on its way.

    ``cut`` is the share of the request after which the connection breaks (0 to 1, never all of it);
    ``cancel_s`` is when the caller gives up although there was time left.
    """

    cut: float | None = None
    cancel_s: float | None = None

    @property
    def name(self) -> str | None:
        """``cut``, ``cancel``, or None where nothing goes wrong."""
        return "cut" if self.cut is not None else "cancel" if self.cancel_s is not None else None


NO_FAULT = Fault()


@dataclass(frozen=True)
class Answer:
    """What came back of one call. ``status`` is None where no answer came; ``note`` says why, for us.

    ``content`` is the body where that is a JSON object, else empty.
    """

    status: int | None
    ms: float
    content: dict[str, Any]
    note: str | None = None


@dataclass(frozen=True)
class Tap:
    """One check-in at a door. ``status`` is None where no answer came; ``note`` is for us, not for the desk.

    ``reason``, ``decision`` and ``decision_id`` are the endpoint's own words, where it says so much.
    """

    desk: Desk
    status: int | None
    ms: float
    reason: str | None = None
    note: str | None = None
    decision: str | None = None
    decision_id: str | None = None


@dataclass(frozen=True)
class Inquiry:
    """One question about who registers. ``status`` is None where no answer came; ``note`` is for us.

    ``member`` is what staff are shown, by the contract's names; empty where nobody registers. Its ``aggregatorId`` is
    the one that counts from now on.
    """

    desk: Reception
    status: int | None
    ms: float
    member: dict[str, str]
    note: str | None = None


class Door:
    """A studio's door, and the desk beside it. Use as an asynchronous context manager."""

    def __init__(
        self, url: str, key: str, ca: Path | ssl.SSLContext | None = None, *, cancel_after_s: float = CANCEL_AFTER_S
    ) -> None:
        """`ca` is trusted besides the system's authorities. Raises UsageError for a bad URL or file."""
        parsed = check_url(url)
        if not key.isascii() or not key.isprintable():
            raise UsageError("the key should be printable ASCII characters")
        self._address = Address.of(parsed, ca if isinstance(ca, ssl.SSLContext) else trust(ca))
        self._headers = [("Host", self._address.authority), ("X-API-Key", key), ("Content-Type", CONTENT_TYPE)]
        self._cancel_after_s = cancel_after_s
        self._lines = Lines(self._address, idle_s=IDLE_S, most=MAX_IDLE)

    async def __aenter__(self) -> Self:
        """Open no connection yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._lines.close()

    async def tap(self, aggregator_id: str, customer_id: int, fault: Fault = NO_FAULT) -> Tap:
        """Somebody holds a card to the reader."""
        answer = await self.call({"aggregatorId": aggregator_id, "customerId": customer_id}, fault)
        desk = Desk.ERROR if answer.status is None else BY_STATUS.get(answer.status, Desk.ERROR)
        reason, decision, decision_id, detail = (
            value if isinstance(value := answer.content.get(name), str) else None
            for name in ("reason", "decision", "decisionId", "detail")
        )
        return Tap(desk, answer.status, answer.ms, reason, answer.note or detail, decision, decision_id)

    async def ask(self, text: str, fault: Fault = NO_FAULT) -> Inquiry:
        """Staff type a member's id, or the code that a member shows them."""
        answer = await self.call({"aggregatorId": text}, fault)
        detail, problems = answer.content.get("detail"), []
        if answer.status == 200:
            problems = member_data.problems(answer.content)
            if not problems:
                told = {name: answer.content[name] for name in member_data.FIELDS if name in answer.content}
                return Inquiry(Reception.REGISTERED, 200, answer.ms, told)
        note = answer.note or "; ".join(problems) or (detail if isinstance(detail, str) else None)
        desk = Reception.NOT_FOUND if answer.status == 404 else Reception.ERROR
        return Inquiry(desk, answer.status, answer.ms, {}, note)

    async def call(self, body: dict[str, Any], fault: Fault = NO_FAULT) -> Answer:
        """One call with a JSON body; check-ins and member validations differ in nothing else."""
        started = time.perf_counter()  # how long it took, not what time it is
        limit_s = self._cancel_after_s if fault.cancel_s is None else fault.cancel_s
        try:
            async with asyncio.timeout(limit_s):
                reply = await self._send(json.dumps(body, ensure_ascii=False).encode(), fault)
        except TimeoutError:
            note = f"no answer within {limit_s * 1000:.0f} ms; the call was cancelled"
            return Answer(None, _ms(started), {}, note)
        except OSError as error:
            return Answer(None, _ms(started), {}, f"no answer: {_cause(error)}")
        if reply is None:
            return Answer(None, _ms(started), {}, "no answer: the connection was cut")
        return Answer(reply.status, _ms(started), object_of(reply.body) or {})

    async def _send(self, body: bytes, fault: Fault) -> Reply | None:
        line: Line = await self._lines.take()
        try:
            if fault.cut is not None:
                await line.break_off("POST", self._address.target, self._headers, body, fault.cut)
                return None
            return await line.call("POST", self._address.target, self._headers, body)
        finally:
            self._lines.give_back(line)


def _cause(error: OSError) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted ({text.rpartition(': ')[2]}); --ca FILE trusts one more"
    return text


def _ms(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 1)


def object_of(body: bytes) -> dict[str, Any] | None:
    """The JSON object that a body is, or None; none with half a character, which could not be passed on."""
    try:
        content = json.loads(body)
        json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
