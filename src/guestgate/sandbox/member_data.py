"""What an aggregator tells of a member who registers, and whether it is worded as the contract says."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

NAMES = ("firstName", "lastName")
OPTIONAL = (
    *("dateOfBirth", "email", "gender", "street", "houseNumber", "zipCode", "city", "country"),
    *("phonePrivate", "phonePrivateMobile", "phoneBusiness", "phoneBusinessMobile"),
)
FIELDS = ("aggregatorId", *NAMES, *OPTIONAL)
MAX_ID_CHARS = 255


def problems(content: Mapping[str, Any]) -> list[str]:
    """What is wrong, a sentence for each field; none where all is well. No sentence repeats what was sent."""
    id_ = content.get("aggregatorId")
    found = [] if isinstance(id_, str) and 1 <= len(id_) <= MAX_ID_CHARS else [f"aggregatorId should be {_AN_ID}"]
    for name in (*NAMES, *OPTIONAL):
        if name not in content:
            continue
        value = content[name]
        fits, wanted = _SHAPES.get(name, _TEXT)
        if value is None:
            found.append(f"{name} is null; what is not known is left out")
        elif not isinstance(value, str) or not fits(value):
            found.append(f"{name} should be {wanted}")
    return found


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


Shape = tuple[Callable[[str], object], str]
_AN_ID = f"a text of 1 to {MAX_ID_CHARS} characters"
_TEXT: Shape = (str.strip, "a text that is not empty")
_SHAPES: dict[str, Shape] = {
    "dateOfBirth": (_is_date, "a date such as 1952-05-04"),
    "gender": (("MALE", "FEMALE", "UNISEX").__contains__, "MALE, FEMALE or UNISEX"),
    "country": (re.compile(r"[A-Z]{2}").fullmatch, "a country of ISO 3166-1 such as DE"),
}
