"""A conversation's items as chat templates want them.

Source of the shape: "Chat templates" and "Tool use" in the documentation of Hugging Face Transformers: messages with
`role` and `content`, an assistant's with `tool_calls` whose arguments are objects, and tools as JSON schemas.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from quern.errors import InvalidRequest
from quern.types import Item, Message, Role, Tool, ToolCall, ToolResult


def template_messages(items: Sequence[Item]) -> list[dict[str, Any]]:
    """One message for each item, but an assistant's calls go with what it said before them.

    Raises InvalidRequest for a call whose arguments are no JSON object.
    """
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
    function = {"name": call.name, "arguments": _arguments(call)}
    return {"id": call.id, "type": "function", "function": function}


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        arguments: object = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequest(
            f"The arguments of the call {call.id!r} to {call.name!r} are not a JSON object, so the model can't be "
            f"shown that call. Send them exactly as the server gave them."
        )
    return cast("dict[str, Any]", arguments)
