"""Ids as OpenAI's clients see them: a prefix that says what it is, then the 32 hexadecimal digits of the stored id."""

from __future__ import annotations

import re
from uuid import UUID

from quern.errors import ItemNotFound, ResponseNotFound
from quern.turns.history import NO_RESPONSE
from quern.types import Item, Message, ToolCall

NO_ITEM = "There is no such item: the id is wrong, or it was deleted. Send an id exactly as the server gave it."
_RESPONSE = re.compile("resp_([0-9a-f]{32})")
_ITEM = re.compile("(?:msg|fc|fco)_([0-9a-f]{32})")


def shown_response_id(turn_id: str) -> str:
    """The id of a turn's response."""
    return f"resp_{UUID(turn_id).hex}"


def turn_id_of(response_id: str) -> str:
    """The turn of a response. Raises ResponseNotFound for anything that is not exactly a response's id."""
    known = _RESPONSE.fullmatch(response_id)
    if known is None:
        raise ResponseNotFound(NO_RESPONSE)
    return str(UUID(known[1]))


def shown_item_id(item_id: str, item: Item) -> str:
    """The id of a message, of a call or of its result."""
    prefix = "msg" if isinstance(item, Message) else "fc" if isinstance(item, ToolCall) else "fco"
    return f"{prefix}_{UUID(item_id).hex}"


def item_id_of(shown: str) -> str:
    """The stored id of an item. Raises ItemNotFound for anything that is not exactly an item's id."""
    known = _ITEM.fullmatch(shown)
    if known is None:
        raise ItemNotFound(NO_ITEM)
    return str(UUID(known[1]))
