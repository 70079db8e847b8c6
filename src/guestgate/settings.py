"""Settings: the configuration file, then the environment (``GUESTGATE_…``), then command-line options.

Later sources win. A wrong value is reported with the place it stands in, and nothing is started.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from guestgate import sqlite, toml_lines
from guestgate.contract import VALIDATION_PATH, WEBHOOK_PATH
from guestgate.database import check_url, is_postgres
from guestgate.errors import UsageError
from guestgate.toml_lines import dotted, line_of, sentence

ENV_PREFIX = "GUESTGATE_"
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*")
DEFAULT_FILE = Path("guestgate.toml")
RECONCILE_GRACE_S = 21_600


class Settings(BaseSettings):
    """Every setting, with its default. Relative paths are relative to the configuration file's folder."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    database: str = Field("sqlite:///guestgate.db", description="where the record is kept")
    aggregator_id: str | None = Field(
        None, min_length=1, max_length=255, description="our company id at the platform"
    )
    checkin_path: str = Field("/checkin-validation", description="the path of the platform's calls")
    answer_budget_ms: int = Field(400, ge=50, le=750, description="every answer leaves within this time")
    unknown_member_status: Literal[403, 404] = Field(403, description="the answer for an unknown member")
    stand_in: Literal["snapshot", "refuse"] = Field(
        "snapshot", description="without the shared database (PostgreSQL only)"
    )
    stand_in_max_age_s: int = Field(3600, ge=1, description="an older copy does not stand in (PostgreSQL only)")
    stand_in_file: Path = Field(
        Path("guestgate-standin.db"), description="this machine's copy to stand in with (PostgreSQL only)"
    )
    payable_requires: Literal["authorized", "confirmed"] = Field(
        "authorized", description="what a visit needs to be paid for"
    )
    reconcile_every_s: int = Field(3600, ge=0, description="how often visits are held against entries; 0: never")
    reconcile_grace_s: int = Field(
        RECONCILE_GRACE_S,
        ge=1,
        description="how long an entry may take to be told of before its absence means something",
    )
    host: str = Field("0.0.0.0", description="address of the public listener, or unix:/PATH behind a proxy")  # noqa: S104
    port: int = Field(8443, ge=1, le=65535, description="port of the public listener")
    admin_host: str = Field("127.0.0.1", description="address of the admin listener; with TLS unless on loopback")
    admin_port: int = Field(8444, ge=0, le=65535, description="port of the admin listener; 0: none")
    tls_cert: Path | None = Field(None, description="certificate chain, PEM")
    tls_key: Path | None = Field(None, description="its private key, PEM")
    behind_proxy: bool = Field(False, description="plain HTTP for a proxy on this machine")
    log_level: Literal["debug", "info", "warning"] = Field("info", description="debug tells every answer")
    workers: int = Field(1, ge=1, description="door processes (PostgreSQL only)")
    secret_key: SecretStr | None = Field(None, description="seals Open API keys; rather in the environment")
    secret_key_file: Path = Field(Path("guestgate.secret"), description="where it stands otherwise")

    @property
    def grace(self) -> timedelta:
        """How long what happened is left alone, because more may be told of it."""
        return timedelta(seconds=self.reconcile_grace_s)

    @property
    def stands_in(self) -> bool:
        """Whether this machine answers on a copy of its own where the shared database does not."""
        return self.stand_in == "snapshot" and is_postgres(self.database)

    @property
    def fence(self) -> Path | None:
        """The file by which this machine's processes keep one another from an old primary (`guestgate.fence`)."""
        return self.stand_in_file.with_name(self.stand_in_file.name + ".fence") if self.stands_in else None

    @field_validator("unknown_member_status", mode="before")
    @classmethod
    def _number(cls, status: object) -> object:
        """The environment has texts only."""
        return int(status) if isinstance(status, str) and status.isdecimal() else status

    @field_validator("checkin_path")
    @classmethod
    def _path(cls, path: str) -> str:
        if not _PATH.fullmatch(path) or path.rstrip("/") in ("", "/healthz", VALIDATION_PATH, WEBHOOK_PATH):
            raise ValueError("should be a path such as /checkin-validation")
        return path.rstrip("/")

    @field_validator("database")
    @classmethod
    def _database(cls, url: str) -> str:
        try:
            check_url(url)
        except UsageError as error:
            raise ValueError(str(error).removeprefix("database: ")) from None
        return url

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` hands over: it has put file, environment and options together."""
        return (init_settings,)


def load(file: Path | None = None, **options: Any) -> Settings:
    """The settings in force. Raises UsageError for a file, variable or option that is wrong.

    Without `file` the default file is used where it exists. Options that are None do not count.
    """
    path = file or DEFAULT_FILE
    if file is not None and not file.exists():
        raise UsageError(f"{file}: there is no such file; guestgate init writes one")
    text, content = toml_lines.read(path) if path.exists() else ("", {})
    environment = EnvSettingsSource(Settings)()
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = Settings(**{**content, **environment, **given})
    except ValidationError as error:
        raise UsageError(_explain(error, path, text, environment, given)) from None
    return _anchored(settings, path.absolute().parent, given)


def _explain(
    error: ValidationError, path: Path, text: str, environment: dict[str, Any], options: dict[str, Any]
) -> str:
    problem = error.errors(include_url=False)[0]
    name = str(problem["loc"][0])
    what = sentence(problem["type"], problem["msg"])
    if name in options:
        return f"--{name.replace('_', '-')}: {what}"
    if name in environment:
        return f"environment variable {ENV_PREFIX}{name.upper()}: {what}"
    return f"{path}:{line_of(text, problem['loc'])}: {dotted(problem['loc'])}: {what}"


def _anchored(settings: Settings, folder: Path, options: dict[str, Any]) -> Settings:
    """Paths of file and environment start at the file's folder, those of options at the current one."""
    changes: dict[str, Any] = {}
    if not is_postgres(settings.database):
        changes["database"] = sqlite.anchored(settings.database, Path.cwd() if "database" in options else folder)
    for name in ("tls_cert", "tls_key", "stand_in_file", "secret_key_file"):
        value: Path | None = getattr(settings, name)
        if value is not None:
            changes[name] = (Path.cwd() if name in options else folder) / value
    return settings.model_copy(update=changes)
