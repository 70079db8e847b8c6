"""`guestgate serve`: the public listener's process, from its first to its last check-in.

granian runs embedded in our own event loop, so one process holds listener, ledger and signals. Every
certificate gets a listener of its own: SIGHUP starts one with the new certificate and, once that serves,
ends the old one; a certificate that cannot serve leaves things as they are.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import structlog
import uvloop
from cryptography import x509
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.errors import ConfigurationError
from granian.http import HTTP1Settings
from granian.server.embed import Server as Granian

from guestgate import clock
from guestgate.authorizer import Authorizer
from guestgate.database import Database
from guestgate.directory import DirectoryFollower
from guestgate.endpoint import Endpoint
from guestgate.errors import OperationError, UsageError
from guestgate.settings import Settings

log = structlog.get_logger()

# Closes connections that say nothing, idle ones included; the longest that granian knows.
HEADER_TIMEOUT_MS = 60_000
MAX_HEADER_BYTES = 32 * 1024
# More connections than this wait in the kernel's queue; it bounds what silent ones can occupy.
MAX_CONNECTIONS = 4096
STARTUP_S = 0.3
# Calls that run are answered within the budget; what is still open then has sent half a header.
DRAIN_S = 2
REPORT_S = 60
GC_THRESHOLD = 50_000

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(settings: Settings) -> None:
    """Answer the platform until SIGTERM or SIGINT. Raises UsageError before anything is opened."""
    _check(settings)
    database = Database.open(settings.database, patience_ms=0, checkpoints=False)
    logging.getLogger("_granian").setLevel(logging.ERROR)
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
    certificate = x509.load_pem_x509_certificate(cert.read_bytes())
    if certificate.not_valid_after_utc <= clock.now():
        raise UsageError(f"tls_cert: {cert} expired at {clock.iso(certificate.not_valid_after_utc)}")
    if certificate.not_valid_before_utc > clock.now():
        raise UsageError(f"tls_cert: {cert} is valid only from {clock.iso(certificate.not_valid_before_utc)}")


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
        studios = DirectoryFollower(self._database)
        authorizer = Authorizer(self._settings.database, self._settings.aggregator_id, self._fail)
        endpoint = Endpoint(
            authorizer,
            studios,
            checkin_path=self._settings.checkin_path,
            answer_budget_ms=self._settings.answer_budget_ms,
            unknown_member_status=self._settings.unknown_member_status,
        )
        await authorizer.start()
        studios.start()
        listener = Listener(self._settings, endpoint)
        try:
            _check_address_free(self._settings)
            await listener.start()
            counting = asyncio.create_task(_report_counts(endpoint))
            gc.collect()
            gc.freeze()
            gc.set_threshold(GC_THRESHOLD)
            log.info("serving", address=listener.address, path=self._settings.checkin_path)
            while not self._ended.is_set():
                await _first(self._ended.wait(), reload.wait(), listener.ended())
                if reload.is_set():
                    reload.clear()
                    listener = await self._renewed(listener, endpoint)
                elif not self._ended.is_set():
                    raise OperationError("the public listener ended unexpectedly")
            log.info("draining")
            counting.cancel()
            await listener.stop()
        finally:
            await authorizer.stop()
            studios.stop()
        log.info("stopped")
        return self._healthy

    async def _renewed(self, old: Listener, endpoint: Endpoint) -> Listener:
        """A listener with the certificate as it is on disk now; the old one where that does not serve."""
        if self._settings.behind_proxy:
            log.info("there is no certificate to reload; the proxy has it")
            return old
        new = Listener(self._settings, endpoint)
        try:
            _check(self._settings)
            await new.start()
        except (UsageError, OperationError) as error:
            log.error("the certificate was not reloaded; the old one stays in use", error=str(error))
            return old
        await old.stop()
        log.info("the certificate was reloaded")
        return new

    def _fail(self) -> None:
        self._healthy = False
        assert self._ended is not None
        self._ended.set()


class Listener:
    """One granian server on the public address."""

    def __init__(self, settings: Settings, endpoint: Endpoint) -> None:
        """Nothing is opened before `start`."""
        self._settings = settings
        self._endpoint = endpoint
        self._task: asyncio.Task[None] | None = None
        self._granian: Granian | None = None

    @property
    def address(self) -> str:
        """Where the platform's calls, or the proxy's, are taken."""
        settings = self._settings
        if settings.host.startswith("unix:"):
            return settings.host
        scheme = "http" if settings.behind_proxy else "https"
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return f"{scheme}://{host}:{settings.port}"

    async def start(self) -> None:
        """Open the address and serve. Raises OperationError where that fails."""
        try:
            self._granian = self._build()
            self._task = asyncio.create_task(self._granian.serve())
            await asyncio.wait([self._task], timeout=STARTUP_S)
            if self._task.done() or not all(worker.is_alive() for worker in self._granian.wrks):
                self._task.cancel()
                error = self._task.exception() if self._task.done() else None
                raise OperationError(f"cannot serve on {self.address}: {_first_line(error) or 'see the lines above'}")
        except (OSError, RuntimeError, ssl.SSLError, ConfigurationError) as error:
            raise OperationError(f"cannot serve on {self.address}: {_first_line(error)}") from error

    def _build(self) -> Granian:
        settings = self._settings
        tls: dict[str, Any] = {}
        if not settings.behind_proxy:
            tls = {
                "ssl_cert": settings.tls_cert,
                "ssl_key": settings.tls_key,
                "ssl_protocol_min": SSLProtocols.tls12,
            }
        unix = settings.host.startswith("unix:")
        granian = Granian(
            self._endpoint,
            address="127.0.0.1" if unix else _resolve(settings.host),
            port=settings.port,
            uds=Path(settings.host.removeprefix("unix:")) if unix else None,
            interface=Interfaces.RSGI,
            http=HTTPModes.http1,
            websockets=False,
            backlog=1024,
            backpressure=MAX_CONNECTIONS,
            http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIMEOUT_MS, max_buffer_size=MAX_HEADER_BYTES),
            log_enabled=False,
            **tls,
        )
        # Whoever may enter the socket's folder may connect, such as a proxy that runs as another user.
        granian.uds_permissions = 0o666
        return granian

    async def ended(self) -> None:
        """Wait for the listener's end, whatever its cause."""
        assert self._task is not None
        await asyncio.wait([self._task])

    async def stop(self) -> None:
        """Take no new connections, let running calls finish, close."""
        assert self._granian is not None and self._task is not None
        self._granian.stop()
        await asyncio.wait([self._task], timeout=DRAIN_S)


