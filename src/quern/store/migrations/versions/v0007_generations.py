"""What it takes to tell a turn's answer again, and to go on with it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add what is new."""
    op.add_column("turn_events", sa.Column("token_ids", sa.LargeBinary(), nullable=True))
    op.create_table(
        "generations",
        sa.Column("turn_id", sa.Text(), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("prompt", sa.LargeBinary(), nullable=True),
        sa.Column("generated", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("turn_id", name="pk_generations"),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_generations_turn_id", ondelete="CASCADE"),
    )
    op.create_index("ix_turns_owner_created_at_id", "turns", ["owner", "created_at", "id"])
    op.create_index("ix_generations_expires_at", "generations", ["expires_at"])
