"""Settings: where they come from, which source wins, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from terminal import Terminal

from guestgate import server, settings
from guestgate.cli import serving
from guestgate.database import Database
from guestgate.errors import UsageError
from guestgate.settings import Settings

# Nothing here differs from one database to another.
pytestmark = pytest.mark.embedded

# Each setting's value in the file, in the environment and as an option, every one different from the one before.
SOURCES: dict[str, tuple[Any, str, Any]] = {
    "database": ("sqlite:///file.db", "sqlite:///environment.db", "sqlite:///option.db"),
    "aggregator_id": ("file", "environment", "option"),
    "checkin_path": ("/file", "/environment", "/option"),
    "answer_budget_ms": (101, "102", 103),
    "unknown_member_status": (404, "403", 404),
    "stand_in": ("refuse", "snapshot", "refuse"),
    "stand_in_max_age_s": (11, "12", 13),
    "stand_in_file": ("file.db", "environment.db", Path("option.db")),
    "payable_requires": ("confirmed", "authorized", "confirmed"),
    "reconcile_every_s": (0, "12", 13),
    "reconcile_grace_s": (11, "12", 13),
    "host": ("127.0.0.1", "127.0.0.2", "127.0.0.3"),
    "port": (1001, "1002", 1003),
    "admin_host": ("127.0.0.4", "127.0.0.5", "127.0.0.6"),
    "admin_port": (2001, "2002", 2003),
    "tls_cert": ("file.pem", "environment.pem", Path("option.pem")),
    "tls_key": ("file.key", "environment.key", Path("option.key")),
    "behind_proxy": (True, "false", True),
    "log_level": ("debug", "warning", "debug"),
    "workers": (2, "3", 4),
    "secret_key": ("file", "environment", "option"),
    "secret_key_file": ("file.secret", "environment.secret", Path("option.secret")),
}
WRONG: dict[str, list[Any]] = {
    "database": ["nonsense", "mysql://localhost/guestgate"],
    "aggregator_id": ["", "x" * 256],
    "checkin_path": ["checkin-validation", "/"],
    "answer_budget_ms": [49, 751, "soon"],
    "unknown_member_status": [200, "gone"],
    "stand_in": ["sometimes"],
    "stand_in_max_age_s": [0, "long"],
    "payable_requires": ["wishes"],
    "reconcile_every_s": [-1, "hourly"],
    "reconcile_grace_s": [0, "hourly"],
    "port": [0, 65536, "http"],
    "admin_port": [-1, 65536, "http"],
    "behind_proxy": ["perhaps"],
    "log_level": ["loud"],
    "workers": [0, "many"],
}
WRONG_VALUES = [(name, value) for name, values in WRONG.items() for value in values]
DOCUMENTED_DEFAULTS = {
    "aggregator_id": None,
    "checkin_path": "/checkin-validation",
    "answer_budget_ms": 400,
    "unknown_member_status": 403,
    "stand_in": "snapshot",
    "stand_in_max_age_s": 3600,
    "payable_requires": "authorized",
    "port": 8443,
    "admin_host": "127.0.0.1",
    "admin_port": 8444,
    "log_level": "info",
}


@pytest.fixture(autouse=True)
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings around, and a current folder that has no file."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"GUESTGATE_{name.upper()}", raising=False)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration file in a folder of its own, empty as yet."""
    path = tmp_path / "configured" / "guestgate.toml"
    path.parent.mkdir()
    path.write_text("", "utf-8")
    return path


def toml(value: Any) -> str:
    """A value as the file has it."""
    return str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int) else f'"{value}"'


def complaint(file: Path | None, **options: Any) -> str:
    """The one sentence about wrong settings."""
    with pytest.raises(UsageError) as caught:
        settings.load(file, **options)
    sentence = str(caught.value)
    assert sentence and "\n" not in sentence
    return sentence


