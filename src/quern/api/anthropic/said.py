"""Blocks of what somebody says: texts, documents, and what the model can't be shown.

Source: "Create a Message" in Anthropic's API reference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Discriminator

from quern.api.anthropic.documents import framed, source_text
from quern.api.shared.chat_messages import SaidText
from quern.api.shared.content import UnreadablePart
from quern.api.shared.fields import NoOp, RequestObject, type_of

UNREADABLE = {
    "image": "Could not process image: the model reads text only. Say in a block of text what it shows",
    "document": "Could not process PDF: the model reads text only. Send the document's text in a block of text",
}
"""Where the sentences begin like this, clients leave the block out and ask again."""


class TextBlock(RequestObject):
    """Text."""

    type: Literal["text"] = "text"
    text: str = ""
    cache_control: NoOp = None
    citations: NoOp = None

    def said(self) -> str:
        """Its text."""
        return self.text


class DocumentBlock(RequestObject):
    """A document. Of a PDF, or of one that lies elsewhere, nothing can be read."""

    type: Literal["document"]
    source: Any = None
    title: SaidText = ""
    context: SaidText = ""
    cache_control: NoOp = None
    citations: NoOp = None

    def said(self) -> str:
        """Its text with title and context, or a sentence in its place."""
        text = source_text(self.source)
        if text is None:
            return UnreadablePart("", self.type).sentence()
        return framed("document", {"source": self.title, "context": self.context, "document_content": text})

    def refusal(self) -> str | None:
        """Why it can't be used in what is said now."""
        return UNREADABLE["document"] if source_text(self.source) is None else None


class SearchResultBlock(RequestObject):
    """What a search of the client's found."""

    type: Literal["search_result"]
    source: SaidText = ""
    title: SaidText = ""
    content: Any = None
    cache_control: NoOp = None
    citations: NoOp = None

    def said(self) -> str:
        """Its text, with where it is from."""
        return framed(
            "search_result", {"source": self.source, "title": self.title, "content": source_text(self.content) or ""}
        )


class CompactionBlock(RequestObject):
    """A summary of what was said before."""

    type: Literal["compaction"]
    content: SaidText = ""
    cache_control: NoOp = None
    encrypted_content: NoOp = None
    signature: NoOp = None
    tool_changes: NoOp = None

    def said(self) -> str:
        """The summary."""
        return self.content


class OtherBlock(RequestObject):
    """An image, a file, or a block of a type that is not known."""

    type: str

    def ignored(self) -> Sequence[str]:
        """Nothing: in its place there is a sentence or a refusal."""
        return ()

    def said(self) -> str:
        """A sentence in its place."""
        return UnreadablePart("", self.type).sentence()

    def refusal(self) -> str:
        """Why it can't be used in what is said now."""
        return UNREADABLE.get(self.type) or (
            f"The model reads text only, so it can't be shown a block of the type {self.type!r}. Say in a block of "
            f"text what is in it, or leave it out"
        )


class NoBlock(OtherBlock):
    """What has no type, or is a block of text whose text is none."""

    type: str = ""
    value: Any

    def said(self) -> str:
        """The same as JSON."""
        return "" if self.value is None else json.dumps(self.value, ensure_ascii=False)

    def refusal(self) -> str:
        """See OtherBlock."""
        return "A block has its type in the member 'type', and a block of text its text as a string"


class SilentBlock(RequestObject):
    """What another model thought, or what a server noted for itself. It is not shown to the model."""

    type: str

    def ignored(self) -> Sequence[str]:
        """Nothing: none of it is meant for this server."""
        return ()


Said = TextBlock | DocumentBlock | SearchResultBlock | CompactionBlock | OtherBlock
"""Blocks of what somebody says."""


def history_of(content: Any) -> Any:
    """The same of messages, which may be history: what is no block is a `NoBlock`."""
    return [one if _is_block(one) else NoBlock(value=one) for one in blocks_of(content)]


def _is_block(value: Any) -> bool:
    match value:
        case {"type": "text", "text": text}:
            return text is None or isinstance(text, str)
        case {"type": str(kind)}:
            return kind != ""
        case {"text": str(), **members}:
            return members.get("type") is None
        case _:
            return False


def blocks_of(content: Any) -> Any:
    """A string is short for one block of text, and so is one in a list; null is nothing."""
    return [{"type": "text", "text": one} if isinstance(one, str) else one for one in listed(content)]


def listed(content: Any) -> list[Any]:
    if content is None:
        return []
    return cast("list[Any]", content) if isinstance(content, list) else [content]


def tagged(known: Collection[str], aliases: Callable[[str], str] = str) -> Discriminator:
    """Which block an object is: text where it has no type, and `other` where that is none of the known."""

    def tag(block: Any) -> str | None:
        kind = type_of(block) or getattr(block, "type", None)
        if kind is None:
            return "text" if isinstance(block, dict) and "text" in block else None
        return alias if (alias := aliases(kind)) in known else "other"

    return Discriminator(
        tag, custom_error_type="block_type", custom_error_message="A block has its type in the member 'type'"
    )


Texts = Annotated[list[TextBlock], BeforeValidator(blocks_of)]
"""A string or blocks of text."""
