"""`guestgate member …`"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guestgate import enrolment, members
from guestgate.cli.common import (
    AsJson,
    Ca,
    ConfigFile,
    Limit,
    StudioId,
    open_database,
    progress_bar,
    report_bad_rows,
    say,
    show,
    show_list,
    who,
)
from guestgate.database import Database
from guestgate.errors import OperationError, PlatformError, UsageError
from guestgate.forget import forget
from guestgate.instants import parse_span
from guestgate.members import MemberRow, Upsert, parse_customer, parse_row
from guestgate.model import Status
from guestgate.rows import BadRow, BadRowError, BadRows, Report, RowFile, SpooledRows, parsed

if TYPE_CHECKING:
    from guestgate.platform.client import OpenApiClient

app = typer.Typer(help="Members: who may stand at the door.", no_args_is_help=True)

Id = Annotated[
    str, typer.Argument(metavar="ID", parser=str.strip, help="The member's id, the platform's aggregatorId.")
]
DRY_RUN_CHUNK = 500
Customer = Annotated[str, typer.Argument(metavar="CUSTOMER", help="The platform's customerId.")]


def register(main: typer.Typer) -> None:
    """Add these commands."""
    main.add_typer(app, name="member", rich_help_panel="Directory")


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="CSV with a header, or NDJSON; - for standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, write nothing.")] = False,
    create_customers: Annotated[
        bool,
        typer.Option("--create-customers", help="Then have the platform create customers for them; with --studio."),
    ] = False,
    studio: Annotated[
        str | None, typer.Option("--studio", metavar="ID", help="Whose Open API key is used, and whose chain it is.")
    ] = None,
    ca: Ca = None,
    from_line: Annotated[
        int, typer.Option("--from-line", metavar="N", min=1, help="Go on with this line of the file.")
    ] = 1,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Insert or update members by member_id. Bad rows are reported with line and reason, good ones kept.

    Columns: member_id and plan; status, valid_from, valid_until, cycle_anchor, customer_id (several with ;),
    first_name, last_name, date_of_birth, email, … A column that is left out leaves what is stored; an empty
    cell clears it. Doors stay open meanwhile. Importing again changes nothing, and after Ctrl-C --from-line
    goes on where it stopped.

    With --create-customers, members of the file who may come in at the studio, and of whom no customer is known at
    its gym chain, get one there, and are linked to it. Whatever stops it: run it again, nobody is created twice.

    [dim]guestgate member import members.csv --dry-run[/dim]
    [dim]guestgate member import members.csv --create-customers --studio berlin-1[/dim]
    """
    if create_customers != (studio is not None) or (create_customers and (dry_run or file == "-")):
        raise UsageError("--create-customers: goes with --studio, a FILE that can be read twice, and no --dry-run")
    database = open_database(config)
    stored_to = from_line - 1
    with ExitStack() as stack:
        client = None if studio is None else stack.enter_context(_calls_for(config, database, studio, ca))
        source = stack.enter_context(RowFile(file, members.FIELDS, ("member_id",)))
        bad = stack.enter_context(SpooledRows())
        upsert = Upsert(dry_run=dry_run, bad=bad)
        rows = parsed((row for row in source if row.line >= from_line), parse_row)
        try:
            with progress_bar("importing", source.size) as progress:
                for _ in _dry_run(database, rows, upsert) if dry_run else database.write_many(rows, upsert, who()):
                    stored_to = upsert.last_line
                    progress(source.done)
        except KeyboardInterrupt:
            raise OperationError(
                f"stopped; the rows up to line {stored_to} are stored: go on with --from-line {stored_to + 1}"
            ) from None
        customers = None if client is None else _create_customers(database, client, file, from_line, bad)
        finish(file, upsert.report, as_json, "would be " if dry_run else "", customers)


