"""The bodies of requests that change conversations.

Source: "Conversations" in OpenAI's API reference.
"""

from __future__ import annotations

from typing import Annotated, Any, Self, cast

from pydantic import AfterValidator, Field, ModelWrapValidatorHandler, PrivateAttr, StrictBool, model_validator

from quern.api.openai.item_input import InputItem
from quern.api.shared.errors import validation_error
from quern.api.shared.fields import RequestObject

MOST_NEW_ITEMS = 20
MOST_METADATA = 16

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=MOST_METADATA, description="What the caller notes: up to 16 pairs."),
]


def _one_line(title: str) -> str:
    line = " ".join(title.split())
    if not line:
        raise ValueError("A title has some text in it. Send null to have one made again")
    return line


Title = Annotated[str, Field(max_length=200, description="A line of text."), AfterValidator(_one_line)]
NewItems = Annotated[list[InputItem], Field(max_length=MOST_NEW_ITEMS)]


class NewConversation(RequestObject):
    """`POST /v1/conversations`."""

    metadata: Metadata | None = None
    items: NewItems | None = None
    title: Title | None = None


class ChangedConversation(RequestObject):
    """`POST /v1/conversations/{conversation_id}`. The pairs replace all that were there; what is not sent stays."""

    metadata: Metadata | None = None
    title: Title | None = Field(default=None, description="With null, the next turn makes one again.")
    pinned: StrictBool | None = Field(default=None, description="Listed before the others, and never too old.")
    archived: StrictBool | None = Field(default=None, description="Not listed, unless that is asked for.")

    _sent: frozenset[str] = PrivateAttr(default=frozenset())

    @model_validator(mode="wrap")
    @classmethod
    def _note_what_is_sent(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        made = handler(value)
        made._sent = frozenset(cast("dict[str, Any]", value)) if isinstance(value, dict) else frozenset()  # noqa: SLF001 (its own)
        return made

    def changes(self) -> dict[str, Any]:
        """The values that replace those that were there. Raises RequestValidationError where there are none."""
        values: dict[str, Any] = {
            name: value for name in ("pinned", "archived") if (value := getattr(self, name)) is not None
        }
        if "title" in self._sent:
            values["title"] = self.title
        if "metadata" in self._sent:
            values["metadata"] = self.metadata or {}
        if not values:
            message = "Nothing is to be changed. Send metadata, title, pinned or archived."
            raise validation_error(("body", "metadata"), "missing", message, None)
        return values


class MoreItems(RequestObject):
    """`POST /v1/conversations/{conversation_id}/items`."""

    items: NewItems = Field(min_length=1)
