"""Changing members and their links. Every function is part of the caller's transaction."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from guestgate import changes, clock, plans, schema, sequence
from guestgate.attendance.links import BY_HAND, Step, link_of
from guestgate.attendance.webhook import Kind
from guestgate.bulk import BulkInsert, BulkSelect
from guestgate.changes import Change
from guestgate.contract import MAX_CUSTOMER_ID
from guestgate.directory import current_version, load_plans
from guestgate.errors import ConflictError, NotFoundError, UsageError
from guestgate.instants import LAST_YEAR
from guestgate.model import Plan, Status
from guestgate.rows import BadRow, BadRowError, BadRows, Report
from guestgate.studios import check_id

PROFILE_FIELDS = (
    "first_name",
    "last_name",
    "date_of_birth",
    "email",
    "gender",
    "street",
    "house_number",
    "zip_code",
    "city",
    "country",
    "phone_private",
    "phone_private_mobile",
    "phone_business",
    "phone_business_mobile",
)
DATE_FIELDS = ("valid_from", "valid_until", "cycle_anchor")
# `customers` is what `member show` calls `customer_id`, so that what one prints another can import.
CUSTOMER_FIELDS = ("customer_id", "customers")
# What is shown of a member, and is nobody's to change.
SHOWN_ONLY = "disabled_customers"
FIELDS = ("member_id", "plan", "status", *DATE_FIELDS, *CUSTOMER_FIELDS, *PROFILE_FIELDS)
PHONE_PREFIX = "phone_"
UNWANTED = re.compile(r"[\x00-\x1f\ud800-\udfff]")
# A member has one at every gym chain; a row that links thousands would hold the lock for long.
MAX_CUSTOMERS = 100
GENDERS = ("MALE", "FEMALE", "UNISEX")

_m, _c, _s = schema.members.c, schema.customers.c, schema.sightings.c
_stored = BulkSelect(
    _m.id, _m.plan_id, _m.status, _m.valid_from, _m.valid_until, _m.cycle_anchor, _m.profile, among=_m.id
)
_linked = BulkSelect(_c.customer_id, _c.member_id, _c.by_hand, among=_c.customer_id)


@dataclass(frozen=True)
class MemberRow:
    """What a file or command says of one member. Fields that are left out of `values` stay as they are.

    ``line`` is where it stands in its file. ``values`` has texts or None by field name; ``customers`` are
    linked in addition to those that are linked already.
    """

    line: int
    member_id: str
    values: dict[str, str | None]
    customers: tuple[int, ...] = ()


def parse_row(line: int, given: dict[str, Any]) -> MemberRow:
    """Check one member's fields, each by itself. Raises BadRowError."""
    given = {name: value for name, value in given.items() if name != SHOWN_ONLY}
    for name in given:
        if name not in FIELDS:
            raise BadRowError(f"{name[:64]!a}: there is no such field")
    values = {name: _text(name, value) for name, value in given.items() if name not in CUSTOMER_FIELDS}
    member_id = values.pop("member_id", None)
    if member_id is None:
        raise BadRowError("member_id: is missing")
    try:
        check_id(member_id, "member_id")
    except UsageError as error:
        raise BadRowError(str(error)) from None
    for name, value in values.items():
        if name in PARSERS and value is not None:
            values[name] = PARSERS[name](name, value)
        elif name in PROFILE_FIELDS and value is not None:
            _check_no_formula(name, value)
    customers = [customer for name in CUSTOMER_FIELDS for customer in parse_customers(given.get(name))]
    return MemberRow(line, member_id, values, tuple(customers))


def _check_no_formula(name: str, value: str) -> None:
    """A spreadsheet would run it, once somebody opens an export there. No name or address begins like that."""
    if value[0] in "=@" or (value[0] in "+-" and not name.startswith(PHONE_PREFIX)):
        raise BadRowError(f"{name}: begins with {value[0]}, like a formula of a spreadsheet")


def _text(name: str, value: Any) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise BadRowError(f"{name}: should be a text")
    value = value.strip()
    if len(value) > 255 or UNWANTED.search(value):
        raise BadRowError(f"{name}: should have at most 255 characters, no control characters, and be UTF-8")
    return value or None


def _date(name: str, value: str) -> str:
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError:
        raise BadRowError(f"{name}: {value!r} is not a date; write 2026-11-23") from None


def _first_day(name: str, value: str) -> str:
    day = _date(name, value)
    if int(day[:4]) > LAST_YEAR:
        raise BadRowError(f"{name}: {value!r} lies after the year {LAST_YEAR}")
    return day


def _one_of(*allowed: str) -> Callable[[str, str], str]:
    def parse(name: str, value: str) -> str:
        if value not in allowed:
            raise BadRowError(f"{name}: {value!r} should be {', '.join(allowed[:-1])} or {allowed[-1]}")
        return value

    return parse


