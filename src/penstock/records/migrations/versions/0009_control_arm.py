"""A version may run twice in an environment: as champion, and as a canary's control arm."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_COLUMNS = (
    "model, environment, number, role, artifact_digest, share, generation, lease_until, rollout_id"
)


def upgrade() -> None:
    """Make the table anew: SQLite cannot change the key of one that is there."""
    op.create_table(
        "deployment_by_role",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("environment", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("artifact_digest", sa.String(length=64), nullable=False),
        sa.Column("share", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.String(length=32), nullable=True),
        sa.Column("rollout_id", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["model"], ["model.name"]),
        sa.ForeignKeyConstraint(["model", "number"], ["version.model", "version.number"]),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollout.id"]),
        sa.PrimaryKeyConstraint("model", "environment", "number", "role"),
    )
    op.execute(
        f"INSERT INTO deployment_by_role ({_COLUMNS}) SELECT {_COLUMNS} FROM deployment"  # noqa: S608
    )
    op.drop_table("deployment")
    op.rename_table("deployment_by_role", "deployment")
    not_warm = sa.text("role != 'warm'")
    op.create_index(
        "deployment_one_role",
        "deployment",
        ["model", "environment", "role"],
        unique=True,
        sqlite_where=not_warm,
        postgresql_where=not_warm,
    )
