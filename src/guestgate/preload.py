"""What a server's children need, loaded once: the fork server (see `child_process`) imports this module.

Only modules, no threads, connections or files: each child begins as a copy of that process.
"""

from __future__ import annotations

import gc

import guestgate.admin.process
import guestgate.attendance.process
import guestgate.ledger_process
import guestgate.stand_in.process
import guestgate.workers  # noqa: F401 - all five are imported for the children
from guestgate.child_process import settle_in

# It ends when the server does. What ends the whole group of processes must not end it before its children.
settle_in("children")
gc.collect()
gc.freeze()
