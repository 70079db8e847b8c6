"""Reading what decisions rest on, for many check-ins at once.

The ledger reads under its write lock, `explain` in a transaction of its own; both get the same facts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import date, timedelta

from sqlalchemy import Connection, bindparam

from guestgate import clock, locks, schema
from guestgate.bulk import BulkSelect
from guestgate.directory import Directory, tags_of
from guestgate.model import CheckIn, Decision, Facts, Member, Plan, Status, Studio, Visit, VisitState
from guestgate.stand_in.recent import RecentVisit

_c, _m, _v = schema.customers.c, schema.members.c, schema.visits.c
_customers = BulkSelect(_c.customer_id, _c.member_id, among=_c.customer_id)
_member_columns = (_m.id, _m.plan_id, _m.status, _m.valid_from, _m.valid_until, _m.cycle_anchor)
_members = BulkSelect(*_member_columns, among=_m.id)
_locked_members = BulkSelect(*_member_columns, among=_m.id, lock=True)
_visits = BulkSelect(
    _v.member_id,
    _v.id,
    _v.studio_id,
    _v.at_ms,
    _v.local_date,
    _v.tags,
    _v.test,
    among=_v.member_id,
    where=[_v.local_date >= bindparam("since"), _v.state != VisitState.REVERSED.value],
)


class FactBook:
    """The facts for one batch of check-ins, kept up to date while the batch is decided."""

    def __init__(
        self,
        connection: Connection,
        directory: Directory,
        checkins: Iterable[CheckIn],
        own_id: str | None,
        *,
        lock: bool = False,
    ) -> None:
        """Read all that `checkins` need. `own_id` is our company id where the platform sends that instead.

        With `lock` the members are locked first, and their visits read under the locks; see `is_busy`.
        """
        self._directory = directory
        self._own_id = own_id
        checkins = list(checkins)
        self._customers: dict[int, str] = dict(_customers(connection, {checkin.customer_id for checkin in checkins}))
        asked = {member_id for checkin in checkins if (member_id := self._member_id(checkin)) is not None}
        self._members: dict[str, Member] = {
            row[0]: member_of(directory.plans, *row)
            for row in (_locked_members if lock else _members)(connection, asked)
        }
        missing = asked - self._members.keys() if lock else set[str]()
        self._busy = locks.busy(connection, missing) if missing else missing
        self._visits: dict[str, list[Visit]] = defaultdict(list)
        self._read_visits(connection, checkins)

    def _read_visits(self, connection: Connection, checkins: list[CheckIn]) -> None:
        """Bounded windows in one query, so that one member with a limit in total slows nobody else."""
        windowed: set[str] = set()
        everything: set[str] = set()
        reach_days = 0
        for checkin in checkins:
            member = self._member(checkin)
            if member is None:
                continue
            reach = member.plan.reach_days
            if reach is None:
                everything.add(member.id)
            else:
                windowed.add(member.id)
                reach_days = max(reach_days, reach)
        if windowed:
            first = min(checkin.received_at for checkin in checkins).date()
            self._add(connection, windowed, first - timedelta(days=reach_days))
        if everything:
            self._add(connection, everything, date.min)

    def _add(self, connection: Connection, member_ids: Collection[str], since: date) -> None:
        rows = _visits(connection, member_ids, since=since.isoformat())
        for member_id, visit_id, studio_id, at_ms, local_date, tags, test in rows:
            self._visits[member_id].append(
                Visit(
                    visit_id,
                    studio_id,
                    clock.from_ms(at_ms),
                    date.fromisoformat(local_date),
                    tags_of(tags),
                    bool(test),
                )
            )

    def _member_id(self, checkin: CheckIn) -> str | None:
        """Both readings of ``aggregatorId``: our own id names the customer's member, any other is a member's id."""
        if self._own_id is not None and checkin.aggregator_id == self._own_id:
            return self._customers.get(checkin.customer_id)
        return checkin.aggregator_id

    def _member(self, checkin: CheckIn) -> Member | None:
        member_id = self._member_id(checkin)
        return None if member_id is None else self._members.get(member_id)

    @property
    def members(self) -> Collection[str]:
        """The ids of the members that are here."""
        return self._members.keys()

    def is_busy(self, checkin: CheckIn) -> bool:
        """Whether somebody else has locked the member, so that this cannot be decided now."""
        return self._member_id(checkin) in self._busy

    def facts(self, checkin: CheckIn) -> Facts:
        """The facts for one check-in of the batch, with the visits decided in it so far."""
        member = self._member(checkin)
        return Facts(
            studio=self._directory.studios[checkin.studio_id],
            member=member,
            customer_of=self._customers.get(checkin.customer_id),
            visits=tuple(self._visits[member.id]) if member else (),
        )

    def recall(self, checkin: CheckIn, recent: Iterable[RecentVisit]) -> None:
        """Visits of the check-in's member that the database may not have yet."""
        member = self._member(checkin)
        if member is None:
            return
        known = {visit.id for visit in self._visits[member.id]}
        for visit_id, studio_id, at_ms in recent:
            studio = self._directory.studios.get(studio_id)
            if visit_id not in known and studio is not None:
                at = clock.from_ms(at_ms)
                local_date = at.astimezone(studio.timezone).date()
                self._visits[member.id].append(Visit(visit_id, studio_id, at, local_date, studio.tags, studio.test))

    def add(self, decision: Decision, checkin: CheckIn, member: Member, studio: Studio) -> None:
        """Let later check-ins of the batch see a visit that was just decided."""
        self._visits[member.id].append(
            Visit(decision.id, studio.id, checkin.received_at, decision.local_date, studio.tags, studio.test)
        )


def member_of(plans: dict[str, Plan], member_id: str, plan_id: str, status: str, *dates: str | None) -> Member:
    """A member as stored: ``valid_from``, ``valid_until`` and ``cycle_anchor`` are the dates, ISO 8601 or None."""
    return Member(member_id, plans[plan_id], Status(status), *(_date(text) for text in dates))


def until(facts: Facts, checkin: CheckIn) -> Facts:
    """The same facts without visits that lie after the check-in: what held at an earlier instant."""
    return facts._replace(visits=tuple(visit for visit in facts.visits if visit.at <= checkin.received_at))


def _date(text: str | None) -> date | None:
    return date.fromisoformat(text) if text else None
