"""The clauses below HTTP: connecting, plain HTTP, TLS versions, the certificate. No key is sent here."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from ipaddress import ip_address

from cryptography import x509

from guestgate import clock
from guestgate.probe import clauses
from guestgate.probe.calls import Call, Caller
from guestgate.probe.clauses import Clause
from guestgate.probe.handshakes import (
    HAPPY_EYEBALLS_S,
    HOST_MISMATCH,
    OUT_OF_DATE,
    Handshake,
    can_offer,
    only,
    pinned,
    shake,
)
from guestgate.probe.report import Finding, Verdict, consequence
from guestgate.probe.target import Target
from guestgate.texts import printable
from guestgate.trust import trust

PATIENCE_S = 3.0
FEW_DAYS = 14
OLD = {clauses.TLS_1_0: ssl.TLSVersion.TLSv1, clauses.TLS_1_1: ssl.TLSVersion.TLSv1_1}
CURRENT = {clauses.TLS_1_2: ssl.TLSVersion.TLSv1_2, clauses.TLS_1_3: ssl.TLSVersion.TLSv1_3}
MOST_NAMES = 10


async def findings(target: Target) -> AsyncIterator[Finding]:
    """The findings of these clauses, in the catalogue's order."""
    reachable = await _reachable(target)
    yield reachable
    if reachable.verdict is Verdict.FAILED:
        for clause in clauses.CLAUSES[1 : clauses.CLAUSES.index(clauses.REDIRECT)]:
            yield consequence(clause, clauses.REACHABLE, "there is no connection")
        return
    plain = await _plain_http(target)
    yield plain
    shaken = {clause: await shake(target, only(version)) for clause, version in CURRENT.items()}
    # Who answers in plain HTTP and speaks no TLS at all has one fault, not three.
    plain_only = plain.verdict is Verdict.FAILED and not any(attempt.done for attempt in shaken.values())
    for clause, attempt in shaken.items():
        verdict = Verdict.PASSED if attempt.done else Verdict.CONSEQUENCE if plain_only else Verdict.FAILED
        because = clauses.PLAIN_HTTP if plain_only else None
        yield Finding(clause, verdict, _hello(CURRENT[clause]), str(attempt), because)
    for clause, version in OLD.items():
        yield await _old_version(target, clause, version)
    first = next((attempt for attempt in shaken.values() if attempt.done), None)
    if first is None:
        for clause in (clauses.CERTIFICATE_CHAIN, clauses.CERTIFICATE_NAME, clauses.CERTIFICATE_DAYS):
            yield consequence(clause, clauses.PLAIN_HTTP if plain_only else clauses.TLS_1_2, "no TLS, no certificate")
        return
    async for finding in _certificate(target, first.certificate):
        yield finding