def _country(name: str, value: str) -> str:
    if len(value) != 2 or not value.isascii() or not value.isalpha():
        raise BadRowError(f"{name}: {value!r} is not a country of ISO 3166-1, such as DE")
    return value.upper()


PARSERS: dict[str, Callable[[str, str], str]] = {
    "status": _one_of(*Status),
    "gender": _one_of(*GENDERS),
    "country": _country,
    "date_of_birth": _date,
    "valid_until": _date,
    **dict.fromkeys(("valid_from", "cycle_anchor"), _first_day),
}


def parse_customers(value: Any) -> tuple[int, ...]:
    """Customer ids from ``12;34``, 12 or [12, 34]."""
    if value is None or value == "":
        return ()
    parts = value.split(";") if isinstance(value, str) else value if isinstance(value, list) else [value]
    if len(parts) > MAX_CUSTOMERS:
        raise BadRowError(f"customer_id: has {len(parts)} where a row takes {MAX_CUSTOMERS} at most")
    return tuple(parse_customer(part) for part in parts)


def parse_customer(value: Any) -> int:
    """One of the platform's customer ids. Raises BadRowError."""
    text = value.strip() if isinstance(value, str) else str(value) if type(value) is int else ""
    if (
        not text.isascii()
        or not text.isdecimal()
        or not 1 <= len(text) <= 19
        or not 1 <= int(text) <= MAX_CUSTOMER_ID
    ):
        shown = f"{value!r:.40}" if isinstance(value, str | int | float) else "this"
        raise BadRowError(f"customer_id: {shown} is not an integer from 1 to {MAX_CUSTOMER_ID}")
    return int(text)


class Upsert:
    """Inserts or updates members by ``member_id``; bad rows are reported and the others kept.

    Each change is in the audit trail.
    """

    def __init__(self, *, dry_run: bool = False, bad: BadRows | None = None) -> None:
        """With `dry_run` nothing is written, and what would have been is kept in memory for later rows.

        `bad` takes the bad rows; else they are in the report.
        """
        self.report = Report() if bad is None else Report(bad=bad)
        # Where the last row that was taken stands in its file.
        self.last_line = 0
        self._plans_version, self._known_plans = 0, dict[str, Plan]()
        self._dry_run = dry_run
        self._would_be_stored: dict[str, list[Any]] = {}
        self._would_be_linked: dict[int, str] = {}

    def __call__(self, connection: Connection, given: Sequence[MemberRow | BadRow]) -> None:
        """Take some rows, in their order."""
        self.last_line = given[-1].line if given else self.last_line
        rows = [row for row in given if isinstance(row, MemberRow)]
        known = self._plans(connection)
        stored = {member_id: rest for member_id, *rest in _stored(connection, [row.member_id for row in rows])}
        found = _linked(connection, {customer for row in rows for customer in row.customers})
        linked = {customer: owner for customer, owner, _ in found}
        by_hand = {customer for customer, _, by_hand in found if by_hand}
        stored |= {row.member_id: seen for row in rows if (seen := self._would_be_stored.get(row.member_id))}
        linked |= {c: owner for row in rows for c in row.customers if (owner := self._would_be_linked.get(c))}
        by_hand |= self._would_be_linked.keys()
        fresh: dict[str, list[Any]] = {}
        touched: dict[str, list[Any]] = {}
        links: list[tuple[int, str]] = []
        trail: list[Change] = []
        for row in given:
            if isinstance(row, BadRow):
                self.report.bad.append(row)
                continue
            before = stored.get(row.member_id)
            try:
                after = _merged(row, before, known)
                for customer in row.customers:
                    if linked.get(customer, row.member_id) != row.member_id:
                        raise BadRowError(f"customer_id: {customer} is linked to member {linked[customer]}")
            except BadRowError as error:
                self.report.bad.append(BadRow(row.line, str(error)))
                continue
            new_links = [customer for customer in dict.fromkeys(row.customers) if customer not in by_hand]
            linked.update(dict.fromkeys(new_links, row.member_id))
            by_hand.update(new_links)
            links += [(customer, row.member_id) for customer in new_links]
            stored[row.member_id] = after
            trail += _trail(row.member_id, before, after, new_links)
            if before is None:
                self.report.added += 1
                fresh[row.member_id] = after
            elif after != before or new_links:
                self.report.updated += 1
                (fresh if row.member_id in fresh else touched)[row.member_id] = after
            else:
                self.report.unchanged += 1
        if self._dry_run:
            self._would_be_stored |= {row.member_id: stored[row.member_id] for row in rows if row.member_id in stored}
            self._would_be_linked |= dict(links)
        else:
            _store(connection, fresh, touched, links)
            changes.record(connection, trail)

    def _plans(self, connection: Connection) -> dict[str, Plan]:
        """The plans in force, read again when they have changed."""
        version = current_version(connection)
        if version != self._plans_version:
            self._plans_version, self._known_plans = version, load_plans(connection)
        return self._known_plans


