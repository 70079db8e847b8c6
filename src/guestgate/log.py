"""Log lines: one event a line, with its values; never a key or personal data."""

from __future__ import annotations

import logging
import sys

import structlog

from guestgate import clock


def configure(*, as_json: bool = False, level: str = "info") -> None:
    """Log to standard error what is of this level or above: readable on a terminal, JSON elsewhere."""
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty() and not as_json
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
    # granian's own lines say nothing that ours do not.
    logging.getLogger("_granian").setLevel(logging.CRITICAL)


class Throttle:
    """Lets so many lines a second through; what goes wrong for everybody need not be told for everybody."""

    def __init__(self, per_s: int) -> None:
        """At most `per_s` in any second of the clock."""
        self._per_s = per_s
        self._second = 0
        self._count = 0

    def lets_through(self) -> bool:
        """Whether there is room for one more line."""
        second = int(clock.monotonic())
        if second != self._second:
            self._second, self._count = second, 0
        self._count += 1
        return self._count <= self._per_s