def _calls_for(
    config: Path | None, database: Database, studio: str, ca: Path | None
) -> AbstractContextManager[OpenApiClient]:
    from guestgate.cli import calling  # an HTTP client takes its time to import

    return calling.calls_for(config, database, studio, ca)


def _create_customers(
    database: Database, client: OpenApiClient, file: str, from_line: int, bad: BadRows
) -> dict[str, int]:
    """Go through the file once more; what is wrong with a row is added to the bad ones."""
    from guestgate.platform.customers import CustomerMaker

    maker = CustomerMaker(database, client, who(), bad)
    try:
        with (
            RowFile(file, members.FIELDS, ("member_id",)) as source,
            progress_bar("creating customers", source.size) as progress,
        ):
            for _ in maker.all(parsed((row for row in source if row.line >= from_line), parse_row)):
                progress(source.done)
    except (KeyboardInterrupt, PlatformError) as error:
        report_bad_rows(file, bad)
        why = "" if isinstance(error, KeyboardInterrupt) else f": {error}"
        done = f"the members are stored, and {maker.report.created} customers created; run it again to go on"
        raise OperationError(f"stopped{why}; {done}") from None
    report = maker.report
    return {"created": report.created, "had_one": report.had_one, "passed_over": report.passed_over}


def _dry_run(database: Database, rows: Iterator[MemberRow | BadRow], upsert: Upsert) -> Iterator[int]:
    with database.read() as connection:
        while chunk := list(islice(rows, DRY_RUN_CHUNK)):
            upsert(connection, chunk)
            yield len(chunk)


def finish(
    file: str, report: Report, as_json: bool, would_be: str = "", customers: Mapping[str, int] | None = None
) -> None:
    """Say what became of the rows, and of their customers; exit status 1 where some were bad."""
    report_bad_rows(file, report.bad)
    if as_json:
        show(
            {
                "added": report.added,
                "updated": report.updated,
                "unchanged": report.unchanged,
                "bad": [{"line": line, "error": why} for line, why in report.bad],
                **({} if customers is None else {"customers": customers}),
            },
            as_json,
        )
    else:
        say(
            f"{report.added} {would_be}added, {report.updated} {would_be}updated, "
            f"{report.unchanged} unchanged, {len(report.bad)} bad"
        )
        if customers is not None:
            say(
                f"customers: {customers['created']} created, {customers['had_one']} were there, "
                f"{customers['passed_over']} members passed over, who may not come in there"
            )
    if report.bad:
        raise typer.Exit(1)


