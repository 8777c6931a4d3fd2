"""What a response puts out, item by item, while it is written. Pure: what is written in, JSON out.

Source of the shapes: "Streaming events" in OpenAI's API reference.
"""

from __future__ import annotations

from typing import Any

from quern.api.openai.items import item_json, public_item_id, text_part
from quern.types import Item, Message, Role, ToolCall

IN_PROGRESS = "in_progress"

Event = dict[str, Any]
"""An event as JSON, without its number."""


class OutputMessage:
    """A message that is written. `index`: its place in the output; `item_id`: its stored id."""

    def __init__(self, index: int, item_id: str) -> None:
        self._item_id = item_id
        self._pieces: list[str] = []
        self._status = IN_PROGRESS
        self._item = {"output_index": index}
        self._part = {
            "item_id": public_item_id(item_id, self._message),
            "output_index": index,
            "content_index": 0,
        }

    def opening(self) -> list[Event]:
        """The events of its beginning."""
        return [
            {"type": "response.output_item.added", **self._item, "item": {**self.json(), "content": []}},
            {"type": "response.content_part.added", **self._part, "part": text_part(Role.ASSISTANT, "")},
        ]

    def write(self, text: str) -> Event:
        """More of its text, and the event of it."""
        self._pieces.append(text)
        return {"type": "response.output_text.delta", **self._part, "delta": text, "logprobs": []}

    def close(self, status: str) -> list[Event]:
        """The events of its end."""
        self._status = status
        text = "".join(self._pieces)
        return [
            {"type": "response.output_text.done", **self._part, "text": text, "logprobs": []},
            {"type": "response.content_part.done", **self._part, "part": text_part(Role.ASSISTANT, text)},
            {"type": "response.output_item.done", **self._item, "item": self.json()},
        ]

    def json(self) -> dict[str, Any]:
        """The item as far as it is written."""
        return item_json(self._item_id, self._message, self._status)

    @property
    def _message(self) -> Item:
        return Message(Role.ASSISTANT, "".join(self._pieces))


class OutputCall:
    """A call whose arguments are written; see `OutputMessage`. `whole`: they are complete."""

    def __init__(self, index: int, item_id: str, call_id: str, name: str) -> None:
        self._item_id = item_id
        self._call_id = call_id
        self._name = name
        self._fragments: list[str] = []
        self.whole = False
        self._status = IN_PROGRESS
        self._item = {"output_index": index}
        self._whole = {"item_id": public_item_id(item_id, self._call), "output_index": index}

    def opening(self) -> list[Event]:
        """The event of its beginning."""
        return [{"type": "response.output_item.added", **self._item, "item": self.json()}]

    def write(self, fragment: str) -> Event:
        """More of its arguments, and the event of it."""
        self._fragments.append(fragment)
        return {"type": "response.function_call_arguments.delta", **self._whole, "delta": fragment}

    def close(self, status: str) -> list[Event]:
        """The events of its end."""
        self._status = status
        call = self._call
        done = {"type": "response.function_call_arguments.done", **self._whole}
        return [
            {**done, "name": call.name, "arguments": call.arguments},
            {"type": "response.output_item.done", **self._item, "item": self.json()},
        ]

    def json(self) -> dict[str, Any]:
        """The item as far as it is written."""
        return item_json(self._item_id, self._call, self._status)

    @property
    def _call(self) -> ToolCall:
        return ToolCall(self._call_id, self._name, "".join(self._fragments))


OutputItem = OutputMessage | OutputCall
