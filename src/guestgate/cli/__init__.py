"""The command line: one file a noun, thin over the modules that do the work.

A command imports its own file only: most of a short command's time would be imports otherwise.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from guestgate import __version__
from guestgate.errors import GuestgateError

# A command's first word, and the file that registers it; in the order of the help.
FILES = {
    "quickstart": "serving",
    "init": "serving",
    "serve": "serving",
    "studio": "studios",
    "key": "keys",
    "secret": "secrets",
    "plan": "plans",
    "member": "members",
    "explain": "rules",
    "decisions": "rules",
    "visits": "visits",
    "visit": "visits",
    "changes": "changes",
    "reconcile": "reconciliation",
    "statement": "statements",
    "sandbox": "sandbox",
    "probe": "probe",
    "register": "probe",
    "token": "tokens",
    "backup": "care",
    "restore": "care",
    "db": "db",
    "standin": "standin",
}

# Typer brings its own click; this is its UsageError, whichever that is.
BadUsage: type[Exception] = typer.BadParameter.__bases__[0]


class Commands(Mapping[str, Any]):
    """Every command by its first word; its file is imported when it is asked for."""

    def __init__(self) -> None:
        """None is imported yet."""
        self._imported: dict[str, Any] = {}

    def __getitem__(self, word: str) -> Any:
        """The command; KeyError where there is none."""
        if word not in self._imported:
            part = typer.Typer()
            import_module(f"{__name__}.{FILES[word]}").register(part)
            self._imported |= typer.main.get_group(part).commands
        return self._imported[word]

    def __iter__(self) -> Iterator[str]:
        """The words, without importing anything."""
        return iter(FILES)

    def __len__(self) -> int:
        """How many there are."""
        return len(FILES)


class Main(TyperGroup):
    """The command that has all others."""

    def __init__(self, **options: Any) -> None:
        """As typer makes it, with our commands."""
        super().__init__(**options)
        self.commands = Commands()  # type: ignore[assignment]  # nobody adds any


app = typer.Typer(
    name="guestgate",
    cls=Main,
    help="Check-in validation for fitness aggregators.",
    epilog="Start with: guestgate quickstart · then: guestgate init my-gate",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True)] = False,
) -> None:
    """Check-in validation for fitness aggregators."""
    if version:
        print(f"guestgate {__version__}")
        raise typer.Exit
    from guestgate import log

    log.configure()  # standard output is for what was asked


def main() -> None:
    """Run a command; the exit status is 0 (done), 1 (failed) or 2 (wrong usage or configuration)."""
    # Bytes that are no text cannot name anything; what stands for them must not break a message either.
    sys.argv = [argument.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for argument in sys.argv]
    try:
        status = app(standalone_mode=False)
        sys.stdout.flush()
    except GuestgateError as error:
        _fail(str(error), error.exit_status)
    except BadUsage as error:
        context = error.ctx  # type: ignore[attr-defined]
        if type(error).__name__ == "NoArgsIsHelpError":
            print(context.get_help())
            sys.exit(2)
        hint = f" (see {context.command_path} --help)" if context else ""
        told = " ".join(error.format_message().split())  # type: ignore[attr-defined]  # choices come a line each
        _fail(told.rstrip(".") + hint, 2)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            _fail(f"standard output: {error.strerror}", 1)
        # Whoever read our output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(status or 0)


def _fail(sentence: str, status: int) -> None:
    print(f"guestgate: {sentence}", file=sys.stderr)
    sys.exit(status)
