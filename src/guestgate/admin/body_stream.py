"""A request's body as a file, for code that reads lines in a thread of its own."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.from_thread
from fastapi import Request
from starlette.requests import ClientDisconnect

MAX_SILENCE_S = 60


class BodyStream(io.RawIOBase):
    """Reads on as the body comes, and holds no more of it than one chunk. To be read in a worker thread."""

    def __init__(self, request: Request) -> None:
        """Nothing is read yet."""
        self._chunks: AsyncIterator[bytes] = request.stream()
        self._chunk = memoryview(b"")
        self.broken_off = False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Some bytes; 0 at the end."""
        while not self._chunk:
            try:
                chunk = anyio.from_thread.run(self._next)
            except (ClientDisconnect, TimeoutError):
                self.broken_off = True
                return 0
            if not chunk:
                return 0
            self._chunk = memoryview(chunk)
        taken = min(len(buffer), len(self._chunk))
        buffer[:taken] = self._chunk[:taken]
        self._chunk = self._chunk[taken:]
        return taken

    async def _next(self) -> bytes:
        """The next chunk that is not empty; an empty one at the end. Whoever is silent for too long is let go."""
        with anyio.fail_after(MAX_SILENCE_S):
            async for chunk in self._chunks:
                if chunk:
                    return chunk
        return b""
