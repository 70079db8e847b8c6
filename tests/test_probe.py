"""The probe: an endpoint that keeps the contract passes, and each way of breaking it is found on its own clause."""

from __future__ import annotations

import asyncio
import base64
import html
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import endpoints
import pytest
from authority import Authority, Issued
from endpoints import ALLOWED, DENIED, KEY, Endpoint, serving
from gate import Gate, free_port

from guestgate.probe import clauses, handshakes, run
from guestgate.probe.clauses import CLAUSES
from guestgate.probe.report import Report, Verdict
from guestgate.probe.target import Card, Target

# Nothing here differs from one database to another.
pytestmark = pytest.mark.embedded

CALLS = 16
ORDER = [clause.id for clause in CLAUSES]
HTTP = set(ORDER[ORDER.index("no-redirect") :])
CERTIFICATE = {"certificate-chain", "certificate-name", "certificate-days"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that the probe is told to trust."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Issued:
    """A certificate for localhost."""
    return authority.issue("localhost")


def probe(url: str, ca: Path | None, key: str = KEY, number: int = CALLS, **cards: Card) -> Report:
    """Probe an endpoint of this process."""
    target = Target.of(url, key, cards.get("allowed", ALLOWED), cards.get("denied", DENIED), ca)
    return asyncio.run(run.probe(target, number))


def verdicts(report: Report, verdict: Verdict) -> set[str]:
    """The clauses with this verdict."""
    return {finding.clause.id for finding in report.findings if finding.verdict is verdict}


def fails_on(report: Report, clause: str, consequences: Set[str] = frozenset()) -> None:
    """Assert that this clause fails, these as its consequences, and no other."""
    found = {finding.clause.id: (finding.verdict.value, finding.received) for finding in report.findings}
    assert list(found) == ORDER
    assert verdicts(report, Verdict.FAILED) == {clause}, found
    assert verdicts(report, Verdict.CONSEQUENCE) == consequences, found
    assert {finding.because.id for finding in report.findings if finding.because} == (
        {clause} if consequences else set()
    )
    assert not report.holds


def test_an_endpoint_that_keeps_the_contract_passes(authority: Authority, certificate: Issued) -> None:
    """One that is not guestgate; what is noted is that localhost is not the internet."""
    with serving(Endpoint(), endpoints.context(certificate)) as url:
        report = probe(url, authority.file)
    assert report.holds
    assert [finding.clause.id for finding in report.findings] == ORDER
    assert verdicts(report, Verdict.NOTE) == {"reachable"}
    assert report.summary() == f"{len(ORDER)} clauses: {len(ORDER) - 1} passed, 1 note"


def test_who_hangs_up_on_mistakes_keeps_the_contract(authority: Authority, certificate: Issued) -> None:
    """What comes after them is asked again on a new connection, and blames nobody."""
    with serving(endpoints.HangsUpOnMistakes(), endpoints.context(certificate)) as url:
        assert probe(url, authority.file).holds


def test_guestgate_keeps_the_contract(served: Gate) -> None:
    """The real server, over TLS, with both cards of real members."""
    report = probe(served.url, served.cert, served.keys["s1"], allowed=Card("free-1", 1), denied=Card("nobody", 2))
    assert report.holds, [finding for finding in report.findings if finding.verdict is not Verdict.PASSED]
    assert verdicts(report, Verdict.NOTE) == {"reachable", "certificate-days"}  # its certificate lasts two days


@dataclass(frozen=True)
class Broken:
    """An endpoint with one fault, the clause that has to find it, and what fails as a consequence."""

    clause: str
    endpoint: Callable[[], Endpoint] = Endpoint
    consequences: set[str] = field(default_factory=set)
    name: str = ""
    calls: int = CALLS

    def __str__(self) -> str:
        return f"{self.clause}: {self.name or getattr(self.endpoint, '__name__', '')}"


POSITIVE = {"unknown-properties"}  # asks for a yes, so it fails with the plain check-in
BODIES = {"body-not-json", "body-field-missing", "body-wrong-type"}
KEYS = {"key-missing", "key-empty", "key-wrong"}
REFUSED_ALIKE = {"charset", "allowed", "denied", "unknown-properties", "customer-64-bit"}

FAMILY = [
    Broken("post-only", endpoints.ServesGet),
    Broken("post-only", endpoints.FailsOnPut),
    Broken("key-missing", lambda: endpoints.TakesKey(None), name="let in"),
    Broken("key-missing", lambda: endpoints.TakesKey(None, 500), name="a fault"),
    Broken("key-missing", lambda: endpoints.TakesKey(None, 400), name="400 instead of 401"),
    Broken("key-empty", lambda: endpoints.TakesKey(""), name="let in"),
    Broken("key-empty", lambda: endpoints.TakesKey("", 500), name="a fault"),
    Broken("key-wrong", lambda: endpoints.TakesKey(KEY[:-1]), name="let in"),
    Broken("key-wrong", lambda: endpoints.TakesKey(KEY[:-1], 503), name="undecided"),
    Broken("key-wrong", endpoints.ComparesKeysLoosely),
    Broken("key-wrong", endpoints.ComparesAPrefix),
    Broken("allowed", lambda: endpoints.Decides(for_allowed=403), POSITIVE, name="denied"),
    Broken("allowed", lambda: endpoints.Decides(for_allowed=404), POSITIVE, name="unknown"),
    Broken(
        "allowed", lambda: endpoints.Decides(for_allowed=204), POSITIVE | {"charset", "customer-64-bit"}, name="204"
    ),
    Broken(
        "allowed", lambda: endpoints.Decides(for_allowed=500), POSITIVE | {"charset", "customer-64-bit"}, name="500"
    ),
    Broken("denied", lambda: endpoints.Decides(for_denied=200), name="let in"),
    Broken("denied", lambda: endpoints.Decides(for_denied=404), name="404"),
    Broken("denied", lambda: endpoints.Decides(for_denied=500), name="a fault"),
    Broken("denied", endpoints.HangsUpOnDenials),
    Broken("body-not-json", lambda: endpoints.JudgesBadly(not_json=500), name="a fault"),
    Broken("body-not-json", lambda: endpoints.JudgesBadly(not_json=200), name="let in"),
    Broken("body-field-missing", lambda: endpoints.JudgesBadly(field_missing=500), name="a fault"),
    Broken("body-field-missing", lambda: endpoints.JudgesBadly(field_missing=200), name="let in"),
    Broken("body-wrong-type", lambda: endpoints.JudgesBadly(wrong_type=500), name="a fault"),
    Broken("body-wrong-type", lambda: endpoints.JudgesBadly(wrong_type=200), name="let in"),
    Broken("unknown-properties", endpoints.KnowsAllProperties),
    Broken("customer-64-bit", lambda: endpoints.HasSmallIntegers(31, 500), name="31 bits, a fault"),
    Broken("customer-64-bit", lambda: endpoints.HasSmallIntegers(53, 400), name="53 bits, refused"),
    Broken("charset", endpoints.WantsBareJson, REFUSED_ALIKE - {"charset"}),
    Broken("charset", endpoints.WantsSmallLetters),
    Broken("reuse", endpoints.HangsUp),
    Broken("reuse", endpoints.HangsUpSilently),
    Broken("in-time", endpoints.ThinksLongOfDenials, {"in-time-together"}, calls=4),
    Broken("in-time-together", endpoints.ThinksOfOneAtATime, calls=32),
    Broken("in-time-together", endpoints.TakesFourAtATime, calls=64),
    Broken("no-redirect", endpoints.LeadsElsewhere, REFUSED_ALIKE | KEYS | BODIES | {"post-only"}),
    Broken("no-redirect", endpoints.LeadsTheDeniedElsewhere, {"denied"}),
    Broken("key-not-echoed", lambda: endpoints.Repeats(200), name="to who may enter"),
    Broken("key-not-echoed", lambda: endpoints.Repeats(403), name="to who may not"),
    Broken("key-not-echoed", lambda: endpoints.Repeats(401), name="a wrong one"),
    Broken("key-not-echoed", lambda: endpoints.Repeats(400, json.dumps), name="as JSON"),
    Broken("key-not-echoed", lambda: endpoints.Repeats(400, quote), name="as in a URL"),
    Broken("key-not-echoed", lambda: endpoints.Repeats(400, html.escape), name="as HTML"),
    Broken("key-not-echoed", lambda: endpoints.Repeats(200, header=True), name="in a header"),
    Broken(
        "key-not-echoed",
        lambda: endpoints.Repeats(200, lambda key: base64.b64encode(key.encode()).decode()),
        name="in Base64",
    ),
    Broken("key-not-echoed", endpoints.TellsTheRightKey),
]


@pytest.mark.parametrize("broken", FAMILY, ids=str)
def test_each_fault_is_found_on_its_own_clause(broken: Broken, authority: Authority, certificate: Issued) -> None:
    """Other clauses fail at most as its consequences, and the report holds no key."""
    with serving(broken.endpoint(), endpoints.context(certificate)) as url:
        report = probe(url, authority.file, number=broken.calls)
    fails_on(report, broken.clause, broken.consequences)
    assert KEY not in json.dumps(report.as_dict()) and KEY[:-1].lower() not in str(report).lower()


def test_strangers_that_are_led_to_a_login_are_three_faults(authority: Authority, certificate: Issued) -> None:
    """A redirect of other calls than check-ins is the fault of those clauses."""
    with serving(endpoints.LeadsStrangersToALogin(), endpoints.context(certificate)) as url:
        report = probe(url, authority.file)
    assert (verdicts(report, Verdict.FAILED), verdicts(report, Verdict.CONSEQUENCE)) == (KEYS, set())
    assert "/login" in next(f.received for f in report.findings if f.clause is clauses.KEY_MISSING)


def test_leniency_is_noted(authority: Authority, certificate: Issued) -> None:
    """What the platform never sends is advice, and the contract is kept all the same."""
    with serving(endpoints.IsLenient(), endpoints.context(certificate)) as url:
        report = probe(url, authority.file)
    assert report.holds
    assert verdicts(report, Verdict.NOTE) == {"reachable", "stricter"}
    (noted,) = (finding.received for finding in report.findings if finding.clause is clauses.STRICTER)
    assert (
        "customerId as a text: 200" in noted and "customerId twice: 200" in noted and "something after" not in noted
    )


# Below HTTP.


def test_nobody_there(authority: Authority) -> None:
    """Everything else is a consequence."""
    fails_on(probe(f"https://localhost:{free_port()}/", authority.file), "reachable", set(ORDER) - {"reachable"})


@pytest.mark.parametrize("host", ["no-such-host.invalid", f"{'a' * 64}.example", "xn--a", "bücher.invalid"])
def test_a_name_that_stands_for_nothing(host: str) -> None:
    """The same, and no traceback."""
    fails_on(probe(f"https://{host}/", None), "reachable", set(ORDER) - {"reachable"})


def test_plain_http_beside_tls(authority: Authority, certificate: Issued) -> None:
    """On the same port."""
    with serving(Endpoint(), endpoints.context(certificate), plain=True) as url:
        fails_on(probe(url, authority.file), "plain-http")


def test_plain_http_on_port_80(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address without a port is 443, and beside it the plain HTTP that people forget is asked too."""
    resolve = socket.getaddrinfo

    def resolved(host: Any, *more: Any, **named: Any) -> Any:
        return resolve("127.0.0.80" if host in ("gate.example.com", b"gate.example.com") else host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    url = f"https://gate.example.com{endpoints.PATH}"
    with serving(Endpoint(), endpoints.context(authority.issue("gate.example.com")), address=("127.0.0.80", 443)):
        assert probe(url, authority.file).holds
        with serving(Endpoint(), None, plain=True, address=("127.0.0.80", 80)):
            report = probe(url, authority.file)
    fails_on(report, "plain-http")
    (told,) = (finding.received for finding in report.findings if finding.clause is clauses.PLAIN_HTTP)
    assert "port 443: no HTTP" in told and "port 80: 401" in told


def test_plain_http_and_nothing_else(authority: Authority) -> None:
    """One fault; that there is no TLS follows from it."""
    with serving(Endpoint(), None, plain=True) as url:
        report = probe(url, authority.file)
    fails_on(report, "plain-http", HTTP | CERTIFICATE | {"tls-1.2", "tls-1.3"})


@pytest.mark.parametrize("status", [302, 403])
def test_plain_http_that_is_sent_away_is_noted(status: int, authority: Authority, certificate: Issued) -> None:
    """It is not served, but it is not plainly refused either."""

    class SendsPlainAway(Endpoint):
        def answer(self, call: endpoints.Call) -> None:
            if isinstance(call.connection, ssl.SSLSocket):
                super().answer(call)
            else:
                call.reply(status)

    with serving(SendsPlainAway(), endpoints.context(certificate), plain=True) as url:
        report = probe(url, authority.file)
    assert report.holds and verdicts(report, Verdict.NOTE) == {"reachable", "plain-http"}


@pytest.mark.parametrize(
    ("clause", "options"),
    [
        ("tls-1.0", ssl.OP_NO_TLSv1_1),
        ("tls-1.1", ssl.OP_NO_TLSv1),
        ("tls-1.2", ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1 | ssl.OP_NO_TLSv1_2),
        ("tls-1.3", ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1 | ssl.OP_NO_TLSv1_3),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.*deprecated:DeprecationWarning")
def test_a_wrong_choice_of_tls_versions(
    clause: str, options: ssl.Options, authority: Authority, certificate: Issued
) -> None:
    """A version too many or too few."""
    tls = endpoints.context(certificate)
    tls.set_ciphers("ALL:@SECLEVEL=0")
    tls.minimum_version = ssl.TLSVersion.TLSv1
    tls.options |= options
    with serving(Endpoint(), tls) as url:
        fails_on(probe(url, authority.file), clause)


def test_an_old_version_that_openssl_cannot_offer_is_noted(
    authority: Authority, certificate: Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than passed: nobody has asked."""
    only = handshakes.only

    def incapable(version: ssl.TLSVersion) -> ssl.SSLContext:
        """As an OpenSSL that insists on modern ciphers."""
        context = only(version)
        if version < ssl.TLSVersion.TLSv1_2:
            context.set_ciphers("ECDHE+AESGCM:@SECLEVEL=2")
        return context

    monkeypatch.setattr("guestgate.probe.transport.only", incapable)
    with serving(Endpoint(), endpoints.context(certificate)) as url:
        report = probe(url, authority.file)
    assert verdicts(report, Verdict.NOTE) == {"reachable", "tls-1.0", "tls-1.1"} and report.holds


def test_an_authority_that_nobody_knows(tmp_path: Path, authority: Authority) -> None:
    """The key is not sent to who shows such a certificate."""
    seen: list[str | None] = []

    class Watches(Endpoint):
        def answer(self, call: endpoints.Call) -> None:
            seen.append(call.headers.get("x-api-key"))
            super().answer(call)

    with serving(Watches(), endpoints.context(Authority(tmp_path).issue("localhost"))) as url:
        fails_on(probe(url, authority.file), "certificate-chain", HTTP)
        fails_on(probe(url, None), "certificate-chain", HTTP)
    assert seen == []


def test_a_missing_intermediate(authority: Authority) -> None:
    """The most common fault of all, with a word on what to do; sent along it is fine."""
    intermediate = authority.child()
    with serving(Endpoint(), endpoints.context(intermediate.issue("localhost", with_chain=False))) as url:
        report = probe(url, authority.file)
    fails_on(report, "certificate-chain", HTTP)
    assert "intermediate" in next(f.received for f in report.findings if f.clause is clauses.CERTIFICATE_CHAIN)
    with serving(Endpoint(), endpoints.context(intermediate.issue("localhost"))) as url:
        assert probe(url, authority.file).holds


def test_a_certificate_of_another_host(authority: Authority) -> None:
    """Its names are told."""
    with serving(Endpoint(), endpoints.context(authority.issue("gate.example.com", "www.example.com"))) as url:
        report = probe(url, authority.file)
    fails_on(report, "certificate-name", HTTP)
    (told,) = (finding.received for finding in report.findings if finding.clause is clauses.CERTIFICATE_NAME)
    assert "gate.example.com, www.example.com" in told


@pytest.mark.parametrize(
    ("starts", "ends", "words"),
    [(timedelta(-9), timedelta(-1), "expired"), (timedelta(1), timedelta(9), "not in force before")],
)
def test_a_certificate_outside_its_days(starts: timedelta, ends: timedelta, words: str, authority: Authority) -> None:
    """Over, or not begun."""
    with serving(Endpoint(), endpoints.context(authority.issue("localhost", starts=starts, ends=ends))) as url:
        report = probe(url, authority.file)
    fails_on(report, "certificate-days", HTTP)
    assert words in next(f.received for f in report.findings if f.clause is clauses.CERTIFICATE_DAYS)


def test_a_certificate_that_ends_soon_is_noted(authority: Authority) -> None:
    """With the days that are left."""
    with serving(Endpoint(), endpoints.context(authority.issue("localhost", ends=timedelta(days=5, hours=1)))) as url:
        report = probe(url, authority.file)
    assert report.holds and verdicts(report, Verdict.NOTE) == {"reachable", "certificate-days"}
    assert "5 days left" in next(f.received for f in report.findings if f.clause is clauses.CERTIFICATE_DAYS)


# Hostile endpoints: bounded in time and memory, never a traceback.

UNANSWERED = [
    *(endpoints.NeverAnswers, endpoints.NeverEnds, endpoints.NeverEndsInChunks, endpoints.Drips),
    *(endpoints.DripsHeaders, endpoints.SendsHugeHeaders, endpoints.AlwaysContinues, endpoints.Resets),
    *(endpoints.BreaksOff, endpoints.Babbles, endpoints.ClaimsALength),
]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that waits for half a second only, so that the tests need not."""
    for module in ("calls", "handshakes", "transport"):
        monkeypatch.setattr(f"guestgate.probe.{module}.PATIENCE_S", 0.5)


@pytest.mark.parametrize("hostile", UNANSWERED, ids=lambda hostile: hostile.__name__)
def test_what_is_no_answer_is_told_as_such(
    hostile: Callable[[], Endpoint], authority: Authority, certificate: Issued, impatient: None
) -> None:
    """The plain check-in fails, and nothing else is asked of such an endpoint."""
    with serving(hostile(), endpoints.context(certificate)) as url:
        report = probe(url, authority.file)
    fails_on(report, "allowed", HTTP - {"allowed"})
    (told,) = (finding.received for finding in report.findings if finding.clause is clauses.ALLOWED)
    assert "answer" in told and KEY not in told and told.isprintable()


def test_a_status_that_does_not_exist(authority: Authority, certificate: Issued) -> None:
    """And headers that are no text."""
    with serving(endpoints.InventsAStatus(), endpoints.context(certificate)) as url:
        report = probe(url, authority.file)
    assert "allowed" in verdicts(report, Verdict.FAILED)
    assert all(line.isprintable() for finding in report.findings for line in finding.received.splitlines())


@pytest.mark.quiet
def test_an_endpoint_that_goes_silent_under_load(authority: Authority, certificate: Issued, impatient: None) -> None:
    """Each call that gets no answer counts as late, and the probe ends."""

    @dataclass
    class GoesSilent(Endpoint):
        places: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(8))

        def answer(self, call: endpoints.Call) -> None:
            if not self.places.acquire(blocking=False):
                call.connection.recv(1)
                call.close_connection = True
                return
            threading.Event().wait(0.02)
            self.places.release()
            super().answer(call)

    with serving(GoesSilent(), endpoints.context(certificate)) as url:
        report = probe(url, authority.file, number=32)
    fails_on(report, "in-time-together")
    (finding,) = (finding for finding in report.findings if finding.clause is clauses.IN_TIME_TOGETHER)
    assert finding.figures is not None and finding.figures.over_750_share > 0
    assert "without an answer" in finding.received


@contextmanager
def listening(talk: Callable[[Any], None]) -> Iterator[str]:
    """A server that is below TLS already not what it should be; `talk` has each connection to itself."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        ended = threading.Event()

        def serve(connection: socket.socket) -> None:
            with connection:
                connection.settimeout(10)
                with suppress(OSError):
                    talk(connection)

        def accept() -> None:
            while not ended.is_set():
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"https://localhost:{server.getsockname()[1]}/"
        ended.set()
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def closes(connection: Any) -> None:
    """At once."""


def is_silent(connection: Any) -> None:
    """Until the caller has had enough."""
    while connection.recv(4096):
        pass


def talks_rubbish(connection: Any) -> None:
    """Without end, and nothing of it is TLS."""
    while True:
        connection.sendall(b"\x16\x03\x03\xff\xff" + b"\x00\xff" * 4000)


def drips_a_handshake(connection: Any) -> None:
    """A byte of a record at a time."""
    connection.sendall(b"\x16\x03\x03\x40\x00\x02")
    while True:
        connection.sendall(b"\x00")
        threading.Event().wait(0.05)


@pytest.mark.parametrize("talk", [closes, is_silent, talks_rubbish, drips_a_handshake])
def test_who_speaks_no_tls_has_no_tls(talk: Callable[[Any], None], authority: Authority, impatient: None) -> None:
    """Both versions fail, and all that needs them follows."""
    with listening(talk) as url:
        report = probe(url, authority.file)
    assert verdicts(report, Verdict.FAILED) == {"tls-1.2", "tls-1.3"}
    assert verdicts(report, Verdict.CONSEQUENCE) == HTTP | CERTIFICATE
    assert all(line.isprintable() for finding in report.findings for line in finding.received.splitlines())
