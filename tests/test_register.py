"""`guestgate register`: a probe with a studio, a key and members of its own, and then the email."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import endpoints
import httpx
import pytest
from authority import Authority, Issued
from endpoints import serving
from gate import Gate, environment, wait_for
from sqlalchemy import select
from terminal import Terminal

from guestgate import clock, plans, schema, studios
from guestgate.check import check
from guestgate.rehearsal import ALLOWED, DENIED, NAME

members, links = schema.members.c, schema.customers.c
HOST = "gate.example.com"
# A probe wants answers in time, to 32 calls at once too.
pytestmark = pytest.mark.quiet

# A name of the internet that leads to this machine, for a command of its own.
RESOLVED = f"""
import signal, socket
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
resolve = socket.getaddrinfo
ours = ({HOST!r}, {HOST!r}.encode())
socket.getaddrinfo = lambda host, *more, **named: resolve("127.0.0.1" if host in ours else host, *more, **named)
from guestgate.cli import main
main()
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that the system of these tests trusts."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Issued:
    """A certificate for the public name."""
    return authority.issue(HOST)


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory, certificate: Issued) -> Iterator[Gate]:
    """A real server under a public name, with a member of its own."""
    gate = Gate(tmp_path_factory.mktemp("public"))
    gate.cert, gate.key_file = certificate.chain, certificate.key
    gate.studio("s1")
    gate.plans()
    gate.members("free-0,free")
    gate.start()
    yield gate
    gate.close()


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    """The public name leads to this machine, and the system trusts the authority."""
    resolve = socket.getaddrinfo

    def resolved(host: Any, *more: Any, **named: Any) -> Any:
        return resolve("127.0.0.1" if host in (HOST, HOST.encode()) else host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))


def register(gate: Gate, port: int | None = None) -> tuple[str, ...]:
    """The command's words."""
    url = f"https://{HOST}:{port or gate.port}"
    return ("register", "--url", url, "--config", str(gate.home / "guestgate.toml"))


def is_tidy(gate: Gate) -> None:
    """Nothing of the probe's is left but a paused test studio and its record."""
    with gate.database.read() as connection:
        assert connection.execute(select(members.id).where(members.id.in_((ALLOWED, DENIED)))).all() == []
        assert connection.execute(select(links.member_id).where(links.member_id.in_((ALLOWED, DENIED)))).all() == []
        assert {key["state"] for key in studios.key_list(connection, NAME)} == {"revoked"}
        assert NAME not in plans.load_plans(connection)
        (studio,) = [studio for studio in studios.studio_list(connection) if studio["id"] == NAME]
        assert (studio["test"], studio["active"], studio["keys"]) == (True, False, 0)
        assert check(connection) == []


def keys_in_force(gate: Gate) -> list[dict[str, Any]]:
    """The probe's own."""
    with gate.database.read() as connection:
        return [key for key in studios.key_list(connection) if key["studio"] == NAME and key["state"] == "valid"]


def test_an_endpoint_that_holds_gets_its_email(public: Gate, terminal: Terminal, internet: None) -> None:
    """The report first, then the email; as often as one likes."""
    for _ in range(2):
        shown = terminal.run(*register(public)).out
        assert re.search(r"\d+ clauses: \d+ passed", shown) and "failed" not in shown
        email = shown[shown.index("To: info@perfectgym.com") :]
        assert f"Endpoint: https://{HOST}:{public.port}/checkin-validation" in email
        is_tidy(public)


def test_no_real_visit_is_used_up(public: Gate, terminal: Terminal, internet: None) -> None:
    """All that the probe asked is on record at its own studio, and none of it pays."""
    before = public.json("visits", "--studio", "s1")
    terminal.run(*register(public))
    assert public.json("visits", "--studio", "s1") == before
    made = public.json("visits", "--studio", NAME)
    assert made and {visit["member"] for visit in made} == {ALLOWED}
    assert {visit["payable"] for visit in made} == {False}


def test_json_has_report_and_email(public: Gate, terminal: Terminal, internet: None) -> None:
    """In one object."""
    (result,) = terminal.json(*register(public))
    assert list(result) == ["holds", "email", "probe"]
    assert result["holds"] is True and result["probe"]["holds"] is True
    assert set(result["email"]) == {"to", "subject", "body"}


