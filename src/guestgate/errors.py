"""Faults, as opposed to denials (which are values).

GuestgateError
├── UsageError     wrong configuration, file, key, time zone or database URL; exit status 2
│   └── UnreachableError  perhaps not wrong at all: the database does not answer
└── OperationError  the thing asked for could not be done; exit status 1
    ├── NotFoundError   there is no such thing
    ├── ConflictError   what is there stands in the way
    └── PlatformError   the platform's Open API refused, or could not be asked
        └── PlatformAwayError  it answers nobody for now

The message of each is one plain sentence that names the place and the cause.
"""

from __future__ import annotations


class GuestgateError(Exception):
    """Anything guestgate reports to its user rather than as a traceback."""

    exit_status = 1


class UsageError(GuestgateError):
    """What was given is wrong: configuration, arguments or a file's content."""

    exit_status = 2


class UnreachableError(UsageError):
    """What was given leads nowhere now: wrong, or the database is down."""


class OperationError(GuestgateError):
    """What was asked for could not be done."""

    exit_status = 1


class NotFoundError(OperationError):
    """What was named does not exist."""


class ConflictError(OperationError):
    """It cannot be done as things are; what is there has to be changed first."""


class PlatformError(OperationError):
    """The platform's Open API refused a call, or could not be asked: then ``status`` is None."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """`message` is the whole sentence."""
        super().__init__(message)
        self.status = status


class PlatformAwayError(PlatformError):
    """The platform's Open API was asked several times, and is overloaded or does not answer."""
