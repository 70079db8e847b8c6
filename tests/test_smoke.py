"""The shortest way through the whole house."""

from gate import Gate


def test_a_member_is_let_in_once_a_day(served: Gate) -> None:
    """200, then 403, and both are on record."""
    assert served.checkin("once-0").status_code == 200
    again = served.checkin("once-0")
    assert (again.status_code, again.json()["reason"]) == (403, "limit_reached")
    assert [row["decision"] for row in served.json("decisions", "--member", "once-0")] == ["allowed", "denied"]