@pytest.mark.parametrize("endpoint", [endpoints.Endpoint, endpoints.Resets, endpoints.LeadsElsewhere])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_endpoint_that_does_not_hold_gets_none(
    options: tuple[str, ...],
    endpoint: Callable[[], endpoints.Endpoint],
    public: Gate,
    terminal: Terminal,
    internet: None,
    certificate: Issued,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that knows no key of ours, hangs up, or leads elsewhere: exit status 1, no email, nothing left behind."""
    monkeypatch.setattr("guestgate.cli.probe.KEY_PATIENCE_S", 0)
    with serving(endpoint(), endpoints.context(certificate)) as url:
        done = terminal.run(*register(public, httpx.URL(url).port), *options, status=1)
    assert "info@perfectgym.com" not in done.out
    if options:
        (result,) = done.objects
        assert (result["holds"], result["email"], result["probe"]["holds"]) == (False, None, False)
    else:
        assert "no email" in done.out
    is_tidy(public)


def test_the_key_is_not_sent_under_a_certificate_that_nobody_knows(
    public: Gate, terminal: Terminal, internet: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As the platform would not connect either."""
    monkeypatch.setenv("SSL_CERT_FILE", str(Authority(tmp_path).file))
    monkeypatch.setattr("guestgate.cli.probe.KEY_PATIENCE_S", 0)
    decided = len(public.json("decisions", "--studio", NAME))
    shown = terminal.run(*register(public), status=1).out
    assert re.search(r"^failed +certificate-chain", shown, re.MULTILINE)
    assert len(public.json("decisions", "--studio", NAME)) == decided
    is_tidy(public)


def test_the_second_reading_is_probed_with_our_own_id(
    terminal: Terminal, internet: None, home: Gate, certificate: Issued
) -> None:
    """With `aggregator_id` set the cards bear it, and the customers tell who is meant."""
    home.cert, home.key_file = certificate.chain, certificate.key
    config = home.home / "guestgate.toml"
    config.write_text(f'{config.read_text("utf-8")}\naggregator_id = "acme"\n', "utf-8")
    home.start()
    (result,) = terminal.json(*register(home))
    assert result["holds"] and "acme" in result["email"]["body"]
    asked = home.json("decisions", "--studio", NAME)
    assert {row["member"] for row in asked if row["aggregator_id"] == "acme"} >= {ALLOWED, DENIED}
    is_tidy(home)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_ends_it_nothing_is_left_behind(
    ending: signal.Signals, public: Gate, authority: Authority, certificate: Issued
) -> None:
    """Ctrl-C and the like, in the middle of a probe of an endpoint that never answers."""
    command = [sys.executable, "-c", RESOLVED]
    with serving(endpoints.NeverAnswers(), endpoints.context(certificate)) as url:
        process = subprocess.Popen(
            [*command, *register(public, httpx.URL(url).port)],
            env=environment() | {"SSL_CERT_FILE": str(authority.file)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

        wait_for(lambda: keys_in_force(public), "the probe did not begin", public)
        process.send_signal(ending)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, (out, err)
    assert "info@perfectgym.com" not in out and "Traceback" not in err
    is_tidy(public)


def test_what_a_killed_run_has_left_is_taken_over(
    public: Gate, terminal: Terminal, internet: None, authority: Authority, certificate: Issued
) -> None:
    """Not while its key is in force, since that may be a run beside this one."""
    with serving(endpoints.NeverAnswers(), endpoints.context(certificate)) as url:
        process = subprocess.Popen(
            [sys.executable, "-c", RESOLVED, *register(public, httpx.URL(url).port)],
            env=environment() | {"SSL_CERT_FILE": str(authority.file)},
            stdout=subprocess.DEVNULL,
        )
        wait_for(lambda: keys_in_force(public), "the probe did not begin", public)
        process.kill()
        process.wait(timeout=30)
    (key,) = keys_in_force(public)
    assert key["expires_at"] > clock.iso(clock.now())
    assert NAME in terminal.complaint(*register(public), status=1)
    public.cli("key", "revoke", key["fingerprint"])
    terminal.run(*register(public))
    is_tidy(public)


def test_a_real_studio_of_that_name_is_left_alone(terminal: Terminal, internet: None) -> None:
    """Its visits count."""
    terminal.studio(NAME)
    assert "real" in terminal.complaint("register", "--url", f"https://{HOST}", status=1)
    (studio,) = terminal.json("studio", "list")
    assert studio["active"] and not studio["test"] and terminal.json("member", "list") == []


def test_an_address_of_this_machine_is_not_probed(terminal: Terminal) -> None:
    """Wrong usage, before anything is made."""
    assert "--url" in terminal.complaint("register", "--url", "https://localhost/checkin-validation")
    assert terminal.json("studio", "list") == []
