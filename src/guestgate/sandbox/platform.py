"""The platform in memory: what it knows of customers and check-ins, and the calls it makes to an aggregator.

Everything here is bounded; what is oldest is forgotten first.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

from guestgate import clock
from guestgate.errors import OperationError
from guestgate.sandbox.arrivals import PlannedEnrolment, PlannedTap
from guestgate.sandbox.courier import ANSWER_WITHIN_S, Courier, Event
from guestgate.sandbox.door import Desk, Door, Inquiry, Reception, Tap
from guestgate.sandbox.journal import Journal
from guestgate.sandbox.town import Studio, Town
from guestgate.trust import trust

MAX_CUSTOMERS = 100_000
MAX_CHECKINS = 50_000
LATEST = 60
# A code that a member shows, and until when it is good; None where the aggregator makes none for them.
Codes = Callable[[str], Awaitable[tuple[str, datetime] | None]]
# Customers that are created here get numbers above all of the town's.
FIRST_NEW_CUSTOMER = 9_100_000_000_000_000


@dataclass(frozen=True)
class Endpoints:
    """The addresses an aggregator has registered, and the certificate to trust besides the system's."""

    checkin: str
    member_validation: str | None = None
    webhook: str | None = None
    ca: Path | None = None


@dataclass(slots=True)
class Checkin:
    """A customer who came in; ``out_at`` once they have left."""

    id: int
    customer_id: int
    studio: Studio
    in_at: datetime
    out_at: datetime | None = None


class Seen(NamedTuple):
    """A tap as people are shown it."""

    number: int
    at: datetime
    planned: PlannedTap
    tap: Tap

    @property
    def local_time(self) -> str:
        """What a clock on the studio's wall showed, to the second."""
        return wall_time(self.at, self.planned.studio)


class Enrolled(NamedTuple):
    """A member who registered, or wished to, as people are shown it; ``text`` is what was typed."""

    number: int
    at: datetime
    planned: PlannedEnrolment
    text: str
    inquiry: Inquiry
    customer_id: int | None


@dataclass
class Tenant:
    """A gym chain's own customers: the member's id at the aggregator by customer, and the other way round.

    ``seen`` are customers whose card was held to a reader, whatever was registered of them.
    """

    member_of: dict[int, str] = field(default_factory=dict)
    customer_of: dict[str, int] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)

    def add(self, customer_id: int, aggregator_id: str) -> None:
        """A customer for an aggregator's member."""
        self.member_of[customer_id] = aggregator_id
        self.customer_of[aggregator_id] = customer_id


