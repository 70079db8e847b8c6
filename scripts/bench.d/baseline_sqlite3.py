"""What a careful engineer writes: FastAPI and one sqlite3 connection behind a lock.

One transaction per check-in, committed (WAL, synchronous=FULL) before the answer is sent.
"""

import os
import sqlite3
import threading
import uuid
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import Annotated
from zoneinfo import ZoneInfo

from fastapi import FastAPI, Header, HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

app = FastAPI()
lock = threading.Lock()
db = sqlite3.connect(os.environ["BENCH_DATABASE"], isolation_level=None, check_same_thread=False)
db.execute("PRAGMA journal_mode = WAL")
db.execute("PRAGMA synchronous = FULL")


class CheckIn(BaseModel):
    """The platform's question."""

    model_config = ConfigDict(strict=True)

    aggregator_id: str = Field(alias="aggregatorId", min_length=1, max_length=255)
    customer_id: int = Field(alias="customerId", ge=1, le=2**63 - 1)


@app.post("/checkin-validation")
def validate(checkin: CheckIn, x_api_key: Annotated[str, Header()] = "") -> JSONResponse:
    """Answer one check-in: 200 may enter, 403 may not."""
    fingerprint = sha256(x_api_key.encode()).hexdigest()
    with lock:
        db.execute("BEGIN IMMEDIATE")
        try:
            decision_id, reason = _decide(checkin, fingerprint)
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
    decision = "allowed" if reason == "ok" else "denied"
    body = {"decision": decision, "reason": reason, "decisionId": decision_id}
    return JSONResponse(body, 200 if reason == "ok" else 403)


def _decide(checkin: CheckIn, fingerprint: str) -> tuple[str, str]:
    """Decide within the open transaction and record decision and visit."""
    studio = db.execute(
        "SELECT s.id, s.timezone FROM api_keys k JOIN studios s ON s.id = k.studio_id WHERE k.sha256 = ?",
        (fingerprint,),
    ).fetchone()
    if studio is None:
        raise HTTPException(401, "send a valid studio key in the header X-API-Key")
    studio_id, timezone = studio
    now = datetime.now(UTC)
    today = now.astimezone(ZoneInfo(timezone)).date()
    member = db.execute("SELECT plan_id FROM members WHERE id = ?", (checkin.aggregator_id,)).fetchone()
    if member is None:
        reason = "unknown_member"
    elif _limit_reached(checkin.aggregator_id, member[0], studio_id, today):
        reason = "limit_reached"
    else:
        reason = "ok"
    decision_id = str(uuid.uuid4())
    decision = "allowed" if reason == "ok" else "denied"
    db.execute(
        "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            decision_id,
            now.isoformat(),
            studio_id,
            checkin.aggregator_id,
            checkin.customer_id,
            decision,
            reason,
        ),
    )
    if reason == "ok":
        db.execute(
            "INSERT INTO visits VALUES (?, ?, ?, ?, ?)",
            (decision_id, checkin.aggregator_id, studio_id, now.isoformat(), today.isoformat()),
        )
    return decision_id, reason


def _limit_reached(member_id: str, plan_id: str, studio_id: str, today: date) -> bool:
    """Whether one of the plan's limits is used up."""
    limits = db.execute("SELECT max, per, scope FROM plan_limits WHERE plan_id = ?", (plan_id,)).fetchall()
    for maximum, per, scope in limits:
        start = today if per == "day" else today.replace(day=1)
        query = "SELECT count(*) FROM visits WHERE member_id = ? AND local_date >= ?"
        values = [member_id, start.isoformat()]
        if scope == "studio":
            query += " AND studio_id = ?"
            values.append(studio_id)
        if db.execute(query, values).fetchone()[0] >= maximum:
            return True
    return False
