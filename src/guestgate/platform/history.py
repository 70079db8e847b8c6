"""What the platform's history says of who came in: the evidence that a webhook's absence is not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from guestgate.attendance.history import Stay
from guestgate.database import Database
from guestgate.errors import OperationError, PlatformError, UsageError
from guestgate.platform import accounts
from guestgate.platform.client import OpenApiClient
from guestgate.platform.secret_keys import SecretKeys


class PlatformHistory:
    """A `guestgate.attendance.history.History` of studios whose account we have. Use as a context manager."""

    def __init__(self, database: Database, secret_keys: SecretKeys, *, ca: Path | None = None) -> None:
        """`ca` is a certificate to trust besides the system's."""
        self._database, self._secret_keys, self._ca = database, secret_keys, ca
        self._clients: dict[str, OpenApiClient] = {}
        self._chains: dict[str, dict[int, str]] = {}
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        """Nobody has been asked yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up."""
        self._closing.close()

    def studios(self) -> Collection[str]:
        """The studios that can be asked about, by our ids."""
        with self._database.read() as connection:
            return accounts.studios_with_account(connection)

    def stays(self, studio_id: str, customer_id: int, since: datetime, until: datetime) -> Sequence[Stay] | None:
        """All entries of a customer between two instants, at this studio and at those of its chain that are ours.

        None where the platform knows no such customer. Raises OperationError where it cannot be asked.
        """
        client = self._client(studio_id)
        ids = self._ids_at(client.base_url)
        try:
            checkins = list(client.checkins(customer_id, since, until))
        except PlatformError as error:
            if error.status == 404:
                return None
            raise
        return [
            Stay(checkin.id, ids[checkin.platform_studio_id], checkin.checked_in_at, checkin.checked_out_at)
            for checkin in checkins
            if checkin.platform_studio_id in ids
        ]

    def _ids_at(self, base_url: str) -> dict[int, str]:
        """Our ids of a chain's studios by the numbers that the platform has for them, which it is asked for once."""
        if base_url not in self._chains:
            with self._database.read() as connection:
                numbers = accounts.platform_studios(connection, base_url)
            for studio_id in [studio_id for studio_id, number in numbers.items() if number is None]:
                with suppress(OperationError):  # it is told of when that studio's turn comes
                    numbers[studio_id] = number = self._client(studio_id).studio_information().studio_id
                    with self._database.write() as connection:
                        accounts.note_platform_studio(connection, studio_id, number)
            self._chains[base_url] = {
                number: studio_id for studio_id, number in numbers.items() if number is not None
            }
        return self._chains[base_url]

    def _client(self, studio_id: str) -> OpenApiClient:
        client = self._clients.get(studio_id)
        if client is None:
            try:
                with self._database.read() as connection:
                    account = accounts.load(connection, self._secret_keys, studio_id)
                client = self._closing.enter_context(OpenApiClient(account, ca=self._ca))
            except UsageError as error:
                raise OperationError(str(error)) from None
            self._clients[studio_id] = client
        return client
