"""Customers for members at a studio's chain, so that they can be given a card there before they first come.

Personal data leaves for the platform here, so it is only that of members who may come in at that studio.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sqlalchemy import Connection, insert, select

from guestgate import clock, members, schema, studios, words
from guestgate.bulk import BulkSelect
from guestgate.database import Database
from guestgate.directory import load_plans, studio_of
from guestgate.eligibility import Finding, may_be_made_known
from guestgate.errors import ConflictError, NotFoundError, OperationError, PlatformError, UsageError
from guestgate.facts import member_of
from guestgate.members import MemberRow
from guestgate.model import Reason
from guestgate.platform.client import OpenApiClient
from guestgate.rows import BadRow, BadRows, in_memory

CHUNK = 200
NEEDED = ("first_name", "last_name")
# What the platform finds wrong with one member, rather than with us.
ABOUT_THE_MEMBER = (400, 409, 422)

_m, _c, _h = schema.members.c, schema.customers.c, schema.customer_chains.c
_members = BulkSelect(
    *(_m.id, _m.plan_id, _m.status, _m.valid_from, _m.valid_until, _m.cycle_anchor, _m.profile), among=_m.id
)


@dataclass
class CustomerReport:
    """What became of members: ``created`` have a customer now, ``had_one`` had, ``passed_over`` may not come in."""

    created: int = 0
    had_one: int = 0
    passed_over: int = 0
    bad: BadRows = field(default_factory=in_memory)


@dataclass(frozen=True)
class _Known:
    """A member as of now. ``why_not`` says why the platform is not told of them, ``profile`` is what it is told."""

    customer_id: int | None
    why_not: str | None
    profile: dict[str, str]


class CustomerMaker:
    """Has customers created for members at the chain of one studio, and links them.

    Each link is committed before the next call, and the platform answers a customer that it has already; so
    whatever stops this, it goes on when it is started again, and nobody is created twice.
    """

    def __init__(self, database: Database, client: OpenApiClient, who: str, bad: BadRows | None = None) -> None:
        """`who` makes the links, for the audit trail; `bad` takes the bad rows."""
        self._database, self._client, self._who = database, client, who
        self.report = CustomerReport() if bad is None else CustomerReport(bad=bad)

    def one(self, member_id: str) -> tuple[int, bool]:
        """The member's customer at the chain, and whether we asked for it just now.

        Raises NotFoundError without such a member, OperationError for one who may not come in there,
        ConflictError where the customer is another member's, and PlatformError.
        """
        with self._database.read() as connection:
            members.require(connection, member_id)
            known = self._known(connection, [member_id])[member_id]
        if known.customer_id is not None:
            return known.customer_id, False
        if known.why_not is not None:
            raise OperationError(f"no customer is created for member {member_id}: {known.why_not}")
        return self._create(member_id, known.profile), True

    def all(self, rows: Iterable[MemberRow | BadRow]) -> Iterator[int]:
        """The same for the members of many rows, each once it is done; yields how many are done.

        Bad rows, and members whom nobody knows, are left out: who imported them has reported them. Raises
        PlatformError where going on makes no sense.
        """
        good = (row for row in rows if isinstance(row, MemberRow))
        done = 0
        while chunk := list(islice(good, CHUNK)):
            with self._database.read() as connection:
                known = self._known(connection, [row.member_id for row in chunk])
            for row in chunk:
                member = known.pop(row.member_id, None)  # the second row of a member has nothing to add
                if member is not None:
                    self._take(row, member)
                done += 1
                yield done

    def _take(self, row: MemberRow, member: _Known) -> None:
        if member.customer_id is not None:
            self.report.had_one += 1
        elif member.why_not is not None:
            self.report.passed_over += 1
        else:
            try:
                self._create(row.member_id, member.profile)
            except (UsageError, ConflictError, NotFoundError, PlatformError) as error:
                if isinstance(error, PlatformError) and error.status not in ABOUT_THE_MEMBER:
                    raise
                self.report.bad.append(BadRow(row.line, str(error)))
            else:
                self.report.created += 1

    def _create(self, member_id: str, profile: dict[str, str]) -> int:
        for name in NEEDED:
            if name not in profile:
                raise UsageError(f"{name}: is missing, and the platform needs it")
        customer_id = self._client.create_member(member_id, profile).customer_id
        with self._database.write(self._who) as connection:
            link(connection, member_id, customer_id, self._client.base_url)
        return customer_id

    def _known(self, connection: Connection, ids: list[str]) -> dict[str, _Known]:
        """Those of the members who exist."""
        studio = studio_of(studios.require(connection, self._client.studio_id))
        now, plans = clock.now(), load_plans(connection)
        at_the_chain = select(_c.member_id, _c.customer_id).join(
            schema.customer_chains, _h.customer_id == _c.customer_id
        )
        found = connection.execute(at_the_chain.where(_c.member_id.in_(ids), _h.base_url == self._client.base_url))
        customer_of = {row.member_id: row.customer_id for row in found}
        known = {}
        for *facts, profile in _members(connection, ids):
            member = member_of(plans, *facts)
            finding = may_be_made_known(studio, member, now)
            why_not = None if finding is Finding.OK else words.REASONS[Reason(finding.value)]
            known[member.id] = _Known(customer_of.get(member.id), why_not, json.loads(profile))
        return known


def link(connection: Connection, member_id: str, customer_id: int, base_url: str) -> None:
    """Link a customer of a chain to a member. Raises what `members.link` does."""
    members.link(connection, member_id, customer_id)
    chain: Any = connection.execute(select(_h.base_url).where(_h.customer_id == customer_id)).scalar_one_or_none()
    if chain is None:
        connection.execute(insert(schema.customer_chains).values(customer_id=customer_id, base_url=base_url))
