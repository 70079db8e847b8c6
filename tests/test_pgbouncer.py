"""PgBouncer between guestgate and PostgreSQL: a real one, in both modes that can work."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from callers import Crowd, at_once, connected, missing, noon_zone, problems, rows
from cluster import SUPERUSER, Cluster
from gate import Gate, free_port, wait_for

SERVER_CONNECTIONS = 3


class Bouncer:
    """One PgBouncer before a cluster, with few connections to it."""

    def __init__(self, cluster: Cluster, mode: str) -> None:
        """Start it; returns once it takes connections."""
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="guestgate-pgbouncer-"))
        users = self.folder / "users"
        users.write_text(f'"{SUPERUSER}" ""\n', "utf-8")
        config = self.folder / "pgbouncer.ini"
        config.write_text(
            f"""\
[databases]
* = host=127.0.0.1 port={cluster.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = {mode}
default_pool_size = {SERVER_CONNECTIONS if mode == "transaction" else 40}
max_client_conn = 200
logfile = {self.folder / "log"}
""",
            "utf-8",
        )
        as_user: list[str] = []
        if os.geteuid() == 0:  # it refuses to run as root
            user = pwd.getpwnam(SUPERUSER)
            as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
            for path in (self.folder, users, config):
                os.chown(path, user.pw_uid, user.pw_gid)
        self._process = subprocess.Popen(
            [*as_user, "pgbouncer", "-q", str(config)], env={"PATH": f"{os.environ['PATH']}:/usr/sbin"}, cwd="/"
        )
        wait_for(self._listens, "pgbouncer did not start")

    def _listens(self) -> bool:
        assert self._process.poll() is None, (self.folder / "log").read_text("utf-8")
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)
        shutil.rmtree(self.folder)


@pytest.fixture(params=["transaction", "session"])
def gate(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Gate]:
    """An installation that was made and is served through it; it need not know about session mode."""
    bouncer = Bouncer(cluster, request.param)
    name = cluster.create()
    options = "?prepare_threshold=0" if request.param == "transaction" else ""
    url = f"postgresql://{SUPERUSER}@127.0.0.1:{bouncer.port}/{name}{options}"
    gate = Gate(tmp_path, database_url=url)
    gate.studio(timezone=noon_zone())
    gate.plans()
    gate.members(*(f"{plan}-{number},{plan}" for plan in ("free", "once") for number in range(10)))
    gate.start()
    yield gate
    gate.close()
    bouncer.close()
    cluster.drop(name)


def test_everything_works_through_it(gate: Gate, cluster: Cluster) -> None:
    """Limits are exact, every answer is on record, and pages and commands work meanwhile; over few connections."""
    with connected(gate, 40) as callers:
        replies = [reply for _ in range(3) for reply in at_once(callers, ["once-0"] * 40) if reply is not None]
    assert len(replies) == 120
    assert [reply.reason for reply in replies].count("ok") == 1
    with Crowd(gate, [f"free-{number}" for number in range(10)], 1) as crowd, gate.office() as office:
        for number in range(10):
            office.put(f"/members/new-{number}", json={"plan": "free"}).raise_for_status()
            visit = office.post("/visits", json={"member": f"new-{number}", "studio": "s1"}).json()
            office.post(f"/visits/{visit['id']}/reverse", json={"why": "a test"}).raise_for_status()
        events = office.get("/events", params={"limit": 500}).json()["events"]
        gate.cli("member", "set", "free-0", "--status", "suspended")
        in_use = cluster.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'guestgate%' "
            f"AND datname = '{gate.database.parameters['dbname']}'"  # type: ignore[attr-defined]
        )
    assert len(crowd.replies) > 100 and not crowd.broken
    assert {reply.status for reply in crowd.replies} <= {200, 403}
    assert len({event["id"] for event in events}) == len(events) > 100
    if "prepare_threshold" in (gate.home / "guestgate.toml").read_text("utf-8"):
        assert 1 <= in_use[0][0] <= SERVER_CONNECTIONS  # type: ignore[operator]
    assert gate.stop() == 0
    assert missing(gate.database, [*replies, *crowd.replies]) == []
    assert problems(gate.database) == []
    assert rows(gate.database, "SELECT count(*) FROM visits WHERE member_id = 'once-0'") == [(1,)]
