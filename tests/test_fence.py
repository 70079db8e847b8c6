"""The newest timeline that anybody saw, and what is not used because of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import structlog
from backends import Server
from sqlalchemy.exc import DBAPIError

from guestgate.database import Database, Fault
from guestgate.errors import OperationError, UsageError
from guestgate.fence import Fence, History

ONE, OTHER = 7412345678901234567, -7412345678901234567
DAMAGED = [
    "one two\n",
    f"{ONE}\n",
    f"{ONE} 2\n\n",
    f"{ONE} -2\n",
    f"{ONE} 2 {ONE} 3\n",
    f"{ONE} {'9' * 4400}\n",
    "é\0\n",
]
OLD = r"127\.0\.0\.1:\d+ is an old primary: its timeline is 1, another one's was 9"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where processes tell one another; nobody has yet."""
    return tmp_path / "guestgate.fence"


@pytest.fixture
def url(postgres: Server, tmp_path: Path) -> Iterator[str]:
    """A database on a primary that is on its first timeline."""
    url = postgres.new(tmp_path)
    yield url
    postgres.drop(url)


def system_of(url: str) -> int:
    """The identifier of the cluster."""
    with psycopg.connect(url) as connection:
        ((system,),) = connection.execute("SELECT system_identifier FROM pg_control_system()").fetchall()
    return int(system)


def test_timelines_only_grow() -> None:
    """Also where an old one is seen again."""
    fence = Fence()
    assert fence.newest(ONE) == 0
    for timeline, newest in ((2, 2), (1, 2), (3, 3), (2, 3)):
        fence.saw(History(ONE, timeline))
        assert fence.newest(ONE) == newest


def test_every_cluster_has_its_own(file: Path) -> None:
    """A database that moved to another cluster starts anew, and the first is not forgotten."""
    fence = Fence(file)
    fence.saw(History(ONE, 5))
    assert fence.newest(OTHER) == 0
    fence.saw(History(OTHER, 1))
    assert [Fence(file).newest(system) for system in (ONE, OTHER)] == [5, 1]


def test_processes_tell_one_another(file: Path) -> None:
    """What one sees all others know, those that run and those that start later; nobody else can read it."""
    first, second = Fence(file), Fence(file)
    first.saw(History(ONE, 1))
    assert second.newest(ONE) == 1
    second.saw(History(ONE, 2))
    assert first.newest(ONE) == 2
    assert Fence(file).newest(ONE) == 2
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_two_write_at_once(file: Path) -> None:
    """One has read before the other wrote, and writes after it; the newer timeline comes back."""
    fence = Fence(file)
    fence.saw(History(ONE, 2))
    before = file.read_bytes()
    fence.saw(History(ONE, 3))
    file.write_bytes(before)
    assert fence.newest(ONE) == 3
    assert Fence(file).newest(ONE) == 3


def test_a_file_that_did_not_change_is_not_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for with every transaction."""
    Fence(file).saw(History(ONE, 2))
    fence = Fence(file)
    assert fence.newest(ONE) == 2
    monkeypatch.setattr(Path, "read_text", lambda *_arguments: pytest.fail("the file was read again"))
    assert fence.newest(ONE) == 2


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file(content: str, file: Path) -> None:
    """It counts as empty, which the log says once, and is written anew with the next that is seen."""
    file.write_text(content, "utf-8")
    fence = Fence(file)
    with structlog.testing.capture_logs() as events:
        assert fence.newest(ONE) == fence.newest(ONE) == 0
    assert [event["log_level"] for event in events] == ["warning"]
    assert "damaged" in events[0]["event"]
    fence.saw(History(ONE, 2))
    assert Fence(file).newest(ONE) == 2


def test_a_file_that_is_damaged_later(file: Path) -> None:
    """Whoever knows better writes it anew."""
    fence = Fence(file)
    fence.saw(History(ONE, 2))
    file.write_text("?", "utf-8")
    with structlog.testing.capture_logs() as events:
        assert fence.newest(ONE) == 2
    assert len(events) == 1
    assert Fence(file).newest(ONE) == 2


def test_no_file_can_be_written(tmp_path: Path) -> None:
    """Then at least this process knows."""
    fence = Fence(tmp_path / "nowhere" / "guestgate.fence")
    with structlog.testing.capture_logs() as events:
        fence.saw(History(ONE, 2))
    assert [event["log_level"] for event in events] == ["warning"]
    assert fence.newest(ONE) == 2


def test_no_file_can_be_read(tmp_path: Path) -> None:
    """A folder has its place: this process knows what it has seen, and leaves what is there alone."""
    (tmp_path / "guestgate.fence").mkdir()
    fence = Fence(tmp_path / "guestgate.fence")
    with structlog.testing.capture_logs() as events:
        fence.saw(History(ONE, 2))
    assert {event["log_level"] for event in events} == {"warning"}
    assert fence.newest(ONE) == 2
    assert (tmp_path / "guestgate.fence").is_dir()


def test_an_old_primary_alone(url: str, file: Path) -> None:
    """Where there is no other host it is refused with one sentence, which counts as an outage."""
    Fence(file).saw(History(system_of(url), 9))
    with pytest.raises(UsageError, match=OLD) as told:
        Database.open(url, fence=file)
    assert "\n" not in str(told.value)
    database = Database.at(url, pooled=True, fence=file)
    with pytest.raises(OperationError, match=OLD), database.read():
        pass
    with pytest.raises(DBAPIError) as error:
        database.engine.connect()
    assert database.fault(error.value) is Fault.UNAVAILABLE


def test_the_only_primary_is_none(url: str, file: Path) -> None:
    """What is known of another cluster says nothing about this one; a server remembers its own timeline.

    A command does not: it may look at a copy of the cluster.
    """
    Fence(file).saw(History(OTHER, 9))
    with Database.open(url, fence=file).read():
        pass
    assert Fence(file).newest(system_of(url)) == 0
    serving = Database.open(url, pooled=True, fence=file)
    with serving.read():
        pass
    serving.engine.dispose()
    assert Fence(file).newest(system_of(url)) == 1


def test_an_idle_connection_is_not_used_any_more(url: str, file: Path) -> None:
    """Each transaction begins with the question, whatever the pool has."""
    database = Database.at(url, pooled=True, fence=file)
    with database.read(), database.read():
        pass
    Fence(file).saw(History(system_of(url), 9))
    with pytest.raises(OperationError, match=OLD), database.read():
        pass
    database.engine.dispose()


def test_a_kept_connection_is_not_used_any_more(url: str, file: Path) -> None:
    """Nor does the ledger go on with its own."""
    database = Database.at(url, door=True, fence=file)
    with database.connect_ledger(400) as connection:
        with connection.begin():
            pass
        Fence(file).saw(History(system_of(url), 9))
        with pytest.raises(DBAPIError, match=OLD) as error, connection.begin():
            pass
    assert database.fault(error.value) is Fault.UNAVAILABLE
