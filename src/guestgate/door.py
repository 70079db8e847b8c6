"""The door: public listener, authorizer with its ledger, mailbox, and the studios' keys, in one process.

granian runs embedded in our own event loop. Every certificate gets a listener of its own: renewing starts one
with the new certificate and, once that serves, ends the old one; a certificate that cannot serve leaves
things as they are.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from granian.constants import Interfaces
from prometheus_client import Metric

from guestgate import clock, expiry
from guestgate.attendance.mailbox import Mailbox
from guestgate.authorizer import Authorizer
from guestgate.database import Database, is_postgres
from guestgate.directory import DirectoryFollower
from guestgate.endpoint import Endpoint
from guestgate.errors import OperationError, UsageError
from guestgate.expiry import certificate
from guestgate.ledger_process import LedgerRole
from guestgate.listener import LOOPBACK, Address, Listener
from guestgate.metrics import DoorMetrics
from guestgate.nodes import Node
from guestgate.settings import Settings
from guestgate.stand_in.copy import StandInCopy

log = structlog.get_logger()

# More connections than this wait in the kernel's queue; it bounds what silent ones can occupy.
MAX_CONNECTIONS = 4096
REPORT_S = 60
# A batch takes milliseconds; a ledger that has been at one for so long is held up.
STALLED_S = 2.0
GC_THRESHOLD = 50_000
NOT_RENEWED = "the certificate was not reloaded; the old one stays in use"


@dataclass(frozen=True)
class DoorState:
    """What the door says of itself: how long the ledger has been at its batch, and figures.

    And for how long it has been standing in for the shared database (0: it does not), and whether it could. ``node``
    is how the server was when it looked last; a door does not know.
    """

    stalled_s: float
    metrics: list[Metric]
    standing_in_s: float = 0.0
    can_stand_in: bool = False
    node: Node | None = None


class Door:
    """Takes check-ins from `start` to `stop`. Lives in the event loop."""

    def __init__(self, settings: Settings, database: Database, failed: Callable[[], None]) -> None:
        """Read studios, keys and plans; `failed` is called when the ledger can go on no longer."""
        self._settings = settings
        copy = StandInCopy(settings.stand_in_file).database if settings.stands_in else None
        self._studios = DirectoryFollower(database, copy)
        self._metrics = DoorMetrics()
        self._authorizer = Authorizer(_shared_role(settings), _stand_in_role(settings), failed, self._metrics)
        self._letters = Mailbox(database, failed)
        self._endpoint = Endpoint(
            self._authorizer,
            self._authorizer.validator,
            self._letters,
            self._studios,
            self._metrics,
            checkin_path=settings.checkin_path,
            answer_budget_ms=settings.answer_budget_ms,
            unknown_member_status=settings.unknown_member_status,
        )
        self._listener = self._new_listener()
        self._reporting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return once check-ins are taken. Raises OperationError where they cannot be."""
        self._studios.start()
        await self._authorizer.start()
        self._letters.start()
        await self._listener.start()
        self._reporting = asyncio.create_task(_report_counts(self._endpoint))
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)

    async def renew(self) -> bool:
        """Serve with the certificate as it is on disk now; False where it stays as it is."""
        if not can_renew(self._settings):
            return False
        new = self._new_listener()
        try:
            await new.start()
        except OperationError as error:
            log.error(NOT_RENEWED, error=str(error))
            return False
        old, self._listener = self._listener, new
        await old.stop()
        log.info("the certificate was reloaded")
        return True

    async def state(self, all_figures: bool) -> DoorState:
        """How it is, with all its figures or those of its answers only."""
        watch = self._authorizer.watch
        return DoorState(
            self._authorizer.stalled_s,
            self._metrics.collect() if all_figures else self._metrics.of_answers(),
            0.0 if watch is None else watch.standing_in_s,
            watch is not None and watch.ready,
        )

    async def ended(self) -> None:
        """Wait for the listener's end, whatever its cause."""
        await self._listener.ended()

    async def drain(self) -> None:
        """Take no new calls, and answer those that are here."""
        if self._reporting is not None:
            self._reporting.cancel()
        await self._listener.stop()

    async def stop(self) -> None:
        """Have everything recorded, and end."""
        await self._authorizer.stop()
        await self._letters.stop()
        self._studios.stop()

    def warn_of_ends(self) -> None:
        """Say which keys and certificates end soon."""
        for name, at in expiry.soon(self._studios.directory, self._settings.tls_cert, clock.now()):
            log.warning("expires soon", what=name, at=clock.iso(at))

    def _new_listener(self) -> Listener:
        return Listener(self._endpoint, Interfaces.RSGI, door_address(self._settings), MAX_CONNECTIONS)