def seen(loaded: Settings, name: str) -> str:
    """A loaded setting as text; of paths and databases the last part only."""
    value = getattr(loaded, name)
    if name == "database":
        return f"sqlite:///{Path(value).name}"
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return (value.name if isinstance(value, Path) else str(value)).lower()


def test_the_tables_of_this_file_name_every_setting() -> None:
    """A new setting has to be added here."""
    assert set(SOURCES) == set(Settings.model_fields)


def test_defaults_are_the_documented_ones() -> None:
    """Without file, environment and options."""
    loaded = settings.load()
    assert {name: getattr(loaded, name) for name in DOCUMENTED_DEFAULTS} == DOCUMENTED_DEFAULTS
    assert loaded.database == f"sqlite:///{Path.cwd() / 'guestgate.db'}"


@pytest.mark.parametrize("name", SOURCES)
def test_options_win_over_the_environment_which_wins_over_the_file(
    name: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each setting by itself, in all three places."""
    in_file, in_environment, as_option = SOURCES[name]
    file.write_text(f"{name} = {toml(in_file)}\n", "utf-8")
    assert seen(settings.load(file), name) == str(in_file).lower()
    monkeypatch.setenv(f"GUESTGATE_{name.upper()}", in_environment)
    assert seen(settings.load(file), name) == in_environment
    assert seen(settings.load(file, **{name: as_option}), name) == str(as_option).lower()
    assert seen(settings.load(file, **{name: None}), name) == in_environment  # an option that was not given


@pytest.mark.parametrize("name", SOURCES)
def test_an_option_wins_over_the_file_alone(name: str, file: Path) -> None:
    """Also where the environment says nothing."""
    in_file, _, as_option = SOURCES[name]
    other = {"unknown_member_status": 403, "stand_in": "snapshot", "payable_requires": "authorized"}.get(name)
    value = False if name == "behind_proxy" else other if other is not None else as_option
    file.write_text(f"{name} = {toml(in_file)}\n", "utf-8")
    assert seen(settings.load(file, **{name: value}), name) == str(value).lower()


def test_the_sources_complete_each_other(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one leaves out another may give."""
    file.write_text("answer_budget_ms = 300\n", "utf-8")
    monkeypatch.setenv("GUESTGATE_CHECKIN_PATH", "/from-environment")
    loaded = settings.load(file, port=9000)
    assert (loaded.answer_budget_ms, loaded.checkin_path, loaded.port) == (300, "/from-environment", 9000)


def test_the_file_here_is_used_without_being_named() -> None:
    """guestgate.toml in the current folder is the default."""
    Path("guestgate.toml").write_text("port = 9001\n", "utf-8")
    assert settings.load().port == 9001


def test_serve_hands_its_options_on(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option of `serve` arrives as the setting of its name, over file and environment."""
    given: list[Settings] = []
    monkeypatch.setattr(server, "serve", given.append)
    monkeypatch.setattr(serving.log, "configure", lambda **_: None)
    monkeypatch.setenv("GUESTGATE_PORT", "1002")
    terminal.file("guestgate.toml", 'port = 1001\nhost = "127.0.0.1"\n')
    names = ("host", "port", "admin_port", "tls_cert", "tls_key", "workers")
    options = [part for name in names for part in (f"--{name.replace('_', '-')}", str(SOURCES[name][2]))]
    terminal.run("serve", *options, "--behind-proxy")
    assert [seen(given[0], name) for name in names] == [str(SOURCES[name][2]) for name in names]
    assert given[0].behind_proxy


@pytest.mark.parametrize(("name", "value"), WRONG_VALUES)
def test_a_wrong_value_in_the_file_is_named_with_its_line(name: str, value: Any, file: Path) -> None:
    """``file:line: field: …``"""
    file.write_text(f'# {name} = 1\nhost = "localhost"\n\n{name} = {toml(value)}\ntls_key = "k"\n', "utf-8")
    assert complaint(file).startswith(f"{file}:4: {name}: ")


@pytest.mark.parametrize(("name", "value"), WRONG_VALUES)
def test_a_wrong_value_in_the_environment_is_named_with_its_variable(
    name: str, value: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the file has a right one."""
    file.write_text(f"{name} = {toml(SOURCES[name][0])}\n", "utf-8")
    monkeypatch.setenv(f"GUESTGATE_{name.upper()}", str(value))
    assert complaint(file).startswith(f"environment variable GUESTGATE_{name.upper()}: ")


@pytest.mark.parametrize(("name", "value"), WRONG_VALUES)
def test_a_wrong_option_is_named(name: str, value: Any, file: Path) -> None:
    """Even where the file has a right one."""
    file.write_text(f"{name} = {toml(SOURCES[name][0])}\n", "utf-8")
    assert complaint(file, **{name: value}).startswith(f"--{name.replace('_', '-')}: ")


@pytest.mark.parametrize("source", ["file", "environment"])
def test_a_right_option_is_not_blamed(source: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value below a right option: the option wins or the true place is named."""
    if source == "file":
        file.write_text("port = 70000\n", "utf-8")
    else:
        monkeypatch.setenv("GUESTGATE_PORT", "70000")
    try:
        assert settings.load(file, port=9000).port == 9000
    except UsageError as error:
        place = f"{file}:1: port: " if source == "file" else "environment variable GUESTGATE_PORT: "
        assert str(error).startswith(place)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("port = 1\nprot = 8443\n", "2: prot: "),
        ("\n\n[server]\nport = 1\n", "3: server: "),
        ("port = [1]\n", "1: port: "),
        ("host = 8\n", "1: host: "),
        ("tls_cert = 8\n", "1: tls_cert: "),
        ('port = 1\n"aggregator_id" = 5\n', "2: aggregator_id: "),
    ],
)
def test_unknown_settings_and_wrong_types_are_named(text: str, place: str, file: Path) -> None:
    """A misspelt setting is refused rather than passed over."""
    file.write_text(text, "utf-8")
    assert complaint(file).startswith(f"{file}:{place}")


@pytest.mark.parametrize("text", ["port = 1\nhost = \n", 'port = 1\nhost = "x\n', "port = 1\nport = 2\n"])
def test_a_toml_error_is_named_with_its_line(text: str, file: Path) -> None:
    """The second line of each of these is broken."""
    file.write_text(text, "utf-8")
    sentence = complaint(file)
    assert sentence.startswith(f"{file}") and "line 2" in sentence


@pytest.mark.parametrize(
    "text",
    [f"port = {'1' * 5000}\n", f"port = {'[' * 5000}{']' * 5000}\n"],
    ids=["a number of 5000 digits", "5000 lists in lists"],
)
def test_toml_that_the_parser_gives_up_on_is_one_sentence_too(text: str, file: Path) -> None:
    """Not a traceback."""
    file.write_text(text, "utf-8")
    assert complaint(file).startswith(f"{file}")


def test_a_file_that_is_not_utf8_is_refused(file: Path) -> None:
    """Latin-1 from an old editor."""
    file.write_bytes('aggregator_id = "Köln"\n'.encode("latin-1"))
    sentence = complaint(file)
    assert sentence.startswith(f"{file}") and "UTF-8" in sentence


def test_a_file_that_is_named_has_to_exist(tmp_path: Path) -> None:
    """And the sentence says how to get one."""
    missing = tmp_path / "missing.toml"
    assert complaint(missing).startswith(f"{missing}: ") and "guestgate init" in complaint(missing)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """`--config .` is a slip that happens."""
    assert complaint(tmp_path).startswith(f"{tmp_path}")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "guestgate.db",
        "sqlite",
        "sqlite:guestgate.db",
        "sqlite:/guestgate.db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite://guestgate.db",
        "sqlite://user:hush-hush@/guestgate.db",
        "sqlite+aiosqlite:///guestgate.db",
        "sqlite:///guestgate.db?nonsense=1",
        "sqlite:///file:guestgate?mode=memory&uri=true",
        "postgresql://localhost:port/guestgate",
        "mysql://localhost/guestgate",
        "http://localhost/",
        "://",
    ],
)
def test_a_bad_database_url_is_one_plain_sentence(url: str, file: Path) -> None:
    """Said before anything is opened or created."""
    file.write_text(f'database = "{url}"\n', "utf-8")
    with pytest.raises(UsageError) as caught:
        Database.at(settings.load(file).database)
    sentence = str(caught.value)
    assert "database" in sentence and "\n" not in sentence and "hush" not in sentence
    assert [path.name for path in file.parent.iterdir()] == ["guestgate.toml"]


def test_relative_paths_start_at_the_folder_of_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the environment too; those of options start here; absolute ones stay."""
    file.write_text('database = "sqlite:///data/gate.db"\ntls_cert = "tls/cert.pem"\ntls_key = "/abs/key.pem"\n')
    folder, here = file.parent, Path.cwd()
    loaded = settings.load(file)
    assert loaded.database == f"sqlite:///{folder}/data/gate.db"
    assert (loaded.tls_cert, loaded.tls_key) == (folder / "tls/cert.pem", Path("/abs/key.pem"))
    monkeypatch.setenv("GUESTGATE_TLS_CERT", "other.pem")
    assert settings.load(file).tls_cert == folder / "other.pem"
    assert settings.load(file, tls_cert=Path("mine.pem")).tls_cert == here / "mine.pem"
    assert settings.load(file, database="sqlite:///mine.db").database == f"sqlite:///{here}/mine.db"


def test_an_absolute_database_stays_where_it_is(file: Path) -> None:
    """Four slashes."""
    file.write_text('database = "sqlite:////var/lib/guestgate/gate.db"\n', "utf-8")
    assert settings.load(file).database == "sqlite:////var/lib/guestgate/gate.db"


def test_a_file_named_by_a_relative_path_anchors_the_same(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is found even if the process changes its folder later."""
    monkeypatch.chdir(file.parent.parent)
    loaded = settings.load(Path("configured/guestgate.toml"))
    assert loaded.database == f"sqlite:///{file.parent}/guestgate.db"


@pytest.mark.parametrize("name", ["a b", "100%", "what?", "c#", "p%41", "käse", "a&b=c", "it's"])
def test_folders_may_have_any_name(name: str, tmp_path: Path) -> None:
    """What a URL would read as its own signs included."""
    file = tmp_path / name / "guestgate.toml"
    file.parent.mkdir()
    file.write_text("", "utf-8")
    database = Database.at(settings.load(file).database)
    database.upgrade()
    assert database.path == file.parent / "guestgate.db"
    assert sorted(path.name for path in tmp_path.rglob("*.db")) == ["guestgate.db"]


@pytest.mark.parametrize("path", ["/checkin-validation", "/api/v2/check_in", "/a.b~c-d", "/webhooks/checkin"])
def test_a_checkin_path_is_taken_as_given(path: str) -> None:
    """And a slash at its end does not matter."""
    assert settings.load(checkin_path=path).checkin_path == path
    assert settings.load(checkin_path=f"{path}/").checkin_path == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "//",
        "checkin-validation",
        "https://gate.example.com/checkin-validation",
        "/healthz",
        "/healthz/",
        "/webhook",
        "/prüfung",
        "/checkin?studio=1",
        "/checkin#top",
        "/check in",
        "/check\\tin",
    ],
)
def test_a_checkin_path_that_no_call_could_reach_is_refused(path: str, file: Path) -> None:
    """Or that is taken by another route."""
    file.write_text(f'checkin_path = "{path}"\n', "utf-8")
    assert complaint(file).startswith(f"{file}:1: checkin_path: ")
