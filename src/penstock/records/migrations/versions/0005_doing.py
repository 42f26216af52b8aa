"""What a running step does now, as words."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("step", sa.Column("doing", sa.Text(), nullable=False, server_default=""))
