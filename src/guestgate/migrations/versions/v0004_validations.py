"""member validations, and the codes that members enrol with"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

MISSED = sa.text("reason IN ('code_used', 'code_expired', 'unknown_member')")


def code(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "enrolment_codes",
        sa.Column("sha256", code(64), nullable=False),
        sa.Column("member_id", code(255), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("used_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("used_by", code(255), nullable=True),
        sa.ForeignKeyConstraint(["member_id"], ["members.id"], name=op.f("fk_enrolment_codes_member_id")),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_enrolment_codes")),
    )
    op.create_index(op.f("ix_enrolment_codes_member_id"), "enrolment_codes", ["member_id"])
    op.create_table(
        "validations",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("id", code(36), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("studio_id", code(255), nullable=False),
        sa.Column("member_id", code(255), nullable=True),
        sa.Column("code", code(16), nullable=True),
        sa.Column("outcome", code(16), nullable=False),
        sa.Column("reason", code(32), nullable=False),
        sa.Column("key_fingerprint", code(16), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_validations")),
        sa.UniqueConstraint("id", name=op.f("uq_validations_id")),
    )
    op.create_index(op.f("ix_validations_member_id"), "validations", ["member_id"])
    op.create_index(
        "ix_validations_studio_id_received_at_ms",
        "validations",
        ["studio_id", "received_at_ms"],
        sqlite_where=MISSED,
        postgresql_where=MISSED,
    )
