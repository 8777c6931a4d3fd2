"""How a model writes the calls of tools."""

from __future__ import annotations

from enum import StrEnum

OPENING = "<tool_call>\n"
"""What the prompt ends with where a call is demanded: the answer then begins inside a call."""


class ToolFormat(StrEnum):
    """How a model writes calls: Qwen2.5's JSON or Qwen3-Coder's XML, both between `<tool_call>` tags."""

    JSON = "json"
    XML = "xml"


def tool_format(chat_template: str) -> ToolFormat | None:
    """The format that a model's chat template teaches; None where it knows no tools."""
    if "<function=" in chat_template:
        return ToolFormat.XML
    return ToolFormat.JSON if "<tool_call>" in chat_template else None
