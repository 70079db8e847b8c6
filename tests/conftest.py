"""Fixtures: installations with and without a running server, on every database."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from backends import Backend, Files, Server
from cluster import Cluster
from gate import Gate
from hypothesis import settings
from standing import Node, Shared
from terminal import Terminal

from guestgate.stand_in.copy import StandInCopy

settings.register_profile("guestgate", deadline=None, print_blob=True)
settings.load_profile("guestgate")

# Files that take longest, in this order: begun last, one of them would leave the other processor with nothing to do.
LONG = [
    *("outages", "nodes", "experiments", "faults", "failover", "cli", "probe", "quickstart", "docs", "openapi"),
    *("pages_browser", "pages_away", "concurrency", "workers", "plans_at_size", "crash", "feed", "forget", "bulk"),
    *("serve", "transfer", "prune", "metrics", "naive", "endpoint", "ledger", "admin_roles", "visits_cli"),
    *("sandbox_docs", "proxy", "durability", "rehearsal", "audit", "sandbox_traffic", "members", "backup"),
]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first; within each, tests stay in their order."""
    places = {f"test_{name}.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What uses a database runs on each, unless it is marked as being about the embedded one."""
    if "backend" in metafunc.fixturenames:
        embedded = metafunc.definition.get_closest_marker("embedded")
        names = ["sqlite"] if embedded else ["sqlite", "postgresql"]
        metafunc.parametrize("backend", names, indirect=True, scope="module")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server."""
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def postgres(cluster: Cluster) -> Server:
    """Makes databases on it, for what only PostgreSQL has."""
    return Server(cluster)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Makes database files."""
    return Files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def backend(request: pytest.FixtureRequest) -> Backend:
    """Makes databases of one kind; a test that uses this runs once for each kind."""
    backend: Backend = request.getfixturevalue("files" if request.param == "sqlite" else "postgres")
    return backend


@pytest.fixture(autouse=True)
def log_to_nowhere_else() -> Iterator[None]:
    """A command inside this process sets up its log; what it logs to ends with the test."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def home(tmp_path: Path, backend: Backend) -> Iterator[Gate]:
    """An installation of its own for this test, not yet serving; whatever it starts is ended."""
    url = backend.furnish(tmp_path / "gate")
    gate = Gate(tmp_path, database_url=url, furnished=True)
    yield gate
    gate.close()
    if url is not None:
        backend.drop(url)


@pytest.fixture
def terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], backend: Backend
) -> Iterator[Terminal]:
    """Commands in the folder of a new installation, run inside this process: cheap, and nothing is served."""
    url = backend.furnish(tmp_path / "home")
    terminal = Terminal(tmp_path / "home", monkeypatch, capsys, url, furnished=True)
    yield terminal
    terminal.close()
    if url is not None:
        backend.drop(url)


@pytest.fixture
def terminal_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], backend: Backend
) -> Iterator[Callable[[Gate], Terminal]]:
    """Makes such an installation that begins with the record of another one, which nobody is using."""
    terminals: list[Terminal] = []

    def begin(gate: Gate) -> Terminal:
        url = backend.copy(gate.database_url, tmp_path)
        terminals.append(Terminal(tmp_path / "home", monkeypatch, capsys, url, furnished=True))
        return terminals[-1]

    yield begin
    for terminal in terminals:
        terminal.close()
        backend.drop(terminal.database_url)


@pytest.fixture(scope="module")
def new_gate(tmp_path_factory: pytest.TempPathFactory, backend: Backend) -> Iterator[Callable[[], Gate]]:
    """Makes installations that a file's tests share, not yet serving; whatever they start is ended."""
    gates: list[tuple[Gate, str | None]] = []

    def new() -> Gate:
        folder = tmp_path_factory.mktemp("shared")
        url = backend.furnish(folder / "gate")
        gates.append((Gate(folder, database_url=url, furnished=True), url))
        return gates[-1][0]

    yield new
    for gate, url in gates:
        gate.close()
        if url is not None:
            backend.drop(url)


@pytest.fixture(scope="module")
def served(new_gate: Callable[[], Gate]) -> Gate:
    """A serving installation shared by a file: studio s1, plans free and once, members free-0…9, once-0…9."""
    gate = new_gate()
    gate.studio("s1")
    gate.plans()
    gate.members(*(f"{plan}-{number},{plan}" for plan in ("free", "once") for number in range(10)))
    gate.start()
    return gate


@pytest.fixture(scope="session")
def furnished(postgres: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database on PostgreSQL with studios and plans, to be copied."""
    folder = tmp_path_factory.mktemp("furnished")
    url = postgres.new(folder)
    shared = Shared(url)
    shared.furnish(folder)
    shared.close()
    yield url
    postgres.drop(url)


@pytest.fixture
def shared(furnished: str, postgres: Server, tmp_path: Path) -> Iterator[Shared]:
    """A shared record of its own for this test."""
    shared = Shared(postgres.copy(furnished, tmp_path))
    with structlog.testing.capture_logs():
        yield shared
    shared.close()
    postgres.drop(shared.url)


@pytest.fixture(scope="session")
def empty_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a node's copy in which there is nothing yet, to be copied."""
    path = tmp_path_factory.mktemp("empty") / "copy.db"
    StandInCopy(path).prepare()
    return path


@pytest.fixture
def nodes(shared: Shared, empty_copy: Path, tmp_path: Path) -> Iterator[list[Node]]:
    """Three servers' copies of it, not yet level."""
    paths = [tmp_path / f"copy-{number}.db" for number in range(3)]
    nodes = [Node(shared, Path(shutil.copy(empty_copy, path))) for path in paths]
    yield nodes
    for node in nodes:
        node.close()


@pytest.fixture
def node(nodes: list[Node]) -> Node:
    """One of them."""
    return nodes[0]
