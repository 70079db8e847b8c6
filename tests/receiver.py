"""An aggregator's endpoint for tests of the sandbox: takes all three kinds of call over TLS and keeps them."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from guestgate.self_signed import make_certificate


class Received(NamedTuple):
    """One call."""

    path: str
    headers: dict[str, str]
    body: Any


class Receiver:
    """Use as a context manager. `answers` has for each path a status and a body, or a function of the body."""

    def __init__(self, folder: Path) -> None:
        self.cert, key = make_certificate(folder)
        self.received: list[Received] = []
        self.answers: dict[str, Any] = {
            "/checkin-validation": (200, {"decision": "allowed", "reason": "ok", "decisionId": "d"}),
            "/member-validation": (404, {}),
            "/webhook": (200, {}),
        }
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                body = json.loads(raw)
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append(Received(self.path, headers, body))
                answer = receiver.answers[self.path]
                status, content = answer(body) if callable(answer) else answer
                sent = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Callers hang up; that is their business."""

        self._server = Server(("localhost", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, key)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.base = f"https://localhost:{self._server.server_address[1]}"

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def of(self, path: str) -> list[Received]:
        """The calls to a path, in order."""
        return [one for one in self.received if one.path == path]
