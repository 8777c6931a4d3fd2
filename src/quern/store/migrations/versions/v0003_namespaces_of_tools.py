"""The group of tools to which a call's tool belongs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add what is new."""
    op.add_column("items", sa.Column("namespace", sa.Text(), nullable=True))
