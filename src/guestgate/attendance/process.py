"""The process that reads webhooks and reconciles, so that neither slows the door down.

Doors go on without it: webhooks wait. If it ends it is started again, and goes on where it was.
"""

from __future__ import annotations

import gc
import os
import threading
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe

import structlog

from guestgate import clock
from guestgate.attendance import progress
from guestgate.attendance.clerk import Clerk
from guestgate.attendance.reconciliation import Reconciliation
from guestgate.child_process import settle_in
from guestgate.complaints import Complaints
from guestgate.database import Database
from guestgate.errors import ConflictError
from guestgate.kept_process import KeptProcess
from guestgate.log import configure as configure_log
from guestgate.settings import Settings

log = structlog.get_logger()

READ_S = 0.5
STOP_S = 5.0
# Where the processor is scarce, the door comes first.
NICENESS = 5


def clerk_process(settings: Settings) -> KeptProcess:
    """The server's end of it."""
    return KeptProcess(_main, (settings,), name="clerk", what="the clerk", patience_s=STOP_S)


def _main(pipe: Pipe, settings: Settings) -> None:
    """The process: reads until the server closes the pipe or ends."""
    configure_log(level=settings.log_level)
    settle_in("clerk")
    os.nice(NICENESS)
    database = Database.at(settings.database, pooled=True, fence=settings.fence)
    with suppress(BrokenPipeError):  # the server ended while we started
        pipe.send("")
    gc.collect()
    gc.freeze()
    clerk, schedule, complaints = Clerk(database), _Schedule(database, settings), Complaints()
    while not pipe.poll(READ_S):
        with complaints.instead_of("webhooks cannot be read; they wait"):
            clerk.catch_up()
        with complaints.instead_of("it cannot be found out when to reconcile"):
            schedule.keep()
    schedule.stop()


class _Schedule:
    """Reconciles every so often, beside the reading: asking the platform takes its time."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._every_ms = settings.reconcile_every_s * 1000
        self._ending = threading.Event()
        self._settings = settings
        self._thread: threading.Thread | None = None
        self._asked_at_ms = 0

    def keep(self) -> None:
        """Begin where it is due: whichever server does it, it counts for all."""
        now_ms = clock.now_ms()
        if not self._every_ms or now_ms - self._asked_at_ms < min(self._every_ms, 60_000):
            return
        self._asked_at_ms = now_ms
        if self._thread is not None and self._thread.is_alive():
            return
        with self._database.read() as connection:
            due = now_ms - progress.reconciled_at_ms(connection) >= self._every_ms
            # Elsewhere it would read all of a long record for nothing.
            due = due and progress.somebody_tells(connection)
        if due:
            self._thread = threading.Thread(target=self._run, name="reconciliation", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        # They bring an HTTP client, for which starting need not wait.
        from guestgate.platform.history import PlatformHistory
        from guestgate.platform.secret_keys import SecretKeys

        try:
            with PlatformHistory(self._database, SecretKeys.of(self._settings)) as history:
                report = Reconciliation(
                    self._database, history, self._settings.grace, stopping=self._ending.is_set
                ).run(differences=False)
        except ConflictError:  # another server is at it
            return
        except Exception as error:
            log.error("visits could not be reconciled", error=str(error))
            return
        for problem in report.problems:
            log.error("the platform's history could not be asked", error=problem)
        if report.changed:
            log.info(
                "visits were reconciled",
                asked=report.asked,
                confirmed=len(report.confirmed),
                not_confirmed=len(report.not_confirmed),
                reversed=len(report.reversed),
                others_dropped=report.others_dropped,
            )

    def stop(self) -> None:
        """What is not done is done the next time."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(STOP_S / 2)