class Platform:
    """Use as an asynchronous context manager."""

    def __init__(
        self,
        town: Town,
        endpoints: Endpoints,
        journal: Journal,
        *,
        seed: int = 1,
        faulty_webhooks: bool = False,
        on_tap: Callable[[Seen], object] = lambda _: None,
        codes: Codes | None = None,
    ) -> None:
        """Open no connection yet. `on_tap` is told of each tap once the desk has its message; `codes` makes those
        that members show at the desk.

        Raises UsageError for a bad address or certificate file.
        """
        tls = trust(endpoints.ca)
        self.town = town
        self.endpoints = endpoints
        self.journal = journal
        self.desks: Counter[Desk] = Counter()
        self.receptions: Counter[Reception] = Counter()
        self.webhooks: Counter[str] = Counter()
        self.latest: deque[Seen] = deque(maxlen=LATEST)
        self.enrolled: deque[Enrolled] = deque(maxlen=LATEST)
        self.checkins: deque[Checkin] = deque(maxlen=MAX_CHECKINS)
        self.inside: dict[tuple[str, int], Checkin] = {}
        self.activated: set[str] = set()
        self.tenants = {name: Tenant() for name in town.tenants}
        for member in town.members:
            for name, customer_id in member.customers.items():
                if name in self.tenants:
                    self.tenants[name].add(customer_id, member.id)
        self._on_tap, self._codes = on_tap, codes
        self._taps = 0
        self._created = self._inquiries = 0
        self._stack = AsyncExitStack()
        self._doors = self._doors_to(endpoints.checkin, "checkin", tls)
        self._desks = self._doors_to(endpoints.member_validation, "checkin", tls)
        self._courier = Courier(
            self._doors_to(endpoints.webhook, "webhook", tls, ANSWER_WITHIN_S),
            journal,
            self.webhooks,
            seed,
            faulty=faulty_webhooks,
        )

    def _doors_to(self, url: str | None, kind: str, tls: Any, within_s: float | None = None) -> dict[str, Door]:
        """A caller for each studio, with its key of that kind; none where no address is registered."""
        options = {} if within_s is None else {"cancel_after_s": within_s}
        studios = self.town.studios if url is not None else []
        return {studio.id: Door(url or "", studio.keys[kind], tls, **options) for studio in studios}

    async def __aenter__(self) -> Self:
        """Ready."""
        for door in (*self._doors.values(), *self._desks.values()):
            await self._stack.enter_async_context(door)
        await self._stack.enter_async_context(self._courier)
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Deliver what is on its way, unless we break off, and hang up."""
        await self._stack.__aexit__(*exception)  # type: ignore[arg-type]

    async def tap(self, planned: PlannedTap) -> Tap:
        """Somebody holds a card to a reader; where the door opens they are checked in."""
        at = clock.now()
        seen_there = self.tenants[planned.studio.tenant].seen
        if len(seen_there) < MAX_CUSTOMERS:
            seen_there.add(planned.customer_id)
        tap = await self._doors[planned.studio.id].tap(planned.aggregator_id, planned.customer_id, planned.fault)
        self.journal.call(at, planned, tap)
        self.desks[tap.desk] += 1
        self._taps += 1
        seen = Seen(self._taps, at, planned, tap)
        self.latest.append(seen)
        if tap.desk is Desk.OPEN:
            self._check_in(planned.studio, planned.customer_id, at, tap)
        self._on_tap(seen)
        return tap

    async def by_hand(self, studio: Studio, aggregator_id: str, customer_id: int | None) -> Tap:
        """A tap that somebody makes on the page; without a customer the member's own one comes along."""
        if customer_id is None:
            customer_id = self.tenants[studio.tenant].customer_of.get(aggregator_id, FIRST_NEW_CUSTOMER - 1)
        sent = self.town.spec.aggregator_id or aggregator_id
        return await self.tap(PlannedTap(-self._taps - 1, 0, studio, sent, customer_id))

    def _check_in(self, studio: Studio, customer_id: int, at: datetime, tap: Tap) -> None:
        if (studio.id, customer_id) in self.inside:
            return  # a second tap; the platform knows that they are in
        if len(self.checkins) == MAX_CHECKINS:
            gone = self.checkins[0]
            self.inside.pop((gone.studio.id, gone.customer_id), None)
        checkin = Checkin(self._taps, customer_id, studio, at)
        self.checkins.append(checkin)
        self.inside[studio.id, customer_id] = checkin
        self.journal.entry(at, studio.id, customer_id, tap)
        self.tell(Event(studio, customer_id, "CUSTOMER_CHECKIN"))

    def check_out(self, studio: Studio, customer_id: int) -> None:
        """Somebody leaves. Raises OperationError where they are not in."""
        checkin = self.inside.pop((studio.id, customer_id), None)
        if checkin is None:
            raise OperationError(f"customer {customer_id} is not in {studio.id}")
        checkin.out_at = clock.now()
        self.tell(Event(studio, customer_id, "CUSTOMER_CHECKOUT"))

    def close_for_today(self, studio: Studio) -> int:
        """Check out whoever is still in, in one event of the studio's; returns how many."""
        now = clock.now()
        left = [checkin for checkin in self.inside.values() if checkin.studio is studio]
        for checkin in left:
            checkin.out_at = now
            del self.inside[studio.id, checkin.customer_id]
        checkouts = [{"customerId": one.customer_id, "checkoutTime": local_iso(now, studio)} for one in left]
        if left:
            self.tell(Event(studio, studio.number, "AUTOMATIC_CUSTOMER_CHECKOUT", {"checkouts": checkouts}))
        return len(left)

    def tell(self, event: Event) -> None:
        """Send a webhook, where the studio's are switched on and there is an address."""
        if event.studio.id in self.activated and self.endpoints.webhook is not None:
            self._courier.send(event)

    def remove(self, studio: Studio, customer_id: int, event: str) -> None:
        """A customer's record is deleted or their access disabled. Raises OperationError where there is none."""
        tenant = self.tenants[studio.tenant]
        if customer_id not in tenant.member_of:
            raise OperationError(f"{studio.tenant} has no customer {customer_id}")
        if event == "CUSTOMER_DELETED":
            tenant.seen.discard(customer_id)
            tenant.customer_of.pop(tenant.member_of.pop(customer_id), None)
        self.tell(Event(studio, customer_id, event))

    async def enrol(self, planned: PlannedEnrolment) -> Enrolled:
        """The desk asks who a member is, and makes a customer of whoever may register.

        The id that came back may be another one than was typed; it is the one that counts from then on.
        """
        if not self._desks:
            raise OperationError("no address for member validation is registered")
        text, expires_at = planned.text, None
        if planned.with_code and planned.member_id is not None and self._codes is not None:
            text, expires_at = await self._codes(planned.member_id) or (text, None)
        at = clock.now()
        inquiry = await self._desks[planned.studio.id].ask(text, planned.fault)
        customer_id = None
        if inquiry.desk is Reception.REGISTERED:
            customer_id = self.create_customer(planned.studio, inquiry.member["aggregatorId"], planned.customer_id)
        self.journal.enrolment(at, planned, text, expires_at, inquiry, customer_id)
        self.receptions[inquiry.desk] += 1
        self._inquiries += 1
        enrolled = Enrolled(self._inquiries, at, planned, text, inquiry, customer_id)
        self.enrolled.append(enrolled)
        return enrolled

    async def enrol_by_hand(self, studio: Studio, text: str) -> Enrolled:
        """A member whom somebody registers on the page."""
        return await self.enrol(PlannedEnrolment(-self._inquiries - 1, 0, studio, None, text))

    def create_customer(self, studio: Studio, aggregator_id: str, number: int | None = None) -> int:
        """The customer of an aggregator's member at the studio's chain, created unless there is one.

        `number` is the new one's, else the next that is free.
        """
        tenant = self.tenants[studio.tenant]
        known = tenant.customer_of.get(aggregator_id)
        if known is not None:
            return known
        if self._created >= MAX_CUSTOMERS:
            raise OperationError("this sandbox takes no more customers")
        customer_id = FIRST_NEW_CUSTOMER + self._created if number is None else number
        self._created += 1
        tenant.add(customer_id, aggregator_id)
        self.tell(Event(studio, customer_id, "AGGREGATOR_MEMBER_CREATED", {"aggregatorId": aggregator_id}))
        return customer_id

    def history(self, studio: Studio, customer_id: int) -> list[Checkin] | None:
        """A customer's check-ins at a studio's chain, oldest first; None where the chain has no such customer."""
        tenant = self.tenants[studio.tenant]
        if customer_id not in tenant.member_of and customer_id not in tenant.seen:
            return None
        return [one for one in self.checkins if one.customer_id == customer_id and one.studio.tenant == studio.tenant]


def local_iso(at: datetime, studio: Studio) -> str:
    """An instant with the studio's own offset from UTC."""
    return at.astimezone(studio.zone).isoformat(timespec="milliseconds")


def wall_time(at: datetime, studio: Studio) -> str:
    """What a clock on the studio's wall showed, to the second."""
    return at.astimezone(studio.zone).strftime("%H:%M:%S")