async def _reachable(target: Target) -> Finding:
    host, port = target.host, target.port
    sent = f"a TCP connection to {host}, port {port}"
    try:
        async with asyncio.timeout(PATIENCE_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            _, writer = await asyncio.open_connection(host, port, happy_eyeballs_delay=HAPPY_EYEBALLS_S)
            writer.transport.abort()
    except TimeoutError:
        return Finding(clauses.REACHABLE, Verdict.FAILED, sent, f"no connection within {PATIENCE_S:g} s")
    except (OSError, ValueError) as error:
        return Finding(clauses.REACHABLE, Verdict.FAILED, sent, printable(str(error)))
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    received = f"connected; the name stands for {', '.join(addresses)}"
    # An IPv6 address may name its interface: fe80::1%eth0.
    if not any(ip_address(address.partition("%")[0]).is_global for address in addresses):
        return Finding(clauses.REACHABLE, Verdict.NOTE, sent, f"{received}, which the internet does not reach")
    return Finding(clauses.REACHABLE, Verdict.PASSED, sent, received)


async def _plain_http(target: Target) -> Finding:
    """A check-in in the clear, without a key, on the endpoint's port; where that is 443, on port 80 too."""
    call = Call(target.allowed.body(), None)
    ports = [target.port, *([80] if target.port == 443 else [])]
    worst, received = Verdict.PASSED, []
    async with Caller(target, set()) as caller:
        for port in ports:
            outcome = await caller.call(call, target.url.copy_with(scheme="http", port=port))
            received.append(f"port {port}: {outcome.text if outcome.status else 'no HTTP'}")
            match outcome.status:
                case None:
                    pass
                case 403:
                    received[-1] += "; make sure that it refuses plain HTTP, and not only a missing key"
                    worst = worst if worst is Verdict.FAILED else Verdict.NOTE
                case status if 300 <= status < 400:
                    received[-1] += "; the platform does not follow"
                    worst = worst if worst is Verdict.FAILED else Verdict.NOTE
                case status if status < 300 or status == 401:
                    worst = Verdict.FAILED
                case _:
                    pass  # told off, not served
    sent = f"in plain HTTP: {call.describe()}"
    return Finding(clauses.PLAIN_HTTP, worst, sent, "\n".join(received))


async def _old_version(target: Target, clause: Clause, version: ssl.TLSVersion) -> Finding:
    context = only(version)
    sent = _hello(version)
    if not can_offer(context):
        return Finding(clause, Verdict.NOTE, "–", f"not asked: {ssl.OPENSSL_VERSION} here cannot offer it")
    attempt = await shake(target, context)
    if attempt.done:
        return Finding(clause, Verdict.FAILED, sent, str(attempt))
    if attempt.refused:
        return Finding(clause, Verdict.PASSED, sent, f"refused: {attempt}")
    return Finding(clause, Verdict.NOTE, sent, f"not sure: {ssl.OPENSSL_VERSION} here broke off ({attempt})")


def _hello(version: ssl.TLSVersion) -> str:
    return f"a handshake with TLS {version.name.removeprefix('TLSv').replace('_', '.')} and nothing else"


async def _certificate(target: Target, der: bytes) -> AsyncIterator[Finding]:
    try:
        certificate = x509.load_der_x509_certificate(der)
        starts, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        issuer = printable(certificate.issuer.rfc4514_string())
    except ValueError as error:
        unreadable = f"a certificate that cannot be read: {printable(str(error))}"
        yield Finding(clauses.CERTIFICATE_CHAIN, Verdict.FAILED, "a handshake", unreadable)
        for clause in (clauses.CERTIFICATE_NAME, clauses.CERTIFICATE_DAYS):
            yield consequence(clause, clauses.CERTIFICATE_CHAIN, unreadable)
        return
    now = clock.now()
    in_force = starts <= now <= ends

    context = trust(target.ca)
    context.check_hostname = False
    attempt = await shake(target, context)
    # What is wrong with the days is told below; OpenSSL looks at them once the chain is complete.
    known = attempt.done or (attempt.verify_code in OUT_OF_DATE and not in_force)
    yield Finding(
        clauses.CERTIFICATE_CHAIN,
        Verdict.PASSED if known else Verdict.FAILED,
        f"a handshake that trusts the system's authorities{printable(f' and {target.ca}') if target.ca else ''}",
        f"trusted; issued by {issuer}" if known else f"not trusted: {_about_chain(attempt)}; issued by {issuer}",
    )

    attempt = await shake(target, pinned(der))
    named = attempt.verify_code not in HOST_MISMATCH
    yield Finding(
        clauses.CERTIFICATE_NAME,
        Verdict.PASSED if named else Verdict.FAILED,
        f"a handshake for {target.host}",
        f"the certificate names {_names(certificate)}",
    )

    days = (ends - now).days
    if in_force:
        verdict = Verdict.NOTE if days < FEW_DAYS else Verdict.PASSED
        received = f"{days} day{'' if days == 1 else 's'} left, until {ends:%Y-%m-%d}"
    else:
        verdict = Verdict.FAILED
        received = f"expired on {ends:%Y-%m-%d}" if now > ends else f"not in force before {starts:%Y-%m-%d}"
    yield Finding(clauses.CERTIFICATE_DAYS, verdict, "a handshake", received)


def _about_chain(attempt: Handshake) -> str:
    if attempt.verify_code in (20, 21):  # X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, …_TO_VERIFY_LEAF_SIGNATURE
        return f"{attempt} (is the intermediate certificate sent along? --ca FILE trusts an authority of your own)"
    return f"{attempt} (--ca FILE trusts an authority of your own)" if attempt.verify_code else str(attempt)


def _names(certificate: x509.Certificate) -> str:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = [str(name.value) for name in extension.value]
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        names = []
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return printable(", ".join(names[:MOST_NAMES]) or "no host") + more
