"""statements that are closed, and their lines"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def code(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "statements",
        sa.Column("month", code(7), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("closed_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("closed_by", code(255), nullable=True),
        sa.Column("payable_requires", code(16), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("line_count", sa.BigInteger(), nullable=False),
        sa.Column("totals", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("month", name=op.f("pk_statements")),
    )
    op.create_table(
        "statement_lines",
        sa.Column("month", code(7), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", code(16), nullable=False),
        sa.Column("payable", sa.Integer(), nullable=False),
        sa.Column("visit_id", code(36), nullable=False),
        sa.Column("member_id", code(255), nullable=False),
        sa.Column("studio_id", code(255), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("local_date", code(10), nullable=False),
        sa.Column("state", code(16), nullable=False),
        sa.Column("source", code(16), nullable=False),
        sa.Column("plan_id", code(255), nullable=True),
        sa.Column("plan_version", sa.Integer(), nullable=True),
        sa.Column("confirmed_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("confirmed_by", code(255), nullable=True),
        sa.Column("confirmation", sa.Text(), nullable=True),
        sa.Column("adjusts", code(7), nullable=True),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("changed_by", code(255), nullable=True),
        sa.Column("why", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("month", "attempt", "number", name=op.f("pk_statement_lines")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_statement_lines_visit_id"), "statement_lines", ["visit_id"])
    op.create_index(op.f("ix_statement_lines_member_id"), "statement_lines", ["member_id"])
