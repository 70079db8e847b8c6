"""webhooks, and what happened at the door"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

UNMATCHED = sa.text("kind = 'entry' AND visit_id IS NULL")
NOT_OURS = sa.column("ours", sa.Boolean()).is_(False)


def code(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def seq() -> sa.Column[int]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("seq", kind, autoincrement=False, nullable=False)


def upgrade() -> None:
    # So far nobody but our own people and programs made links.
    op.add_column("customers", sa.Column("by_hand", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.create_table(
        "webhooks",
        seq(),
        sa.Column("uuid", code(36), nullable=False),
        sa.Column("studio_id", code(255), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_webhooks")),
        sa.UniqueConstraint("uuid", "studio_id", name=op.f("uq_webhooks_uuid_studio_id")),
    )
    op.create_table(
        "sightings",
        seq(),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("studio_id", code(255), nullable=False),
        sa.Column("kind", code(16), nullable=False),
        sa.Column("source", code(16), nullable=False),
        sa.Column("reference", code(64), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("ours", sa.Boolean(), nullable=False),
        sa.Column("member_id", code(255), nullable=True),
        sa.Column("visit_id", code(36), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_sightings")),
        sa.UniqueConstraint(
            "customer_id",
            "studio_id",
            "kind",
            "source",
            "reference",
            name=op.f("uq_sightings_customer_id_studio_id_kind_source_reference"),
        ),
    )
    op.create_index(op.f("ix_sightings_visit_id"), "sightings", ["visit_id"])
    op.create_index(
        "ix_sightings_received_at_ms",
        "sightings",
        ["received_at_ms"],
        sqlite_where=NOT_OURS,
        postgresql_where=NOT_OURS,
    )
    op.create_index("ix_sightings_at_ms", "sightings", ["at_ms"], sqlite_where=UNMATCHED, postgresql_where=UNMATCHED)
    op.create_table(
        "named_customers",
        sa.Column("customer_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("studio_id", code(255), nullable=False),
        sa.Column("member_id", code(255), nullable=False),
        sa.Column("last_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("customer_id", "studio_id", "member_id", name=op.f("pk_named_customers")),
    )
    op.create_index(op.f("ix_named_customers_member_id"), "named_customers", ["member_id"])
    op.create_table(
        "attendance_progress",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("reconciling_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("reconciled_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attendance_progress")),
    )
    op.create_table(
        "reconciled_studios",
        sa.Column("studio_id", code(255), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["studio_id"], ["studios.id"], name=op.f("fk_reconciled_studios_studio_id")),
        sa.PrimaryKeyConstraint("studio_id", name=op.f("pk_reconciled_studios")),
    )
