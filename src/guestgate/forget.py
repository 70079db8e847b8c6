"""Forgetting a person: a random pseudonym takes the place of the member's id, personal content goes.

What is erased: the profile, the links to the platform's customers and their numbers, also in what the platform
told of them, enrolment codes, what staff wrote about the member's visits, and what the audit trail says of the member
beyond plan and status. Decisions, visits, member validations and the lines of statements stay, so that the record
still adds up. Whoever is forgotten while the platform still sends the id is an unknown member from then on.

The pseudonym is written into the member's row first and the row goes last. So forgetting that is killed
anywhere is finished by asking for it again, and every transaction leaves a record that agrees with itself.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Connection, Select, delete, or_, select, update

from guestgate import changes, clock, days, locks, members, schema, sequence
from guestgate.attendance.webhook import Kind, without
from guestgate.changes import Change
from guestgate.database import SYSTEM, Database
from guestgate.model import NO_CUSTOMER, Status

log = structlog.get_logger()

ERASED = "erased"
# What an audit trail may still say of somebody who is forgotten.
IMPERSONAL = ("plan", "status")
NAMES_MEMBER = ("member", "member_id")
NAMES_CUSTOMER = ("customer_id", "customers")
LOG_PATIENCE_S = 2.0

_d, _v, _w, _a = schema.decisions.c, schema.visits.c, schema.visit_changes.c, schema.changes.c
_m, _k, _n, _l = schema.members.c, schema.customers.c, schema.validations.c, schema.statement_lines.c
_s, _c, _t = schema.sightings.c, schema.named_customers.c, schema.webhooks.c


@dataclass(frozen=True)
class Person:
    """Who is being forgotten: all that names the member, and the name that takes its place."""

    member_id: str
    pseudonym: str
    customers: frozenset[int]


def forget(database: Database, who: str, member_id: str, check: Callable[[Connection], None] | None = None) -> str:
    """Forget a member; returns the pseudonym. Raises NotFoundError where there is none of this id.

    `check` may raise before anything is changed; nobody changes the member between the two.
    """
    with database.write(who) as connection:
        if check is not None:
            check(connection)
        person = _begin(connection, member_id)
    # Twice without the lock, since check-ins go on: the second round finds the few of meanwhile.
    position = 0
    for _ in range(2):
        position = _erase(database, who, person, position)
    with database.write(who) as connection:
        locks.lock(connection, member_id)  # whatever is being decided about the member is written now
        for query, erase in _parts(person):
            rows = connection.execute(query.where(query.selected_columns.seq > position)).all()
            erase(connection, rows)
        _statements(person, connection)
        for table in (schema.customers, schema.enrolment_codes):
            connection.execute(delete(table).where(table.c.member_id == member_id))
        connection.execute(
            delete(schema.named_customers).where((_c.member_id == member_id) | _c.customer_id.in_(person.customers))
        )
        connection.execute(delete(schema.members).where(_m.id == member_id))
        changes.record(connection, [Change("member.forgotten", person.pseudonym)])
    if not database.erase_traces(LOG_PATIENCE_S):
        log.warning(
            "a reader, such as a backup, keeps earlier states of the database in its log; they are gone for "
            "good when the server has stopped or this command ran again for anybody"
        )
    return person.pseudonym


def new_pseudonym() -> str:
    """A name that nobody has, and that says nothing about anybody."""
    return f"forgotten-{secrets.token_hex(8)}"


def _begin(connection: Connection, member_id: str) -> Person:
    """Give the member a pseudonym, once; from here on the member is let in no more."""
    row = members.require(connection, member_id)
    pseudonym = row.pseudonym or new_pseudonym()
    connection.execute(
        update(schema.members)
        .where(_m.id == member_id)
        .values(
            pseudonym=pseudonym,
            status=Status.CANCELLED.value,
            profile="{}",
            updated_at_ms=clock.now_ms(),
        )
    )
    return Person(member_id, pseudonym, frozenset(_customers(connection, member_id)))


def _customers(connection: Connection, member_id: str) -> set[int]:
    """The customers that are or were linked to the member or named with it, unless they are another member's."""
    linked = set(members.customers_of(connection, member_id))
    once: set[int] = set()
    for row in connection.execute(select(_a.before, _a.after).where(_a.subject == member_id)):
        for text in row:
            once |= _numbers(json.loads(text)) if text else set()
    told = select(_s.customer_id).where(_s.member_id == member_id)
    once |= set(connection.execute(told).scalars())
    named = select(_c.customer_id).where(_c.member_id == member_id)
    once |= set(connection.execute(named).scalars())
    theirs = select(_k.customer_id).where(_k.customer_id.in_(once), _k.member_id != member_id)
    with_others = select(_c.customer_id).where(_c.customer_id.in_(once), _c.member_id.not_in([member_id, ""]))
    others = {*connection.execute(theirs).scalars(), *connection.execute(with_others).scalars()}
    return linked | (once - others)