@app.command("show")
def show_(member_id: Id, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show one member with customers and personal data."""
    with open_database(config).read() as connection:
        show(members.member_dict(connection, member_id), as_json)


@app.command("set")
def set_(
    member_id: Id,
    plan: Annotated[str | None, typer.Option("--plan", metavar="ID", help="The plan.")] = None,
    status: Annotated[Status | None, typer.Option("--status", help="The membership's state.")] = None,
    valid_from: Annotated[str | None, typer.Option("--valid-from", metavar="DATE", help="First day.")] = None,
    valid_until: Annotated[str | None, typer.Option("--valid-until", metavar="DATE", help="Last day.")] = None,
    cycle_anchor: Annotated[
        str | None, typer.Option("--cycle-anchor", metavar="DATE", help="The day cycles are counted from.")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Add a member or change one; an empty date ('') clears it.

    [dim]guestgate member set m-1042 --status suspended[/dim]
    """
    given = {
        "plan": plan,
        "status": status.value if status else None,
        "valid_from": valid_from,
        "valid_until": valid_until,
        "cycle_anchor": cycle_anchor,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        raise UsageError("nothing to set; give --plan, --status, --valid-from, --valid-until or --cycle-anchor")
    try:
        row: MemberRow = parse_row(0, {"member_id": member_id, **given})
    except BadRowError as error:
        raise UsageError(str(error)) from None
    with open_database(config).write(who()) as connection:
        what = members.save(connection, row)
        member = members.member_dict(connection, member_id)
    if as_json:
        show(member, as_json)
    else:
        say(f"member {member_id} {what}")


@app.command("list")
def list_(
    plan: Annotated[str | None, typer.Option("--plan", metavar="ID", help="Only this plan's.")] = None,
    status: Annotated[Status | None, typer.Option("--status", help="Only in this state.")] = None,
    limit: Limit = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List members, without personal data."""
    with open_database(config).read() as connection:
        rows = members.member_list(connection, plan=plan, status=status.value if status else None, limit=limit)
        columns = ("member_id", "plan", "status", "valid_from", "valid_until", "cycle_anchor")
        show_list(rows, columns, as_json, "no members; import some: guestgate member import members.csv")


@app.command()
def link(member_id: Id, customer: Customer, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Say that one of the platform's customers is this member."""
    with open_database(config).write(who()) as connection:
        members.link(connection, member_id, _customer(customer))
    _linked(member_id, customer, "linked to", as_json)


@app.command()
def unlink(member_id: Id, customer: Customer, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """End such a link."""
    with open_database(config).write(who()) as connection:
        members.unlink(connection, member_id, _customer(customer))
    _linked(member_id, customer, "unlinked from", as_json)


@app.command()
def code(
    member_id: Id,
    valid: Annotated[
        str, typer.Option("--valid", metavar="SPAN", help="How long it is good for: 15m, 2h; a day at most.")
    ] = "15m",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Hand out a short code that the member shows at a studio's desk to register there, once.

    The platform sends it to /member-validation and gets the member's id for it. Only a hash is stored.

    [dim]guestgate member code m-1042 --valid 15m[/dim]
    """
    span = parse_span(valid, "--valid")
    with open_database(config).write(who()) as connection:
        issued = enrolment.issue(connection, member_id, span)
    if as_json:
        show(enrolment.code_dict(issued), as_json)
    else:
        say(issued.code)


@app.command("create-customer")
def create_customer(
    member_id: Id, studio: StudioId, ca: Ca = None, config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """Have the platform create the member's customer at a studio's gym chain, and link it.

    Name, address and what else is known of the member is sent there. One who has a customer there keeps it.

    [dim]guestgate member create-customer m-1042 --studio berlin-1[/dim]
    """
    from guestgate.platform.customers import CustomerMaker

    database = open_database(config)
    with _calls_for(config, database, studio, ca) as client:
        customer_id, created = CustomerMaker(database, client, who()).one(member_id)
    if as_json:
        show({"member_id": member_id, "customer_id": customer_id, "created": created}, as_json)
    else:
        state = "is now" if created else "was already"
        say(f"member {member_id} {state} customer {customer_id} at the chain of {studio}")


@app.command("forget")
def forget_(
    member_id: Id,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Erase a member's personal data everywhere; decisions and visits stay under a pseudonym.

    There is no way back. The server may run meanwhile; if this is interrupted, run it again. Backups made
    before still hold the data, and guestgate db compact erases traces in unused bytes of the file.

    [dim]guestgate member forget m-1042 --yes[/dim]
    """
    database = open_database(config)
    with database.read() as connection:
        members.require(connection, member_id)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("--yes: forgetting cannot be undone; give it where nobody can be asked")
        typer.confirm(f"Forget member {member_id} for good?", abort=True)
    pseudonym = forget(database, who(), member_id)
    if as_json:
        show({"pseudonym": pseudonym}, as_json)
    else:
        say(f"the member is forgotten; what stays is on record as {pseudonym}")


def _customer(text: str) -> int:
    try:
        return parse_customer(text)
    except BadRowError as error:
        raise UsageError(str(error)) from None


def _linked(member_id: str, customer: str, what: str, as_json: bool) -> None:
    if as_json:
        show({"member_id": member_id, "customer_id": int(customer), "linked": what == "linked to"}, as_json)
    else:
        say(f"customer {customer} {what} member {member_id}")
