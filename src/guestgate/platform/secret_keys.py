"""What seals keys that have to be readable again: those of the platform's Open API, which we send.

Sealed texts are AES-256-GCM. Each is bound to what it belongs to, so that a row of the database that was copied
to another studio, or given another address, does not open.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from guestgate.errors import OperationError, UsageError
from guestgate.settings import Settings

KEY_BYTES, NONCE_BYTES = 32, 12
VERSION = "1."
MAX_FILE_BYTES = 64 * 1024
_SEPARATORS = re.compile(r"[\s,]+")
HOW = "guestgate secret new makes one"


def new_key() -> str:
    """A new secret key, as a line of text."""
    return base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def add_to(file: Path, key: str) -> None:
    """Put a key first in a file, which only its owner may read; those that are there still open what they sealed.

    Raises OperationError where the file cannot be written.
    """
    beside = file.with_name(f"{file.name}.new")
    try:
        beside.unlink(missing_ok=True)  # from an attempt that was broken off
        known = file.read_text("utf-8") if file.exists() else ""
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
            out.write(f"{key}\n{known}")
            out.flush()
            os.fsync(out.fileno())
        if known:
            beside.chmod(file.stat().st_mode & 0o777)
            os.chown(beside, file.stat().st_uid, file.stat().st_gid)
        beside.replace(file)
    except (OSError, ValueError) as error:
        raise OperationError(f"{file}: {getattr(error, 'strerror', None) or 'is not UTF-8 text'}") from None


class SecretKeys:
    """The keys that seal: the first one seals, any of them opens."""

    def __init__(self, keys: Sequence[bytes], place: str) -> None:
        """Keys of 32 bytes; `place` is where they come from, or would. None at all is allowed."""
        self._keys, self._place = tuple(keys), place

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Those of the setting ``secret_key``, else of ``secret_key_file``.

        Raises UsageError for what is no key. That there is none is said once one is needed.
        """
        if settings.secret_key is not None:
            return cls(_parse(settings.secret_key.get_secret_value(), "secret_key"), "secret_key")
        file = settings.secret_key_file
        try:
            with file.open("rb") as stream:
                text = stream.read(MAX_FILE_BYTES).decode("utf-8", "replace")
        except FileNotFoundError:
            return cls((), str(file))
        except OSError as error:
            raise UsageError(f"secret_key_file: {file}: {error.strerror}") from None
        return cls(_parse(text, f"secret_key_file: {file}"), str(file))

    def __bool__(self) -> bool:
        """Whether there is one."""
        return bool(self._keys)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._keys)

    def require(self) -> None:
        """Raise UsageError where there is no key."""
        if not self._keys:
            raise UsageError(
                "Open API keys are kept sealed, and there is no secret key to seal them with: "
                f"{HOW} ({self._place}), or set GUESTGATE_SECRET_KEY"
            )

    def seal(self, text: str, *, to: Sequence[str]) -> str:
        """A text that only these keys open, and only together with the same `to`. Raises UsageError without a key."""
        self.require()
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = AESGCM(self._keys[0]).encrypt(nonce, text.encode(), _bound(to))
        return VERSION + base64.urlsafe_b64encode(nonce + sealed).decode()

    def unseal(self, sealed: str, *, to: Sequence[str]) -> str:
        """What was sealed. Raises UsageError without a key, OperationError where none opens it."""
        self.require()
        try:
            content = base64.b64decode(sealed.removeprefix(VERSION).encode(), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            content = b""
        for key in self._keys if sealed.startswith(VERSION) and len(content) > NONCE_BYTES else ():
            try:
                return str(AESGCM(key).decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], _bound(to)), "utf-8")
            except InvalidTag:
                continue
        raise OperationError(
            f"the Open API key of studio {to[0]} does not open with the secret key in {self._place}: put back the "
            f"one it was sealed with, or add the Open API key again (guestgate key add {to[0]} --kind openapi)"
        )


def _bound(to: Sequence[str]) -> bytes:
    """Texts in which no NUL stands, one after the other: no two lists look the same."""
    return "\0".join(to).encode()


def _parse(text: str, place: str) -> list[bytes]:
    keys = []
    for word in filter(None, _SEPARATORS.split(text)):
        try:
            key = base64.b64decode(word.encode(), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            key = b""
        if len(key) != KEY_BYTES:
            raise UsageError(f"{place}: this is no secret key; {HOW}")
        keys.append(key)
    if not keys:
        raise UsageError(f"{place}: there is no secret key in it; {HOW}")
    return keys