def _numbers(content: dict[str, Any]) -> set[int]:
    customers: set[int] = set()
    for name in NAMES_CUSTOMER:
        value = content.get(name)
        customers |= set(value) if isinstance(value, list) else {value} if isinstance(value, int) else set()
    return customers


def _erase(database: Database, who: str, person: Person, after: int) -> int:
    """One round over the record after a certain number; returns the number it was at when the round began."""
    with database.read() as connection:
        _, position = sequence.position(connection)
    for query, erase in _parts(person):
        for _ in database.write_many(database.scan(query, query.selected_columns.seq, after), erase, who):
            pass
    return position


def _parts(person: Person) -> tuple[tuple[Select[Any], Any], ...]:
    """What to look for, and what to do about it. Decisions take their visits with them, so they come first."""
    names = [person.member_id, *(str(customer) for customer in person.customers)]
    mentions = [
        column.contains(json.dumps(name, ensure_ascii=False) if name == person.member_id else name, autoescape=True)
        for name in names
        for column in (_a.before, _a.after)
    ]
    return (
        (
            select(_d.seq, _d.id).where(
                or_(
                    _d.member_id == person.member_id,
                    _d.aggregator_id == person.member_id,
                    _d.customer_id.in_(person.customers),
                )
            ),
            partial(_decisions, person),
        ),
        (select(_v.seq, _v.id).where(_v.member_id == person.member_id), partial(_visits, person)),
        (select(_n.seq).where(_n.member_id == person.member_id), partial(_validations, person)),
        (
            # What is written about a visit after that has got the pseudonym.
            select(_w.seq, _w.visit_id.label("id"))
            .join(schema.visits, _v.id == _w.visit_id)
            .where(_v.member_id == person.pseudonym, _w.who != SYSTEM, _w.why != ERASED),
            lambda connection, rows: _reasons(connection, [row.id for row in rows]),
        ),
        (
            select(_s.seq, _s.kind).where(
                or_(_s.member_id == person.member_id, _s.customer_id.in_(person.customers))
            ),
            partial(_sightings, person),
        ),
        (
            select(_t.seq, _t.body).where(
                or_(*(_t.body.contains(text, autoescape=True) for text in _spellings(person)))
            ),
            partial(_webhooks, person),
        ),
        (
            select(schema.changes).where(or_(_a.subject == person.member_id, *mentions)),
            partial(_changes, person),
        ),
    )


def _decisions(person: Person, connection: Connection, rows: Collection[Any]) -> None:
    _rename(person, connection, _d.seq.in_([row.seq for row in rows]))
    _visits(person, connection, rows)


def _rename(person: Person, connection: Connection, these: ColumnElement[bool]) -> None:
    for column in (_d.member_id, _d.aggregator_id):
        connection.execute(
            update(schema.decisions).where(these, column == person.member_id).values({column.name: person.pseudonym})
        )
    numbers = connection.execute(select(_d.customer_id).where(these).distinct()).scalars().all()
    connection.execute(update(schema.decisions).where(these).values(customer_id=NO_CUSTOMER))
    _named(person, connection, numbers)


def _visits(person: Person, connection: Connection, rows: Collection[Any]) -> None:
    """Visits by id (a check-in's bears that of its decision), with what was written about them.

    Whole days at once, so that at no time two visits of a day pay because they bear different names.
    """
    together = days.visits_of(connection, [row.id for row in rows])
    ids = [visit.id for visit in together if visit.member_id == person.member_id]
    _rename(person, connection, _d.id.in_(ids))
    connection.execute(update(schema.visits).where(_v.id.in_(ids)).values(member_id=person.pseudonym))
    _reasons(connection, ids)


