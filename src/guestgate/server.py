"""`guestgate serve`, from its first to its last check-in: signals, the door, the admin listener.

On SQLite the door is in this process. On PostgreSQL there may be several, each in a process of its own
(`guestgate.workers`).
"""

from __future__ import annotations

import asyncio
import signal

import structlog
import uvloop

from guestgate import clock, partitions
from guestgate.admin.process import AdminProcess, admin_address
from guestgate.attendance.process import clerk_process
from guestgate.database import Database
from guestgate.door import Door, check_settings, door_address
from guestgate.errors import OperationError, UnreachableError
from guestgate.listener import first
from guestgate.platform import accounts
from guestgate.platform.secret_keys import SecretKeys
from guestgate.presence import Presence
from guestgate.settings import Settings
from guestgate.stand_in.copy import StandInCopy
from guestgate.stand_in.process import follower_process
from guestgate.workers import Workers

log = structlog.get_logger()

WARN_EVERY_S = 24 * 3600
PARTITIONS_EVERY_S = 24 * 3600


def serve(settings: Settings) -> None:
    """Answer the platform until SIGTERM or SIGINT. Raises UsageError before anything is opened."""
    check_settings(settings)
    admin_address(settings)
    database = _open(settings)
    if settings.stands_in:
        StandInCopy(settings.stand_in_file).prepare()
    with database.in_use():
        healthy = uvloop.run(_Server(settings, database).run())
    if not healthy:
        raise OperationError(
            "the ledger ended, see the lines above; the server stopped rather than forget a check-in"
        )


def _open(settings: Settings) -> Database:
    """The database, checked; unchecked where it does not answer and this machine can stand in for it."""
    try:
        return Database.open(settings.database, door=True, pooled=True, fence=settings.fence)
    except UnreachableError as error:
        own = StandInCopy(settings.stand_in_file)
        if not settings.stands_in or not own.path.exists():
            raise
        problem = own.read_state(settings.stand_in_max_age_s).problem
        if problem is not None:
            raise UnreachableError(f"{error}; nor can this machine stand in for it: {problem}") from None
        log.error("the shared database does not answer; starting all the same, to stand in for it", error=str(error))
        return Database.at(settings.database, door=True, pooled=True, fence=settings.fence)


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
        address = door_address(self._settings)
        address.check_free()
        follower = follower_process(self._settings) if self._settings.stands_in else None
        door: Door | Workers
        if self._settings.workers > 1:
            door = Workers(self._settings)
        else:
            door = Door(self._settings, self._database, self._fail)
        presence = Presence(self._settings, self._database, door.state)
        admin_listener = AdminProcess(self._settings, presence.state)
        clerk = clerk_process(self._settings)
        caring: list[asyncio.Task[None]] = []
        in_order = False
        try:
            starting = [door.start(), admin_listener.start(), clerk.start()]
            if follower is not None:
                starting.append(follower.start())
            await asyncio.gather(*starting)
            presence.start()
            caring.append(asyncio.create_task(_keep_warning(door)))
            caring.append(asyncio.create_task(_keep_partitions(self._database)))
            caring.append(asyncio.create_task(_warn_of_accounts(self._settings, self._database)))
            log.info("serving", address=str(address), path=self._settings.checkin_path)
            while not self._ended.is_set():
                await first(self._ended.wait(), reload.wait(), door.ended())
                if reload.is_set():
                    reload.clear()
                    if await door.renew():  # a certificate that cannot serve leaves both as they are
                        await admin_listener.renew()
                elif not self._ended.is_set():
                    raise OperationError("the public listener ended unexpectedly")
            log.info("draining")
            await door.drain()
            in_order = self._healthy
        finally:
            for task in caring:
                task.cancel()
            await admin_listener.stop()
            await presence.stop(in_order=in_order)
            await door.stop()
            await clerk.stop()
            if follower is not None:
                await follower.stop()
        log.info("stopped")
        return self._healthy

    def _fail(self) -> None:
        self._healthy = False
        assert self._ended is not None
        self._ended.set()


async def _keep_warning(door: Door | Workers) -> None:
    """Once a day, beginning now."""
    while True:
        door.warn_of_ends()
        await asyncio.sleep(WARN_EVERY_S)


async def _warn_of_accounts(settings: Settings, database: Database) -> None:
    """Once: say which Open API keys cannot be used. Doors open all the same."""

    def problems() -> list[str]:
        secret_keys = SecretKeys.of(settings)
        with database.read() as connection:
            return accounts.problems(connection, secret_keys)

    try:
        for problem in await asyncio.to_thread(problems):
            log.warning("the platform's Open API cannot be called", why=problem)
    except Exception as error:
        log.warning("the keys of the platform's Open API could not be looked at", error=str(error))


async def _keep_partitions(database: Database) -> None:
    """Once a day, beginning now, have partitions for the coming months; without one, check-ins go to the rest."""
    while True:
        try:
            await asyncio.to_thread(partitions.make_ahead, database, clock.now())
        except Exception as error:
            log.warning("partitions for the coming months could not be made", error=str(error))
        await asyncio.sleep(PARTITIONS_EVERY_S)
