"""How many bytes of text owners have stored, counted by triggers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

BYTES_ON_SQLITE = (
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
BYTES_ON_POSTGRESQL = (
    """
    CREATE FUNCTION item_bytes_of_turn() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$ BEGIN
        UPDATE turns SET bytes = bytes + CASE tg_op WHEN 'INSERT' THEN counted.size ELSE -counted.size END
        FROM (
            SELECT turn_id, sum(octet_length(content)) AS size FROM changed WHERE turn_id IS NOT NULL GROUP BY turn_id
        ) AS counted
        WHERE turns.id = counted.turn_id;
        RETURN NULL;
    END $$
    """,
    """
    CREATE FUNCTION item_bytes() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$ BEGIN
        UPDATE conversations SET bytes = bytes + CASE tg_op WHEN 'INSERT' THEN counted.size ELSE -counted.size END
        FROM (
            SELECT conversation_id, sum(octet_length(content)) AS size FROM changed WHERE turn_id IS NULL
            GROUP BY conversation_id
        ) AS counted
        WHERE conversations.id = counted.conversation_id;
        RETURN NULL;
    END $$
    """,
    """
    CREATE FUNCTION response_bytes() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$ BEGIN
        UPDATE turns SET bytes = bytes + CASE tg_op WHEN 'INSERT' THEN counted.size ELSE -counted.size END
        FROM (SELECT turn_id, octet_length(body::text) AS size FROM changed) AS counted
        WHERE turns.id = counted.turn_id;
        RETURN NULL;
    END $$
    """,
    """
    CREATE FUNCTION turn_bytes() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$ BEGIN
        new.bytes := new.bytes + octet_length(coalesce(new.text, '') || coalesce(new.asked::text, ''));
        IF tg_op = 'UPDATE' THEN
            new.bytes := new.bytes - octet_length(coalesce(old.text, '') || coalesce(old.asked::text, ''));
        END IF;
        RETURN new;
    END $$
    """,
    """
    CREATE FUNCTION conversation_bytes() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$ BEGIN
        new.bytes := new.bytes + octet_length(coalesce(new.metadata::text, '') || coalesce(new.title, ''));
        IF tg_op = 'UPDATE' THEN
            new.bytes := new.bytes - octet_length(coalesce(old.metadata::text, '') || coalesce(old.title, ''));
        END IF;
        RETURN new;
    END $$
    """,
    """
    CREATE TRIGGER item_bytes_of_turn_insert AFTER INSERT ON items REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION item_bytes_of_turn()
    """,
    """
    CREATE TRIGGER item_bytes_of_turn_delete AFTER DELETE ON items REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION item_bytes_of_turn()
    """,
    """
    CREATE TRIGGER item_bytes_insert AFTER INSERT ON items REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION item_bytes()
    """,
    """
    CREATE TRIGGER item_bytes_delete AFTER DELETE ON items REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION item_bytes()
    """,
    """
    CREATE TRIGGER response_bytes_insert AFTER INSERT ON responses REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION response_bytes()
    """,
    """
    CREATE TRIGGER response_bytes_delete AFTER DELETE ON responses REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION response_bytes()
    """,
    "CREATE TRIGGER turn_bytes_insert BEFORE INSERT ON turns FOR EACH ROW EXECUTE FUNCTION turn_bytes()",
    "CREATE TRIGGER turn_bytes_update BEFORE UPDATE OF text ON turns FOR EACH ROW EXECUTE FUNCTION turn_bytes()",
    """
    CREATE TRIGGER conversation_bytes_insert BEFORE INSERT ON conversations
    FOR EACH ROW EXECUTE FUNCTION conversation_bytes()
    """,
    """
    CREATE TRIGGER conversation_bytes_update BEFORE UPDATE OF metadata, title ON conversations
    FOR EACH ROW EXECUTE FUNCTION conversation_bytes()
    """,
)
COUNT_ON_SQLITE = (
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
COUNT_ON_POSTGRESQL = (
    """
    UPDATE turns SET bytes = octet_length(coalesce(text, '') || coalesce(asked::text, ''))
        + coalesce((SELECT sum(octet_length(content)) FROM items WHERE turn_id = turns.id), 0)
        + coalesce((SELECT octet_length(body::text) FROM responses WHERE turn_id = turns.id), 0)
    """,
    """
    UPDATE conversations SET bytes = octet_length(coalesce(metadata::text, '') || coalesce(title, ''))
        + coalesce(
            (SELECT sum(octet_length(content)) FROM items
             WHERE conversation_id = conversations.id AND turn_id IS NULL),
            0
        )
    """,
)
STATEMENTS = {
    "sqlite": (*COUNT_ON_SQLITE, *BYTES_ON_SQLITE),
    "postgresql": (*COUNT_ON_POSTGRESQL, *BYTES_ON_POSTGRESQL),
}


def upgrade() -> None:
    """Add what is new, and count what is there."""
    for table in ("conversations", "turns"):
        op.add_column(table, sa.Column("bytes", sa.BigInteger(), nullable=False, server_default="0"))
    for statement in STATEMENTS[op.get_bind().dialect.name]:
        op.get_bind().exec_driver_sql(statement)
    op.drop_index("ix_turns_conversation_id", "turns")
    op.create_index("ix_turns_conversation_id_bytes", "turns", ["conversation_id", "bytes"])
    some = sa.text("bytes > 0")
    op.create_index("ix_turns_owner_bytes", "turns", ["owner", "bytes"], sqlite_where=some, postgresql_where=some)
    op.create_index("ix_conversations_owner_bytes", "conversations", ["owner", "bytes"])
