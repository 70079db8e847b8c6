"""The command line: one file a noun, thin over the modules that do the work."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from guestgate import __version__
from guestgate.cli import (
    care,
    changes,
    db,
    keys,
    members,
    plans,
    probe,
    rules,
    sandbox,
    serving,
    statements,
    studios,
    tokens,
    visits,
)
from guestgate.errors import GuestgateError

# Typer brings its own click; this is its UsageError, whichever that is.
BadUsage: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="guestgate",
    help="Check-in validation for fitness aggregators.",
    epilog="Start with: guestgate quickstart · then: guestgate init my-gate",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
serving.register(app)
app.add_typer(studios.app, name="studio", rich_help_panel="Directory")
app.add_typer(keys.app, name="key", rich_help_panel="Directory")
app.add_typer(plans.app, name="plan", rich_help_panel="Directory")
app.add_typer(members.app, name="member", rich_help_panel="Directory")
rules.register(app)
visits.register(app)
changes.register(app)
statements.register(app)
app.add_typer(sandbox.app, name="sandbox", rich_help_panel="Going live")
probe.register(app)
app.add_typer(tokens.app, name="token", rich_help_panel="Care")
care.register(app)
app.add_typer(db.app, name="db", rich_help_panel="Care")


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True)] = False,
) -> None:
    """Check-in validation for fitness aggregators."""
    if version:
        print(f"guestgate {__version__}")
        raise typer.Exit


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
