"""When the admin listener takes the shared database for away: where it says nothing, not where a copy is late."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from gate import free_port
from standing import MAX_AGE_S, Node, Shared

from guestgate import clock
from guestgate.admin.outage import OutageWatch


def watch(url: str, path: Path, *, stands_in: bool = True) -> OutageWatch:
    """As the admin listener has it."""
    own = {"stands_in": stands_in, "stand_in_file": path, "stand_in_max_age_s": MAX_AGE_S}
    return OutageWatch(cast(Any, SimpleNamespace(database=url, fence=None, **own)))


def level_s_ago(node: Node, age_s: int) -> None:
    """The copy was level so long ago."""
    node.execute(f"UPDATE stand_in SET copied_at_ms = {clock.now_ms() - age_s * 1000}")


@pytest.mark.parametrize("copy", ["late", "incomplete", "broken"])
def test_a_copy_that_does_not_follow(shared: Shared, node: Node, copy: str) -> None:
    """Is no outage: it may be comparing everything, or its disk be full, while the database answers."""
    if copy == "late":
        node.level()
        level_s_ago(node, 60)
    elif copy == "broken":
        node.execute("ALTER TABLE stand_in RENAME TO elsewhere")
    assert not watch(shared.url, node.copy.path).database_is_away()


def test_a_database_that_is_away(node: Node) -> None:
    """It is asked where the copy is no longer young."""
    nobody = f"postgresql://postgres@127.0.0.1:{free_port()}/nothing"
    node.level()
    level_s_ago(node, -60)  # young, however slow this machine is
    assert not watch(nobody, node.copy.path).database_is_away()
    level_s_ago(node, 60)
    assert watch(nobody, node.copy.path).database_is_away()
    assert watch(nobody, node.copy.path, stands_in=False).database_is_away()
    assert not watch("sqlite:///nothing.db", node.copy.path, stands_in=False).database_is_away()
