"""What the platform's history says of who came in: the evidence that a webhook's absence is not."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from guestgate.attendance.history import Stay
from guestgate.database import Database
from guestgate.errors import OperationError, PlatformAwayError, PlatformError, UsageError
from guestgate.platform import accounts
from guestgate.platform.client import OpenApiClient
from guestgate.platform.secret_keys import SecretKeys


class PlatformHistory:
    """A `guestgate.attendance.history.History` of studios whose account we have. Use as a context manager.

    A chain whose Open API was asked in vain for one studio is not asked for its others: that takes minutes each time.
    """

    def __init__(self, database: Database, secret_keys: SecretKeys, *, ca: Path | None = None) -> None:
        """`ca` is a certificate to trust besides the system's."""
        self._database, self._secret_keys, self._ca = database, secret_keys, ca
        self._clients: dict[str, OpenApiClient] = {}
        self._away: dict[str, PlatformAwayError] = {}
        # By chain, and by the number that the platform has for a studio: our id.
        self._ids: dict[tuple[str, int], str] = {}
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
        try:
            with self._asking(client.base_url):
                return list(self._entries(client, customer_id, since, until))
        except PlatformError as error:
            if error.status == 404:
                return None
            raise

    @contextmanager
    def _asking(self, base_url: str) -> Iterator[None]:
        if base_url in self._away:
            raise self._away[base_url]
        try:
            yield
        except PlatformAwayError as error:
            self._away[base_url] = error
            raise

    def _entries(self, client: OpenApiClient, customer_id: int, since: datetime, until: datetime) -> Iterator[Stay]:
        for checkin in client.checkins(customer_id, since, until):
            studio_id = self._ids.get((client.base_url, checkin.platform_studio_id))
            if studio_id is not None:
                yield Stay(checkin.id, studio_id, checkin.checked_in_at, checkin.checked_out_at)

    def _client(self, studio_id: str) -> OpenApiClient:
        client = self._clients.get(studio_id)
        if client is not None:
            return client
        try:
            with self._database.read() as connection:
                self._ids |= accounts.platform_studios(connection)
                account = accounts.load(connection, self._secret_keys, studio_id)
            client = self._closing.enter_context(OpenApiClient(account, ca=self._ca))
        except UsageError as error:
            raise OperationError(str(error)) from None
        if account.platform_studio_id is None:
            with self._asking(account.base_url):
                number = client.studio_information().studio_id
            with self._database.write() as connection:
                accounts.note_platform_studio(connection, studio_id, number)
            self._ids[account.base_url, number] = studio_id
        self._clients[studio_id] = client
        return client
