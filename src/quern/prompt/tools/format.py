"""How a model writes the calls of tools, and the parser for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quern.grammar.tool_calls import ToolFormat
from quern.prompt.tools.answer import CallFinder
from quern.prompt.tools.parser import AnswerParser
from quern.types import Tool


def answer_parser(
    format: ToolFormat,  # noqa: A002
    tools: Sequence[Tool],
    call_id: Callable[[int], str],
    *,
    opened: bool = False,
) -> AnswerParser:
    """A parser for one answer. `call_id` gives a call's id by its index; `opened`: the prompt ends with `OPENING`."""
    return CallFinder(tools, call_id, bare_json=format is ToolFormat.JSON, opened=opened)
