"""A TCP relay between guestgate and its database, which can cut, hold back, slow down and black out what passes."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

# What is lost is sent again after this time, and after twice as long each further time, as TCP does it.
RETRANSMIT_S = 0.2

# Data and the instant at which it may arrive; None ends it.
_Way = SimpleQueue[tuple[float, bytes] | None]


class Relay:
    """Listens on ``port``. `before` sees what the client sends and says what becomes of it.

    ``delay_s`` is how long everything is on its way, in each direction; ``loss`` is the share of what is sent that
    gets lost: it comes later, and all that was sent behind it waits. Both may be changed at any time.
    """

    def __init__(self, host: str, target: int, before: Callable[[bytes], str] = lambda data: "") -> None:
        """`before` returns "" (pass it on), "cut" (end the connection) or "deafen" (pass it on, and end the
        connection before its reply)."""
        self._target = (host, target)
        self.before = before
        self.delay_s = self.loss = 0.0
        self._dice = random.Random(1)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._open = threading.Event()
        self._open.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            deaf = threading.Event()
            for source, sink, from_client in ((client, server, True), (server, client, False)):
                way = _Way()
                threading.Thread(target=self._read, args=(source, way, deaf, from_client), daemon=True).start()
                threading.Thread(target=self._write, args=(way, source, sink), daemon=True).start()

    def _read(self, source: socket.socket, way: _Way, deaf: threading.Event, from_client: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                action = self.before(data) if from_client else ""
                if action == "cut":
                    break
                if action == "deafen":
                    deaf.set()
                if not from_client and deaf.is_set():
                    break
                way.put((time.monotonic() + self.delay_s + self._lost_s(), data))
        way.put(None)

    def _write(self, way: _Way, source: socket.socket, sink: socket.socket) -> None:
        """Apart from reading, so that what is on its way does not hold up what comes behind it."""
        with suppress(OSError):
            while item := way.get():
                due, data = item
                time.sleep(max(0.0, due - time.monotonic()))
                self._open.wait()
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _lost_s(self) -> float:
        """How much later something comes because it got lost, perhaps more than once."""
        lost_s, again_s = 0.0, RETRANSMIT_S
        while self.loss and self._dice.random() < self.loss:
            lost_s, again_s = lost_s + again_s, 2 * again_s
        return lost_s

    def black_out(self) -> None:
        """Nothing passes any more, in either direction; nobody is told."""
        self._open.clear()

    def clear(self) -> None:
        """What was held back passes, and what comes."""
        self._open.set()

    def cut(self) -> None:
        """End all connections."""
        sockets, self._sockets = self._sockets, []
        for end in sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Take no more."""
        self._server.close()
        self.clear()
        self.cut()
