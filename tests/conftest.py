"""Fixtures: installations with and without a running server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from gate import Gate
from hypothesis import settings
from terminal import Terminal

settings.register_profile("guestgate", deadline=None, print_blob=True)
settings.load_profile("guestgate")


@pytest.fixture(autouse=True)
def log_to_nowhere_else() -> Iterator[None]:
    """A command inside this process sets up its log; what it logs to ends with the test."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Gate]:
    """An installation of its own for this test, not yet serving; whatever it starts is ended."""
    gate = Gate(tmp_path)
    yield gate
    gate.close()


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    """Commands in the folder of a new installation, run inside this process: cheap, and nothing is served."""
    return Terminal(tmp_path / "home", monkeypatch, capsys)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A serving installation shared by a file: studio s1, plans free and once, members free-0…9, once-0…9."""
    gate = Gate(tmp_path_factory.mktemp("served"))
    gate.studio("s1")
    gate.plans()
    gate.members(*(f"{plan}-{number},{plan}" for plan in ("free", "once") for number in range(10)))
    gate.start()
    yield gate
    gate.close()
