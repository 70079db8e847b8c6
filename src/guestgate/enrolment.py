"""Enrolment codes: what a member shows at a studio's desk instead of an id that is for ever.

A code is good for one registration, for minutes. It has `LENGTH` characters of an alphabet of 32, so there are
2**40, about 1.1e12. A studio has 20 misses in ten minutes, 2,880 a day (`guestgate.validations`): with 1,000 codes
in force at every moment, whoever guesses with a stolen key hits one in about 380,000 days. What is stored is a
hash. That hides codes from whoever reads the table by chance, not from somebody who tries them all; by then they
have expired.
"""

from __future__ import annotations

import re
import secrets
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from guestgate import changes, clock, members, schema
from guestgate.changes import Change
from guestgate.eligibility import Finding
from guestgate.errors import NotFoundError, UsageError
from guestgate.fingerprints import sha256_of

# Without 0, O, 1 and I, which look alike on a screen and in handwriting.
ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
LENGTH = 8
LONGEST = timedelta(days=1)
# For so long the record tells an expired code from one that never was.
KEPT = timedelta(days=1)
# An answer may not arrive; the desk asks again, and must not be told that the code is used up.
REPEATS = timedelta(minutes=5)

_c = schema.enrolment_codes.c


class Issued(NamedTuple):
    """A code as it is handed out; it cannot be shown again."""

    code: str
    expires_at: datetime


def code_dict(issued: Issued) -> dict[str, str]:
    """A code as users see it."""
    return {"code": issued.code, "expires_at": clock.iso(issued.expires_at)}


class Code(NamedTuple):
    """What is known of a code that was sent. ``used_at`` and ``used_by``, a studio, are None until it is used."""

    sha256: str
    member_id: str
    expires_at: datetime
    used_at: datetime | None
    used_by: str | None

    def finding(self, studio_id: str, at: datetime) -> Finding:
        """Whether a studio may use it. The one that has used it may ask again, for a while."""
        if self.used_at is not None:
            repeated = self.used_by == studio_id and at - self.used_at < REPEATS
            return Finding.OK if repeated else Finding.CODE_USED
        return Finding.OK if at < self.expires_at else Finding.CODE_EXPIRED


def issue(connection: Connection, member_id: str, valid: timedelta) -> Issued:
    """A new code for a member. Raises NotFoundError where there is none, UsageError for a span that cannot be."""
    if not timedelta() < valid <= LONGEST:
        raise UsageError("valid: should be a day at most; write 15m, 2h or 1d")
    if members.require(connection, member_id).pseudonym is not None:
        raise NotFoundError(f"member {member_id} is being forgotten")
    now = clock.now()
    connection.execute(delete(schema.enrolment_codes).where(_c.expires_at_ms < clock.to_ms(now - KEPT)))
    issued = Issued(_unused(connection), now + valid)
    connection.execute(
        insert(schema.enrolment_codes).values(
            sha256=sha256_of(issued.code), member_id=member_id, expires_at_ms=clock.to_ms(issued.expires_at)
        )
    )
    changes.record(connection, [Change("code.issued", member_id, None, {"expires_at": clock.iso(issued.expires_at)})])
    return issued


def _unused(connection: Connection) -> str:
    """A code that is nobody's id, and was not handed out lately."""
    while True:
        code = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
        handed_out = connection.execute(select(_c.sha256).where(_c.sha256 == sha256_of(code))).first()
        if handed_out is None and not members.exists(connection, code):
            return code


def find(connection: Connection, text: str) -> Code | None:
    """The code that somebody typed, in whatever case and groups; None where it is none that is known.

    It stays as it is until the transaction's end. Where somebody else is using it, the database's error for that
    comes out at once.
    """
    code = re.sub(r"[\s-]", "", text).upper()
    if len(code) != LENGTH:
        return None
    row = connection.execute(
        select(schema.enrolment_codes).where(_c.sha256 == sha256_of(code)).with_for_update(nowait=True)
    ).one_or_none()
    if row is None:
        return None
    used_at = None if row.used_at_ms is None else clock.from_ms(row.used_at_ms)
    return Code(row.sha256, row.member_id, clock.from_ms(row.expires_at_ms), used_at, row.used_by)


def use(connection: Connection, code: Code, studio_id: str, at: datetime) -> None:
    """Somebody has registered with it; from the first time on it is that studio's."""
    connection.execute(
        update(schema.enrolment_codes)
        .where(_c.sha256 == code.sha256, _c.used_at_ms.is_(None))
        .values(used_at_ms=clock.to_ms(at), used_by=studio_id)
    )
