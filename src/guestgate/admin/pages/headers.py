"""What every page says to the browser about itself."""

from __future__ import annotations

from fastapi import Response

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
ALWAYS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    # Not "no-referrer": that would keep browsers from saying where a form comes from.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
PAGE = {**ALWAYS, "cache-control": "no-store"}


def page(response: Response) -> Response:
    """A page's answer, with what it says about itself."""
    for name, value in PAGE.items():
        response.headers.setdefault(name, value)
    return response
