"""Answers that break off anywhere, sent back as history: what agents do after every turn. For every dialect."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

import httpx2

from quern.grammar.tool_calls import ToolFormat

from .conftest import Start
from .engines import saying

JSON_CALL = (
    '<tool_call>\n{"name": "run", "arguments": {"cmd": "echo \\"ü\\"\\n", "deep": {"a": [1, null, {}]}}}\n</tool_call>'
)
XML_CALL = (
    "<tool_call>\n<function=run>\n<parameter=cmd>\necho 'ü' > a.txt\n</parameter>\n<parameter=deep>\n"
    '{"a": [1, {}]}\n</parameter>\n</function>\n</tool_call>'
)
REPLIES: list[tuple[ToolFormat, str]] = [
    (ToolFormat.JSON, f"Let me look.\n{JSON_CALL}"),
    (ToolFormat.JSON, f'{JSON_CALL}\n<tool_call>\n{{"name": "gone", "arguments": "{{}}"}}\n</tool_call>'),
    (ToolFormat.JSON, '```json\n{"name": "run", "arguments": [1]}\n```\nDone <tool_call>\n{oops</tool_call>'),
    (ToolFormat.XML, f"Ich schaue: 你好\n{XML_CALL}"),
    (ToolFormat.XML, "<tool_call>\n<function=run>\n</function>\n</tool_call> <function=run>\n<parameter=cmd>\nls\n"),
]
"""Calls whole, several, of tools that are not there, and broken ones, between prose, in both formats."""

PARAMETERS = {
    "type": "object",
    "properties": {"cmd": {"type": "string"}, "deep": {"type": "object"}},
    "required": ["cmd"],
}


class Dialect(Protocol):
    """How a dialect asks for an answer, and what its clients send back of it."""

    path: str

    def first(self, limit: int) -> dict[str, Any]:
        """A request with a tool `run` for an answer of so many tokens."""
        ...

    def whole(self, answer: Any) -> list[Any]:
        """What a client sends back of an answer in one piece, results of its calls included."""
        ...

    def streamed(self, events: list[Any]) -> list[Any]:
        """The same of the events of a stream."""
        ...

    def again(self, sent_back: list[Any]) -> dict[str, Any]:
        """The request that follows, with the first one's input before that, and a question after it."""
        ...


STEP = 8
"""Between two places where an answer is cut; a streamed one is cut in the middle between them. With 1 it takes minutes,
and finds no more.
"""


async def refusals(
    start: Start,
    dialect: Dialect,
    format: ToolFormat,  # noqa: A002
    reply: str,
    step: int = STEP,
) -> Sequence[str]:
    """What was refused of the answers that are the reply's first bytes, each `step` more than the one before, whole
    and streamed (cut at other places): a line for each.
    """
    wrong: list[str] = []
    length = len(reply.encode())
    limits = [(limit, False) for limit in (*range(1, length, step), length, length + 1)]
    limits += [(limit, True) for limit in (*range(1 + step // 2, length, step), length, length + 1)]
    async with start(saying(reply)) as quern:
        quern.codec.tool_format = format
        for limit, stream in limits:
            body = {**dialect.first(limit), **({"stream": True} if stream else {})}
            answer = await quern.client.post(dialect.path, json=body)
            if answer.status_code == 200:
                said = dialect.streamed(events_of(answer)) if stream else dialect.whole(answer.json())
                answer = await quern.client.post(dialect.path, json=dialect.again(said))
            if answer.status_code != 200:
                wrong.append(f"after {limit} tokens, {stream=}: {answer.text}")
    return wrong


def events_of(answer: httpx2.Response) -> list[Any]:
    """The JSON of a stream of server-sent events."""
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]
