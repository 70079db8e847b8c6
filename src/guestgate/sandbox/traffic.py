"""Drives a whole town: every call leaves when it is due, however long the answers to earlier ones take."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path

from guestgate import clock
from guestgate.errors import UsageError
from guestgate.sandbox.arrivals import Load, PlannedEnrolment, PlannedTap, enrolments, jumps, taps
from guestgate.sandbox.journal import Journal
from guestgate.sandbox.platform import Platform
from guestgate.sandbox.report import Report

# More calls under way than this would only measure this machine.
MAX_UNDER_WAY = 4096


class ClockSetter:
    """Sets the clock that libfaketime shows an endpoint, through the file it reads (FAKETIME_TIMESTAMP_FILE)."""

    def __init__(self, file: Path, journal: Journal) -> None:
        """The clock starts out right. Raises UsageError."""
        self._file = file
        self._journal = journal
        self.set_ahead(timedelta())

    def set_ahead(self, ahead: timedelta) -> None:
        """From now on, within a second or so."""
        seconds = round(ahead.total_seconds())
        self._journal.write("clock", at=clock.iso(clock.now()), ahead_s=seconds)
        try:
            # In one piece: whoever reads it must not find half a number.
            fresh = self._file.with_name(self._file.name + ".new")
            fresh.write_text(f"{seconds:+d}\n", "ascii")
            fresh.replace(self._file)
        except OSError as error:
            raise UsageError(f"--clock-file: {self._file}: {error.strerror}") from None


class Traffic:
    """One run against a platform's registered endpoint. `report` has its figures while it goes on and after it."""

    def __init__(
        self,
        platform: Platform,
        load: Load,
        *,
        clock_file: Path | None = None,
        on_tap: Callable[[float], object] = lambda _: None,
    ) -> None:
        """`on_tap` is told how many seconds of the run are over. Raises UsageError for a bad file."""
        self._platform = platform
        self._load = load
        self._on_tap = on_tap
        self.report = Report(platform.webhooks)
        journal = platform.journal
        journal.run(platform.town, rate=load.rate, seconds=load.seconds, seed=load.seed, faults=sorted(load.faults))
        self._setter = ClockSetter(clock_file, journal) if clock_file is not None else None
        self._under_way: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    async def run(self) -> Report:
        """Let everybody come, and wait for the last answer. Raises OperationError where the log cannot be written.

        Whoever is at a reader when this is cancelled still gets an answer: a call that may have been decided
        belongs into the log.
        """
        try:
            await self._come()
        finally:
            while self._under_way:
                await asyncio.wait(self._under_way)
        if self._failure is not None:
            raise self._failure
        return self.report

    async def _come(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        changes = self._clock_changes()
        next_change = next(changes, None)
        for planned in self._planned():
            while next_change is not None and next_change[0] <= planned.due_s:
                await _until(started + next_change[0])
                assert self._setter is not None
                self._setter.set_ahead(next_change[1] - clock.now())
                next_change = next(changes, None)
            await _until(started + planned.due_s)
            self.report.behind_ms = max(self.report.behind_ms, (loop.time() - started - planned.due_s) * 1000)
            if self._failure is not None:
                return
            if len(self._under_way) >= MAX_UNDER_WAY:
                self.report.not_made += 1
                continue
            happening = self._tap(planned) if isinstance(planned, PlannedTap) else self._enrol(planned)
            task = loop.create_task(happening)
            self._under_way.add(task)
            task.add_done_callback(self._left)
            self._on_tap(planned.due_s)
        await _until(started + self._load.seconds)

    def _planned(self) -> Iterator[PlannedTap | PlannedEnrolment]:
        """All that happens, in order of time; nobody registers where there is nobody to ask."""
        platform, load = self._platform, self._load
        if platform.endpoints.member_validation is None:
            return taps(platform.town, load)
        return heapq.merge(taps(platform.town, load), enrolments(platform.town, load), key=lambda one: one.due_s)

    def _left(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            self._failure = self._failure or task.exception()

    def _clock_changes(self) -> Iterator[tuple[float, datetime]]:
        """When, in seconds of the run, the clock is set, and to what; spread evenly over the run."""
        if self._setter is None:
            return
        # The midnight or change of clocks comes in the middle of what follows the jump.
        found = jumps(self._platform.town, clock.now(), lead_s=self._load.seconds / 6)
        for number, instant in enumerate(found, 1):
            yield self._load.seconds * number / (len(found) + 1), instant

    async def _tap(self, planned: PlannedTap) -> None:
        self.report.add(await self._platform.tap(planned), planned.fault.name)

    async def _enrol(self, planned: PlannedEnrolment) -> None:
        enrolled = await self._platform.enrol(planned)
        self.report.enrol(enrolled.inquiry, planned.fault.name)


async def days(platform: Platform, load: Load) -> None:
    """One day after the other, no two alike, until cancelled."""
    for day in count():
        await Traffic(platform, replace(load, seed=load.seed + day)).run()


async def _until(instant: float) -> None:
    delay = instant - asyncio.get_running_loop().time()
    if delay > 0:
        await asyncio.sleep(delay)
