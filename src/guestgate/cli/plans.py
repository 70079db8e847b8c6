"""`guestgate plan …`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from guestgate import plans, plans_file
from guestgate.cli import plan_test
from guestgate.cli.common import AsJson, ConfigFile, open_database, print_json, say, show, show_list, who

app = typer.Typer(help="Plans: the rules of memberships.", no_args_is_help=True)


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A TOML file of plans.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Put the plans of a file into force, all or none; plans that it leaves out stay as they are.

    [dim]guestgate plan apply plans.toml[/dim]
    """
    documents = plans_file.read(file)
    with open_database(config).write(who()) as connection:
        outcome = plans.apply(connection, documents)
    for plan_id, what in outcome.items():
        if as_json:
            print_json({"id": plan_id, "outcome": what})
        else:
            say(f"plan {plan_id} {what}")


def register(main: typer.Typer) -> None:
    """Add these commands."""
    app.command("test")(plan_test.test)
    main.add_typer(app, name="plan", rich_help_panel="Directory")


@app.command("list")
def list_(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the plans in force."""
    with open_database(config).read() as connection:
        rows = plans.plan_list(connection)
    if not as_json:
        rows = [
            {**row, "limits": _limits(row), "studio_tags": row.get("studio_tags") or "every studio"} for row in rows
        ]
    columns = ("id", "name", "version", "studio_tags", "limits", "members")
    show_list(rows, columns, as_json, "no plans yet; apply a file: guestgate plan apply plans.toml")


def _limits(row: dict[str, Any]) -> list[str]:
    return [f"{limit['max']} a {limit['per']} ({limit['scope']})" for limit in row["limits"]]


@app.command()
def remove(
    plan_id: Annotated[str, typer.Argument(metavar="ID", help="The plan.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Take a plan that no member has out of force."""
    with open_database(config).write(who()) as connection:
        plans.remove(connection, plan_id)
    if as_json:
        show({"id": plan_id, "removed": True}, as_json)
    else:
        say(f"plan {plan_id} removed")
