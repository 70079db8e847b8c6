"""The process that follows the shared record and carries over what was decided without it: one on each node.

Doors go on without it: on a copy that grows old. If it ends it is started again.
"""

from __future__ import annotations

import gc
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe

import structlog

from guestgate.child_process import settle_in
from guestgate.complaints import Complaints
from guestgate.database import Database
from guestgate.errors import GuestgateError
from guestgate.kept_process import KeptProcess
from guestgate.log import configure as configure_log
from guestgate.settings import Settings
from guestgate.stand_in.copy import StandInCopy
from guestgate.stand_in.follower import Follower
from guestgate.stand_in.reconciliation import Reconciliation

log = structlog.get_logger()

FOLLOW_S = 0.25
# A long outage's decisions and what is recorded meanwhile take turns.
PAGES_A_ROUND = 1
# At the end, what is still waiting is carried over; where that is impossible it waits for the next start.
STOP_S = 5.0


def follower_process(settings: Settings) -> KeptProcess:
    """The server's end of it. It cannot start while another server has the file."""
    return KeptProcess(_main, (settings,), name="follower", what="the follower", patience_s=STOP_S)


def _main(pipe: Pipe, settings: Settings) -> None:
    """The process: follows until the server closes the pipe or ends."""
    configure_log(level=settings.log_level)
    settle_in("follower")
    own = StandInCopy(settings.stand_in_file)
    try:
        with own.owned():
            with suppress(BrokenPipeError):
                pipe.send("")
            _run(pipe, settings, own)
    except GuestgateError as error:
        with suppress(BrokenPipeError):
            pipe.send(str(error))


def _run(pipe: Pipe, settings: Settings, own: StandInCopy) -> None:
    shared = Database.at(settings.database, door=True, pooled=True, fence=settings.fence)
    follower = Follower(shared, own)
    reconciliation = Reconciliation(shared, own, settings.aggregator_id)
    gc.collect()
    gc.freeze()
    complaints = Complaints()
    level, ending = True, False
    while not ending:
        ending = pipe.poll(FOLLOW_S if level else 0)  # the server has closed it, or ended
        level = True
        with complaints.instead_of("decisions cannot be carried over"):
            report = reconciliation.run(pages=None if ending or follower.to_compare else PAGES_A_ROUND)
            level = report.complete
            if report.carried_over:
                log.info(
                    "decisions were carried over",
                    decisions=report.carried_over,
                    over_limit=len(report.over_limit),
                )
        with complaints.instead_of("the shared record cannot be followed; the copy grows old"):
            level = ending or (follower.round() and level)
