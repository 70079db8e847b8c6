"""`guestgate serve`: the public listener's process, from its first to its last check-in.

granian runs embedded in our own event loop, so one process holds listener, ledger and signals. Every
certificate gets a listener of its own: SIGHUP starts one with the new certificate and, once that serves,
ends the old one; a certificate that cannot serve leaves things as they are.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import ssl
from pathlib import Path
from typing import Any

import structlog
import uvloop
from granian.constants import Interfaces

from guestgate import clock, expiry, partitions
from guestgate.admin.process import AdminProcess, DoorState, admin_address
from guestgate.authorizer import Authorizer
from guestgate.database import Database
from guestgate.directory import DirectoryFollower
from guestgate.endpoint import Endpoint
from guestgate.errors import OperationError, UsageError
from guestgate.expiry import certificate
from guestgate.listener import LOOPBACK, Address, Listener
from guestgate.metrics import DoorMetrics
from guestgate.settings import Settings

log = structlog.get_logger()

# More connections than this wait in the kernel's queue; it bounds what silent ones can occupy.
MAX_CONNECTIONS = 4096
REPORT_S = 60
WARN_EVERY_S = 24 * 3600
PARTITIONS_EVERY_S = 24 * 3600
GC_THRESHOLD = 50_000


def serve(settings: Settings) -> None:
    """Answer the platform until SIGTERM or SIGINT. Raises UsageError before anything is opened."""
    _check(settings)
    admin_address(settings)
    database = Database.open(settings.database, door=True, pooled=True)
    with database.in_use():
        healthy = uvloop.run(_Server(settings, database).run())
    if not healthy:
        raise OperationError(
            "the ledger ended, see the lines above; the server stopped rather than forget a check-in"
        )


def _check(settings: Settings) -> None:
    if settings.workers > 1:
        raise UsageError("--workers: one process serves a SQLite database; more need PostgreSQL")
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


class _Server:
    """One run of the server."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._ended: asyncio.Event | None = None
        self._healthy = True

    async def run(self) -> bool:
        """Serve until told to end; False where the ledger could go on no longer."""
        loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        reload = asyncio.Event()
        for ending in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(ending, self._ended.set)
        loop.add_signal_handler(signal.SIGHUP, reload.set)
        self._address().check_free()
        studios = DirectoryFollower(self._database)
        metrics = DoorMetrics()
        authorizer = Authorizer(
            self._settings.database,
            self._settings.aggregator_id,
            self._settings.answer_budget_ms,
            self._fail,
            metrics,
        )
        endpoint = Endpoint(
            authorizer,
            studios,
            metrics,
            checkin_path=self._settings.checkin_path,
            answer_budget_ms=self._settings.answer_budget_ms,
            unknown_member_status=self._settings.unknown_member_status,
        )

        def state(with_figures: bool) -> DoorState:
            return DoorState(authorizer.stalled_s, metrics.collect() if with_figures else [])

        admin_listener = AdminProcess(self._settings, state)
        studios.start()
        listener = self._listener(endpoint)
        try:
            await asyncio.gather(authorizer.start(), admin_listener.start())
            self._warn(studios)
            await listener.start()
            caring = [asyncio.create_task(_report_counts(endpoint)), asyncio.create_task(self._keep_warning(studios))]
            caring.append(asyncio.create_task(_keep_partitions(self._database)))
            gc.collect()
            gc.freeze()
            gc.set_threshold(GC_THRESHOLD)
            log.info("serving", address=str(listener.address), path=self._settings.checkin_path)
            while not self._ended.is_set():
                await _first(self._ended.wait(), reload.wait(), listener.ended())
                if reload.is_set():
                    reload.clear()
                    old, listener = listener, await self._renewed(listener, endpoint)
                    if listener is not old:  # a certificate that cannot serve leaves both as they are
                        await admin_listener.renew()
                elif not self._ended.is_set():
                    raise OperationError("the public listener ended unexpectedly")
            log.info("draining")
            for task in caring:
                task.cancel()
            await listener.stop()
        finally:
            await admin_listener.stop()
            await authorizer.stop()
            studios.stop()
        log.info("stopped")
        return self._healthy

    def _address(self) -> Address:
        settings = self._settings
        return Address(settings.host, settings.port, "--host", settings.tls_cert, settings.tls_key)

    def _listener(self, endpoint: Endpoint) -> Listener:
        return Listener(endpoint, Interfaces.RSGI, self._address(), MAX_CONNECTIONS)

    async def _renewed(self, old: Listener, endpoint: Endpoint) -> Listener:
        """A listener with the certificate as it is on disk now; the old one where that does not serve."""
        if self._settings.behind_proxy:
            log.info("there is no certificate to reload; the proxy has it")
            return old
        new = self._listener(endpoint)
        try:
            _check(self._settings)
            await new.start()
        except (UsageError, OperationError) as error:
            log.error("the certificate was not reloaded; the old one stays in use", error=str(error))
            return old
        await old.stop()
        log.info("the certificate was reloaded")
        return new

    def _warn(self, studios: DirectoryFollower) -> None:
        """Say which keys and certificates end soon."""
        for name, at in expiry.soon(studios.directory, self._settings.tls_cert, clock.now()):
            log.warning("expires soon", what=name, at=clock.iso(at))

    async def _keep_warning(self, studios: DirectoryFollower) -> None:
        while True:
            await asyncio.sleep(WARN_EVERY_S)
            self._warn(studios)

    def _fail(self) -> None:
        self._healthy = False
        assert self._ended is not None
        self._ended.set()


async def _report_counts(endpoint: Endpoint) -> None:
    """Every minute log how many calls were no check-ins, by status: a wrong key shows here, not in the record."""
    while True:
        await asyncio.sleep(REPORT_S)
        if endpoint.counts:
            log.info(
                "calls that were no check-ins", **{f"status_{status}": n for status, n in endpoint.counts.items()}
            )
            endpoint.counts.clear()


async def _keep_partitions(database: Database) -> None:
    """Once a day, beginning now, have partitions for the coming months; without one, check-ins go to the rest."""
    while True:
        try:
            await asyncio.to_thread(partitions.make_ahead, database, clock.now())
        except Exception as error:
            log.warning("partitions for the coming months could not be made", error=str(error))
        await asyncio.sleep(PARTITIONS_EVERY_S)


async def _first(*awaitables: Any) -> None:
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