def _reasons(connection: Connection, ids: Collection[str]) -> None:
    """What staff wrote about these visits; what guestgate wrote says nothing about anybody."""
    corrected = connection.execute(
        update(schema.visit_changes).where(_w.visit_id.in_(ids), _w.who != SYSTEM).values(why=ERASED)
    )
    if corrected.rowcount:
        last = select(_w.why).where(_w.visit_id == _v.id).order_by(_w.seq.desc()).limit(1).scalar_subquery()
        connection.execute(
            update(schema.visits).where(_v.id.in_(ids), _v.reversed_why.is_not(None)).values(reversed_why=last)
        )


def _validations(person: Person, connection: Connection, rows: Collection[Any]) -> None:
    these = _n.seq.in_([row.seq for row in rows])
    connection.execute(update(schema.validations).where(these).values(member_id=person.pseudonym))


def _statements(person: Person, connection: Connection) -> None:
    """Lines of statements, closed ones too: they stay as they are, but for the name and what staff wrote."""
    own = _l.member_id == person.member_id
    for column, author in ((_l.confirmation, _l.confirmed_by), (_l.why, _l.changed_by)):
        connection.execute(
            update(schema.statement_lines)
            .where(own, column.is_not(None), author != SYSTEM)
            .values({column.name: ERASED})
        )
    connection.execute(update(schema.statement_lines).where(own).values(member_id=person.pseudonym))


def _spellings(person: Person) -> set[str]:
    """How a webhook may name the person; what only looks alike is told apart later."""
    texts = {json.dumps(person.member_id, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)}
    return texts | {str(customer) for customer in person.customers}


def _named(person: Person, connection: Connection, customers: Collection[int]) -> None:
    """Numbers that came with the person's id, as far as they were named with nobody else."""
    nobodys_or_theirs = _c.member_id.in_(["", person.member_id])
    connection.execute(delete(schema.named_customers).where(_c.customer_id.in_(customers), nobodys_or_theirs))
    seen = select(_s.seq, _s.kind).where(_s.customer_id.in_(customers), _s.ours, _s.member_id.is_(None))
    _sightings(person, connection, connection.execute(seen).all())


def _sightings(person: Person, connection: Connection, rows: Collection[Any]) -> None:
    """What was seen stays beside its visit. Of whom is told by no number that anybody has; links are gone."""
    moves = [row.seq for row in rows if row.kind in (Kind.ENTRY.value, Kind.EXIT.value)]
    connection.execute(
        update(schema.sightings).where(_s.seq.in_(moves)).values(customer_id=-_s.seq, member_id=person.pseudonym)
    )
    connection.execute(delete(schema.sightings).where(_s.seq.in_({row.seq for row in rows} - set(moves))))


def _webhooks(person: Person, connection: Connection, rows: Collection[Any]) -> None:
    names: dict[Any, Any] = {person.member_id: person.pseudonym}
    names |= {written: NO_CUSTOMER for number in person.customers for written in (number, str(number))}
    for row in rows:
        told = json.loads(row.body)
        left = without(told, names)
        if left != told:
            body = json.dumps(left, ensure_ascii=False)
            connection.execute(update(schema.webhooks).where(_t.seq == row.seq).values(body=body))


def _changes(person: Person, connection: Connection, rows: Collection[Any]) -> None:
    for row in rows:
        own = row.subject == person.member_id
        before, after = (_impersonal(person, text, own) for text in (row.before, row.after))
        if own or (before, after) != (row.before, row.after):
            subject = person.pseudonym if own else row.subject
            connection.execute(
                update(schema.changes).where(_a.seq == row.seq).values(subject=subject, before=before, after=after)
            )


def _impersonal(person: Person, text: str | None, own: bool) -> str | None:
    """What a change says of other things, without naming the person; of the member, plan and status."""
    if text is None:
        return None
    content: dict[str, Any] = json.loads(text)
    if own:
        content = {name: value for name, value in content.items() if name in IMPERSONAL}
    for name in NAMES_MEMBER:
        if content.get(name) == person.member_id:
            content[name] = person.pseudonym
    if _numbers(content) & person.customers:
        content = {name: value for name, value in content.items() if name not in NAMES_CUSTOMER}
    return json.dumps(content, ensure_ascii=False)
