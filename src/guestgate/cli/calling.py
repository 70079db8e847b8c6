"""What commands that call the platform's Open API share. Imported by functions only: it brings an HTTP client."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guestgate import settings
from guestgate.database import Database
from guestgate.platform import accounts
from guestgate.platform.accounts import Account
from guestgate.platform.client import OpenApiClient, StudioInformation
from guestgate.platform.secret_keys import SecretKeys


@contextmanager
def calls_for(config: Path | None, database: Database, studio_id: str, ca: Path | None) -> Iterator[OpenApiClient]:
    """A client with the studio's account. Raises what `accounts.load` does."""
    secret_keys = SecretKeys.of(settings.load(config))
    with database.read() as connection:
        account = accounts.load(connection, secret_keys, studio_id)
    with OpenApiClient(account, ca=ca) as client:
        yield client


def account_of(studio_id: str, key: str, tenant: str | None, url: str | None) -> Account:
    """An account as it is given on the command line. Raises UsageError."""
    return Account(studio_id, accounts.base_url(tenant, url), key)


def information(account: Account, ca: Path | None) -> StudioInformation:
    """What the platform says of the studio; that it does shows that key and address belong together."""
    with OpenApiClient(account, ca=ca) as client:
        return client.studio_information()


def warn_of_difference(studio_id: str, timezone: str, found: StudioInformation) -> None:
    """Days and hours follow the time zone, so one that differs from the platform's is told."""
    if timezone != found.timezone:
        print(
            f"guestgate: warning: studio {studio_id} is in {timezone} here and in {found.timezone} at the platform",
            file=sys.stderr,
        )
