"""The tables. `migrations/` builds exactly this; a test compares the two.

A conversation is a tree, kept as branches. A branch is a path's own part: its items and turns have its number, and the
rows of `branches` say after which item of which other branch it begins. What a conversation began with is branch 0,
which has no row. An item's `position` only grows in a conversation, whatever its branch, so that the path to a branch's
end is the branch itself and of each one before it what stands up to where the next begins (`branches.py`), and an item
that is taken out leaves no hole to mend. `conversations.head` is the branch that is shown and continued. A turn is
whole in its branch: what was said to the model and the answer. An answer that is generated anew is therefore a new turn
with a copy of the question.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    DDL,
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Named,
    Table,
    Text,
    TypedColumns,
    TypeDecorator,
    UniqueConstraint,
    event,
    false,
)

from quern.records import KeyRole
from quern.types import ACTIVE_STATES, FinishReason, Role, TurnState

ACTIVE_TURN_INDEX = "uq_turns_active_conversation"

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class ItemKind(StrEnum):
    """What an item's row holds: a message, or a tool's call or result, of which OpenAI has more than one kind."""

    MESSAGE = "message"
    FUNCTION_CALL = "function_call"
    FUNCTION_RESULT = "function_call_output"
    CUSTOM_CALL = "custom_tool_call"
    CUSTOM_RESULT = "custom_tool_call_output"
    LOCAL_SHELL_CALL = "local_shell_call"
    LOCAL_SHELL_RESULT = "local_shell_call_output"
    SHELL_CALL = "shell_call"
    SHELL_RESULT = "shell_call_output"
    APPLY_PATCH_CALL = "apply_patch_call"
    APPLY_PATCH_RESULT = "apply_patch_call_output"


def storable(text: str) -> str:
    """`text` as every database can hold it: U+FFFD for NUL, which PostgreSQL refuses, and for lone surrogates."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


