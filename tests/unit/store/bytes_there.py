"""How much text there is, counted anew."""

from __future__ import annotations

from sqlalchemy import text

from quern.store.database import Database

_ON_SQLITE = """
SELECT owner, sum(size) AS size FROM (
    SELECT owner, length(CAST(coalesce(metadata, '') || coalesce(title, '') AS BLOB)) AS size FROM conversations
    UNION ALL
    SELECT owner, length(CAST(coalesce(text, '') || coalesce(asked, '') AS BLOB)) FROM turns
    UNION ALL
    SELECT turns.owner, length(CAST(body AS BLOB)) FROM responses JOIN turns ON turns.id = turn_id
    UNION ALL
    SELECT coalesce(turns.owner, conversations.owner), length(CAST(content AS BLOB)) FROM items
    LEFT JOIN turns ON turns.id = turn_id LEFT JOIN conversations ON conversations.id = items.conversation_id
) GROUP BY owner HAVING sum(size) > 0
"""
_ON_POSTGRESQL = """
SELECT owner, sum(size) AS size FROM (
    SELECT owner, octet_length(coalesce(metadata::text, '') || coalesce(title, '')) AS size FROM conversations
    UNION ALL
    SELECT owner, octet_length(coalesce(text, '') || coalesce(asked::text, '')) FROM turns
    UNION ALL
    SELECT turns.owner, octet_length(body::text) FROM responses JOIN turns ON turns.id = turn_id
    UNION ALL
    SELECT coalesce(turns.owner, conversations.owner), octet_length(content) FROM items
    LEFT JOIN turns ON turns.id = turn_id LEFT JOIN conversations ON conversations.id = items.conversation_id
) AS texts GROUP BY owner HAVING sum(size) > 0
"""


async def bytes_there(database: Database) -> dict[str, int]:
    """By owner, of those that have any."""
    async with database.reading() as connection:
        wanted = _ON_SQLITE if connection.dialect.name == "sqlite" else _ON_POSTGRESQL
        return {row.owner: int(row.size) for row in await connection.execute(text(wanted))}
