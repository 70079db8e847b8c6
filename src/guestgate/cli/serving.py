"""`guestgate quickstart`, `init`, `serve`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guestgate import log, settings, starter
from guestgate.cli.common import AsJson, ConfigFile, print_json, say, show
from guestgate.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("quickstart", rich_help_panel="Start")(quickstart_command)
    app.command("init", rich_help_panel="Start")(init)
    app.command("serve", rich_help_panel="Start")(serve)


def quickstart_command(
    for_: Annotated[
        int | None,
        typer.Option("--for", metavar="SECONDS", min=1, help="End by itself; without a terminal after 30."),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """See it work: a throw-away server, demo studios and members, and doors that check them in for real.

    Prints the endpoint's address, a key and a curl line to paste. Nothing is left behind.
    """
    from guestgate import quickstart

    summary = quickstart.run(for_, quiet=as_json)
    if as_json:
        print_json(summary)


def init(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to.", show_default="here")] = Path(),
    aggregator_id: Annotated[
        str | None, typer.Option("--aggregator-id", metavar="ID", help="Your company's id at the platform.")
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database", metavar="URL", help="postgresql://… for several servers.", show_default="a file in DIR"
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Write a commented guestgate.toml and an example plans.toml, and create the database.

    [dim]guestgate init my-gate && cd my-gate[/dim]
    """
    if config is not None:
        raise UsageError("init writes guestgate.toml into DIR; leave --config out")
    files = starter.write(directory, aggregator_id, database)
    if as_json:
        show({name: str(path) for name, path in files.items()}, as_json)
        return
    for path in files.values():
        say(f"wrote {path}")
    where = "" if directory == Path() else f"cd {directory}; "
    say(f"next: {where}guestgate plan apply plans.toml; guestgate studio add --help; guestgate serve --help")


def serve(
    host: Annotated[
        str | None,
        typer.Option("--host", metavar="ADDRESS", help="Public listener; unix:/PATH behind a proxy."),
    ] = None,
    port: Annotated[int | None, typer.Option("--port", metavar="N", help="Its port, 8443 by default.")] = None,
    admin_host: Annotated[
        str | None,
        typer.Option("--admin-host", metavar="ADDRESS", help="Admin listener; with TLS unless on loopback."),
    ] = None,
    admin_port: Annotated[
        int | None, typer.Option("--admin-port", metavar="N", help="Its port, 8444 by default; 0 for none.")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate chain, PEM.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key, PEM.")] = None,
    behind_proxy: Annotated[
        bool | None,
        typer.Option(
            "--behind-proxy",
            help="Plain HTTP on loopback or a Unix socket; a proxy speaks TLS.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", help="Door processes; 1 on SQLite.")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Answer the platform. SIGHUP reloads the certificate, SIGTERM drains and ends.

    [dim]guestgate serve --tls-cert fullchain.pem --tls-key privkey.pem[/dim]
    """
    from guestgate import child_process

    child_process.prepare()
    from guestgate import server

    loaded = settings.load(
        config,
        host=host,
        port=port,
        admin_host=admin_host,
        admin_port=admin_port,
        tls_cert=tls_cert,
        tls_key=tls_key,
        behind_proxy=behind_proxy,
        workers=workers,
    )
    log.configure(as_json=as_json, level=loaded.log_level)
    server.serve(loaded)
