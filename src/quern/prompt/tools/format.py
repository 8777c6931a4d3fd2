"""How a model writes the calls of tools, and the parser for it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from quern.prompt.tools.answer import CallFinder
from quern.prompt.tools.events import AnswerParser
from quern.types import Tool

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


def answer_parser(format: ToolFormat, tools: Sequence[Tool], *, opened: bool = False) -> AnswerParser:  # noqa: A002
    """A parser for one answer. `opened`: the prompt ends with `OPENING`."""
    return CallFinder(tools, bare_json=format is ToolFormat.JSON, opened=opened)
