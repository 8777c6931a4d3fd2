"""Items instead of messages: calls and their results too, also without a turn; responses; what a turn repaired."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ITEMS_FROM_MESSAGES = """
INSERT INTO items (id, conversation_id, turn_id, position, kind, role, content, created_at)
SELECT id, conversation_id, turn_id, position, 'message', role, content, created_at FROM messages
"""


def upgrade() -> None:
    """Add what is new, and move the messages."""
    op.add_column("conversations", sa.Column("metadata", sa.JSON(), nullable=True))
    op.add_column("turns", sa.Column("repairs", sa.Integer(), nullable=False, server_default="0"))
    _create_items()
    op.execute(ITEMS_FROM_MESSAGES)
    op.drop_table("messages")
    _create_responses()


def _create_items() -> None:
    op.create_table(
        "items",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=True),
        sa.Column("turn_id", sa.Text(), nullable=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("role", sa.String(32), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("call_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_items"),
        sa.UniqueConstraint("conversation_id", "position", name="uq_items_conversation_id_position"),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="fk_items_conversation_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_items_turn_id", ondelete="CASCADE"),
    )
    op.create_index("ix_items_turn_id", "items", ["turn_id"])


def _create_responses() -> None:
    op.create_table(
        "responses",
        sa.Column("turn_id", sa.Text(), nullable=False),
        sa.Column("previous_id", sa.Text(), nullable=True),
        sa.Column("background", sa.Boolean(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("turn_id", name="pk_responses"),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_responses_turn_id", ondelete="CASCADE"),
    )
