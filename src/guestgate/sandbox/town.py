"""A town to rehearse in: gym chains, their studios with keys, an aggregator's plans and members.

Pure: the same `TownSpec` is the same town, on every machine and every day. Keys are made from the seed as well,
so they are no secrets; a town belongs into a rehearsal, never beside real members.
"""

from __future__ import annotations

import base64
import hashlib
import random
import tomllib
from calendar import monthrange
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

from guestgate.errors import UsageError

KINDS = ("checkin", "webhook", "openapi")
MAX_STUDIOS, MAX_MEMBERS = 500, 200_000

# id, name, time zone, tags; what a studio is besides (test, paused) depends on its place in the town.
PLACES = (
    ("berlin-mitte", "Berlin Mitte", "Europe/Berlin", ("classic", "spa")),
    ("hamburg-altona", "Hamburg Altona", "Europe/Berlin", ("classic", "premium")),
    ("warszawa-centrum", "Warszawa Centrum", "Europe/Warsaw", ("classic",)),
    ("london-soho", "London Soho", "Europe/London", ("premium",)),
    ("lisboa-baixa", "Lisboa Baixa", "Europe/Lisbon", ("classic", "spa")),
    ("helsinki-kallio", "Helsinki Kallio", "Europe/Helsinki", ("classic",)),
    ("wien-neubau", "Wien Neubau", "Europe/Vienna", ("classic", "premium", "spa")),
    ("dublin-docks", "Dublin Docks", "Europe/Dublin", ("premium",)),
    ("azores-ponta", "Ponta Delgada", "Atlantic/Azores", ("classic",)),
    ("halifax-north", "Halifax North", "America/Halifax", ("classic",)),
    ("sydney-newtown", "Sydney Newtown", "Australia/Sydney", ("premium",)),
    ("kathmandu-thamel", "Kathmandu Thamel", "Asia/Kathmandu", ("classic",)),
)
# A gym chain is a tenant of the platform and numbers its customers by itself: from small numbers to those that
# a JavaScript or 32-bit reader would get wrong.
TENANTS = (("fitwerk", 293_000_000), ("sporthaus", 7_000_000_000), ("gymnasion", 9_007_199_254_800_000))
STUDIO_NUMBERS_FROM = 1_210_000

PLANS = """\
[plans.classic]
name = "Classic"
studio_tags = ["classic"]
limits = [{ max = 1, per = "day" }, { max = 8, per = "month", scope = "studio" }]

[plans.premium]
name = "Premium"
limits = [{ max = 2, per = "day" }, { max = 1, per = "week", scope = "tag:spa" }]
reentry_minutes = 0
payable = "per_visit"

[plans.daytime]
name = "Daytime"
hours = [
  { days = ["mon", "tue", "wed", "thu", "fri"], from = "06:00", until = "16:00" },
  { days = ["sat", "sun"], from = "00:00", until = "24:00" },
]
limits = [{ max = 4, per = "cycle" }]
cycle_days = 28
reentry_minutes = 1

[plans.night]
name = "Night owl"
hours = [{ from = "20:30", until = "06:15" }]
limits = [{ max = 3, per = "cycle" }]

[plans.roaming]
name = "Roaming"
min_gap_minutes = 60
payable = "per_visit"

[plans.card]
name = "Ten visits"
reentry_minutes = 0
limits = [{ max = 10, per = "total" }]

[plans.weekly]
name = "Three a week"
reentry_minutes = 0
limits = [{ max = 3, per = "week" }, { max = 2, per = "day", scope = "studio" }]
"""
PLAN_WEIGHTS = {"classic": 40, "premium": 15, "daytime": 12, "night": 6, "roaming": 12, "card": 8, "weekly": 7}
FIRST_NAMES = ("Zoë", "Jörg", "Ana", "Łukasz", "Niamh", "Aino", "Tariq", "Chloé", "Mehmet", "Ida")
LAST_NAMES = ("Nowak", "Müller", "O'Brien", "Sørensen", "da Silva", "Virtanen", "Özdemir", "Thapa", "Novák", "Smith")


@dataclass(frozen=True)
class TownSpec:
    """All that a town is made from. ``day`` is the date its memberships are laid out around.

    With ``aggregator_id`` the platform sends that in every check-in, and the customer tells who is meant.
    """

    seed: int = 1
    studios: int = 6
    members: int = 2000
    day: str = "2026-01-15"
    aggregator_id: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For a file or a log."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Any) -> TownSpec:
        """What `as_dict` wrote. Raises UsageError."""
        try:
            spec = cls(**content)
            date.fromisoformat(spec.day)
            sound = 1 <= spec.studios <= MAX_STUDIOS and 1 <= spec.members <= MAX_MEMBERS and type(spec.seed) is int
            sound = sound and isinstance(spec.aggregator_id, str | None)
        except (TypeError, ValueError):
            sound = False
        if not sound:
            raise UsageError("this is no town that guestgate sandbox export wrote")
        return spec


