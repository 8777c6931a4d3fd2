"""A conversation's items as chat templates want them.

Source of the shape: "Chat templates" and "Tool use" in the documentation of Hugging Face Transformers: messages with
`role` and `content`, an assistant's with `tool_calls` whose arguments are objects, and tools as JSON schemas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quern.prompt.call_arguments import shown_arguments
from quern.types import Item, Message, Role, Tool, ToolCall, ToolResult


def template_messages(items: Sequence[Item]) -> list[dict[str, Any]]:
    """One message for each item, but an assistant's calls go with what it said before them."""
    messages: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for item in items:
        match item:
            case Message(role, content):
                messages.append({"role": role.value, "content": content})
            case ToolCall():
                names[item.id] = item.name
                if not messages or messages[-1]["role"] != Role.ASSISTANT:
                    messages.append({"role": Role.ASSISTANT.value, "content": ""})
                messages[-1].setdefault("tool_calls", []).append(_template_call(item))
            case ToolResult(call_id, output):
                message = {"role": Role.TOOL.value, "content": output, "tool_call_id": call_id}
                messages.append({**message, "name": names[call_id]} if call_id in names else message)
    return messages


def template_tool(tool: Tool) -> dict[str, Any]:
    """A tool in the shape of OpenAI's, which is Transformers' too."""
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": {**function, "parameters": dict(tool.parameters)}}


def _template_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": shown_arguments(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}
