"""What a turn was ended for that went round in circles."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add what is new."""
    op.add_column("turns", sa.Column("loop", sa.JSON(), nullable=True))
