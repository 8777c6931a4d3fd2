"""Branches, titles, pins and archives of conversations; what they hold is searched."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

SEARCH = (
    "CREATE TABLE item_numbers (number INTEGER PRIMARY KEY, item_id TEXT NOT NULL UNIQUE)",
    """
    CREATE VIEW searched_items AS
    SELECT item_numbers.number AS number, items.content AS content
    FROM item_numbers JOIN items ON items.id = item_numbers.item_id
    """,
    """
    CREATE VIRTUAL TABLE item_search
    USING fts5(content, content='searched_items', content_rowid='number', tokenize='trigram')
    """,
    """
    CREATE TRIGGER item_search_insert AFTER INSERT ON items
    WHEN new.conversation_id IS NOT NULL AND new.kind = 'message' BEGIN
        INSERT INTO item_numbers (item_id) VALUES (new.id);
        INSERT INTO item_search (rowid, content)
            SELECT number, new.content FROM item_numbers WHERE item_id = new.id;
    END
    """,
    """
    CREATE TRIGGER item_search_delete AFTER DELETE ON items BEGIN
        INSERT INTO item_search (item_search, rowid, content)
            SELECT 'delete', number, old.content FROM item_numbers WHERE item_id = old.id;
        DELETE FROM item_numbers WHERE item_id = old.id;
    END
    """,
)
INDEX_WHAT_IS_THERE = (
    """
    INSERT INTO item_numbers (item_id)
    SELECT id FROM items WHERE conversation_id IS NOT NULL AND kind = 'message' ORDER BY created_at, position
    """,
    "INSERT INTO item_search (item_search) VALUES ('rebuild')",
)


def upgrade() -> None:
    """Add what is new; all that was said so far is branch 0."""
    op.add_column("conversations", sa.Column("title", sa.Text(), nullable=True))
    op.add_column("conversations", sa.Column("pinned", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("conversations", sa.Column("archived", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("conversations", sa.Column("head", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("turns", sa.Column("branch", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("turns", sa.Column("asked", sa.JSON(), nullable=True))
    op.add_column("items", sa.Column("branch", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "branches",
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("parent", sa.Integer(), nullable=False),
        sa.Column("after", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "number", name="pk_branches"),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="fk_branches_conversation_id", ondelete="CASCADE"
        ),
    )
    op.drop_index("ix_conversations_owner_updated_at_id", "conversations")
    op.create_index(
        "ix_conversations_owner_pinned_updated_at_id", "conversations", ["owner", "pinned", "updated_at", "id"]
    )
    if op.get_bind().dialect.name == "sqlite":
        for statement in (*SEARCH, *INDEX_WHAT_IS_THERE):
            op.get_bind().exec_driver_sql(statement)
