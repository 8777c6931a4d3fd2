"""What the databases do by themselves when rows change: the index of what is said, and how much text is stored.

They belong to `schema.py`. Only SQLite has the index (`search.py`). Both count, by triggers of the same names.
"""

from __future__ import annotations

SEARCH_ON_SQLITE = (
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
"""SQLite's index of what is said in conversations (its documentation: "FTS5 Extension"). It holds no text of its own
but reads it from `items` by a number, as rows without one may be numbered anew by a VACUUM. Triggers keep it in step.
"""

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
"""What keeps the two columns `bytes`: what rows of a turn, and of a conversation beside its turns, have of text. A row
whose turn or conversation goes with it finds nothing to change.
"""

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
"""The same, with as few new versions of rows as can be: a row's own text is counted before it is written, and items in
the statement that writes or deletes them all ("Trigger Functions" in PostgreSQL's documentation).
"""

STATEMENTS = {"sqlite": (*SEARCH_ON_SQLITE, *BYTES_ON_SQLITE), "postgresql": BYTES_ON_POSTGRESQL}
"""By dialect."""
