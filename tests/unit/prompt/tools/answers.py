"""Answers put through a parser, and what came out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from quern.events import AnswerEvent, ArgumentsDelta, CallEnded, CallStarted, TextDelta
from quern.grammar.tool_calls import ToolFormat
from quern.prompt.tools.answer_parser import answer_parser
from quern.prompt.tools.protocols import merged
from quern.types import Tool

CALL_ID = "call_{}".format
"""A call's id by its index."""

WEATHER = Tool(
    "get_weather",
    "Current weather of a city.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "hourly": {"type": "boolean"},
            "unit": {"$ref": "#/$defs/Unit"},
        },
        "required": ["city"],
        "$defs": {"Unit": {"enum": ["celsius", "fahrenheit"]}},
    },
)
WRITE = Tool(
    "write_file",
    "Write a text to a file.",
    {
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "content": {"type": "string"},
            "mode": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "lines": {"type": "array", "items": {"type": "integer"}},
            "options": {"type": "object"},
            "ratio": {"type": "number"},
        },
        "required": ["path", "content"],
    },
)
TIME = Tool("get_time")
TOOLS = (WEATHER, WRITE, TIME)

CODE = """\
def greet(names):
    # 问候 😀 </parameter> "quoted" \\n C:\\temp
    for name in names:
        if len(name) < 3 and name not in {"a": [1, 2]}:
            print(f'<b>{name}</b>\\t{{}}')
"""


@dataclass(frozen=True)
class Parsed:
    """`calls`: name and arguments, as text, of each."""

    text: str
    calls: list[tuple[str, str]]
    repairs: int

    def arguments(self) -> dict[str, Any]:
        """Of the only call."""
        ((_, arguments),) = self.calls
        return json.loads(arguments)


def events_of(
    pieces: Iterable[str], form: ToolFormat, tools: Sequence[Tool] = TOOLS, *, opened: bool = False
) -> tuple[list[AnswerEvent], int]:
    """What comes out, neighbours merged, and the repairs."""
    parser = answer_parser(form, tools, CALL_ID, opened=opened)
    events = [event for piece in pieces for event in parser.push(piece)]
    return merged([*events, *parser.finish()]), parser.repairs


def parse(answer: str, form: ToolFormat, tools: Sequence[Tool] = TOOLS, *, opened: bool = False) -> Parsed:
    """The answer in pieces of three characters; each call has to begin, to have arguments and to end, in that order."""
    pieces = [answer[start : start + 3] for start in range(0, len(answer), 3)]
    events, repairs = events_of(pieces, form, tools, opened=opened)
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    calls: list[tuple[str, str]] = []
    of_calls = iter([event for event in events if not isinstance(event, TextDelta)])
    for index, started in enumerate(of_calls):
        arguments, ended = next(of_calls), next(of_calls)
        assert isinstance(started, CallStarted)
        assert isinstance(arguments, ArgumentsDelta)
        assert isinstance(ended, CallEnded)
        assert started.index == arguments.index == ended.index == index
        calls.append((started.name, arguments.fragment))
    return Parsed(text, calls, repairs)


def whole_calls(answer: str, form: ToolFormat) -> list[bool]:
    """Of each call, whether the model completed it."""
    events, _ = events_of([answer], form)
    return [event.whole for event in events if isinstance(event, CallEnded)]
