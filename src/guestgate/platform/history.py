"""What the platform's history says of who came in: the evidence that a webhook's absence is not."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
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
        self._ids: dict[str, dict[int, str]] = {}
        self._met: set[str] = set()
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
                checkins = list(client.checkins(customer_id, since, until))
        except PlatformError as error:
            if error.status == 404:
                return None
            raise
        ids = self._ids[client.base_url]
        if any(checkin.platform_studio_id not in ids for checkin in checkins):
            self._meet_neighbours(client.base_url)
        return [
            Stay(checkin.id, ids[checkin.platform_studio_id], checkin.checked_in_at, checkin.checked_out_at)
            for checkin in checkins
            if checkin.platform_studio_id in ids
        ]

    @contextmanager
    def _asking(self, base_url: str) -> Iterator[None]:
        if base_url in self._away:
            raise self._away[base_url]
        try:
            yield
        except PlatformAwayError as error:
            self._away[base_url] = error
            raise

    def _client(self, studio_id: str) -> OpenApiClient:
        """The studio's client, once the platform has told what it calls the studio."""
        client = self._clients.get(studio_id)
        if client is not None:
            return client
        try:
            with self._database.read() as connection:
                account = accounts.load(connection, self._secret_keys, studio_id)
                numbers = accounts.platform_studios(connection, account.base_url)
            client = self._closing.enter_context(OpenApiClient(account, ca=self._ca))
        except UsageError as error:
            raise OperationError(str(error)) from None
        number = account.platform_studio_id
        if number is None:
            with self._asking(account.base_url):
                number = client.studio_information().studio_id
            with self._database.write() as connection:
                accounts.note_platform_studio(connection, studio_id, number)
        ids = self._ids.setdefault(account.base_url, {})
        ids |= {number: studio_id for studio_id, number in numbers.items() if number is not None}
        ids[number] = studio_id
        self._clients[studio_id] = client
        return client

    def _meet_neighbours(self, base_url: str) -> None:
        """Ask, once, what the platform calls those of our studios at this chain whose turn has not come."""
        if base_url in self._met:
            return
        self._met.add(base_url)
        with self._database.read() as connection:
            numbers = accounts.platform_studios(connection, base_url)
        for studio_id in (studio_id for studio_id, number in numbers.items() if number is None):
            with suppress(OperationError):  # it is told of when that studio's turn comes
                self._client(studio_id)
