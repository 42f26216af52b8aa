"""The digest of a version's attestation."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("version", sa.Column("attestation_digest", sa.String(length=64), nullable=True))
