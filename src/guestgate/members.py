"""Changing members and their links. Every function is part of the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from guestgate import clock, plans, schema
from guestgate.bulk import BulkSelect
from guestgate.contract import MAX_CUSTOMER_ID
from guestgate.directory import load_plans
from guestgate.errors import OperationError, UsageError
from guestgate.instants import LAST_YEAR
from guestgate.model import Plan, Status
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
FIELDS = ("member_id", "plan", "status", *DATE_FIELDS, "customer_id", *PROFILE_FIELDS)
GENDERS = ("MALE", "FEMALE", "UNISEX")

_m, _c = schema.members.c, schema.customers.c
_stored = BulkSelect(
    _m.id, _m.plan_id, _m.status, _m.valid_from, _m.valid_until, _m.cycle_anchor, _m.profile, among=_m.id
)
_linked = BulkSelect(_c.customer_id, _c.member_id, among=_c.customer_id)


class BadRowError(ValueError):
    """A member cannot be taken as given; the message names the field and the cause."""


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


@dataclass
class Report:
    """What became of the rows."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)


def parse_row(line: int, given: dict[str, Any]) -> MemberRow:
    """Check one member's fields, each by itself. Raises BadRowError."""
    for name in given:
        if name not in FIELDS:
            raise BadRowError(f"{name[:64]!a}: there is no such field")
    values = {name: _text(name, value) for name, value in given.items() if name != "customer_id"}
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
    return MemberRow(line, member_id, values, _customers(given.get("customer_id")))


def _text(name: str, value: Any) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise BadRowError(f"{name}: should be a text")
    value = value.strip()
    if len(value) > 255 or any(ord(c) < 32 or 0xD800 <= ord(c) <= 0xDFFF for c in value):
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


def _customers(value: Any) -> tuple[int, ...]:
    """Customer ids from ``12;34``, 12 or [12, 34]."""
    if value is None or value == "":
        return ()
    parts = value.split(";") if isinstance(value, str) else value if isinstance(value, list) else [value]
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
        raise BadRowError(f"customer_id: {value!r} is not an integer from 1 to {MAX_CUSTOMER_ID}")
    return int(text)


class Upsert:
    """Inserts or updates members by ``member_id``; bad rows are reported and the others kept."""

    def __init__(self, *, dry_run: bool = False) -> None:
        """With `dry_run` nothing is written, and what would have been is kept in memory for later rows."""
        self.report = Report()
        self._dry_run = dry_run
        self._would_be_stored: dict[str, list[Any]] = {}
        self._would_be_linked: dict[int, str] = {}

    def __call__(self, connection: Connection, rows: Sequence[MemberRow]) -> None:
        """Take some rows, in their order."""
        known = load_plans(connection)
        stored = {member_id: rest for member_id, *rest in _stored(connection, [row.member_id for row in rows])}
        linked = dict(_linked(connection, {customer for row in rows for customer in row.customers}))
        stored |= {row.member_id: seen for row in rows if (seen := self._would_be_stored.get(row.member_id))}
        linked |= {c: owner for row in rows for c in row.customers if (owner := self._would_be_linked.get(c))}
        fresh: dict[str, dict[str, Any]] = {}
        touched: dict[str, dict[str, Any]] = {}
        links: list[dict[str, Any]] = []
        for row in rows:
            before = stored.get(row.member_id)
            try:
                after = _merged(row, before, known)
                for customer in row.customers:
                    if linked.get(customer, row.member_id) != row.member_id:
                        raise BadRowError(f"customer_id: {customer} is linked to member {linked[customer]}")
            except BadRowError as error:
                self.report.bad.append((row.line, str(error)))
                continue
            new_links = [customer for customer in dict.fromkeys(row.customers) if customer not in linked]
            linked.update(dict.fromkeys(new_links, row.member_id))
            links += [
                {"customer_id": c, "member_id": row.member_id, "linked_at_ms": clock.now_ms()} for c in new_links
            ]
            stored[row.member_id] = after
            values = _columns(row.member_id, after)
            if before is None:
                self.report.added += 1
                fresh[row.member_id] = values
            elif after != before or new_links:
                self.report.updated += 1
                (fresh if row.member_id in fresh else touched)[row.member_id] = values
            else:
                self.report.unchanged += 1
        if self._dry_run:
            self._would_be_stored |= {row.member_id: stored[row.member_id] for row in rows if row.member_id in stored}
            self._would_be_linked |= {link["customer_id"]: link["member_id"] for link in links}
        else:
            _store(connection, list(fresh.values()), list(touched.values()), links)


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


def _columns(member_id: str, merged: list[Any]) -> dict[str, Any]:
    names = ("plan_id", "status", *DATE_FIELDS, "profile")
    return {"id": member_id, "updated_at_ms": clock.now_ms(), **dict(zip(names, merged, strict=True))}


_update = (
    update(schema.members)
    .where(_m.id == bindparam("b_id"))
    .values({name: bindparam(name) for name in ("plan_id", "status", *DATE_FIELDS, "profile", "updated_at_ms")})
)


def _store(
    connection: Connection,
    fresh: list[dict[str, Any]],
    touched: list[dict[str, Any]],
    links: list[dict[str, Any]],
) -> None:
    if fresh:
        connection.execute(insert(schema.members), fresh)
    if touched:
        connection.execute(_update, [{"b_id": values.pop("id"), **values} for values in touched])
    if links:
        connection.execute(insert(schema.customers), links)


def require(connection: Connection, member_id: str) -> Any:
    """The member's row. Raises OperationError where there is none."""
    row = connection.execute(select(schema.members).where(_m.id == member_id)).one_or_none()
    if row is None:
        raise OperationError(f"there is no member {member_id}")
    return row


def member_dict(connection: Connection, member_id: str) -> dict[str, Any]:
    """One member as users see it, with the field names of the member file and a list of customers."""
    row = require(connection, member_id)
    customers = connection.execute(
        select(_c.customer_id).where(_c.member_id == member_id).order_by(_c.customer_id)
    ).scalars()
    return {**_visible(row), "customers": list(customers), **json.loads(row.profile)}


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
    connection: Connection, *, plan: str | None = None, status: str | None = None, limit: int | None = None
) -> Iterator[dict[str, Any]]:
    """Members by id, without customers and personal data."""
    query = select(schema.members).order_by(_m.id).limit(limit)
    if plan is not None:
        plans.require(connection, plan)
        query = query.where(_m.plan_id == plan)
    if status is not None:
        query = query.where(_m.status == status)
    for row in connection.execution_options(yield_per=1000).execute(query):
        yield _visible(row)


def link(connection: Connection, member_id: str, customer_id: int) -> None:
    """Link a customer to a member. Raises OperationError where it is linked to another one."""
    require(connection, member_id)
    owner = connection.execute(select(_c.member_id).where(_c.customer_id == customer_id)).scalar_one_or_none()
    if owner is not None and owner != member_id:
        raise OperationError(f"customer {customer_id} is linked to member {owner}; unlink it there first")
    if owner is None:
        connection.execute(
            insert(schema.customers).values(customer_id=customer_id, member_id=member_id, linked_at_ms=clock.now_ms())
        )


def unlink(connection: Connection, member_id: str, customer_id: int) -> None:
    """End a link. Raises OperationError where there is none."""
    require(connection, member_id)
    ended = connection.execute(
        delete(schema.customers).where(_c.customer_id == customer_id, _c.member_id == member_id)
    )
    if not ended.rowcount:
        raise OperationError(f"customer {customer_id} is not linked to member {member_id}")
