"""sessions of people, servers that share the record, members by name, and those of a plan in order"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NAMES = {
    "sqlite": ("lower(json_extract(profile, '$.last_name'))", "lower(json_extract(profile, '$.first_name'))"),
    "postgresql": (
        "(lower(profile::json ->> 'last_name') COLLATE \"C\")",
        "(lower(profile::json ->> 'first_name') COLLATE \"C\")",
    ),
}


def code(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


HASH = code(64)


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column("sha256", HASH, nullable=False),
        sa.Column("token_sha256", HASH, nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["token_sha256"], ["tokens.sha256"], name=op.f("fk_sessions_token_sha256")),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_sessions")),
    )
    op.create_table(
        "nodes",
        sa.Column("id", code(36), nullable=False),
        sa.Column("name", code(255), nullable=False),
        sa.Column("version", code(32), nullable=False),
        sa.Column("started_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("seen_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("state", code(16), nullable=False),
        sa.Column("checkins", sa.BigInteger(), nullable=False),
        sa.Column("in_time", sa.Float()),
        sa.Column("p99_ms", sa.Float()),
        sa.Column("copy_age_s", sa.Float()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_nodes")),
    )
    last, first = NAMES[op.get_bind().dialect.name]
    op.execute(f"CREATE INDEX ix_members_last_name ON members ({last}, {first})")
    op.execute(f"CREATE INDEX ix_members_first_name ON members ({first})")
    op.create_index("ix_members_plan_id_id", "members", ["plan_id", "id"])
    if op.get_bind().dialect.name == "sqlite":
        # PostgreSQL would lock the table for it, and with it the doors behind whoever is reading just then.
        op.drop_index("ix_members_plan_id", "members")
