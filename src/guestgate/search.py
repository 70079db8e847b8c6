"""Finding members by what somebody at a desk says: an id, a customer's number, or a name.

Names are found by how they begin, and by an index over what stands in the profile: it needs no column, and
forgets with the profile. SQLite folds the case of ASCII letters only, so a name is also looked up as it is
written with a capital and in capitals.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, literal_column, select

from guestgate import schema
from guestgate.contract import MAX_CUSTOMER_ID

MOST = 20
MAX_LENGTH, MAX_WORDS = 100, 6
# Comes after every other character, in either database's order.
LAST_CHARACTER = chr(0x10FFFF)
_FOLD = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

_m, _c = schema.members.c, schema.customers.c
# Word for word what the indexes are over; see the migration, and `guestgate.partitions` for PostgreSQL.
_NAMES = {
    "sqlite": ("lower(json_extract(profile, '$.last_name'))", "lower(json_extract(profile, '$.first_name'))"),
    "postgresql": (
        "(lower(profile::json ->> 'last_name') COLLATE \"C\")",
        "(lower(profile::json ->> 'first_name') COLLATE \"C\")",
    ),
}
POSTGRES_INDEXES = (", ".join(_NAMES["postgresql"]), _NAMES["postgresql"][1])


def members(connection: Connection, text: str, limit: int = MOST) -> list[dict[str, Any]]:
    """Members that a text may mean, the surest first, by what tells them apart.

    The id itself comes first, then the member of that customer, ids that begin so, and names. Each has
    ``member_id``, ``first_name``, ``last_name``, ``plan`` and ``status``.
    """
    text = " ".join(text.replace(",", " ").split())
    if not text or len(text) > MAX_LENGTH or "\0" in text:
        return []
    found: dict[str, dict[str, Any]] = {}
    for query in _queries(connection.dialect.name, text):
        for row in connection.execute(query.limit(limit - len(found))):
            found.setdefault(row.id, _visible(row))
        if len(found) >= limit:
            break
    return list(found.values())


def _visible(row: Any) -> dict[str, Any]:
    profile = json.loads(row.profile)
    return {
        "member_id": row.id,
        "first_name": profile.get("first_name"),
        "last_name": profile.get("last_name"),
        "plan": row.plan_id,
        "status": row.status,
    }


def _queries(dialect: str, text: str) -> Iterator[Select[Any]]:
    """Each by an index, and so quick that one after the other is."""
    everything = select(_m.id, _m.profile, _m.plan_id, _m.status)
    yield everything.where(_m.id == text)
    if text.isascii() and text.isdecimal() and 1 <= int(text) <= MAX_CUSTOMER_ID:
        yield everything.where(_m.id.in_(select(_c.member_id).where(_c.customer_id == int(text))))
    yield everything.where(_begins(_m.id, text)).order_by(_m.id)
    columns: list[ColumnElement[str]] = [literal_column(column) for column in _NAMES[dialect]]
    last, first = columns
    for words in _spellings(text):
        whole = " ".join(words)
        yield everything.where(_begins(last, whole)).order_by(last, first)
        yield everything.where(_begins(first, whole)).order_by(first)
        for place in range(1, len(words)):
            one, other = " ".join(words[:place]), " ".join(words[place:])
            for of_last, of_first in ((other, one), (one, other)):
                both = and_(_begins(last, of_last), _begins(first, of_first))
                yield everything.where(both).order_by(last, first)


def _begins(column: ColumnElement[Any], text: str) -> ColumnElement[bool]:
    return and_(column >= text, column < text + LAST_CHARACTER)


def _spellings(text: str) -> list[list[str]]:
    """The words as they may stand in the index."""
    spelt = (text.lower(), text.title(), text.upper())
    return [one.split(" ", MAX_WORDS - 1) for one in dict.fromkeys(one.translate(_FOLD) for one in spelt)]


def on_plan(connection: Connection, plan: str, after: str = "", limit: int = MOST) -> list[dict[str, Any]]:
    """A plan's members by id, those after a certain one, as `members` has them."""
    query = select(_m.id, _m.profile, _m.plan_id, _m.status).where(_m.plan_id == plan, _m.id > after)
    return [_visible(row) for row in connection.execute(query.order_by(_m.id).limit(limit))]
