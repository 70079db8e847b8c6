"""`guestgate sandbox export`, `traffic`, `serve`, `audit`: a whole town against an endpoint."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from guestgate import clock, record, settings
from guestgate.cli.common import (
    AsJson,
    ConfigFile,
    check_writable,
    console,
    open_database,
    own_url,
    print_json,
    printable,
    progress_bar,
    say,
    show,
    who,
    write_file,
)
from guestgate.contract import VALIDATION_PATH
from guestgate.errors import UsageError
from guestgate.sandbox import export as town_files
from guestgate.sandbox import journal, open_api, server
from guestgate.sandbox.arrivals import DAY_S, FAULTS, MORNING_H, Load
from guestgate.sandbox.auditor import Audit
from guestgate.sandbox.calls import Log
from guestgate.sandbox.phones import Phones
from guestgate.sandbox.platform import Codes, Endpoints, Platform
from guestgate.sandbox.town import MAX_MEMBERS, MAX_STUDIOS, Town, TownSpec
from guestgate.sandbox.traffic import Traffic

MAX_RATE, MAX_SECONDS = 5000, 7 * 24 * 3600
SHOWN = 50

TownFolder = Annotated[
    Path | None,
    typer.Option("--town", metavar="DIR", help="A town that sandbox export wrote.", show_default="one made up today"),
]
Url = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="The endpoint; else this configuration's server.")
]
Ca = Annotated[Path | None, typer.Option("--ca", metavar="FILE", help="A certificate to trust besides the system's.")]
MemberValidationUrl = Annotated[
    str | None,
    typer.Option("--member-validation-url", metavar="URL", help="Where to ask about members who register."),
]
CodesFromHere = Annotated[
    bool, typer.Option("--codes", help="They show codes, made with this configuration; else they tell their ids.")
]
WebhookUrl = Annotated[
    str | None, typer.Option("--webhook-url", metavar="URL", help="Where to send webhooks; else nowhere.")
]
LogFile = Annotated[
    Path | None, typer.Option("--log", metavar="FILE", help="Add every call to this file, a JSON object a line.")
]
Faults = Annotated[
    str | None,
    typer.Option(
        "--faults", metavar="LIST", help=f"What goes wrong: {', '.join(FAULTS)}; or all. By default nothing."
    ),
]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(export)
    app.command()(traffic)
    app.command()(serve)
    app.command()(audit)


def town_of(folder: Path | None) -> Town:
    """The town of a folder, or one that is made up around today."""
    if folder is not None:
        return Town(town_files.read_spec(folder))
    return Town(TownSpec(day=clock.now().date().isoformat()))


def faults_of(text: str | None, missing: Mapping[str, str]) -> frozenset[str]:
    """The faults of ``--faults``. `missing` says of some what they need; "all" leaves those out."""
    chosen = {name for name in map(str.strip, (text or "").split(",")) if name}
    for name in sorted(chosen - {*FAULTS, "all"}):
        raise UsageError(f"--faults: there is no fault {name!r}; there are {', '.join(FAULTS)} and all")
    for name in sorted(chosen & set(missing)):
        raise UsageError(f"--faults {name}: {missing[name]}")
    return frozenset(set(FAULTS) - set(missing) if "all" in chosen else chosen)


def _missing(webhook_url: str | None, clock: str | None) -> dict[str, str]:
    """What keeps some faults from happening."""
    needs = {"webhooks": None if webhook_url else "give --webhook-url URL, else nothing is sent", "clock": clock}
    return {name: need for name, need in needs.items() if need is not None}


def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to.")],
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another seed is another town.")] = 1,
    studios: Annotated[int, typer.Option("--studios", min=1, max=MAX_STUDIOS, help="How many studios.")] = 6,
    members: Annotated[int, typer.Option("--members", min=1, max=MAX_MEMBERS, help="How many members.")] = 2000,
    aggregator_id: Annotated[
        str | None,
        typer.Option("--aggregator-id", metavar="ID", help="Send this in every check-in instead of the member's id."),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Write a town as files: members, plans, and a script that adds its studios and keys.

    The keys come from the seed and are no secrets: use a town for rehearsals only.

    [dim]guestgate sandbox export town --seed 7[/dim]
    """
    day = clock.now().date().isoformat()
    files = town_files.write(Town(TownSpec(seed, studios, members, day, aggregator_id)), directory)
    if as_json:
        show({what: str(path) for what, path in files.items()}, as_json)
        return
    for path in files.values():
        say(f"wrote {path}")
    if aggregator_id is not None:
        say(f"guestgate.toml needs: aggregator_id = {json.dumps(aggregator_id, ensure_ascii=False)}")
    say(f"next, in the folder of your guestgate.toml: sh {files['script']}")


