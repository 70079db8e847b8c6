"""one order for the record, an audit trail, admin tokens"""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NUMBERED = ("decisions", "visits", "visit_changes")


def upgrade() -> None:
    op.create_table(
        "feed",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("timeline", sa.String(length=16), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feed")),
    )
    op.create_table(
        "tokens",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_tokens")),
    )
    op.create_table(
        "changes",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("who", sa.String(length=255), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_changes")),
    )
    op.create_index(op.f("ix_changes_subject"), "changes", ["subject"])
    op.add_column("keys", sa.Column("last_used_at_ms", sa.BigInteger(), nullable=True))
    op.add_column("members", sa.Column("pseudonym", sa.String(length=64), nullable=True))
    last = _one_order(op.get_bind())
    feed = sa.table("feed", sa.column("id"), sa.column("timeline"), sa.column("seq"))
    op.bulk_insert(feed, [{"id": 1, "timeline": secrets.token_hex(4), "seq": last}])


def _one_order(connection: sa.Connection) -> int:
    """Tables counted by themselves so far: put their rows behind one another; returns the last number."""
    last = 0
    for name in NUMBERED:
        table = sa.table(name, sa.column("seq"))
        # By way of negative numbers, so that no row meets another on its way.
        connection.execute(sa.update(table).values(seq=-(table.c.seq + last)))
        connection.execute(sa.update(table).values(seq=-table.c.seq))
        last = max(last, connection.execute(sa.select(sa.func.max(table.c.seq))).scalar() or 0)
    return last
