"""accounts at the platform's Open API, and at which chain customers are"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def _code(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("studio_id", _code(255), nullable=False),
        sa.Column("base_url", sa.Text(), nullable=False),
        sa.Column("platform_studio_id", sa.BigInteger(), nullable=True),
        sa.Column("key_sha256", _code(64), nullable=False),
        sa.Column("sealed_key", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["studio_id"], ["studios.id"], name=op.f("fk_accounts_studio_id")),
        sa.PrimaryKeyConstraint("studio_id", name=op.f("pk_accounts")),
    )
    op.create_table(
        "customer_chains",
        sa.Column("customer_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("base_url", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["customer_id"],
            ["customers.customer_id"],
            name=op.f("fk_customer_chains_customer_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("customer_id", name=op.f("pk_customer_chains")),
    )
