"""The email that registers an endpoint with the platform."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx

from guestgate.errors import UsageError
from guestgate.settings import Settings

PLATFORM = "info@perfectgym.com"


def check_url(url: str, option: str = "--url") -> httpx.URL:
    """The parts of an address as they go over the wire; `option` is where it was given.

    Raises UsageError unless it can be called.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        valid = valid and not any(c.isspace() or not c.isprintable() for c in url)
        if valid:
            return httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        pass
    raise UsageError(
        f"{option}: {url!r} is not an address such as https://api.aggregator.example.com/checkin-validation"
    )


def _is_private(host: str) -> bool:
    try:
        return not ip_address(host).is_global
    except ValueError:
        return False


def address(url: str, settings: Settings) -> str:
    """The endpoint's public address in full. Raises UsageError for one that the platform cannot call."""
    check_url(url)
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "https":
        raise UsageError(f"--url: {url!r} should be a public https address, as the platform will call it")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError(f"--url: give https://{host}{settings.checkin_path} without anything before or after it")
    if host == "localhost" or _is_private(host):
        raise UsageError(f"--url: the internet does not reach {host}; give the address that the platform can call")
    path = parts.path.rstrip("/")
    if path and path != settings.checkin_path:
        raise UsageError(f"--url: ends in {path}, but this server answers on {settings.checkin_path} (checkin_path)")
    return f"https://{parts.netloc}{settings.checkin_path}"


def email(url: str, settings: Settings) -> dict[str, str]:
    """Recipient, subject and body. Raises UsageError for an address that the platform cannot call."""
    endpoint = address(url, settings)
    ours = f"Our aggregator id: {settings.aggregator_id}\n" if settings.aggregator_id else ""
    return {
        "to": PLATFORM,
        "subject": "Check-in validation: registration of our endpoint",
        "body": (
            "Hello,\n\n"
            "please register our endpoint for the validation of guest check-ins:\n\n"
            f"Endpoint: {endpoint}\n"
            f"{ours}\n"
            "It takes POST requests over HTTPS (TLS 1.2 and 1.3) with the studio's X-API-Key, answers 200 where\n"
            "the member may enter and 403 where not, within 750 ms. The API key of each studio that has\n"
            "activated our integration is known to us from the partner setup.\n\n"
            "Please tell us when calls will start to arrive.\n\n"
            "Kind regards\n"
        ),
    }
