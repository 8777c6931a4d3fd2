"""How a model writes the calls of tools, and the parser for it."""

from __future__ import annotations

from collections.abc import Sequence

from quern.grammar.tool_calls import ToolFormat
from quern.prompt.tools.answer import CallFinder
from quern.prompt.tools.events import AnswerParser
from quern.types import Tool


def answer_parser(format: ToolFormat, tools: Sequence[Tool], *, opened: bool = False) -> AnswerParser:  # noqa: A002
    """A parser for one answer. `opened`: the prompt ends with `OPENING`."""
    return CallFinder(tools, bare_json=format is ToolFormat.JSON, opened=opened)
