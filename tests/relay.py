"""A TCP relay between guestgate and its database, which can cut, hold back and black out what passes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress


class Relay:
    """Listens on ``port``. `before` sees what the client sends and says what becomes of it."""

    def __init__(self, host: str, target: int, before: Callable[[bytes], str] = lambda data: "") -> None:
        """`before` returns "" (pass it on), "cut" (end the connection) or "deafen" (pass it on, and end the
        connection before its reply)."""
        self._target = (host, target)
        self.before = before
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
            threading.Thread(target=self._pump, args=(client, server, deaf, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, deaf, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, deaf: threading.Event, from_client: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                action = self.before(data) if from_client else ""
                if action == "cut":
                    break
                if action == "deafen":
                    deaf.set()
                if not from_client and deaf.is_set():
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

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
