"""The bodies of requests that change conversations.

Source: "Conversations" in OpenAI's API reference.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from quern.api.openai.item_input import InputItem
from quern.api.shared.fields import RequestObject

MOST_NEW_ITEMS = 20
MOST_METADATA = 16

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=MOST_METADATA, description="What the caller notes: up to 16 pairs."),
]
NewItems = Annotated[list[InputItem], Field(max_length=MOST_NEW_ITEMS)]


class NewConversation(RequestObject):
    """`POST /v1/conversations`."""

    metadata: Metadata | None = None
    items: NewItems | None = None


class ChangedConversation(RequestObject):
    """`POST /v1/conversations/{conversation_id}`. The pairs replace all that were there."""

    metadata: Metadata | None


class MoreItems(RequestObject):
    """`POST /v1/conversations/{conversation_id}/items`."""

    items: NewItems = Field(min_length=1)