class StorableText(TypeDecorator[str]):
    """Text of any length; see `storable`. An identifier that can't be stored therefore simply matches no row."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Make the value storable."""
        return None if value is None else storable(value)


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes, kept in UTC: `timestamptz` in PostgreSQL, ISO text without an offset in SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC; ValueError for a datetime that does not say its offset."""
        if value is None:
            return None
        if value.utcoffset() is None:
            raise ValueError(f"{value!r} has no time zone")
        in_utc = value.astimezone(UTC)
        return in_utc.replace(tzinfo=None) if dialect.name == "sqlite" else in_utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give an aware datetime in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


def _values(kind: type[StrEnum]) -> list[str]:
    return [member.value for member in kind]


def _word(kind: type[StrEnum], check: str | None = None) -> Enum:
    return Enum(
        kind,
        name=check,
        create_constraint=check is not None,
        native_enum=False,
        length=32,
        values_callable=_values,
    )


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


class _ConversationColumns(TypedColumns):
    id: Named[str] = Column(StorableText, primary_key=True)
    owner: Named[str] = Column(StorableText)
    created_at: Named[datetime] = Column(UtcDateTime)
    updated_at: Named[datetime] = Column(UtcDateTime)
    metadata: Named[dict[str, Any] | None] = Column(JSON[dict[str, Any]](none_as_null=True))
    title: Named[str | None] = Column(StorableText)
    pinned: Named[bool] = Column(Boolean, server_default=false())
    archived: Named[bool] = Column(Boolean, server_default=false())
    head: Named[int] = Column(Integer, server_default="0")
    bytes: Named[int] = Column(BigInteger, server_default="0")


class _BranchColumns(TypedColumns):
    conversation_id: Named[str] = Column(
        StorableText, ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True
    )
    number: Named[int] = Column(Integer, primary_key=True, autoincrement=False)
    parent: Named[int]
    after: Named[int]
    created_at: Named[datetime] = Column(UtcDateTime)


class _TurnColumns(TypedColumns):
    id: Named[str] = Column(StorableText, primary_key=True)
    conversation_id: Named[str | None] = Column(StorableText, ForeignKey("conversations.id", ondelete="CASCADE"))
    owner: Named[str] = Column(StorableText)
    request_id: Named[str] = Column(StorableText)
    model_id: Named[str] = Column(StorableText)
    state: Named[TurnState] = Column(_word(TurnState, check="state"))
    finish_reason: Named[FinishReason | None] = Column(_word(FinishReason))
    error: Named[str | None] = Column(StorableText)
    sampling: Named[dict[str, Any]] = Column(JSON[dict[str, Any]])
    text: Named[str | None] = Column(StorableText)
    prompt_tokens: Named[int]
    cached_tokens: Named[int]
    completion_tokens: Named[int]
    queued_ms: Named[float]
    prefill_ms: Named[float]
    decode_ms: Named[float]
    drafts_accepted: Named[int]
    created_at: Named[datetime] = Column(UtcDateTime)
    started_at: Named[datetime | None] = Column(UtcDateTime)
    finished_at: Named[datetime | None] = Column(UtcDateTime)
    repairs: Named[int] = Column(Integer, server_default="0")
    loop: Named[dict[str, Any] | None] = Column(JSON[dict[str, Any]](none_as_null=True))
    branch: Named[int] = Column(Integer, server_default="0")
    asked: Named[dict[str, Any] | None] = Column(JSON[dict[str, Any]](none_as_null=True))
    bytes: Named[int] = Column(BigInteger, server_default="0")


class _ItemColumns(TypedColumns):
    id: Named[str] = Column(StorableText, primary_key=True)
    conversation_id: Named[str | None] = Column(StorableText, ForeignKey("conversations.id", ondelete="CASCADE"))
    turn_id: Named[str | None] = Column(StorableText, ForeignKey("turns.id", ondelete="CASCADE"), index=True)
    position: Named[int]
    kind: Named[ItemKind] = Column(_word(ItemKind))
    role: Named[Role] = Column(_word(Role))
    content: Named[str] = Column(StorableText)
    name: Named[str | None] = Column(StorableText)
    call_id: Named[str | None] = Column(StorableText)
    namespace: Named[str | None] = Column(StorableText)
    created_at: Named[datetime] = Column(UtcDateTime)
    branch: Named[int] = Column(Integer, server_default="0")


class _ResponseColumns(TypedColumns):
    turn_id: Named[str] = Column(StorableText, ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True)
    previous_id: Named[str | None] = Column(StorableText)
    background: Named[bool]
    body: Named[dict[str, Any]] = Column(JSON[dict[str, Any]])


class _TurnEventColumns(TypedColumns):
    turn_id: Named[str] = Column(StorableText, ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True)
    number: Named[int] = Column(Integer, primary_key=True)
    text: Named[str] = Column(StorableText)
    created_at: Named[datetime] = Column(UtcDateTime)
    token_ids: Named[bytes | None] = Column(LargeBinary)


class _GenerationColumns(TypedColumns):
    turn_id: Named[str] = Column(StorableText, ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True)
    plan: Named[dict[str, Any]] = Column(JSON[dict[str, Any]])
    prompt: Named[bytes | None] = Column(LargeBinary)
    generated: Named[bytes] = Column(LargeBinary)
    expires_at: Named[datetime | None] = Column(UtcDateTime, index=True)
    logprobs: Named[bytes | None] = Column(LargeBinary)


class _IdempotencyColumns(TypedColumns):
    owner: Named[str] = Column(StorableText, primary_key=True)
    key: Named[str] = Column(StorableText, primary_key=True)
    position: Named[int] = Column(Integer, primary_key=True)
    fingerprint: Named[bytes] = Column(LargeBinary)
    turn_id: Named[str] = Column(StorableText, ForeignKey("turns.id", ondelete="CASCADE"), index=True)
    expires_at: Named[datetime] = Column(UtcDateTime, index=True)


class _KeyColumns(TypedColumns):
    id: Named[str] = Column(StorableText, primary_key=True)
    name: Named[str] = Column(StorableText)
    role: Named[KeyRole] = Column(_word(KeyRole))
    digest: Named[bytes] = Column(LargeBinary)
    created_at: Named[datetime] = Column(UtcDateTime)
    expires_at: Named[datetime | None] = Column(UtcDateTime)
    revoked_at: Named[datetime | None] = Column(UtcDateTime)
    last_used_at: Named[datetime | None] = Column(UtcDateTime)
    weight: Named[float]
    note: Named[str] = Column(StorableText)
    limits: Named[dict[str, Any]] = Column(JSON[dict[str, Any]])


class _KeyHashingColumns(TypedColumns):
    id: Named[int] = Column(Integer, primary_key=True)
    value: Named[bytes] = Column(LargeBinary)


class _UsageColumns(TypedColumns):
    day: Named[date] = Column(Date, primary_key=True)
    owner: Named[str] = Column(StorableText, primary_key=True)
    model_id: Named[str] = Column(StorableText, primary_key=True)
    requests: Named[int] = Column(BigInteger)
    prompt_tokens: Named[int] = Column(BigInteger)
    cached_tokens: Named[int] = Column(BigInteger)
    completion_tokens: Named[int] = Column(BigInteger)
    compute_ms: Named[float]


class _AuditColumns(TypedColumns):
    number: Named[int] = Column(Integer, primary_key=True)
    at: Named[datetime] = Column(UtcDateTime)
    actor: Named[str] = Column(StorableText)
    action: Named[str] = Column(StorableText)
    subject: Named[str] = Column(StorableText)
    details: Named[dict[str, Any]] = Column(JSON[dict[str, Any]])


conversations = Table(
    "conversations",
    metadata,
    _ConversationColumns,
    Index(None, "owner", "pinned", "updated_at", "id"),
    Index(None, "owner", "bytes"),
)

branches = Table("branches", metadata, _BranchColumns)

turns = Table("turns", metadata, _TurnColumns)

active_turn = turns.c.state.in_(sorted(ACTIVE_STATES))

Index(
    ACTIVE_TURN_INDEX,
    turns.c.conversation_id,
    unique=True,
    sqlite_where=active_turn,
    postgresql_where=active_turn,
)

Index(None, turns.c.owner, turns.c.created_at, turns.c.id)

Index(None, turns.c.conversation_id, turns.c.bytes)

Index(None, turns.c.owner, turns.c.bytes, sqlite_where=turns.c.bytes > 0, postgresql_where=turns.c.bytes > 0)

items = Table(
    "items",
    metadata,
    _ItemColumns,
    UniqueConstraint("conversation_id", "position"),
)

responses = Table("responses", metadata, _ResponseColumns)

turn_events = Table("turn_events", metadata, _TurnEventColumns)

generations = Table("generations", metadata, _GenerationColumns)

idempotency_keys = Table("idempotency_keys", metadata, _IdempotencyColumns)

api_keys = Table("api_keys", metadata, _KeyColumns)

key_hashing = Table("key_hashing", metadata, _KeyHashingColumns)

usage = Table("usage", metadata, _UsageColumns)

audit_log = Table("audit_log", metadata, _AuditColumns)

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
"""SQLite's index of what is said in conversations (its documentation: "FTS5 Extension"). It holds no text of its own
but reads it from `items` by a number, as rows without one may be numbered anew by a VACUUM. Triggers keep it in step.
"""

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
"""What keeps the two columns `bytes`: what rows of a turn, and of a conversation beside its turns, have of text. A row
whose turn or conversation goes with it finds nothing to change.
"""

for _statement in (*SEARCH, *STORAGE):
    event.listen(metadata, "after_create", DDL(_statement.replace("%", "%%")).execute_if(dialect="sqlite"))
