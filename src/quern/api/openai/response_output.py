"""What a response puts out, item by item, while it is written. Pure: what is written in, JSON out.

Source of the shapes: "Streaming events" in OpenAI's API reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quern.api.openai.items import item_json, public_item_id, text_part
from quern.api.openai.tool_items import CustomInput
from quern.events import CallStarted
from quern.types import Item, Message, Role, ToolCall, ToolKind

IN_PROGRESS = "in_progress"

Event = dict[str, Any]
"""An event as JSON, without its number."""


class OutputMessage:
    """A message that is written. `index`: its place in the output; `item_id`: its stored id."""

    def __init__(self, index: int, item_id: str) -> None:
        self._item_id = item_id
        self._pieces: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
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

    def write(self, text: str, logprobs: Sequence[dict[str, Any]] = ()) -> Event:
        """More of its text, with its tokens' probabilities where they are wanted, and the event of it."""
        self._pieces.append(text)
        self._logprobs += logprobs
        return {"type": "response.output_text.delta", **self._part, "delta": text, "logprobs": list(logprobs)}

    def close(self, status: str) -> list[Event]:
        """The events of its end."""
        self._status = status
        done = {"type": "response.output_text.done", **self._part, "text": "".join(self._pieces)}
        return [
            {**done, "logprobs": self._logprobs},
            {"type": "response.content_part.done", **self._part, "part": self._content()},
            {"type": "response.output_item.done", **self._item, "item": self.json()},
        ]

    def json(self) -> dict[str, Any]:
        """The item as far as it is written."""
        return {**item_json(self._item_id, self._message, self._status), "content": [self._content()]}

    def _content(self) -> dict[str, Any]:
        return text_part(Role.ASSISTANT, "".join(self._pieces), self._logprobs)

    @property
    def _message(self) -> Item:
        return Message(Role.ASSISTANT, "".join(self._pieces))


class OutputCall:
    """A call whose arguments are written; see `OutputMessage`. `whole`: they are complete.

    Of a custom tool the text is told, of OpenAI's own tools nothing before it is whole.
    """

    def __init__(self, index: int, item_id: str, call: CallStarted) -> None:
        self._item_id = item_id
        self._start = call
        self._fragments: list[str] = []
        self._input = CustomInput()
        self.whole = False
        self._status = IN_PROGRESS
        self._item = {"output_index": index}
        self._whole = {"item_id": public_item_id(item_id, self._call), "output_index": index}

    def opening(self) -> list[Event]:
        """The event of its beginning."""
        return [{"type": "response.output_item.added", **self._item, "item": self.json()}]

    def write(self, fragment: str) -> list[Event]:
        """More of its arguments, and the events of it."""
        self._fragments.append(fragment)
        match self._start.kind:
            case ToolKind.FUNCTION:
                return [{"type": "response.function_call_arguments.delta", **self._whole, "delta": fragment}]
            case ToolKind.CUSTOM:
                return self._told(self._input.write(fragment))
            case _:
                return []

    def close(self, status: str) -> list[Event]:
        """The events of its end."""
        self._status = status
        return [*self._done(), {"type": "response.output_item.done", **self._item, "item": self.json()}]

    def json(self) -> dict[str, Any]:
        """The item as far as it is written."""
        return item_json(self._item_id, self._call, self._status)

    def _done(self) -> list[Event]:
        item = self.json()
        match self._start.kind:
            case ToolKind.FUNCTION:
                done = {"type": "response.function_call_arguments.done", **self._whole}
                return [{**done, "name": item["name"], "arguments": item["arguments"]}]
            case ToolKind.CUSTOM:
                done = {"type": "response.custom_tool_call_input.done", **self._whole, "input": item["input"]}
                return [*self._told(self._input.rest()), done]
            case _:
                return []

    def _told(self, text: str) -> list[Event]:
        return [{"type": "response.custom_tool_call_input.delta", **self._whole, "delta": text}] if text else []

    @property
    def _call(self) -> ToolCall:
        start = self._start
        return ToolCall(start.call_id, start.name, "".join(self._fragments), start.kind, start.namespace)


OutputItem = OutputMessage | OutputCall
