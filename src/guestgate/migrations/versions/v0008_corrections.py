"""corrections are found without reading confirmations"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

NO_CONFIRMATION = sa.text("state != 'confirmed'")


def upgrade() -> None:
    op.create_index(
        "ix_visit_changes_seq",
        "visit_changes",
        ["seq", "visit_id"],
        sqlite_where=NO_CONFIRMATION,
        postgresql_where=NO_CONFIRMATION,
    )
