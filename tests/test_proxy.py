"""The proxy examples, started for real in front of a real server on a Unix socket."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest
from gate import Gate, environment, free_port, wait_for

from guestgate.probe.report import Verdict
from guestgate.probe.run import probe
from guestgate.probe.target import Card, Target

# Nothing here differs from one database to another.
pytestmark = pytest.mark.embedded

EXAMPLES = Path(__file__).parents[1] / "examples"
DOMAIN = "api.aggregator.example.com"
SOCKET = "/run/guestgate/door.sock"


def nginx(gate: Gate, socket: Path, port: int) -> list[str]:
    """nginx with the example, on our port, socket and certificate."""
    site = (EXAMPLES / "nginx.conf").read_text("utf-8")
    for old, new in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        (SOCKET, str(socket)),
        ("/etc/ssl/guestgate/fullchain.pem", str(gate.cert)),
        ("/etc/ssl/guestgate/privkey.pem", str(gate.key_file)),
    ):
        assert old in site
        site = site.replace(old, new)
    (gate.folder / "site.conf").write_text(site, "utf-8")
    paths = "".join(
        f"{name}_temp_path {gate.folder};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = (
        f"user root; daemon off; pid {gate.folder}/nginx.pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {paths} include {gate.folder}/site.conf; }}"
    )
    (gate.folder / "nginx.conf").write_text(main, "utf-8")
    return ["nginx", "-e", "stderr", "-c", str(gate.folder / "nginx.conf")]


def caddy(gate: Gate, socket: Path, port: int) -> list[str]:
    """Caddy with the example, on our port, socket and certificate."""
    site = (EXAMPLES / "Caddyfile").read_text("utf-8")
    for old, new in (
        (f"{DOMAIN} {{", f"https://localhost:{port} {{\n\ttls {gate.cert} {gate.key_file}"),
        (f"unix/{SOCKET}", f"unix/{socket}"),
    ):
        assert old in site
        site = site.replace(old, new)
    options = "{\n\tadmin off\n\tauto_https off\n}\n"
    (gate.folder / "Caddyfile").write_text(options + site, "utf-8")
    return ["caddy", "run", "--config", str(gate.folder / "Caddyfile")]


@pytest.fixture(params=[nginx, caddy], ids=["nginx", "caddy"])
def proxied(request: pytest.FixtureRequest, home: Gate) -> Iterator[Gate]:
    """A server behind each of the proxies; the gate's port is the proxy's."""
    command: Callable[[Gate, Path, int], list[str]] = request.param
    assert shutil.which(command.__name__, path="/usr/sbin:/usr/bin:/usr/local/bin"), (
        "scripts/test installs the proxies"
    )
    home.studio("s1")
    home.plans()
    home.members("free-0,free", "once-0,once")
    socket = home.folder / "door.sock"
    behind = [
        *(sys.executable, "-m", "guestgate", "serve", "--behind-proxy", "--host", f"unix:{socket}"),
        *("--admin-port", str(free_port())),
    ]
    home.port = free_port()
    with home.log.open("ab") as log, ExitStack() as stack:
        server = stack.enter_context(
            running([*behind, "--config", str(home.home / "guestgate.toml")], log, environment())
        )
        wait_for(socket.exists, "no socket", home)
        paths = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(home.folder)}
        proxy = stack.enter_context(running(command(home, socket, home.port), log, environment() | paths))
        wait_for(lambda: proxy.poll() is not None or _answers(home), "the proxy does not answer", home)
        yield home
    assert server.returncode == 0, home.log.read_text("utf-8")


@contextmanager
def running(command: list[str], log: IO[bytes], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended at the end."""
    process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def _answers(gate: Gate) -> bool:
    try:
        return httpx.get(f"https://localhost:{gate.port}/healthz", verify=gate.tls()).status_code == 200
    except httpx.HTTPError:
        return False


def test_check_ins_come_through(proxied: Gate) -> None:
    """Allowed, denied and refused look the same as without a proxy."""
    assert proxied.checkin("once-0").status_code == 200
    assert proxied.checkin("once-0").status_code == 403
    with proxied.client() as client:
        wrong_key = client.post(proxied.url, json={}, headers={"X-API-Key": "wrong"})
        bad_body = client.post(proxied.url, json={})
    assert (wrong_key.status_code, bad_body.status_code) == (401, 400)


def test_connections_are_used_again(proxied: Gate) -> None:
    """Many calls over one connection of the caller's all get their answer."""
    with proxied.client() as client:
        body = {"aggregatorId": "free-0", "customerId": 1}
        assert {client.post(proxied.url, json=body).status_code for _ in range(50)} == {200}


def test_only_the_platforms_paths_go_through(proxied: Gate) -> None:
    """Anything else ends at the proxy."""
    with proxied.client() as client:
        assert client.get(f"https://localhost:{proxied.port}/metrics").status_code == 404


def test_the_contract_is_kept_through_a_proxy(proxied: Gate) -> None:
    """Every clause of the probe, those about TLS and time included."""
    target = Target.of(proxied.url, proxied.keys["s1"], Card("free-0", 1), Card("nobody", 2), proxied.cert)
    report = asyncio.run(probe(target, calls=64))
    assert report.holds, [finding for finding in report.findings if finding.verdict is not Verdict.PASSED]
