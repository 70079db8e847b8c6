"""Studios, keys and plans as a server holds them in memory.

Members are not in here: there may be millions, and each check-in reads its own (`guestgate.facts`).
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

import structlog
from sqlalchemy import Connection, Row, select, update

from guestgate import plans_file, schema
from guestgate.database import Database
from guestgate.errors import GuestgateError
from guestgate.fingerprints import fingerprint
from guestgate.model import Plan, Studio

log = structlog.get_logger()

# A change is seen after at most this long; it has to be well under two seconds.
FOLLOW_S = 0.5
STOP_S = 1.0


class KeyKind(StrEnum):
    """What a token may be used for; a route takes only its own kind."""

    CHECKIN = "checkin"
    WEBHOOK = "webhook"
    OPENAPI = "openapi"  # the other way round: we send it to the platform


# What the platform sends to us.
INBOUND = (KeyKind.CHECKIN, KeyKind.WEBHOOK)


@dataclass(frozen=True, slots=True)
class Key:
    """One studio's token for one kind of call, known by its hash only. ``expires_at_ms`` 0 means never."""

    studio_id: str
    fingerprint: str
    expires_at_ms: int


@dataclass(frozen=True)
class Directory:
    """One consistent state of studios, keys and plans."""

    version: int = 0
    studios: dict[str, Studio] = field(default_factory=dict)
    keys: dict[tuple[bytes, KeyKind], Key] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)

    def key(self, token: bytes, kind: KeyKind, now_ms: int) -> Key | None:
        """The valid key that a token stands for; None where it is unknown, revoked, expired or of another kind."""
        key = self.keys.get((hashlib.sha256(token).digest(), kind))
        if key is None or (key.expires_at_ms and key.expires_at_ms <= now_ms):
            return None
        return key


_version = f"SELECT version FROM {schema.directory_version.name}"  # noqa: S608


def current_version(connection: Connection) -> int:
    """The number that grows with every change to studios, keys or plans; asked with every batch."""
    cursor = connection.connection.cursor()
    cursor.execute(_version)
    version: int = cursor.fetchall()[0][0]
    cursor.close()
    return version


def changed(connection: Connection) -> None:
    """Tell every server to read studios, keys and plans again; part of the transaction that changes them."""
    row = schema.directory_version
    connection.execute(update(row).values(version=row.c.version + 1))


def load(connection: Connection) -> Directory:
    """Read all studios, valid keys and plans (removed plans too: they stay readable, no member can have one)."""
    return Directory(
        version=current_version(connection),
        studios={row.id: studio_of(row) for row in connection.execute(select(schema.studios))},
        keys={
            (bytes.fromhex(row.sha256), KeyKind(row.kind)): Key(
                row.studio_id, fingerprint(row.sha256), row.expires_at_ms or 0
            )
            for row in connection.execute(select(schema.keys).where(schema.keys.c.revoked_at_ms.is_(None)))
        },
        plans=load_plans(connection),
    )


def read(database: Database) -> Directory:
    """The directory in a transaction of its own."""
    with database.read() as connection:
        return load(connection)


def load_plans(connection: Connection) -> dict[str, Plan]:
    """Every plan that is not removed, in its present version."""
    plans, versions = schema.plans, schema.plan_versions
    rows = connection.execute(
        select(versions.c.plan_id, versions.c.version, versions.c.document)
        .join(plans, (plans.c.id == versions.c.plan_id) & (plans.c.version == versions.c.version))
        .where(plans.c.removed_at_ms.is_(None))
        .order_by(plans.c.id)
    )
    return {row.plan_id: plans_file.plan_of(row.plan_id, row.version, row.document) for row in rows}


def studio_of(row: Row[tuple[object, ...]]) -> Studio:
    """A studio from its row."""
    return Studio(row.id, row.name, ZoneInfo(row.timezone), tags_of(row.tags), row.active, row.test)


@lru_cache(maxsize=4096)
def tags_of(text: str) -> frozenset[str]:
    """Tags as stored."""
    return frozenset(json.loads(text))


@lru_cache(maxsize=4096)
def tags_text(tags: frozenset[str]) -> str:
    """Tags as they are stored."""
    return json.dumps(sorted(tags), ensure_ascii=False)


class DirectoryFollower:
    """A server's own copy of the directory, kept up to date by a thread that asks for the version."""

    def __init__(self, database: Database, copy: Database | None = None) -> None:
        """Read it once, where that is impossible from a copy; `start` keeps reading."""
        self._database = database
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="directory", daemon=True)
        try:
            self.directory = read(database)
        except GuestgateError:
            if copy is None:
                raise
            self.directory = read(copy)

    def start(self) -> None:
        """Follow changes."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following. A thread that waits for a silent server ends with the process."""
        self._stop.set()
        self._thread.join(STOP_S)

    def _follow(self) -> None:
        while not self._stop.wait(FOLLOW_S):
            try:
                with self._database.read() as connection:
                    if current_version(connection) != self.directory.version:
                        self.directory = load(connection)
                        log.info("studios, keys and plans were read again", version=self.directory.version)
            except Exception as error:
                log.warning("studios, keys and plans could not be read; the last known stay in use", error=str(error))
