"""TLS handshakes: which versions an endpoint speaks, and which certificate it shows."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from contextlib import suppress
from dataclasses import dataclass

from guestgate.probe.target import Target

PATIENCE_S = 3.0
# Where the first of a host's addresses does not answer by then, the next is tried as well (RFC 8305).
HAPPY_EYEBALLS_S = 0.25
# How OpenSSL names an alert that the other side has sent.
ALERTS = ("TLSV1_", "TLSV13_", "SSLV3_ALERT")
# The other side did not send what belongs to this version; so it does not speak it.
NOT_SPOKEN = ("WRONG_VERSION_NUMBER", "UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION", "UNEXPECTED_MESSAGE")
HOST_MISMATCH = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
OUT_OF_DATE = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


@dataclass(frozen=True)
class Handshake:
    """One attempt. ``error`` is None where it was completed; only then there are version and certificate (DER)."""

    error: Exception | None
    version: str = ""
    certificate: bytes = b""

    @property
    def done(self) -> bool:
        """Whether a connection stood."""
        return self.error is None

    @property
    def verify_code(self) -> int:
        """OpenSSL's code for what is wrong with the certificate; 0 where it is not that."""
        return self.error.verify_code if isinstance(self.error, ssl.SSLCertVerificationError) else 0

    @property
    def refused(self) -> bool:
        """Whether the other side did not go along; False also where our own OpenSSL broke off."""
        if not isinstance(self.error, ssl.SSLError) or isinstance(
            self.error, ssl.SSLEOFError | ssl.SSLZeroReturnError
        ):
            return not self.done
        reason = self.error.reason or ""
        return reason.startswith(ALERTS) or reason in NOT_SPOKEN

    def __str__(self) -> str:
        """In a few words."""
        if self.error is None:
            return f"{self.version} connection"
        if isinstance(self.error, ssl.SSLCertVerificationError):
            return str(self.error.verify_message)
        if isinstance(self.error, ssl.SSLError) and self.error.reason:
            return self.error.reason.lower().replace("_", " ")
        if isinstance(self.error, TimeoutError):
            return f"no handshake within {PATIENCE_S:g} s"
        return str(self.error) or "the connection was closed"


async def shake(target: Target, context: ssl.SSLContext) -> Handshake:
    """Connect, shake hands and hang up; never takes longer than `PATIENCE_S`."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            _, writer = await asyncio.open_connection(
                target.host,
                target.port,
                ssl=context,
                server_hostname=target.host,
                happy_eyeballs_delay=HAPPY_EYEBALLS_S,
            )
    except (OSError, ValueError) as error:  # TimeoutError and SSLError are OSErrors; ValueError: no possible name
        return Handshake(error)
    spoken: ssl.SSLObject = writer.get_extra_info("ssl_object")
    shaken = Handshake(None, spoken.version() or "", spoken.getpeercert(binary_form=True) or b"")
    writer.transport.abort()
    return shaken


def only(version: ssl.TLSVersion) -> ssl.SSLContext:
    """A caller who speaks this version and no other, and takes whatever certificate is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")  # with less OpenSSL would not even offer the old versions
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that they are old is why we ask
        context.minimum_version = version
        context.maximum_version = version
    return context


def can_offer(context: ssl.SSLContext) -> bool:
    """Whether our own OpenSSL is able to begin such a handshake; some are built or configured not to."""
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.pending > 0


def pinned(certificate: bytes) -> ssl.SSLContext:
    """A caller who trusts this one certificate, so that only its name can be wrong."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate)
    return context
