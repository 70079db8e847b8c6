"""Sealing what has to be readable again."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from guestgate import settings
from guestgate.errors import OperationError, UsageError
from guestgate.platform.secret_keys import SecretKeys, add_to, new_key

TO = ("berlin-1", "https://fitwerk.open-api.perfectgym.com/v1")


def keys_of(*keys: str) -> SecretKeys:
    """As from the environment."""
    return SecretKeys.of(settings.Settings(secret_key=",".join(keys)))


def test_what_is_sealed_opens() -> None:
    """With the same key and for the same studio and address; it is another text each time."""
    keys = keys_of(new_key())
    sealed = [keys.seal("ä-token", to=TO) for _ in range(2)]
    assert [keys.unseal(one, to=TO) for one in sealed] == ["ä-token"] * 2
    assert sealed[0] != sealed[1] and "token" not in "".join(sealed)


@pytest.mark.parametrize("to", [("berlin-2", TO[1]), (TO[0], "https://elsewhere.example.com/v1"), TO[:1]])
def test_a_row_that_was_moved_does_not_open(to: tuple[str, ...]) -> None:
    """To another studio, or given another address, where the key would be sent."""
    keys = keys_of(new_key())
    with pytest.raises(OperationError, match="does not open"):
        keys.unseal(keys.seal("token", to=TO), to=to)


def test_another_key_or_a_damaged_text_does_not_open() -> None:
    """One sentence that says what to do."""
    keys = keys_of(new_key())
    sealed = keys.seal("token", to=TO)
    changed = sealed[:-3] + ("A" if sealed[-3] != "A" else "B") + sealed[-2:]
    for bad in (changed, sealed[2:], "", "1.", "1.AAAA", "1.ä", sealed[:20]):
        with pytest.raises(OperationError, match="guestgate key add berlin-1 --kind openapi"):
            keys.unseal(bad, to=TO)
    with pytest.raises(OperationError, match="put back the one"):
        keys_of(new_key()).unseal(sealed, to=TO)


def test_the_first_of_several_seals_and_all_open() -> None:
    """So that a secret key can be changed."""
    old, new = new_key(), new_key()
    before = keys_of(old).seal("token", to=TO)
    both = keys_of(new, old)
    assert both.unseal(before, to=TO) == "token"
    after = both.seal("token", to=TO)
    assert keys_of(new).unseal(after, to=TO) == "token"
    with pytest.raises(OperationError):
        keys_of(old).unseal(after, to=TO)


def test_a_file_of_keys(tmp_path: Path) -> None:
    """For its owner only; a new key comes first and the others stay. The environment wins over it."""
    file = tmp_path / "guestgate.secret"
    loaded = settings.Settings(secret_key_file=file)
    with pytest.raises(UsageError, match="guestgate secret new"):
        SecretKeys.of(loaded).seal("token", to=TO)
    first, second = new_key(), new_key()
    add_to(file, first)
    sealed = SecretKeys.of(loaded).seal("token", to=TO)
    add_to(file, second)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and file.read_text().split() == [second, first]
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert len(SecretKeys.of(loaded)) == 2 and SecretKeys.of(loaded).unseal(sealed, to=TO) == "token"
    file.chmod(0o640)
    add_to(file, new_key())
    assert stat.S_IMODE(file.stat().st_mode) == 0o640  # as somebody has chosen
    other = settings.Settings(secret_key_file=file, secret_key=new_key())
    with pytest.raises(OperationError):
        SecretKeys.of(other).unseal(sealed, to=TO)


@pytest.mark.parametrize(
    "content",
    ["", "\n", "hunter2", new_key()[:-8], f"{new_key()}\nrest", "ä" * 44],
    ids=["empty", "blank", "short", "cut off", "two lines", "no ASCII"],
)
def test_what_is_no_key_is_refused(content: str, tmp_path: Path) -> None:
    """With its place, and without showing it."""
    file = tmp_path / "guestgate.secret"
    file.write_text(content, "utf-8")
    for given in ({"secret_key_file": file}, {"secret_key": content}):
        with pytest.raises(UsageError, match=r"^secret_key") as problem:
            SecretKeys.of(settings.Settings(**given))
        assert content.strip() == "" or content not in str(problem.value)


def test_it_does_not_show() -> None:
    """Not where settings are printed."""
    key = new_key()
    assert key not in repr(settings.Settings(secret_key=key))
