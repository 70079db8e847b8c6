"""Members: files of any make, what a row changes, which rows are refused, and the commands for one member."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from terminal import Terminal

from guestgate import members, visits
from guestgate.errors import UsageError
from guestgate.members import FIELDS, BadRowError, MemberRow, parse_row
from guestgate.rows import Row, RowFile

PLANS = """\
[plans.free]
name = "Free"
[plans.once]
name = "Once"
[plans.cycle]
name = "Cycle"
limits = [{ max = 4, per = "cycle" }]
"""
EMPTY = {"valid_from": None, "valid_until": None, "cycle_anchor": None, "status": "active", "customers": []}
MEGABYTE = "x" * 1024 * 1024
MAX_CUSTOMER = 2**63 - 1
PROFILE = {
    "first_name": "Ada",
    "last_name": "Łukasiewicz",
    "date_of_birth": "1952-05-04",
    "email": "ada@example.com",
    "gender": "FEMALE",
    "street": 'Straße "am Tor", 2. Hof',
    "house_number": "7a",
    "zip_code": "01067",
    "city": "Dresden",
    "country": "DE",
    "phone_private": "+49 351 1",
    "phone_private_mobile": "+49 351 2",
    "phone_business": "+49 351 3",
    "phone_business_mobile": "+49 351 4",
}


@pytest.fixture
def desk(terminal: Terminal) -> Terminal:
    """An installation with plans free, once and cycle."""
    terminal.plans(PLANS)
    return terminal


def take(desk: Terminal, content: str | bytes, *options: str) -> dict[str, Any]:
    """Import from standard input; returns the report. The status has to fit it."""
    data = content.encode() if isinstance(content, str) else content
    status = 1 if b'"bad": [{' in desk.run("member", "import", "-", "--dry-run", "--json", input=data, status=ANY).raw else 0
    report: dict[str, Any]
    (report,) = desk.json("member", "import", "-", *options, input=data, status=status)
    return report
