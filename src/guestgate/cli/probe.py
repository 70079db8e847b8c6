"""`guestgate probe`, `guestgate register`"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from guestgate import registration, settings
from guestgate.cli.common import (
    AsJson,
    ConfigFile,
    KeyStdin,
    check_writable,
    console,
    open_database,
    print_json,
    progress_bar,
    read_key,
    say,
    who,
    write_file,
)
from guestgate.cli.sandbox import KEY_PATIENCE_S, one_tap
from guestgate.errors import UsageError
from guestgate.probe import junit, run
from guestgate.probe.clauses import asked
from guestgate.probe.report import Finding, Report, Verdict
from guestgate.probe.target import Card, MemberValidation, Target
from guestgate.rehearsal import rehearsal

COLOURS = {
    Verdict.PASSED: "green",
    Verdict.FAILED: "bold red",
    Verdict.NOTE: "yellow",
    Verdict.CONSEQUENCE: "magenta",
}
CARD = "AGGREGATOR_ID:CUSTOMER_ID"


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("probe", rich_help_panel="Going live")(probe_command)
    app.command("register", rich_help_panel="Going live")(register_command)


def probe_command(
    url: Annotated[str, typer.Argument(metavar="URL", help="The endpoint, just as the platform will call it.")],
    allowed: Annotated[
        str, typer.Option("--allowed", metavar=CARD, help="A card that may enter, any number of times.")
    ],
    denied: Annotated[str, typer.Option("--denied", metavar=CARD, help="A card that may not enter.")],
    member_validation_url: Annotated[
        str | None,
        typer.Option("--member-validation-url", metavar="URL", help="Probe member validation at this address, too."),
    ] = None,
    member: Annotated[
        str | None, typer.Option("--member", metavar="ID", help="With it: a member who may register.")
    ] = None,
    key_stdin: KeyStdin = False,
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="FILE", help="A certificate to trust besides the system's.")
    ] = None,
    calls: Annotated[
        int,
        typer.Option("--calls", metavar="N", min=1, max=run.MAX_CALLS, help="Check-ins in each measurement of time."),
    ] = run.DEFAULT_CALLS,
    junit_file: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML too, for a CI system.")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Does an endpoint, yours or anybody's, keep the platform's contract? Exit status 0 only if it does.

    The check-ins are real: give the key of a test studio, and a card whose visits nobody counts.

    [dim]printf '%s' "$KEY" | guestgate probe https://api.aggregator.example.com/checkin-validation --key-stdin
    --allowed m-1042:293123213 --denied m-1043:293123214[/dim]
    """
    if config is not None:
        settings.load(config)  # the probe needs no settings; a wrong --config is told all the same
    if not key_stdin:
        raise UsageError("--key-stdin: give it, and the studio's key on standard input")
    if member is not None and member_validation_url is None:
        raise UsageError("--member: give --member-validation-url, too, where to ask about them")
    cards = Card.parse(allowed, "--allowed"), Card.parse(denied, "--denied")
    desk = None if member_validation_url is None else MemberValidation.of(member_validation_url, member)
    if junit_file is not None:
        check_writable(junit_file, "--junit")
    report = _probe(Target.of(url, read_key(), *cards, ca, desk), calls)
    if as_json:
        print_json(report.as_dict())
    else:
        _show(report)
    if junit_file is not None:
        write_file(junit_file, "--junit", junit.document(report))
    raise typer.Exit(0 if report.holds else 1)


def register_command(
    url: Annotated[str, typer.Option("--url", metavar="URL", help="The endpoint's public address.")],
    print_: Annotated[bool, typer.Option("--print", help="Only print the email, without a probe.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Probe your endpoint at its public address and, if it keeps the contract, print the email that registers it.

    The probe has a test studio, a key and members of its own, which go when it ends; no real visit is used up.

    [dim]guestgate register --url https://api.aggregator.example.com/checkin-validation[/dim]
    """
    loaded = settings.load(config)
    email = registration.email(url, loaded)
    if print_:
        _show_email(email, as_json)
        return
    report = _rehearse(registration.address(url, loaded), loaded, config)
    if as_json:
        print_json({"holds": report.holds, "email": email if report.holds else None, "probe": report.as_dict()})
    else:
        _show(report)
        if report.holds:
            say("\nThe endpoint keeps the contract. This is the email to send:\n")
            _show_email(email, as_json)
        else:
            say("\nThere is no email yet: first mend what failed (docs/PROBE.md).")
    raise typer.Exit(0 if report.holds else 1)


def _rehearse(url: str, loaded: settings.Settings, config: Path | None) -> Report:
    # Whatever ends us, what was made for the probe goes with us.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    with rehearsal(open_database(config), loaded.aggregator_id, who()) as made:
        card = made.allowed
        # The first tap waits until the server knows the key.
        asyncio.run(one_tap(url, made.key, None, card.aggregator_id, card.customer_id, patience_s=KEY_PATIENCE_S))
        return _probe(Target.of(url, made.key, made.allowed, made.denied), run.DEFAULT_CALLS)


def _probe(target: Target, calls: int) -> Report:
    clauses = asked(of_members=target.member_validation is not None)
    with progress_bar("probing", len(clauses)) as told:
        return asyncio.run(run.probe(target, calls, told))


def _show(report: Report) -> None:
    """A row for each clause; what failed with all that belongs to it."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in report.findings:
        verdict = Text(finding.verdict.value, COLOURS[finding.verdict])
        table.add_row(verdict, Text(finding.clause.id), _told(finding))
    colour = "green" if report.holds else "red"
    console.print(table, soft_wrap=False)
    say("")
    console.print(Text.assemble((report.summary(), f"bold {colour}"), f" in {report.seconds:.1f} s"))


def _told(finding: Finding) -> Text | Group:
    title, received = finding.clause.title, finding.received.splitlines()
    match finding.verdict:
        case Verdict.PASSED | Verdict.NOTE:
            colour = "dim" if finding.verdict is Verdict.PASSED else COLOURS[Verdict.NOTE]
            return Text.assemble(title, (f" · {'; '.join(received)}", colour))
        case Verdict.CONSEQUENCE if finding.because is not None:
            return Text.assemble(title, (f" · because {finding.because.id} failed", COLOURS[Verdict.CONSEQUENCE]))
    first, *others = finding.sent.splitlines()
    details = Table.grid(padding=(0, 2))
    details.add_column(style="dim", no_wrap=True)
    details.add_column(overflow="fold")
    for name, text in (
        ("sent", f"{first}\n… and {len(others)} more like it; --json has all" if others else first),
        ("received", finding.received),
        ("rests on", f"{finding.clause.rests_on} (docs/CONTRACT.md, {finding.clause.section})"),
    ):
        details.add_row(name, Text(text))
    return Group(Text(title), details)


def _show_email(email: dict[str, str], as_json: bool) -> None:
    if as_json:
        print_json(email)
    else:
        say(f"To: {email['to']}\nSubject: {email['subject']}\n\n{email['body']}")
