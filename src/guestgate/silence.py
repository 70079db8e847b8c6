"""Connections that give up a PostgreSQL server which says nothing for long.

A machine that is gone is noticed by TCP. One whose server is frozen still acknowledges what it is sent, so
whoever waits for a reply would do so for ever, and long after another machine has taken its place.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import ModuleType
from typing import Any

import structlog

from guestgate import clock

log = structlog.get_logger()


def connection_class(psycopg: ModuleType, silence_s: float, given_up: Callable[[], None]) -> type[Any]:
    """psycopg's connection; where a reply takes longer it is closed, `given_up` called, an OperationalError raised.

    That cancels nothing: what the server has been told it goes on with once it can, a commit included.
    """

    class Connection(psycopg.Connection):  # type: ignore[name-defined,misc]
        def wait(self, gen: Generator[Any, Any, Any], *arguments: Any, **options: Any) -> Any:
            return super().wait(self._bounded(gen), *arguments, **options)

        def _bounded(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
            """The same steps; psycopg takes one every tenth of a second, also where nothing has come."""
            give_up_at = clock.monotonic() + silence_s
            try:
                wanted = next(gen)
                while True:
                    ready = yield wanted
                    if not ready and clock.monotonic() > give_up_at:
                        log.warning("the database says nothing; its connection is given up", waited_s=silence_s)
                        self.pgconn.finish()
                        given_up()
                        raise psycopg.OperationalError(f"the server said nothing for {silence_s} seconds")
                    wanted = gen.send(ready)
            except StopIteration as done:
                return done.value

    return Connection