def _check_address_free(settings: Settings) -> None:
    """Raise OperationError where somebody else serves there; remove a Unix socket that a dead server left behind.

    Two servers could share a port unnoticed, because each of our own listeners allows the next one.
    """
    if settings.host.startswith("unix:"):
        _check_socket_free(Path(settings.host.removeprefix("unix:")))
    else:
        host = _resolve(settings.host)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            socket.create_server((host, settings.port), family=family).close()
        except OSError as error:
            raise OperationError(f"cannot serve on {host}, port {settings.port}: {error.strerror}") from None


def _check_socket_free(path: Path) -> None:
    if not path.parent.is_dir():
        raise OperationError(f"--host: the folder {path.parent} does not exist")
    if not path.exists():
        return
    if not path.is_socket():
        raise OperationError(f"--host: {path} exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except OSError as error:
            raise OperationError(f"--host: {path}: {error.strerror}") from None
        else:
            raise OperationError(f"cannot serve on unix:{path}: another server listens there")


async def _report_counts(endpoint: Endpoint) -> None:
    """Every minute log how many calls were no check-ins, by status: a wrong key shows here, not in the record."""
    while True:
        await asyncio.sleep(REPORT_S)
        if endpoint.counts:
            log.info(
                "calls that were no check-ins", **{f"status_{status}": n for status, n in endpoint.counts.items()}
            )
            endpoint.counts.clear()


def _resolve(host: str) -> str:
    """The address of a host name; granian takes addresses only."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise OperationError(f"--host: {host}: {error.strerror}") from None


def _first_line(error: BaseException | None) -> str:
    """An error's message without what granian's adds below it."""
    return str(error).partition("\n")[0] if error else ""


async def _first(*awaitables: Any) -> None:
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
