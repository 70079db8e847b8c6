"""placeholder until merged"""

from guestgate.database import Database


def forget(database: Database, who: str, member_id: str) -> str:
    raise NotImplementedError
