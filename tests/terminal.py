"""Commands inside the test's own process: what a user would see, without the price of a process each."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from gate import write_installation
from sqlalchemy import Connection

from guestgate import cli, plans, plans_file, studios
from guestgate.cli import common
from guestgate.database import Database
from guestgate.members import Upsert, parse_row

# Building it takes longer than most commands do.
COMMAND = typer.main.get_command(cli.app)


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def objects(self) -> list[Any]:
        """What was printed with --json, an object a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def complaint(self) -> str:
        """The one plain sentence of a command that failed."""
        lines = self.err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("guestgate: "), self.err
        assert self.out == "", self.out
        return lines[0].removeprefix("guestgate: ")


class Terminal:
    """A user who sits in the folder of a new installation."""

    def __init__(
        self,
        home: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        database_url: str | None = None,
        *,
        furnished: bool = False,
    ) -> None:
        """Create it, with a new file or in an empty database, and go there; `furnished` as for `Gate`."""
        self.home = home
        self.monkeypatch = monkeypatch
        self._capsys = capsys
        for name in [name for name in os.environ if name.startswith("GUESTGATE_")]:
            monkeypatch.delenv(name)
        write_installation(home, database_url, furnished=furnished)
        self.database_url = database_url or f"sqlite:///{home / 'guestgate.db'}"
        self.database = Database.at(self.database_url, pooled=True)
        monkeypatch.chdir(home)
        monkeypatch.setattr(cli, "app", partial(COMMAND, prog_name="guestgate"))
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(common.console, "_width", None)  # else what COLUMNS was when it was imported
        monkeypatch.setenv("NO_COLOR", "1")

    def close(self) -> None:
        """Let the database go, until it is used again; nobody may be using one that is to be copied."""
        self.database.engine.dispose()

    def run(self, *arguments: str, input: bytes | str = b"", status: int | None = 0) -> Done:
        """Run a command; fails the test unless it exits with `status` (None: any). A traceback fails it too."""
        data = input.encode() if isinstance(input, str) else input
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8", "strict"))
        self.monkeypatch.setattr(sys, "argv", ["guestgate", *arguments])
        self._capsys.readouterr()
        common.console._buffer.clear()  # a command that broke off in a traceback leaves its last line there
        with pytest.raises(SystemExit) as end:
            cli.main()
        seen = self._capsys.readouterr()
        done = Done(int(end.value.code or 0), seen.out, seen.err)
        assert status is None or done.status == status, done
        return done

    def json(self, *arguments: str, **options: Any) -> list[Any]:
        """The objects that a command prints with --json."""
        return self.run(*arguments, "--json", **options).objects

    def complaint(self, *arguments: str, status: int = 2, **options: Any) -> str:
        """The one sentence of a command that fails."""
        return self.run(*arguments, status=status, **options).complaint

    def file(self, name: str, content: str | bytes) -> str:
        """Write a file into the folder; returns its name."""
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    def reading(self) -> AbstractContextManager[Connection]:
        """A transaction that reads."""
        return self.database.read()

    def writing(self) -> AbstractContextManager[Connection]:
        """A transaction that writes."""
        return self.database.write()

    def plans(self, text: str) -> None:
        """Put plans into force."""
        documents = plans_file.read(Path(self.file("given-plans.toml", text)))
        with self.writing() as connection:
            plans.apply(connection, documents)

    def studio(
        self,
        studio_id: str = "s1",
        *,
        timezone: str = "Europe/Berlin",
        tags: tuple[str, ...] = (),
        test: bool = False,
    ) -> None:
        """Add a studio without a key."""
        with self.writing() as connection:
            studios.add(connection, studio_id, name=studio_id, timezone=timezone, tags=frozenset(tags), test=test)

    def members(self, *rows: dict[str, str]) -> None:
        """Add members, with the fields of the member file."""
        upsert = Upsert()
        with self.writing() as connection:
            upsert(connection, [parse_row(line, row) for line, row in enumerate(rows, start=1)])
        assert not upsert.report.bad, upsert.report
