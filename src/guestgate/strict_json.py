"""JSON as strangers send it, read strictly.

A JSON library takes the last of two equal names, NaN, and half a surrogate pair; what one program reads
from such a text another does not. Here each of them is an error.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

MAX_DIGITS = 20


class NotJsonError(ValueError):
    """The text is not JSON, or not strictly; the message goes on after "the body" and repeats nothing of it."""


def loads(text: bytes, *, any_text: bool = False, any_number: bool = True) -> Any:
    """The value. Raises NotJsonError. With `any_text`, NUL characters and half surrogate pairs are the caller's.

    Without `any_number`, integers of more than `MAX_DIGITS` digits and numbers beyond floats are errors as well: what
    is read so can be written again as it was.
    """
    try:
        value = (_decoder if any_number else _bounded).decode(text.decode("utf-8"))
    except NotJsonError:
        raise
    except UnicodeDecodeError:
        raise NotJsonError("is not UTF-8 text") from None
    except (ValueError, RecursionError):
        raise NotJsonError("is not JSON") from None
    if not any_text and b"\\u" in text:  # only an escape can bring in what UTF-8 and JSON themselves keep out
        _check_texts(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise NotJsonError("names a property twice")
    return content


def _no_constant(name: str) -> NoReturn:
    raise NotJsonError(f"contains {name}, which is not JSON")


def _int(digits: str) -> int:
    """Python refuses to read integers of thousands of digits; any that long is as good as too large."""
    return int(digits) if len(digits) <= MAX_DIGITS else 10**MAX_DIGITS


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise NotJsonError("contains a number that is too large")
    return int(digits)


def _bounded_float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise NotJsonError("contains a number that is too large")
    return value


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_int)
_bounded = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_bounded_int, parse_float=_bounded_float
)


def _check_texts(value: Any) -> None:
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending += value.keys()
            pending += value.values()
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, str) and ("\0" in value or not _encodable(value)):
            raise NotJsonError("contains a NUL character or half a surrogate pair")


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
