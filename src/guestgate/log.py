"""Log lines: one event a line, with its values; never a key or personal data."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(*, as_json: bool = False) -> None:
    """Log to standard error: readable on a terminal, JSON elsewhere."""
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
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
    # granian's own lines say nothing that ours do not.
    logging.getLogger("_granian").setLevel(logging.CRITICAL)
