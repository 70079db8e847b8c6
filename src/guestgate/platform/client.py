"""The calls of the platform's Open API, with a studio's account.

All of them may be repeated: a customer that exists is answered as it is, and a studio that is switched on stays so.
So what could not be answered is asked again, within the bounds of `guestgate.platform.pace`.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self, TypeVar

import httpx
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from guestgate import clock
from guestgate.contract import MAX_CUSTOMER_ID, camel_case
from guestgate.errors import PlatformAwayError, PlatformError, UsageError
from guestgate.platform.accounts import Account, is_loopback
from guestgate.platform.pace import BROKEN_ATTEMPTS, BUSY_ATTEMPTS, Pace
from guestgate.texts import printable
from guestgate.trust import trust

CONNECT_S, SILENCE_S, ANSWER_WITHIN_S = 5.0, 15.0, 60.0
MAX_ANSWER_BYTES = 1024 * 1024
MAX_TOLD_CHARS = 200
SLICE = 50
# Both ends included; the platform takes 365 days from one to the other.
WINDOW = timedelta(days=364)
DAY = timedelta(days=1)
BUSY = (429, 502, 503, 504)

Number = Annotated[int, Field(ge=1, le=MAX_CUSTOMER_ID)]


class _Answer(BaseModel):
    """The part of an answer that matters; unknown properties are ignored."""

    model_config = ConfigDict(frozen=True, strict=True)


class CreatedCustomer(_Answer):
    """A member's customer at a gym chain, and what the platform calls the studio."""

    customer_id: Number = Field(validation_alias="customerId")
    studio_id: Number = Field(validation_alias="studioId")


class StudioInformation(_Answer):
    """A studio as the platform knows it; ``timezone`` is a name such as Europe/Berlin."""

    studio_id: Number = Field(validation_alias="studioId")
    name: str = Field(validation_alias="studioName")
    timezone: str = Field(validation_alias="zoneId")


class PlatformCheckin(_Answer):
    """An entry in the platform's history. ``checked_out_at`` is None while nobody knows."""

    id: int = Field(validation_alias="checkinId")
    checked_in_at: AwareDatetime = Field(validation_alias="checkInDateTime")
    checked_out_at: AwareDatetime | None = Field(None, validation_alias="checkOutDateTime")
    platform_studio_id: Number = Field(validation_alias="studioId")


class _Slice(_Answer):
    result: list[PlatformCheckin]
    has_next: bool = Field(validation_alias="hasNext")
    offset: str | int | None = None


Content = TypeVar("Content", bound=_Answer)


class _Call(NamedTuple):
    """``what`` is what we are doing, in words; ``endpoint`` is what the platform counts by."""

    what: str
    method: str
    endpoint: str
    path: str


