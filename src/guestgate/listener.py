"""A granian server on one address, embedded in our own event loop.

The door has one and the admin listener another. Every certificate gets a listener of its own.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.errors import ConfigurationError
from granian.http import HTTP1Settings
from granian.server.embed import Server as Granian

from guestgate.errors import OperationError

# Closes connections that say nothing, idle ones included; the longest that granian knows.
HEADER_TIMEOUT_MS = 60_000
MAX_HEADER_BYTES = 32 * 1024
STARTUP_S = 0.3
# Calls that run are answered within the budget; what is still open then has sent half a header.
DRAIN_S = 2

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Address:
    """Where to listen: a host name or address and a port, or ``unix:/PATH``; with TLS where there is a certificate.

    ``option`` is what the user calls it, for messages.
    """

    host: str
    port: int
    option: str
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @property
    def socket_path(self) -> Path | None:
        """The Unix socket's path, where it is one."""
        return Path(self.host.removeprefix("unix:")) if self.host.startswith("unix:") else None

    def __str__(self) -> str:
        """As a URL, or ``unix:/PATH``."""
        if self.socket_path is not None:
            return self.host
        scheme = "http" if self.tls_cert is None else "https"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"

    def check_free(self) -> None:
        """Raise OperationError where somebody else serves there; remove a socket that a dead server left behind.

        Two servers could share a port unnoticed, because each of our own listeners allows the next one.
        """
        if self.socket_path is not None:
            self._check_socket_free(self.socket_path)
            return
        host = self.resolved()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            socket.create_server((host, self.port), family=family).close()
        except OSError as error:
            raise OperationError(f"cannot serve on {host}, port {self.port}: {error.strerror}") from None

    def _check_socket_free(self, path: Path) -> None:
        if not path.parent.is_dir():
            raise OperationError(f"{self.option}: the folder {path.parent} does not exist")
        if not path.exists():
            return
        if not path.is_socket():
            raise OperationError(f"{self.option}: {path} exists and is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            except OSError as error:
                raise OperationError(f"{self.option}: {path}: {error.strerror}") from None
            else:
                raise OperationError(f"cannot serve on unix:{path}: another server listens there")

    def resolved(self) -> str:
        """The address of the host name; granian takes addresses only."""
        try:
            return str(socket.getaddrinfo(self.host, None, type=socket.SOCK_STREAM)[0][4][0])
        except OSError as error:
            raise OperationError(f"{self.option}: {self.host}: {error.strerror}") from None


class Listener:
    """One granian server."""

    def __init__(self, application: Any, interface: Interfaces, address: Address, max_connections: int) -> None:
        """Nothing is opened before `start`. More than `max_connections` wait in the kernel's queue."""
        self.address = address
        self._application = application
        self._interface = interface
        self._max_connections = max_connections
        self._task: asyncio.Task[None] | None = None
        self._granian: Granian | None = None

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
        address = self.address
        tls: dict[str, Any] = {}
        if address.tls_cert is not None:
            tls = {
                "ssl_cert": address.tls_cert,
                "ssl_key": address.tls_key,
                "ssl_protocol_min": SSLProtocols.tls12,
            }
        granian = Granian(
            self._application,
            address="127.0.0.1" if address.socket_path else address.resolved(),
            port=address.port,
            uds=address.socket_path,
            interface=self._interface,
            http=HTTPModes.http1,
            websockets=False,
            backlog=1024,
            backpressure=self._max_connections,
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


async def first(*awaitables: Any) -> None:
    """Wait for the first of these."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def _first_line(error: BaseException | None) -> str:
    """An error's message without what granian's adds below it."""
    return str(error).partition("\n")[0] if error else ""