def _shared_role(settings: Settings) -> LedgerRole:
    return LedgerRole(
        "ledger",
        settings.database,
        settings.aggregator_id,
        settings.answer_budget_ms,
        keep_undecided=not settings.stands_in,
        fence=settings.fence,
    )


def _stand_in_role(settings: Settings) -> LedgerRole | None:
    if not settings.stands_in:
        return None
    return LedgerRole(
        "stand-in",
        StandInCopy(settings.stand_in_file).url,
        settings.aggregator_id,
        settings.answer_budget_ms,
        copy_max_age_s=settings.stand_in_max_age_s,
    )


def door_address(settings: Settings) -> Address:
    """Where the platform calls."""
    return Address(settings.host, settings.port, "--host", settings.tls_cert, settings.tls_key)


def can_renew(settings: Settings) -> bool:
    """Whether there is a certificate on disk that can serve; says so in the log where there is none."""
    if settings.behind_proxy:
        log.info("there is no certificate to reload; the proxy has it")
        return False
    try:
        check_settings(settings)
    except UsageError as error:
        log.error(NOT_RENEWED, error=str(error))
        return False
    return True


def check_settings(settings: Settings) -> None:
    """Raise UsageError for settings that do not go together, or a certificate that cannot serve."""
    if settings.workers > 1 and not is_postgres(settings.database):
        raise UsageError("--workers: one process serves a SQLite database; more need PostgreSQL")
    if settings.workers > 1 and settings.host.startswith("unix:"):
        raise UsageError("--workers: a Unix socket has one process; use --host 127.0.0.1, or one server a socket")
    if settings.behind_proxy:
        if settings.tls_cert or settings.tls_key:
            raise UsageError("--behind-proxy: the proxy speaks TLS; leave tls_cert and tls_key out")
        if not settings.host.startswith("unix:/") and settings.host not in LOOPBACK:
            raise UsageError(
                f"--behind-proxy: plain HTTP is served on loopback or a Unix socket only, not on {settings.host}; "
                "use --host 127.0.0.1 or --host unix:/run/guestgate/door.sock"
            )
    elif settings.tls_cert is None or settings.tls_key is None:
        raise UsageError(
            "the platform calls over TLS: give --tls-cert and --tls-key, or --behind-proxy where a proxy on "
            "this machine speaks TLS"
        )
    elif settings.host.startswith("unix:"):
        raise UsageError("--host: a Unix socket goes with --behind-proxy")
    else:
        check_certificate(settings.tls_cert, settings.tls_key)


def check_certificate(cert: Path, key: Path) -> None:
    """Raise UsageError unless this is a certificate in force with its own private key."""
    for name, path in (("tls_cert", cert), ("tls_key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise UsageError(f"{name}: {path}: {error.strerror}") from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise UsageError(f"tls_cert, tls_key: {cert} and {key} do not work together: {error}") from None
    found = certificate(cert)
    if found.not_valid_after_utc <= clock.now():
        raise UsageError(f"tls_cert: {cert} expired at {clock.iso(found.not_valid_after_utc)}")
    if found.not_valid_before_utc > clock.now():
        raise UsageError(f"tls_cert: {cert} is valid only from {clock.iso(found.not_valid_before_utc)}")


def _no_password() -> str:
    raise ValueError("the private key is protected by a password")


async def _report_counts(endpoint: Endpoint) -> None:
    """Every minute log how many calls asked nothing, by status: a wrong key shows here, not in the record."""
    while True:
        await asyncio.sleep(REPORT_S)
        if endpoint.counts:
            log.info("calls that asked nothing", **{f"status_{status}": n for status, n in endpoint.counts.items()})
            endpoint.counts.clear()
