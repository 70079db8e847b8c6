"""Commands as processes of their own, each a copy of one that has loaded what they need, which is most of a command.

This file is also the program that is copied.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

PATIENCE_S = 60
REQUEST_BYTES = 1 << 18
# Of what commands load beside their own files.
HEAVY = ("guestgate.sqlite", "guestgate.postgres", "alembic.command", "cryptography.x509", "httpx")


def run(arguments: tuple[str, ...], environment: Mapping[str, str], input: str) -> subprocess.CompletedProcess[str]:
    """Run `guestgate` with these arguments in the current folder, to its end. Raises TimeoutError."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(input.encode())
        given.seek(0)
        status = _run(arguments, environment, [file.fileno() for file in (given, out, err)])
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, status, out.read().decode(), err.read().decode())


def _run(arguments: tuple[str, ...], environment: Mapping[str, str], files: list[int]) -> int:
    """The exit status; minus the signal that ended it."""
    request = json.dumps([arguments, dict(environment), str(Path.cwd())]).encode()
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            socket.send_fds(_loaded(), [request], [*files, theirs.fileno()])
        ours.settimeout(PATIENCE_S)
        with ours.makefile() as told:
            pid = int(told.readline())
            try:
                return int(told.readline())
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise


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
            arguments, environment, folder = json.loads(request)
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
    os.write(reply, f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):
        os.write(reply, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    sys.path[0] = ""  # as with -m, and not this folder
    cli = import_module("guestgate.cli")
    for module in (*sorted({f"guestgate.cli.{file}" for file in cli.FILES.values()}), *HEAVY):
        import_module(module)
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
