"""Every answer of Chat Completions, cut at any token, streamed or not, can be sent back."""

from __future__ import annotations

from typing import Any

import pytest

from quern.grammar.tool_calls import ToolFormat

from .answers_sent_back import PARAMETERS, REPLIES, refusals
from .conftest import Start

USER = {"role": "user", "content": "hi"}
NEXT = {"role": "user", "content": "go on"}
FUNCTION = {"name": "run", "parameters": PARAMETERS}


class Chat:
    """Chat Completions with tools."""

    path = "/v1/chat/completions"
    tools: dict[str, Any] = {"tools": [{"type": "function", "function": FUNCTION}]}  # noqa: RUF012

    def first(self, limit: int) -> dict[str, Any]:
        return {"messages": [USER], **self.tools, "max_tokens": limit}

    def whole(self, answer: Any) -> list[Any]:
        return self._with_results(answer["choices"][0]["message"])

    def streamed(self, events: list[Any]) -> list[Any]:
        message: dict[str, Any] = {"role": "assistant", "content": ""}
        for event in events:
            for choice in event["choices"]:
                self._add(message, choice["delta"])
        return self._with_results(message)

    def again(self, sent_back: list[Any]) -> dict[str, Any]:
        return {"messages": [USER, *sent_back, NEXT], **self.tools, "max_tokens": 1}

    def _add(self, message: dict[str, Any], delta: dict[str, Any]) -> None:
        """What the vendors' libraries do with a chunk."""
        message["content"] += delta.get("content") or ""
        for call in delta.get("tool_calls", ()):
            calls = message.setdefault("tool_calls", [])
            if call["index"] == len(calls):
                calls.append({**call, "function": {**call["function"]}})
            else:
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]

    def _with_results(self, message: dict[str, Any]) -> list[Any]:
        calls = message.get("tool_calls") or ()
        return [message, *({"role": "tool", "tool_call_id": call["id"], "content": "ok"} for call in calls)]


class LegacyChat(Chat):
    """Chat Completions with functions."""

    tools: dict[str, Any] = {"functions": [FUNCTION]}  # noqa: RUF012

    def _add(self, message: dict[str, Any], delta: dict[str, Any]) -> None:
        message["content"] += delta.get("content") or ""
        if call := delta.get("function_call"):
            made = message.setdefault("function_call", {"name": "", "arguments": ""})
            made["name"] += call.get("name", "")
            made["arguments"] += call["arguments"]

    def _with_results(self, message: dict[str, Any]) -> list[Any]:
        call = message.get("function_call")
        return [message, *([{"role": "function", "name": call["name"], "content": "ok"}] if call else [])]


class Unanswered(Chat):
    """The answer is the last thing that is sent: the next one goes on after it."""

    def again(self, sent_back: list[Any]) -> dict[str, Any]:
        return {**super().again(sent_back), "messages": [USER, sent_back[0]]}


@pytest.mark.parametrize(("format_", "reply"), REPLIES)
async def test_an_answer_cut_anywhere_can_be_sent_back(start: Start, format_: ToolFormat, reply: str) -> None:
    assert not await refusals(start, Chat(), format_, reply)


@pytest.mark.parametrize("dialect", [LegacyChat(), Unanswered()])
async def test_so_it_can_with_functions_and_without_another_question(start: Start, dialect: Chat) -> None:
    for format_, reply in REPLIES:
        assert not await refusals(start, dialect, format_, reply, step=25)
