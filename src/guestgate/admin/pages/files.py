"""`/static/…`: the pages' styles and scripts, from the package. Anybody may have them, for the first page too."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from guestgate.admin.pages import headers
from guestgate.admin.problems import ProblemError

anybody = APIRouter(include_in_schema=False)

KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_folder = files(__package__) / "static"
NAMES = frozenset(
    f"{prefix}{file.name}"
    for prefix, folder in (("", _folder), ("vendor/", _folder / "vendor"))
    for file in folder.iterdir()
    if any(file.name.endswith(ending) for ending in KINDS)
)


@cache
def content(name: str) -> bytes:
    """A file's bytes."""
    return _folder.joinpath(name).read_bytes()


@cache
def address(name: str) -> str:
    """Where a page finds a file: another address when its content is another one."""
    return f"/static/{name}?{hashlib.sha256(content(name)).hexdigest()[:12]}"


@anybody.get("/static/{name:path}")
def static(name: str) -> Response:
    """One file, to be kept by the browser."""
    if name not in NAMES:
        raise ProblemError(404)
    kind = KINDS[name[name.rindex(".") :]]
    keep = {"cache-control": "public, max-age=31536000, immutable"}
    return Response(content(name), media_type=kind, headers={**headers.ALWAYS, **keep})
