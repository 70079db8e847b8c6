"""What most would write: FastAPI and SQLAlchemy's asyncio ORM, a transaction per request.

On SQLite in WAL mode with synchronous=FULL, or on PostgreSQL with the member's row locked; committed before
the answer is sent.
"""

import os
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ForeignKey, event, func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

app = FastAPI()
DATABASE = os.environ["BENCH_DATABASE"]
ON_POSTGRES = DATABASE.startswith("postgresql+asyncpg://")
OPTIONS: dict[str, Any] = {"pool_size": 32, "max_overflow": 0} if ON_POSTGRES else {"connect_args": {"timeout": 30}}
engine = create_async_engine(DATABASE, **OPTIONS)
new_session = async_sessionmaker(engine, expire_on_commit=False)


def _connected(connection: Any, record: Any) -> None:
    # The driver must not begin transactions of its own; see _begin.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")


def _begin(connection: Any) -> None:
    # Take the write lock before reading, or two check-ins of a member could both pass a limit.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


if not ON_POSTGRES:
    event.listen(engine.sync_engine, "connect", _connected)
    event.listen(engine.sync_engine, "begin", _begin)


class Base(DeclarativeBase):
    """The tables, as in schema.sql."""


class Studio(Base):
    """Who asks."""

    __tablename__ = "studios"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    timezone: Mapped[str]


class ApiKey(Base):
    """What says which studio asks."""

    __tablename__ = "api_keys"
    sha256: Mapped[str] = mapped_column(primary_key=True)
    studio_id: Mapped[str] = mapped_column(ForeignKey("studios.id"))
    studio: Mapped[Studio] = relationship(lazy="joined", innerjoin=True)


class Plan(Base):
    """The rules of a membership."""

    __tablename__ = "plans"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    limits: Mapped[list["PlanLimit"]] = relationship(lazy="selectin")


class PlanLimit(Base):
    """So many visits per period."""

    __tablename__ = "plan_limits"
    id: Mapped[int] = mapped_column(primary_key=True)
    plan_id: Mapped[str] = mapped_column(ForeignKey("plans.id"))
    max: Mapped[int]
    per: Mapped[str]
    scope: Mapped[str]


class Member(Base):
    """Who stands at the door."""

    __tablename__ = "members"
    id: Mapped[str] = mapped_column(primary_key=True)
    plan_id: Mapped[str] = mapped_column(ForeignKey("plans.id"))
    plan: Mapped[Plan] = relationship(lazy="joined", innerjoin=True)


class Decision(Base):
    """Every answer."""

    __tablename__ = "decisions"
    id: Mapped[str] = mapped_column(primary_key=True)
    received_at: Mapped[str]
    studio_id: Mapped[str] = mapped_column(ForeignKey("studios.id"))
    aggregator_id: Mapped[str]
    customer_id: Mapped[int]
    decision: Mapped[str]
    reason: Mapped[str]


class Visit(Base):
    """An entry that counts."""

    __tablename__ = "visits"
    id: Mapped[str] = mapped_column(ForeignKey("decisions.id"), primary_key=True)
    member_id: Mapped[str] = mapped_column(ForeignKey("members.id"))
    studio_id: Mapped[str] = mapped_column(ForeignKey("studios.id"))
    at: Mapped[str]
    local_date: Mapped[str]


class CheckIn(BaseModel):
    """The platform's question."""

    model_config = ConfigDict(strict=True)

    aggregator_id: str = Field(alias="aggregatorId", min_length=1, max_length=255)
    customer_id: int = Field(alias="customerId", ge=1, le=2**63 - 1)


async def get_session() -> AsyncIterator[AsyncSession]:
    """A session, and with it a transaction, per request."""
    async with new_session() as session:
        yield session


@app.post("/checkin-validation")
async def validate(
    checkin: CheckIn,
    session: Annotated[AsyncSession, Depends(get_session)],
    x_api_key: Annotated[str, Header()] = "",
) -> JSONResponse:
    """Answer one check-in: 200 may enter, 403 may not."""
    key = await session.get(ApiKey, sha256(x_api_key.encode()).hexdigest())
    if key is None:
        raise HTTPException(401, "send a valid studio key in the header X-API-Key")
    now = datetime.now(UTC)
    today = now.astimezone(ZoneInfo(key.studio.timezone)).date()
    # On PostgreSQL locked before its visits are counted, or two check-ins could both pass a limit.
    lock: Any = {"of": Member} if ON_POSTGRES else None
    member = await session.get(Member, checkin.aggregator_id, with_for_update=lock)
    if member is None:
        reason = "unknown_member"
    elif await _limit_reached(session, member, key.studio_id, today):
        reason = "limit_reached"
    else:
        reason = "ok"
    decision = Decision(
        id=str(uuid.uuid4()),
        received_at=now.isoformat(),
        studio_id=key.studio_id,
        aggregator_id=checkin.aggregator_id,
        customer_id=checkin.customer_id,
        decision="allowed" if reason == "ok" else "denied",
        reason=reason,
    )
    session.add(decision)
    if member is not None and reason == "ok":
        session.add(
            Visit(
                id=decision.id,
                member_id=member.id,
                studio_id=key.studio_id,
                at=now.isoformat(),
                local_date=today.isoformat(),
            )
        )
    await session.commit()
    body = {"decision": decision.decision, "reason": reason, "decisionId": decision.id}
    return JSONResponse(body, 200 if reason == "ok" else 403)


async def _limit_reached(session: AsyncSession, member: Member, studio_id: str, today: date) -> bool:
    """Whether one of the plan's limits is used up."""
    for limit in member.plan.limits:
        start = today if limit.per == "day" else today.replace(day=1)
        visits = (
            select(func.count())
            .select_from(Visit)
            .where(Visit.member_id == member.id, Visit.local_date >= start.isoformat())
        )
        if limit.scope == "studio":
            visits = visits.where(Visit.studio_id == studio_id)
        if (await session.scalar(visits) or 0) >= limit.max:
            return True
    return False
