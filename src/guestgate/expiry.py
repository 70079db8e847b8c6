"""What ends soon, and would shut doors: keys and the certificate."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from guestgate import clock
from guestgate.directory import Directory

SOON = timedelta(days=21)


def certificate(path: Path) -> x509.Certificate:
    """The first certificate of a chain, the server's own. Raises OSError or ValueError where there is none."""
    return x509.load_pem_x509_certificate(path.read_bytes())


def soon(directory: Directory, tls_cert: Path | None, now: datetime) -> Iterator[tuple[str, datetime]]:
    """What ends within three weeks, in words, and when. What has ended already is not told any more."""
    for (_, kind), key in directory.keys.items():
        if key.expires_at_ms and now < (at := clock.from_ms(key.expires_at_ms)) < now + SOON:
            yield f"key {key.fingerprint} ({kind}) of studio {key.studio_id}", at
    if tls_cert is not None:
        try:
            at = certificate(tls_cert).not_valid_after_utc
        except (OSError, ValueError):  # a certificate that is just being replaced
            return
        if at < now + SOON:
            yield f"certificate {tls_cert}", at
