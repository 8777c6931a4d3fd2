"""PLACEHOLDER by the lead until the parsers are here; replace this file."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from quern.prompt.tools.events import AnswerParser
from quern.types import Tool

OPENING = "<tool_call>\n"


class ToolFormat(StrEnum):
    """How a model writes calls."""

    JSON = "json"
    XML = "xml"


def tool_format(chat_template: str) -> ToolFormat | None:
    """By the model's template."""
    if "<function=" in chat_template:
        return ToolFormat.XML
    return ToolFormat.JSON if "<tool_call>" in chat_template else None


def answer_parser(format: ToolFormat, tools: Sequence[Tool], *, opened: bool = False) -> AnswerParser:  # noqa: A002
    """Not yet."""
    raise NotImplementedError
