"""Keys under which requests are known, so that a retry gets the turns of the first."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add what is new."""
    op.add_column("generations", sa.Column("logprobs", sa.LargeBinary(), nullable=True))
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("turn_id", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", "position", name="pk_idempotency_keys"),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_idempotency_keys_turn_id", ondelete="CASCADE"),
    )
    op.create_index("ix_idempotency_keys_turn_id", "idempotency_keys", ["turn_id"])
    op.create_index("ix_idempotency_keys_expires_at", "idempotency_keys", ["expires_at"])
