"""Ten thousand changes by API while doors are open: how long until each is in force at the door?

Each change suspends a member or lets it in again, and the door is asked until it says so. A tenth of them are changes
to studios and keys, which the server's processes have to notice.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import tempfile
import time
from pathlib import Path

import httpx
from _door import Answers, Door, check_in
from gate import Gate

PATIENCE_S = 10.0
CLERKS = 4


class Clerk:
    """Makes changes, one after the other, and watches the door after each."""

    def __init__(self, gate: Gate, token: str, number: int) -> None:
        self._gate, self._number, self._dice = gate, number, random.Random(number)
        self._office = httpx.AsyncClient(
            base_url=f"{gate.admin_url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=30
        )
        self._door = Door(gate)
        self.seconds: list[float] = []

    async def make(self, changes: int) -> None:
        """So many changes."""
        for number in range(changes):
            if number % 10 == 9:
                await self._change_of_key()
            else:
                await self._change_of_member()
        await self._office.aclose()
        self._door.close()

    async def _change_of_member(self) -> None:
        member = f"clerk-{self._number}-{self._dice.randrange(500)}"
        status, wanted = self._dice.choice([("active", 200), ("suspended", 403), ("cancelled", 403)])
        answer = await self._office.put(f"/members/{member}", json={"plan": "free", "status": status})
        await self._in_force(answer, self._door, member, wanted)

    async def _change_of_key(self) -> None:
        """A new key works, and revoked it works no more."""
        key = secrets.token_urlsafe(24)
        door = Door(self._gate, key)
        answer = await self._office.post("/studios/s1/keys", json={"key": key})
        await self._in_force(answer, door, "p-1", 200)
        answer = await self._office.delete(f"/keys/{answer.json()['fingerprint']}")
        await self._in_force(answer, door, "p-1", 401)
        door.close()

    async def _in_force(self, answer: httpx.Response, door: Door, member: str, wanted: int) -> None:
        answer.raise_for_status()
        since = time.monotonic()
        while (status := await door.ask(member)) != wanted:
            if time.monotonic() - since > PATIENCE_S:
                raise SystemExit(f"{member}: {status} instead of {wanted} after {PATIENCE_S} s")
            await asyncio.sleep(0.02)
        self.seconds.append(time.monotonic() - since)


async def run(changes: int, per_s: float) -> tuple[list[float], Answers]:
    """Seconds that each change took to be in force, and the answers at the other doors meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        gate = Gate(Path(folder))
        gate.studio("s1")
        gate.plans()
        people = [f"p-{number}" for number in range(500)]
        gate.members(*(f"{person},once" for person in people[2:]), "p-0,free", "p-1,free")
        gate.start()
        try:
            token, until = gate.token("admin"), asyncio.Event()
            doors = asyncio.create_task(check_in(gate, per_s, until, people))
            clerks = [Clerk(gate, token, number) for number in range(CLERKS)]
            await asyncio.gather(*(clerk.make(changes // CLERKS) for clerk in clerks))
            until.set()
            return [second for clerk in clerks for second in clerk.seconds], await doors
        finally:
            gate.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=100, help="check-ins a second at other doors")
    chosen = parser.parse_args()
    started = time.monotonic()
    seconds, answers = asyncio.run(run(chosen.changes, chosen.rate))
    late = sum(second > 2 for second in seconds)
    print(f"{len(seconds)} changes in {time.monotonic() - started:.0f} s; in force after")
    print(f"    {sorted(seconds)[len(seconds) // 2]:.3f} s for half, {max(seconds):.3f} s at worst, {late} after 2 s")
    print(f"    other doors: {answers}")
    raise SystemExit(1 if late or answers.failed else 0)
