"""What commands share: options, the database, and how results are shown."""

from __future__ import annotations

import getpass
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from guestgate import settings
from guestgate.database import Database
from guestgate.errors import OperationError, UsageError
from guestgate.rows import BadRows
from guestgate.texts import printable as printable  # noqa: PLC0414 - the commands take it from here

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The configuration file.", show_default="guestgate.toml here"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON: one object, or for lists one a line.")]
StudioId = Annotated[str, typer.Option("--studio", metavar="ID", help="The studio.")]
KeyStdin = Annotated[bool, typer.Option("--key-stdin", help="Read the key from standard input.")]
Tenant = Annotated[
    str | None, typer.Option("--tenant", metavar="T", help="The Open API's tenant, from the activation email.")
]
OpenApiUrl = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="Instead of a tenant: the Open API's whole address.")
]
Ca = Annotated[Path | None, typer.Option("--ca", metavar="FILE", help="A certificate to trust besides the system's.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many, the latest.")]

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

console = Console(highlight=False, soft_wrap=True, emoji=False)


def open_database(config: Path | None) -> Database:
    """The configured database, checked."""
    loaded = settings.load(config)
    return Database.open(loaded.database, fence=loaded.fence)


def own_url(loaded: settings.Settings, path: str | None = None) -> str:
    """The endpoint of the server with this configuration, on this machine; check-ins' unless a path is given."""
    if loaded.host.startswith("unix:"):
        raise OperationError("the server listens on a Unix socket; give the proxy's --url")
    scheme = "http" if loaded.behind_proxy else "https"
    host = "localhost" if loaded.host in ("0.0.0.0", "::") else loaded.host  # noqa: S104
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{loaded.port}{path or loaded.checkin_path}"


def print_json(value: Any) -> None:
    """One object on one line."""
    try:
        print(json.dumps(value, ensure_ascii=False), flush=True)
    except BrokenPipeError:
        # Whoever read our output has seen enough; there is nowhere left to say anything.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None


def say(text: str) -> None:
    """A plain line for people."""
    console.print(text, markup=False)


def show(value: Mapping[str, Any], as_json: bool) -> None:
    """One object: JSON, or a field a line."""
    if as_json:
        print_json(value)
        return
    width = max(len(name) for name in value)
    for name, content in value.items():
        say(f"{name.ljust(width)}  {text_of(content)}")


def show_list(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], as_json: bool, empty: str) -> None:
    """A list: one JSON object a line, or a table."""
    if as_json:
        for row in rows:
            print_json(row)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for name in columns:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(Text(text_of(row[name])) for name in columns))
    if table.row_count:
        console.print(table)
    else:
        say(empty)


def text_of(value: Any) -> str:
    """A value as people read it."""
    if value is None or value in ([], ""):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(text_of(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {text_of(item)}" for name, item in value.items())
    if isinstance(value, str) and INSTANT.fullmatch(value):
        return f"{value[:10]} {value[11:16]}Z"
    return printable(str(value))


def read_key() -> str:
    """A key from standard input: its first line. Keys never come as arguments, which other users can see."""
    if sys.stdin.isatty():
        token: str = typer.prompt("Key", hide_input=True)
    else:
        try:
            token = sys.stdin.readline(4096).strip()
        except UnicodeDecodeError:
            raise UsageError("--key-stdin: the key is not text") from None
    if not token:
        raise UsageError("--key-stdin: there was no key on standard input")
    return token


def check_writable(file: Path, option: str) -> None:
    """Raise UsageError where a file that will be written at the end cannot be: better now than then."""
    try:
        file.open("ab").close()
    except OSError as error:
        raise UsageError(f"{option}: {file}: {error.strerror}") from None


def write_file(file: Path, option: str, content: bytes) -> None:
    """What is written at the end, after all has been told. Raises OperationError."""
    try:
        file.write_bytes(content)
    except OSError as error:
        raise OperationError(f"{option}: {file}: {error.strerror}") from None


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Any]:
    """A progress bar on a terminal's standard error, nothing elsewhere; yields a function to report with.

    It takes what is done, and the total where that is not known before.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    stderr = Console(stderr=True)
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=total or None)
        yield lambda done, total=total: progress.update(task, completed=done, total=total or None)


def report_bad_rows(name: str, bad: BadRows, most: int = 100) -> None:
    """The rows that were not taken, on standard error."""
    for line, why in islice(bad, most):
        print(f"{name}:{line}: {why}", file=sys.stderr)
    if len(bad) > most:
        print(f"{name}: … and {len(bad) - most} more", file=sys.stderr)


def who() -> str:
    """Who makes a correction: the operating system's user."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as containers have them
        user = str(os.getuid())
    return f"cli:{user}"