def traffic(
    town: TownFolder = None,
    url: Url = None,
    ca: Ca = None,
    rate: Annotated[
        float, typer.Option("--rate", metavar="N", min=0.01, max=MAX_RATE, help="People a second, on average.")
    ] = 20,
    seconds: Annotated[
        int, typer.Option("--for", metavar="SECONDS", min=1, max=MAX_SECONDS, help="How long; it is one day in town.")
    ] = 60,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another seed is another day.")] = 1,
    faults: Faults = None,
    member_validation_url: MemberValidationUrl = None,
    codes: CodesFromHere = False,
    webhook_url: WebhookUrl = None,
    clock_file: Annotated[
        Path | None,
        typer.Option("--clock-file", metavar="FILE", help="The endpoint's FAKETIME_TIMESTAMP_FILE, for clock jumps."),
    ] = None,
    log: LogFile = None,
    svg: Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Draw the latencies.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Let a town's members check in, and report what the desks saw and how long answers took.

    People come when they come: a slow endpoint does not slow them down. Hours of the day have their rush; some
    tap twice, some have the wrong card, some have no patience. Some register at the desk before they first come in:
    at --member-validation-url, or without --url at this configuration's server. The same seed is the same day.
    Ctrl-C ends the day early, with its report.

    [dim]guestgate sandbox traffic --town town --rate 50 --for 60 --faults cut,cancel --log run.jsonl[/dim]
    """
    loaded = settings.load(config)
    if url is None:
        url, member_validation_url = own_url(loaded), member_validation_url or own_url(loaded, VALIDATION_PATH)
    endpoints = Endpoints(url, member_validation_url, webhook_url, ca or loaded.tls_cert)
    phones = _phones(config, member_validation_url) if codes else None
    no_clock = "give --clock-file FILE, the one that libfaketime reads for the endpoint"
    chosen = faults_of(faults, _missing(webhook_url, None if clock_file else no_clock))
    load = Load(rate, seconds, seed, chosen)
    if svg is not None:
        check_writable(svg, "--svg")
    ended = 0
    with journal.Journal(log) as written, progress_bar("a day in town (s)", seconds) as progress:
        platform = Platform(
            town_of(town), endpoints, written, seed=seed, faulty_webhooks="webhooks" in chosen, codes=phones
        )
        setting = clock_file if "clock" in chosen else None
        run = Traffic(platform, load, clock_file=setting, on_tap=lambda due_s: progress(int(due_s)))
        try:
            asyncio.run(_drive(platform, run))
        except KeyboardInterrupt:
            ended = 130
    report = run.report
    if as_json:
        print_json(report.as_dict())
    else:
        say(report.text())
    if svg is not None:
        title = f"guestgate sandbox traffic --rate {rate:g} --for {seconds} --seed {seed}"
        write_file(svg, "--svg", report.svg(title).encode())
    raise typer.Exit(ended)


def _phones(config: Path | None, member_validation_url: str | None) -> Codes:
    """Makes codes in the configuration's database. Raises UsageError where nobody would be asked about them."""
    if member_validation_url is None:
        raise UsageError("--codes: give --member-validation-url, too, where to ask about them")
    return Phones(open_database(config), who()).code


async def _drive(platform: Platform, run: Traffic) -> None:
    async with platform:
        platform.activated.update(studio.id for studio in platform.town.studios)
        await run.run()


def serve(
    url: Annotated[str, typer.Option("--url", metavar="URL", help="The endpoint that takes check-ins.")],
    town: TownFolder = None,
    ca: Ca = None,
    port: Annotated[int, typer.Option("--port", metavar="N", min=1, max=65535, help="On this machine only.")] = 8500,
    member_validation_url: MemberValidationUrl = None,
    codes: CodesFromHere = False,
    webhook_url: WebhookUrl = None,
    rate: Annotated[
        float,
        typer.Option("--rate", metavar="N", min=0, max=MAX_RATE, help="People a second who come by themselves."),
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of those people, and of what goes wrong.")] = 1,
    faults: Faults = None,
    open_api_faults: Annotated[
        bool,
        typer.Option("--open-api-faults", help="The Open API is at times busy, overloaded, slow or broken."),
    ] = False,
    log: LogFile = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Play the platform until Ctrl-C: a page to tap cards on, the Open API, webhooks.

    The Open API is at http://localhost:PORT/TENANT/v1 and asks for a studio's key. Webhooks are sent for a
    studio once it has been switched on there (studios/confirmActivation).

    [dim]guestgate sandbox serve --town town --url https://localhost:8443/checkin-validation --ca cert.pem[/dim]
    """
    loaded = settings.load(config)
    endpoints = Endpoints(url, member_validation_url, webhook_url, ca or loaded.tls_cert)
    chosen = faults_of(faults, _missing(webhook_url, "only sandbox traffic can set the endpoint's clock"))
    load = Load(rate, DAY_S, seed, chosen, MORNING_H) if rate else None
    phones = _phones(config, member_validation_url) if codes else None
    with journal.Journal(log) as written:
        platform = Platform(
            town_of(town), endpoints, written, seed=seed, faulty_webhooks="webhooks" in chosen, codes=phones
        )
        written.run(platform.town)
        troubles = open_api.troubles(seed) if open_api_faults else None
        asyncio.run(server.serve(platform, port, load, lambda: _announce(platform, port, as_json), troubles))


def _announce(platform: Platform, port: int, as_json: bool) -> None:
    place = f"http://localhost:{port}"
    apis = {tenant: f"{place}/{tenant}/v1" for tenant in platform.town.tenants}
    studios = platform.town.studios
    if as_json:
        keys = [{"id": studio.id, "tenant": studio.tenant, "keys": studio.keys} for studio in studios]
        print_json({"page": f"{place}/", "open_api": apis, "studios": keys})
        return
    say(f"The town is at {place}/; Ctrl-C ends it.")
    for tenant, address in apis.items():
        say(f"Open API of {tenant}: {address}")
    say(f"{studios[0].id} calls your endpoint with X-API-Key: {studios[0].keys['checkin']}")


def audit(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG…", help="Every log of the town since its export.")],
    reconciled: Annotated[
        bool,
        typer.Option(
            "--reconciled", help="Everything was held against the history of every studio, with guestgate reconcile."
        ),
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Work out what each answer and each visit should have been, and compare that with guestgate's record.

    Uses the sandbox's logs, the town's plans and rules of its own, not those that decide at the door. The record
    has to hold the town's check-ins and member validations and no others. Exit status 1 where anything differs.

    [dim]guestgate sandbox audit run.jsonl[/dim]
    """
    log = Log()
    for path in logs:
        log.add(path)
    if log.spec is None:
        raise UsageError(f"{logs[0]}: names no town; this is no log of the sandbox")
    requires = settings.load(config).payable_requires
    with open_database(config).read() as connection:
        decisions = [row for _, row in record.decisions(connection, record.Filter())]
        visits = [row for _, row in record.visits(connection, record.Filter(), payable_requires=requires)]
        validations = [row for _, row in record.validations(connection, record.Filter())]
    findings = Audit(Town(log.spec), log, decisions, visits, validations, requires, reconciled=reconciled).run()
    if as_json:
        print_json(findings.as_dict())
    else:
        for problem in findings.problems[:SHOWN]:
            say(printable(problem))
        if len(findings.problems) > SHOWN:
            say(f"… and {len(findings.problems) - SHOWN} more")
        say(
            f"{findings.calls} calls ({findings.answered} answered), {findings.decisions} decisions, "
            f"{findings.visits} visits ({findings.taken_back} taken back)"
        )
        if findings.enrolments or findings.validations:
            say(f"{findings.enrolments} members at the desks, {findings.validations} member validations")
        agrees = not findings.problems
        console.print("[green]everything agrees[/]" if agrees else f"[red]{len(findings.problems)} differences[/]")
    if findings.problems:
        raise typer.Exit(1)