class OpenApiClient:
    """Calls for one studio. Use as a context manager, in one thread.

    Every call raises PlatformError where the platform refuses it, or cannot be asked after several attempts.
    """

    def __init__(self, account: Account, *, ca: Path | None = None, pace: Pace | None = None) -> None:
        """`ca` is a certificate to trust besides the system's.

        Raises UsageError for a bad file, and for an address to which the key would go unencrypted.
        """
        address = httpx.URL(account.base_url)
        if address.scheme != "https" and not is_loopback(address.host):
            raise UsageError(f"{account.base_url}: the Open API is called over https only")
        self.studio_id, self.base_url = account.studio_id, account.base_url
        self._key = account.key
        self._pace = pace or Pace()
        self._http = httpx.Client(
            base_url=account.base_url,
            headers={"x-api-key": account.key, "accept": "application/json"},
            verify=trust(ca),
            follow_redirects=False,  # the key is for this address
            trust_env=address.scheme == "https",  # a proxy would see what is not encrypted
            timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S),
        )

    def __enter__(self) -> Self:
        """No connection yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def key_is_valid(self) -> bool:
        """Whether the platform knows the key at this address."""
        try:
            self._ask(_Call("asking whether the key is valid", "HEAD", "HEAD", "/studios/information"))
        except PlatformError as error:
            if error.status == 401:
                return False
            raise
        return True

    def studio_information(self) -> StudioInformation:
        """The studio that the key belongs to."""
        path = "/studios/information"
        return self._answer(StudioInformation, _Call("asking about the studio", "GET", path, path))

    def confirm_activation(self) -> None:
        """Have the platform send webhooks for the studio."""
        path = "/studios/confirmActivation"
        self._ask(_Call("confirming the activation", "POST", path, path))

    def create_member(self, member_id: str, profile: Mapping[str, str]) -> CreatedCustomer:
        """The member's customer at this chain, created unless there is one.

        `profile` has the member file's field names; ``first_name`` and ``last_name`` are needed.
        """
        path = "/aggregators/member"
        content = {"aggregatorId": member_id, **{camel_case(name): value for name, value in profile.items() if value}}
        return self._answer(CreatedCustomer, _Call("creating a customer", "POST", path, path), json=content)

    def checkins(self, customer_id: int, since: datetime, until: datetime) -> Iterator[PlatformCheckin]:
        """A customer's entries from one instant to before another, at all studios of the chain."""
        # Days are those of the studio, whose clock may show another date than UTC.
        day, last = (since - DAY).astimezone(UTC).date(), (until + DAY).astimezone(UTC).date()
        while day <= last:
            to_day = min(day + WINDOW, last)
            query = {"fromDate": day.isoformat(), "toDate": to_day.isoformat()}
            for checkin in self._window(customer_id, query):
                if since <= checkin.checked_in_at < until:
                    yield checkin
            day = to_day + DAY

    def _window(self, customer_id: int, query: dict[str, str]) -> Iterator[PlatformCheckin]:
        endpoint = "/customers/{customerId}/activities/checkins"
        call = _Call("asking for check-ins", "GET", endpoint, endpoint.format(customerId=customer_id))
        offset, seen = "", set[int]()
        while True:
            given = {**query, "sliceSize": str(SLICE)} | ({"offset": offset} if offset else {})
            slice_ = self._answer(_Slice, call, params=given)
            fresh = [checkin for checkin in slice_.result if checkin.id not in seen]
            seen.update(checkin.id for checkin in fresh)
            yield from fresh
            if not slice_.has_next:
                return
            # Somebody may come in while we read, and move all behind by one; but each slice tells something new.
            if not fresh or slice_.offset is None:
                raise self._problem(call, "the platform says that there is more, and does not tell it")
            offset = str(slice_.offset)

    def _answer(self, kind: type[Content], call: _Call, **options: Any) -> Content:
        body = self._ask(call, **options)
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            wrong = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(map(str, wrong["loc"])) or "all of it"
            raise self._problem(call, f"its answer is not as agreed ({where}: {wrong['msg']})") from None

    def _ask(self, call: _Call, **options: Any) -> bytes:
        """The body of a successful answer, however often it takes to ask."""
        attempt = 0
        while True:
            attempt += 1
            self._pace.await_place(call.endpoint)
            attempts, asked_s = BROKEN_ATTEMPTS, 0.0
            try:
                response, body = self._send(call, options)
            except httpx.HTTPError as error:
                problem = self._problem(call, _cause(error))
                if _certificate_problem(error):
                    raise problem from None
            else:
                if response.is_success:
                    return body
                problem = self._refusal(call, response, body)
                if response.status_code not in BUSY:
                    raise problem
                attempts, asked_s = BUSY_ATTEMPTS, _asked_s(response)
            if not self._pace.await_retry(attempt, attempts, asked_s):
                raise PlatformAwayError(str(problem), problem.status)

    def _send(self, call: _Call, options: dict[str, Any]) -> tuple[httpx.Response, bytes]:
        """One attempt. A body may neither be endless nor trickle for ever."""
        give_up_at = clock.monotonic() + ANSWER_WITHIN_S
        body = bytearray()
        with self._http.stream(call.method, call.path, **options) as response:
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise self._problem(call, f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
                if clock.monotonic() > give_up_at:
                    raise httpx.ReadTimeout("the answer takes too long")
        return response, bytes(body)

    def _refusal(self, call: _Call, response: httpx.Response, body: bytes) -> PlatformError:
        status = response.status_code
        told = _told(body)
        facts = [f"status {status}", *(told[name] for name in ("errorCode",) if name in told)]
        facts += [f"trace {told['traceId']}"] if "traceId" in told else []
        message = told.get("errorMessage") or response.reason_phrase or "no reason given"
        if response.is_redirect:
            message = "the answer leads elsewhere, where the key does not belong"
        if status == 401:
            message += "; key and tenant belong together"
        return self._problem(call, f"{message} ({', '.join(facts)})", status)

    def _problem(self, call: _Call, why: str, status: int | None = None) -> PlatformError:
        why = printable(why.replace(self._key, "(the key)"))
        return PlatformError(f"the platform's Open API, {call.what} for {self.studio_id}: {why}", status)


def _told(body: bytes) -> dict[str, str]:
    """What an error says of itself: texts, cut to a bearable length."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {
        name: value[:MAX_TOLD_CHARS]
        for name in ("errorMessage", "errorCode", "traceId")
        if isinstance(value := content.get(name), str) and value
    }


def _asked_s(response: httpx.Response) -> float:
    """How long a busy platform asks us to wait; its other form, a date, is not used for seconds."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0.0


def _cause(error: httpx.HTTPError) -> str:
    problem = _certificate_problem(error)
    if problem is not None:
        return f"the certificate is not trusted ({problem.verify_message}); --ca FILE trusts one more"
    return f"cannot be asked ({str(error) or type(error).__name__})"


def _certificate_problem(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """What is behind an error, if that is a certificate."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error
