"""When the deployments of a model changed, so that a gateway need not read them all."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    made = op.create_table(
        "route_change",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("environment", sa.String(), primary_key=True),
        sa.Column("mark", sa.BigInteger(), nullable=False),
    )
    op.create_index("route_change_mark", "route_change", ["mark"])
    op.bulk_insert(made, [{"model": "", "environment": "", "mark": 1}])
