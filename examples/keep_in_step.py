import json
import os
import sqlite3
import time

import httpx

shop = sqlite3.connect("shop.db")  # your application's database; any other works alike
headers = {"Authorization": f"Bearer {os.environ['GUESTGATE_TOKEN']}", "Content-Type": "application/x-ndjson"}
gate = httpx.Client(base_url=os.environ.get("GUESTGATE_URL", "http://127.0.0.1:8444"), headers=headers, timeout=60)
changed = "select id, plan, status, paid_until, changed_at from memberships where changed_at > ? order by changed_at"
seen = 0  # after a restart everything is sent again; what is unchanged changes nothing
while True:
    rows = shop.execute(changed, (seen - 60,)).fetchall()  # some again, for transactions that were slow to commit
    lines = [json.dumps(dict(zip(("member_id", "plan", "status", "valid_until"), row))) for row in rows]
    report = gate.post("/api/v1/members/bulk", content="\n".join(lines)).raise_for_status().json()
    for bad in report["bad"]:
        print(f"{rows[bad['line'] - 1][0]}: {bad['error']}")
    seen = rows[-1][-1] if rows else seen
    time.sleep(1)
