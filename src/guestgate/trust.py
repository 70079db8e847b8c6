"""Whose certificates are trusted by what calls others."""

from __future__ import annotations

import ssl
from pathlib import Path

from guestgate.errors import UsageError


def trust(ca: Path | None) -> ssl.SSLContext:
    """The system's certificate authorities and, where given, one more. Raises UsageError for a bad file."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"--ca: {ca}: {error}") from None
    return context
