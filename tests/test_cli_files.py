"""The command line's files: each registers what the table says, and a short command imports little."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
import typer
from gate import environment

from guestgate.cli import FILES

# Each takes longer to import than a short command otherwise needs.
HEAVY = {"alembic", "cryptography", "fastapi", "granian", "httpx", "prometheus_client", "uvloop"}
CALLING = {"probe", "sandbox"}  # they call endpoints


@pytest.mark.parametrize("file", sorted(set(FILES.values())))
def test_a_file_registers_the_words_of_the_table(file: str) -> None:
    """Neither a word that would not be found, nor one of another file."""
    part = typer.Typer()
    import_module(f"guestgate.cli.{file}").register(part)
    commands = typer.main.get_group(part).commands
    assert set(commands) == {word for word, its in FILES.items() if its == file}


def test_short_commands_import_little() -> None:
    """Whoever lists members waits for no server, no cryptography and no migrations."""
    files = sorted(set(FILES.values()) - CALLING)
    lines = ["import sys", *(f"import guestgate.cli.{file}" for file in files), "print(*sys.modules)"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, env=environment(), check=True
    )
    imported = set(done.stdout.split())
    assert "guestgate.cli.members" in imported and HEAVY & imported == set()
