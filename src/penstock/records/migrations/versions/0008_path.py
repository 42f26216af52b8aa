"""Which call of a version's model answers."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("version", sa.Column("path", sa.String(), nullable=False, server_default="own"))
