"""How many bytes of text owners have stored, counted by triggers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

STORAGE = (
    """
    CREATE TRIGGER item_bytes_of_turn_insert AFTER INSERT ON items WHEN new.turn_id IS NOT NULL BEGIN
        UPDATE turns SET bytes = bytes + length(CAST(new.content AS BLOB)) WHERE id = new.turn_id;
    END
    """,
    """
    CREATE TRIGGER item_bytes_of_turn_delete AFTER DELETE ON items WHEN old.turn_id IS NOT NULL BEGIN
        UPDATE turns SET bytes = bytes - length(CAST(old.content AS BLOB)) WHERE id = old.turn_id;
    END
    """,
    """
    CREATE TRIGGER item_bytes_insert AFTER INSERT ON items WHEN new.turn_id IS NULL BEGIN
        UPDATE conversations SET bytes = bytes + length(CAST(new.content AS BLOB)) WHERE id = new.conversation_id;
    END
    """,
    """
    CREATE TRIGGER item_bytes_delete AFTER DELETE ON items WHEN old.turn_id IS NULL BEGIN
        UPDATE conversations SET bytes = bytes - length(CAST(old.content AS BLOB)) WHERE id = old.conversation_id;
    END
    """,
    """
    CREATE TRIGGER turn_bytes_insert AFTER INSERT ON turns WHEN coalesce(new.text, new.asked) IS NOT NULL BEGIN
        UPDATE turns SET bytes = bytes + length(CAST(coalesce(new.text, '') || coalesce(new.asked, '') AS BLOB))
        WHERE id = new.id;
    END
    """,
    """
    CREATE TRIGGER turn_bytes_update AFTER UPDATE OF text ON turns WHEN new.text IS NOT old.text BEGIN
        UPDATE turns SET bytes = bytes + length(CAST(coalesce(new.text, '') AS BLOB))
            - length(CAST(coalesce(old.text, '') AS BLOB))
        WHERE id = new.id;
    END
    """,
    """
    CREATE TRIGGER response_bytes_insert AFTER INSERT ON responses BEGIN
        UPDATE turns SET bytes = bytes + length(CAST(new.body AS BLOB)) WHERE id = new.turn_id;
    END
    """,
    """
    CREATE TRIGGER response_bytes_delete AFTER DELETE ON responses BEGIN
        UPDATE turns SET bytes = bytes - length(CAST(old.body AS BLOB)) WHERE id = old.turn_id;
    END
    """,
    """
    CREATE TRIGGER conversation_bytes_insert AFTER INSERT ON conversations BEGIN
        UPDATE conversations SET bytes = bytes
            + length(CAST(coalesce(new.metadata, '') || coalesce(new.title, '') AS BLOB))
        WHERE id = new.id;
    END
    """,
    """
    CREATE TRIGGER conversation_bytes_update AFTER UPDATE OF metadata, title ON conversations BEGIN
        UPDATE conversations SET bytes = bytes
            + length(CAST(coalesce(new.metadata, '') || coalesce(new.title, '') AS BLOB))
            - length(CAST(coalesce(old.metadata, '') || coalesce(old.title, '') AS BLOB))
        WHERE id = new.id;
    END
    """,
)
COUNT_WHAT_IS_THERE = (
    """
    UPDATE turns SET bytes = length(CAST(coalesce(text, '') || coalesce(asked, '') AS BLOB))
        + coalesce((SELECT sum(length(CAST(content AS BLOB))) FROM items WHERE turn_id = turns.id), 0)
        + coalesce((SELECT length(CAST(body AS BLOB)) FROM responses WHERE turn_id = turns.id), 0)
    """,
    """
    UPDATE conversations SET bytes = length(CAST(coalesce(metadata, '') || coalesce(title, '') AS BLOB))
        + coalesce(
            (SELECT sum(length(CAST(content AS BLOB))) FROM items
             WHERE conversation_id = conversations.id AND turn_id IS NULL),
            0
        )
    """,
)


def upgrade() -> None:
    """Add what is new, and count what is there."""
    for table in ("conversations", "turns"):
        op.add_column(table, sa.Column("bytes", sa.BigInteger(), nullable=False, server_default="0"))
    if op.get_bind().dialect.name == "sqlite":
        for statement in (*COUNT_WHAT_IS_THERE, *STORAGE):
            op.get_bind().exec_driver_sql(statement)
    op.drop_index("ix_turns_conversation_id", "turns")
    op.create_index("ix_turns_conversation_id_bytes", "turns", ["conversation_id", "bytes"])
    some = sa.text("bytes > 0")
    op.create_index("ix_turns_owner_bytes", "turns", ["owner", "bytes"], sqlite_where=some, postgresql_where=some)
    op.create_index("ix_conversations_owner_bytes", "conversations", ["owner", "bytes"])
