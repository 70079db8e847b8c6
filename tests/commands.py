"""Commands as processes of their own, each a copy of one that has loaded what they need, which is most of a command.

A server is a command like any other; so is what it starts itself before it has threads. This file is also the program
that is copied.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from itertools import pairwise
from multiprocessing import util
from pathlib import Path
from typing import IO

PATIENCE_S = 60
REQUEST_BYTES = 1 << 18
# Of what commands load beside their own files.
HEAVY = ("guestgate.sqlite", "guestgate.postgres", "alembic.command", "cryptography.x509", "httpx")
# What a server starts first of all: its fork server, and what multiprocessing has beside each.
HELPERS = ("from multiprocessing.forkserver import main", "from multiprocessing.resource_tracker import main")
# Of what servers load besides, and their children (as `guestgate.preload` has it).
SERVERS = ("server", "admin.process", "ledger_process", "stand_in.process", "workers")


def run(arguments: tuple[str, ...], environment: Mapping[str, str], input: str) -> subprocess.CompletedProcess[str]:
    """Run `guestgate` with these arguments in the current folder, to its end. Raises subprocess.TimeoutExpired."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(input.encode())
        given.seek(0)
        process = Process(arguments, environment, (given, out, err))
        try:
            status = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, status, out.read().decode(), err.read().decode())


class Process:
    """`guestgate` with these arguments in the current folder, as `subprocess.Popen` would have it."""

    def __init__(
        self,
        arguments: tuple[str, ...],
        environment: Mapping[str, str],
        files: Sequence[IO[bytes]],
        *,
        start_new_session: bool = False,
    ) -> None:
        """Start it; `files` are its standard input, output and error."""
        request = json.dumps([arguments, dict(environment), str(Path.cwd()), start_new_session]).encode()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(_loaded(), [request], [*(file.fileno() for file in files), theirs.fileno()])
        self._told = ours.detach()
        self.pid = int(os.read(self._told, 20))
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """The exit status; minus the signal that ended it."""
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("guestgate", timeout or 0)
            self.returncode = int(os.read(self._told, 20))
            os.close(self._told)
        return self.returncode

    def poll(self) -> int | None:
        """The same; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To it alone, where it runs still."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """At once."""
        self.send_signal(signal.SIGKILL)


@cache
def _loaded() -> socket.socket:
    """The way to the process that is copied, which ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {**os.environ, "PYTHONUTF8": "1", "NO_COLOR": "1", "COLUMNS": "200"}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=environment
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve(requests: socket.socket) -> None:
    """Copy this process for each request; returns in the copies, which are to be that command, and at the end."""
    while True:
        request, files, _, _ = socket.recv_fds(requests, REQUEST_BYTES, 4)
        if not request:
            return
        if os.fork() == 0:
            _watch(files[3])
            requests.close()
            arguments, environment, folder, start_new_session = json.loads(request)
            if start_new_session:
                os.setsid()
            os.environ.clear()
            os.environ.update(environment)
            time.tzset()
            os.chdir(folder)
            for number, file in enumerate(files):
                if number < 3:
                    os.dup2(file, number)
                os.close(file)
            sys.argv = ["guestgate", *arguments]
            runpy.run_module("guestgate", run_name="__main__", alter_sys=True)
            return
        for file in files:
            os.close(file)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _watch(reply: int) -> None:
    """Return in another copy only; in this one tell its id and its exit status, and end."""
    pid = os.fork()
    if pid == 0:
        return
    os.write(reply, str(pid).encode())
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):
        os.write(reply, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _copy_instead(spawn: Callable[..., int]) -> Callable[..., int]:
    """Starts of Python programs by multiprocessing become copies, where that is sound: before there are threads."""

    def start(path: str, arguments: Sequence[str], files: Sequence[int]) -> int:
        program = arguments[-1]
        if threading.active_count() > 1 or not isinstance(program, str) or not program.startswith(HELPERS):
            return spawn(path, arguments, files)
        pid = os.fork()
        if pid:
            return pid
        try:
            kept = [2, *sorted(map(int, files)), os.sysconf("SC_OPEN_MAX")]
            for before, after in pairwise(kept):
                os.closerange(before + 1, after)
            exec(program, {})
        finally:
            os._exit(0)

    return start


if __name__ == "__main__":
    sys.path[0] = ""  # as with -m, and not this folder
    cli = import_module("guestgate.cli")
    ours = (*sorted({f"cli.{file}" for file in cli.FILES.values()}), *SERVERS)
    for module in (*(f"guestgate.{name}" for name in ours), *HEAVY):
        import_module(module)
    util.spawnv_passfds = _copy_instead(util.spawnv_passfds)
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