def _trail(member_id: str, before: list[Any] | None, after: list[Any], new_links: list[int]) -> list[Change]:
    """What the audit trail says of one row."""
    if before is None:
        customers = {"customers": new_links} if new_links else {}
        return [Change("member.added", member_id, None, {**_named(after), **customers})]
    changed = [Change("member.changed", member_id, _named(before), _named(after))] if after != before else []
    return changed + [_linked_change(member_id, customer) for customer in new_links]


def _linked_change(member_id: str, customer: int) -> Change:
    return Change("customer.linked", member_id, None, {"customer_id": customer})


def _merged(row: MemberRow, before: list[Any] | None, known: dict[str, Plan]) -> list[Any]:
    """The member's columns after this row: plan, status, three dates, profile (JSON)."""
    plan_id, status, *dates, profile = before or [None, Status.ACTIVE.value, None, None, None, "{}"]
    values = row.values
    plan_id = values.get("plan") or plan_id
    if before is None and "plan" not in values:
        raise BadRowError(f"plan: is missing, and there is no member {row.member_id} yet")
    if plan_id is None or values.get("plan", plan_id) is None:
        raise BadRowError("plan: is missing")
    if plan_id not in known:
        raise BadRowError(f"plan: there is no plan {plan_id!r}")
    status = (values["status"] or Status.ACTIVE.value) if "status" in values else status
    dates = [values.get(name, stored) for name, stored in zip(DATE_FIELDS, dates, strict=True)]
    valid_from, valid_until, cycle_anchor = dates
    if valid_from and valid_until and valid_until < valid_from:
        raise BadRowError(f"valid_until: {valid_until} lies before valid_from {valid_from}")
    if known[plan_id].has_cycle and not (cycle_anchor or valid_from):
        raise BadRowError(f"cycle_anchor: plan {plan_id} counts in cycles, so it or valid_from is needed")
    personal = json.loads(profile) | {name: values[name] for name in PROFILE_FIELDS if name in values}
    profile = json.dumps({name: value for name, value in personal.items() if value}, ensure_ascii=False)
    return [plan_id, status, *dates, profile]


def _named(merged: list[Any]) -> dict[str, Any]:
    """A member's columns by field name, without those that are empty."""
    plan_id, status, *dates, profile = merged
    named = {"plan": plan_id, "status": status, **dict(zip(DATE_FIELDS, dates, strict=True)), **json.loads(profile)}
    return {name: value for name, value in named.items() if value is not None}


_columns = ("plan_id", "status", *DATE_FIELDS, "profile", "updated_at_ms")
_update = (
    update(schema.members).where(_m.id == bindparam("b_id")).values({name: bindparam(name) for name in _columns})
)
_insert_members = BulkInsert(schema.members)
# A link that the platform's events made may be made by hand, too.
_put_customers = BulkInsert(schema.customers, renewed=["linked_at_ms", "by_hand"])


def _store(
    connection: Connection,
    fresh: dict[str, list[Any]],
    touched: dict[str, list[Any]],
    links: list[tuple[int, str]],
) -> None:
    now_ms = clock.now_ms()
    _insert_members(connection, [(member_id, *merged, now_ms, None) for member_id, merged in fresh.items()])
    if touched:
        connection.execute(
            _update,
            [
                {"b_id": member_id, **dict(zip(_columns, (*merged, now_ms), strict=True))}
                for member_id, merged in touched.items()
            ],
        )
    _put_customers(connection, [(customer, member_id, now_ms, True) for customer, member_id in links])


def save(connection: Connection, row: MemberRow, *, exactly: bool = False) -> str:
    """Add or change one member; returns ``added``, ``changed`` or ``unchanged``.

    With `exactly`, the row's customers are all that the member has afterwards. Raises UsageError for what
    cannot be, ConflictError where a customer is another member's.
    """
    upsert = Upsert()
    upsert(connection, [replace(row, customers=())])
    report = upsert.report
    if report.bad:
        raise UsageError(next(iter(report.bad)).why)
    before = set(customers_of(connection, row.member_id))
    for customer in row.customers:
        link(connection, row.member_id, customer)
    for customer in before - set(row.customers) if exactly else ():
        unlink(connection, row.member_id, customer)
    if report.added:
        return "added"
    relinked = not before >= set(row.customers) or (exactly and before != set(row.customers))
    return "changed" if report.updated or relinked else "unchanged"