@dataclass(frozen=True)
class Studio:
    """A studio as the platform knows it; ``number`` is its id there, ``id`` the aggregator's name for it."""

    id: str
    name: str
    timezone: str
    tags: tuple[str, ...]
    tenant: str
    number: int
    test: bool
    paused: bool
    keys: dict[str, str] = field(repr=False)

    @property
    def zone(self) -> ZoneInfo:
        """Its time zone."""
        return ZoneInfo(self.timezone)


@dataclass(frozen=True)
class Member:
    """A member of the aggregator; dates are ISO dates. ``customers`` are the numbers chains know them by."""

    id: str
    plan: str
    status: str
    valid_from: str
    valid_until: str | None
    cycle_anchor: str | None
    customers: dict[str, int]
    linked: tuple[int, ...]
    first_name: str
    last_name: str


class Town:
    """The town of a spec."""

    def __init__(self, spec: TownSpec) -> None:
        """Lay it out."""
        self.spec = spec
        self.plans_toml = PLANS
        self.studios = [self._studio(number) for number in range(spec.studios)]
        dice = random.Random(f"{spec.seed}/members")
        self.members = [self._member(number, dice) for number in range(spec.members)]

    @cached_property
    def plans(self) -> dict[str, dict[str, Any]]:
        """The plans as their file says."""
        plans: dict[str, dict[str, Any]] = tomllib.loads(self.plans_toml)["plans"]
        return plans

    @cached_property
    def by_id(self) -> dict[str, Member]:
        """Members by their id."""
        return {member.id: member for member in self.members}

    @cached_property
    def studio_by_id(self) -> dict[str, Studio]:
        """Studios by the aggregator's name for them."""
        return {studio.id: studio for studio in self.studios}

    @cached_property
    def linked(self) -> dict[int, str]:
        """The member that the aggregator has linked to a customer."""
        return {customer: member.id for member in self.members for customer in member.linked}

    @property
    def tenants(self) -> list[str]:
        """The gym chains that have a studio here."""
        return list(dict.fromkeys(studio.tenant for studio in self.studios))

    def _studio(self, number: int) -> Studio:
        id_, name, timezone, tags = PLACES[number % len(PLACES)]
        round_ = number // len(PLACES)
        if round_:
            id_, name = f"{id_}-{round_ + 1}", f"{name} {round_ + 1}"
        last = self.spec.studios - 1
        return Studio(
            id=id_,
            name=name,
            timezone=timezone,
            tags=tags,
            tenant=TENANTS[number % len(TENANTS)][0],
            number=STUDIO_NUMBERS_FROM + 10 * number,
            test=number == last and last >= 3,
            paused=number == last - 1 and last >= 4,
            keys={kind: self._key(id_, kind) for kind in KINDS},
        )

    def _key(self, studio_id: str, kind: str) -> str:
        digest = hashlib.sha256(f"guestgate sandbox/{self.spec.seed}/{studio_id}/{kind}".encode()).digest()
        return "sandbox-" + base64.urlsafe_b64encode(digest[:24]).decode()

    def _member(self, number: int, dice: random.Random) -> Member:
        day = date.fromisoformat(self.spec.day)
        plan = dice.choices(list(PLAN_WEIGHTS), list(PLAN_WEIGHTS.values()))[0]
        status = dice.choices(("active", "suspended", "cancelled"), (94, 3, 3))[0]
        since = day - timedelta(days=dice.randrange(20, 900))
        until: date | None = None
        kind = dice.random()
        if kind < 0.02:
            since = day + timedelta(days=dice.randrange(500, 900))
        elif kind < 0.05:
            until = day - timedelta(days=dice.randrange(2, 19))
        elif kind < 0.20:  # ends with the month, which a clock that jumps gets to see
            until = day.replace(day=monthrange(day.year, day.month)[1])
        anchor = since.replace(day=1) + timedelta(days=30) if dice.random() < 0.3 else None
        known_at = [name for name, _ in TENANTS if dice.random() < 0.75] or [TENANTS[0][0]]
        customers = {name: first + number for name, first in TENANTS if name in known_at}
        everybody = self.spec.aggregator_id is not None
        linked = tuple(customer for customer in customers.values() if everybody or dice.random() < 0.7)
        return Member(
            id=f"m-{100_000 + number}" + ("-ü" if number % 97 == 5 else ""),
            plan=plan,
            status=status,
            valid_from=since.isoformat(),
            valid_until=until.isoformat() if until else None,
            cycle_anchor=anchor.isoformat() if anchor else None,
            customers=customers,
            linked=linked,
            first_name=dice.choice(FIRST_NAMES),
            last_name=dice.choice(LAST_NAMES),
        )
