"""Python under libfaketime: with a real monotonic clock its ``clock_nanosleep`` fails with EINVAL, always."""

import select
import time


def sleep(seconds: float) -> None:
    """As time.sleep, by another system call."""
    select.select([], [], [], seconds)


time.sleep = sleep
