"""`guestgate secret …`"""

from __future__ import annotations

from typing import Annotated

import typer

from guestgate import settings
from guestgate.cli.common import AsJson, ConfigFile, open_database, print_json, say, show, who

app = typer.Typer(help="The secret key that seals the platform's Open API keys.", no_args_is_help=True)


def register(main: typer.Typer) -> None:
    """Add these commands."""
    main.add_typer(app, name="secret", rich_help_panel="Directory")


@app.command()
def new(
    print_: Annotated[
        bool, typer.Option("--print", help="Only print one, for GUESTGATE_SECRET_KEY or a store of your own.")
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a secret key, and put it first in secret_key_file, which only its owner may read.

    Keys that are there stay, and open what they sealed, until guestgate secret reseal has run. Without the secret
    key nobody reads Open API keys, not even from a backup: keep a copy elsewhere.
    """
    from guestgate.platform import secret_keys

    key = secret_keys.new_key()
    if print_:
        print_json({"secret_key": key}) if as_json else print(key)
        return
    file = settings.load(config).secret_key_file
    secret_keys.add_to(file, key)
    if as_json:
        show({"secret_key_file": str(file)}, as_json)
    else:
        say(f"wrote {file}; keep a copy of it, apart from those of the database")


@app.command()
def reseal(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Seal every Open API key with the first secret key; afterwards the others may go.

    Every machine needs the new key before: servers go on with the others meanwhile.
    """
    from guestgate.platform import accounts
    from guestgate.platform.secret_keys import SecretKeys

    keys = SecretKeys.of(settings.load(config))
    keys.require()
    with open_database(config).write(who()) as connection:
        count = accounts.seal_again(connection, keys)
    if as_json:
        show({"resealed": count}, as_json)
    else:
        say(f"{count} Open API keys are sealed with the first secret key; the others are not needed any more")
