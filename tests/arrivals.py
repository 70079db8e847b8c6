"""Check-ins that come when they come, however long answers take, and what each caller was told.

The calls are made by a process of their own (this file, run as a program), so that nothing else a test does makes
them late. Instants are those of the system's monotonic clock, which all processes share.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import ssl
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import uvloop
from gate import PATH, Gate, environment

# What the platform waits for an answer.
PROMISE_S = 0.75
PATIENCE_S = 10.0
# Connections that are open before the first call; more are made where all are in use.
LINES = 32


class Told(NamedTuple):
    """One answer that was received to its last byte: how long it took, and when the call was made."""

    member: str
    status: int
    decision: str
    reason: str
    id: str
    seconds: float
    sent_at: float


class Arrivals:
    """``rate`` check-ins a second on the average, at random instants, from entering until the end.

    After the end ``told`` has the answers in their order, ``broken`` what became of calls without one that says how
    the check-in was decided, and ``lag_s`` how late a call was made at worst.
    """

    def __init__(
        self, gate: Gate, members: Sequence[str], rate: float, *, seed: int = 1, studio_id: str = "s1"
    ) -> None:
        self.told: list[Told] = []
        self.broken: list[str] = []
        self.lag_s = 0.0
        self._process: subprocess.Popen[str] | None = None
        self._what = {
            "port": gate.port,
            "trusted": str(gate.cert),
            "key": gate.keys[studio_id],
            "members": list(members),
            "rate": rate,
            "seed": seed,
        }

    def __enter__(self) -> Arrivals:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(self._what) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "connected\n", "the callers could not connect"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Make no more calls, and finish those that are under way."""
        if self._process is None:
            return
        process, self._process = self._process, None
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, "the callers failed"
        content = json.loads(output)
        self.told = [Told(*told) for told in content["told"]]
        self.broken, self.lag_s = content["broken"], content["lag_s"]

    @property
    def late(self) -> list[Told]:
        """Answers that came after what is promised."""
        return [told for told in self.told if told.seconds > PROMISE_S]

    def kept(self) -> str:
        """What was promised and not kept; empty where every call had its answer in time."""
        if not self.late and not self.broken:
            return ""
        worst = sorted(self.late, key=lambda told: -told.seconds)[:5]
        return (
            f"{len(self.late)} of {len(self.told)} answers came after {PROMISE_S} s, {len(self.broken)} never: "
            f"{worst} {self.broken[:5]}; calls were made at most {self.lag_s:.3f} s late"
        )


def percentile(told: Iterable[Told], share: float) -> float:
    """Seconds within which this share of the answers came."""
    seconds = sorted(each.seconds for each in told)
    return seconds[min(len(seconds) - 1, int(share * len(seconds)))]


class _Line:
    """One connection, kept alive. Plain streams, so that calling takes next to no time."""

    def __init__(self, port: int, tls: ssl.SSLContext) -> None:
        self._port, self._tls = port, tls
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Shake hands, unless that was done and the server has not hung up since."""
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection("localhost", self._port, ssl=self._tls)
        return self._streams

    async def ask(self, request: bytes) -> tuple[int, dict[str, Any]]:
        """The status and the content. Raises OSError or EOFError where there is no whole answer."""
        reader, writer = await self.connect()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        content = await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
        return int(head[9:12]), json.loads(content)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class _Callers:
    """Make the calls and take down what comes back."""

    def __init__(self, port: int, trusted: str, key: str, members: list[str], rate: float, seed: int) -> None:
        self._port, self._members, self._rate = port, members, rate
        self._tls = ssl.create_default_context(cafile=trusted)
        self._head = (
            f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        )
        self._dice = random.Random(seed)
        self._lines: deque[_Line] = deque(_Line(port, self._tls) for _ in range(LINES))
        self._told: list[Told] = []
        self._broken: list[str] = []
        self._lag_s = 0.0

    async def run(self) -> dict[str, Any]:
        """Call until told to stop: by the end of the standard input."""
        for line in self._lines:
            await line.connect()
        print("connected", flush=True)
        until, running = asyncio.Event(), set[asyncio.Task[None]]()
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), until.set)
        due = time.monotonic()
        while not until.is_set():
            due += self._dice.expovariate(self._rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._lag_s = max(self._lag_s, time.monotonic() - due)
            task = asyncio.create_task(self._call(self._dice.choice(self._members)))
            running.add(task)
            task.add_done_callback(running.discard)
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        await asyncio.gather(*running)
        for line in self._lines:
            line.close()
        return {"told": self._told, "broken": self._broken, "lag_s": self._lag_s}

    async def _call(self, member: str) -> None:
        # The one that was idle longest comes first, so that none is closed for being idle.
        line = self._lines.popleft() if self._lines else _Line(self._port, self._tls)
        body = json.dumps({"aggregatorId": member, "customerId": 1})
        sent_at = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S):
                status, said = await line.ask(f"{self._head}{len(body)}\r\n\r\n{body}".encode())
        except (OSError, EOFError) as error:
            line.close()
            self._broken.append(f"{member}: {error!r} after {time.monotonic() - sent_at:.3f} s")
        else:
            seconds = time.monotonic() - sent_at
            if "decision" in said:
                answer = (status, said["decision"], said["reason"], said["decisionId"])
                self._told.append(Told(member, *answer, seconds, sent_at))
            else:
                self._broken.append(f"{member}: {status} {said} after {seconds:.3f} s")
        self._lines.append(line)


if __name__ == "__main__":
    # Nothing is ever thrown away that a collection would find, and a collection takes long by the end.
    gc.disable()
    callers = _Callers(**json.loads(sys.stdin.readline()))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(callers.run())))
