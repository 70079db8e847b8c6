"""Follow guestgate's event feed into a table of your own: every event once, in order, wherever this is killed.

    GUESTGATE_TOKEN=… python consumer.py http://127.0.0.1:8444 office.db

What you do with an event and the place to go on from are one transaction. That is all there is to it.
"""

import json
import os
import sqlite3
import sys
import time
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

TABLES = """
create table if not exists events (id text primary key, type text, at text, data text);
create table if not exists place (cursor text);
"""


def fetch(gate: str, cursor: str | None) -> dict:
    """What comes after the cursor; waits up to 30 s for it."""
    query = {"limit": 500, "wait": 30} | ({"after": cursor} if cursor else {})
    headers = {"Authorization": f"Bearer {os.environ['GUESTGATE_TOKEN']}"}
    with urlopen(Request(f"{gate}/api/v1/events?{urlencode(query)}", headers=headers), timeout=60) as answer:
        return json.load(answer)


def follow(gate: str, office: sqlite3.Connection) -> None:
    """Take in events for ever."""
    office.executescript(TABLES)
    while True:
        (cursor,) = office.execute("select cursor from place").fetchone() or (None,)
        try:
            part = fetch(gate, cursor)
        except HTTPError as error:
            if error.code >= 500:  # the gate is up, but cannot read its database just now
                time.sleep(1)
                continue
            if error.code != 410:
                raise
            with office:  # the gate's database was restored from a backup: begin anew
                office.execute("delete from events")
                office.execute("delete from place")
            continue
        except (URLError, TimeoutError, ConnectionError, HTTPException):  # the gate is being restarted
            time.sleep(1)
            continue
        with office:
            office.executemany(
                "insert into events values (?, ?, ?, ?)",
                [(event["id"], event["type"], event["at"], json.dumps(event["data"])) for event in part["events"]],
            )
            office.execute("delete from place")
            office.execute("insert into place values (?)", (part["next"],))


if __name__ == "__main__":
    follow(sys.argv[1], sqlite3.connect(sys.argv[2]))
