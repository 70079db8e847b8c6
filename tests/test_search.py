"""Members by id, by customer and by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from gate import Gate

from guestgate import search
from guestgate.forget import forget

PEOPLE = (
    "m-1,free,Anna,Muster,1001",
    "m-2,free,Özlem,Özdemir,1002",
    "m-3,free,JÜRGEN,MÜLLER,1003",
    "m-4,free,Jan,van der Berg,1004",
    "m-5,free,Muster,Anna,1005",
    "m-6,free,,,1006",
    'm-7,free,"100%_\\",O\'Neil,1007',
)


@pytest.fixture(scope="module")
def people(new_gate: Callable[[], Gate]) -> Gate:
    """A few members with names."""
    gate = new_gate()
    gate.plans()
    gate.members(*PEOPLE, header="member_id,plan,first_name,last_name,customer_id")
    return gate


def found(gate: Gate, text: str, limit: int = search.MOST) -> list[str]:
    """The ids, in their order."""
    with gate.database.read() as connection:
        return [member["member_id"] for member in search.members(connection, text, limit)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("m-2", ["m-2"]),
        (" m-2 ", ["m-2"]),
        ("1004", ["m-4"]),
        ("m-", ["m-1", "m-2", "m-3", "m-4", "m-5", "m-6", "m-7"]),
        ("muster", ["m-1", "m-5"]),
        ("MUST", ["m-1", "m-5"]),
        ("anna muster", ["m-1", "m-5"]),
        ("Muster, Anna", ["m-5", "m-1"]),
        ("özd", ["m-2"]),
        ("Özlem Ö", ["m-2"]),
        ("müll", ["m-3"]),
        ("jürgen müller", ["m-3"]),
        ("jan van der b", ["m-4"]),
        ("van der berg jan", ["m-4"]),
        ("o'neil", ["m-7"]),
        ("100%", ["m-7"]),
        ("%", []),
        ("_", []),
        ("nobody", []),
        ("", []),
        ("\0", []),
        ("9" * 60, []),
        ("a b c d e f g h i", []),
    ],
)
def test_what_support_may_type(people: Gate, text: str, wanted: list[str]) -> None:
    """In any case, with the last name first or last, and never as a pattern."""
    assert found(people, text) == wanted


def test_what_is_known_of_somebody_found(people: Gate) -> None:
    """Enough to tell two of the same name apart."""
    with people.database.read() as connection:
        (member,) = search.members(connection, "m-1")
    assert member == {
        "member_id": "m-1",
        "first_name": "Anna",
        "last_name": "Muster",
        "plan": "free",
        "status": "active",
    }


def test_no_more_than_asked_for(people: Gate) -> None:
    """The surest come first."""
    assert found(people, "muster", limit=1) == ["m-1"]
    assert found(people, "m-", limit=3) == ["m-1", "m-2", "m-3"]


@pytest.mark.parametrize("text", ["m", "muster", "muster anna", "1001"])
def test_names_are_found_by_an_index(people: Gate, text: str) -> None:
    """On either database, whatever is asked for; a million are no more work than ten."""
    with people.database.read() as connection:
        dialect = connection.dialect
        for query in search._queries(dialect.name, text):
            compiled = query.limit(search.MOST).compile(dialect=dialect, compile_kwargs={"literal_binds": True})
            if dialect.name == "sqlite":
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}").all()
                assert not [row for row in plan if row[3].startswith("SCAN") or "TEMP B-TREE" in row[3]], plan
            else:
                connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
                text_of_plan = "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {compiled}"))
                assert "Seq Scan" not in text_of_plan, text_of_plan


def test_whoever_is_forgotten_is_not_found(people: Gate) -> None:
    """The index has nothing that the profile has not."""
    forget(people.database, "test", "m-4")
    assert found(people, "van der Berg") == [] and found(people, "1004") == []