def require(connection: Connection, member_id: str) -> Any:
    """The member's row. Raises NotFoundError where there is none."""
    row = connection.execute(select(schema.members).where(_m.id == member_id)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no member {member_id}")
    return row


def exists(connection: Connection, member_id: str) -> bool:
    """Whether there is such a member."""
    return connection.execute(select(_m.id).where(_m.id == member_id)).first() is not None


def customers_of(connection: Connection, member_id: str) -> list[int]:
    """The member's customers at the platform, by number."""
    return list(
        connection.execute(select(_c.customer_id).where(_c.member_id == member_id).order_by(_c.customer_id)).scalars()
    )


def member_dict(connection: Connection, member_id: str) -> dict[str, Any]:
    """One member as users see it, with the field names of the member file and a list of customers.

    Those that the platform lets in no more are listed once more, where there are any.
    """
    row = require(connection, member_id)
    customers = customers_of(connection, member_id)
    disabled = [customer_id for customer_id in customers if _is_disabled(connection, customer_id)]
    shown = {SHOWN_ONLY: disabled} if disabled else {}
    return {**_visible(row), "customers": customers, **shown, **json.loads(row.profile)}


def _is_disabled(connection: Connection, customer_id: int) -> bool:
    """Whether that is the platform's last word on a customer."""
    told = connection.execute(
        select(_s.at_ms, _s.kind, _s.reference).where(
            _s.customer_id == customer_id,
            _s.kind.in_([Kind.DISABLED.value, Kind.DELETED.value]),
            _s.source != BY_HAND,
        )
    )
    return link_of(Step(row.at_ms, Kind(row.kind), reference=row.reference) for row in told).disabled


def _visible(row: Any) -> dict[str, Any]:
    return {
        "member_id": row.id,
        "plan": row.plan_id,
        "status": row.status,
        "valid_from": row.valid_from,
        "valid_until": row.valid_until,
        "cycle_anchor": row.cycle_anchor,
    }


def member_list(
    connection: Connection,
    *,
    plan: str | None = None,
    status: str | None = None,
    customer: int | None = None,
    after: str = "",
    limit: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Members by id, those after a certain one, without customers and personal data."""
    query = select(schema.members).where(_m.id > after).order_by(_m.id).limit(limit)
    if plan is not None:
        plans.require(connection, plan)
        query = query.where(_m.plan_id == plan)
    if status is not None:
        query = query.where(_m.status == status)
    if customer is not None:
        query = query.where(_m.id.in_(select(_c.member_id).where(_c.customer_id == customer)))
    for row in connection.execution_options(yield_per=1000).execute(query):
        yield _visible(row)


def link(connection: Connection, member_id: str, customer_id: int, *, by_hand: bool = True) -> None:
    """Link a customer to a member. Raises ConflictError where it is linked to another one.

    What is linked `by_hand` no event of the platform gives to somebody else, also where one had linked it before.
    """
    require(connection, member_id)
    present = connection.execute(select(_c.member_id, _c.by_hand).where(_c.customer_id == customer_id)).one_or_none()
    if present is not None and present.member_id != member_id:
        raise ConflictError(f"customer {customer_id} is linked to member {present.member_id}; unlink it there first")
    if present is None or (by_hand and not present.by_hand):
        _put_customers(connection, [(customer_id, member_id, clock.now_ms(), by_hand)])
        changes.record(connection, [_linked_change(member_id, customer_id)])


def unlink(connection: Connection, member_id: str, customer_id: int, *, by_hand: bool = True) -> None:
    """End a link. Raises NotFoundError where there is none.

    What is ended `by_hand` only an event of the platform that happens afterwards makes again.
    """
    require(connection, member_id)
    ended = connection.execute(
        delete(schema.customers).where(_c.customer_id == customer_id, _c.member_id == member_id)
    )
    if not ended.rowcount:
        raise NotFoundError(f"customer {customer_id} is not linked to member {member_id}")
    if by_hand:
        _keep_end(connection, member_id, customer_id)
    changes.record(connection, [Change("customer.unlinked", member_id, {"customer_id": customer_id})])


def _keep_end(connection: Connection, member_id: str, customer_id: int) -> None:
    """Beside what the platform told of the customer, not only in the audit trail, which is not kept for ever."""
    (seq,) = sequence.take(connection, 1)
    now_ms = clock.now_ms()
    connection.execute(
        insert(schema.sightings).values(
            seq=seq,
            customer_id=customer_id,
            studio_id="",
            kind=Kind.DELETED.value,
            source=BY_HAND,
            reference=str(seq),
            at_ms=now_ms,
            received_at_ms=now_ms,
            ours=True,
            member_id=member_id,
        )
    )


def remove(connection: Connection, member_id: str) -> None:
    """Take out a member that no person stands behind; a person's traces take `guestgate.forget`."""
    before = member_dict(connection, member_id)
    for table in (schema.customers, schema.enrolment_codes):
        connection.execute(delete(table).where(table.c.member_id == member_id))
    connection.execute(delete(schema.members).where(_m.id == member_id))
    changes.record(connection, [Change("member.removed", member_id, before)])
