"""The servers that are compared: how each is started, asked and ended."""

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import seed

PATH = "/checkin-validation"
STARTUP_S = 30
STOP_S = 10

NGINX = """\
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type application/json;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        location = {path} {{ return 200 '{body}'; }}
    }}
}}
"""


@dataclass
class Site:
    """What all servers have in common: folder, certificate, studio keys."""

    folder: Path
    keys: list[str]
    cert: Path = field(init=False)
    key: Path = field(init=False)

    def __post_init__(self) -> None:
        """Make the throw-away certificate."""
        self.cert, self.key = self.folder / "cert.pem", self.folder / "key.pem"
        command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec"]
        command += ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command += ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-keyout", str(self.key), "-out", str(self.cert)]
        subprocess.run(command, check=True, capture_output=True)


@dataclass
class Server:
    """One running server on a loopback port. `static` ones do not look at what they are asked."""

    name: str
    site: Site
    port: int
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    static: bool = False
    process: subprocess.Popen[bytes] | None = None
    sample: str = ""

    @property
    def url(self) -> str:
        """Where check-ins go."""
        return f"https://127.0.0.1:{self.port}{PATH}"

    @property
    def log(self) -> Path:
        """What the server printed."""
        return self.site.folder / f"{self.name}.log"

    def start(self) -> None:
        """Start, and ask until it answers as it should."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**seed.environment(), **self.environment},
                start_new_session=True,
            )
        status, self.sample = self._first_answer()
        self._expect("a check-in", status, 200)
        if not self.static:
            self._expect("an unknown key", self._ask("unknown", seed.member_id(1))[0], 401)
            self._expect("an unknown member", self._ask(self.site.keys[0], "nobody")[0], 403)

    def stop(self) -> None:
        """End the server and every process of its own."""
        if self.process is None:
            return
        for sent, patience in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)):
            try:
                os.killpg(self.process.pid, sent)
            except ProcessLookupError:
                break
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
        self.process = None

    def complaint(self) -> str:
        """The last lines that the server printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def _first_answer(self) -> tuple[int, str]:
        assert self.process is not None
        until = time.monotonic() + STARTUP_S
        while True:
            try:
                return self._ask(self.site.keys[0], seed.member_id(1))
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{self.name} does not serve: {error}\n{self.complaint()}") from None
            time.sleep(0.1)

    def _expect(self, question: str, status: int, expected: int) -> None:
        if status != expected:
            raise RuntimeError(f"{self.name} answers {question} with {status}, not {expected}\n{self.complaint()}")

    def _ask(self, key: str, member: str) -> tuple[int, str]:
        context = ssl.create_default_context(cafile=str(self.site.cert))
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=5, context=context)
        body = json.dumps({"aggregatorId": member, "customerId": 200_100_001})
        headers = {"X-API-Key": key, "Content-Type": "application/json; charset=utf-8"}
        try:
            connection.request("POST", PATH, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


def guestgate(site: Site, program: Path, name: str = "guestgate", database: str | None = None) -> Server:
    """Guestgate itself, as `guestgate serve` runs it, with a database of its own or on a server."""
    folder = site.folder / name
    seed.guestgate(program, folder, site.keys, database)
    port, admin_port = _free_port(), _free_port()
    command = [str(program), "serve", "--config", str(folder / "guestgate.toml")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--admin-port", str(admin_port)]
    command += ["--tls-cert", str(site.cert), "--tls-key", str(site.key)]
    return Server(name, site, port, command)


def baseline(site: Site, name: str, python: Path, database: str | None = None) -> Server:
    """One of the Python baselines, under uvicorn, with a database of its own or on a server."""
    here = Path(__file__).parent
    module, _, _ = name.partition("-")
    if database is not None:
        seed.baseline_on_postgres(database, here / "schema.sql", site.keys)
        address = database.replace("postgresql:", "postgresql+asyncpg:")
    else:
        file = site.folder / f"{name}.db"
        seed.baseline(file, here / "schema.sql", site.keys)
        address = f"sqlite+aiosqlite:///{file}" if module == "sqlalchemy" else str(file)
    port = _free_port()
    command = [str(python), "-m", "uvicorn", f"baseline_{module}:app", "--app-dir", str(here)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    command += ["--ssl-certfile", str(site.cert), "--ssl-keyfile", str(site.key)]
    return Server(name, site, port, command, {"BENCH_DATABASE": address})


def nginx(site: Site, body: str) -> Server:
    """One nginx worker that always says `body`: what the machine and the load generator can do at most."""
    folder = site.folder / "nginx"
    folder.mkdir(mode=0o755)
    port = _free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, cert=site.cert, key=site.key, path=PATH, body=body))
    return Server("nginx", site, port, ["nginx", "-p", str(folder), "-c", str(config)], static=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
