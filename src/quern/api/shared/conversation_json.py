"""A conversation as JSON, in which OpenAI's clients find what they know."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from quern.records import Conversation


def conversation_json(item: Conversation) -> dict[str, Any]:
    """A conversation without what was said in it."""
    return {
        "id": item.id,
        "object": "conversation",
        "created_at": seconds(item.created_at),
        "updated_at": seconds(item.updated_at),
        "metadata": item.metadata or {},
        "title": item.title,
        "pinned": item.pinned,
        "archived": item.archived,
    }


def seconds(moment: datetime | None) -> int | None:
    """A moment as Unix time."""
    return int(moment.timestamp()) if moment is not None else None
