"""Codex CLI's own requests, as version 0.171.0 sent them to this server; long texts are shortened, ids left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quern.grammar.kinds import LarkGrammar

from .conftest import Quern, Start
from .engines import saying
from .openai_clients import events_of, prompt_text

RECORDED = Path(__file__).parents[1] / "data" / "codex"
PATCH = "*** Begin Patch\n*** Update File: calc.py\n@@\n-    return a - b\n+    return a + b\n*** End Patch\n"


def recorded(name: str) -> dict[str, Any]:
    return json.loads((RECORDED / f"{name}.json").read_text())


def calling(name: str, arguments: dict[str, Any]) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


async def sent(quern: Quern, body: dict[str, Any]) -> tuple[str | None, list[dict[str, Any]]]:
    """What was ignored of a request, and the items that Codex reads from its stream."""
    answer = await quern.client.post("/v1/responses", json=body)
    events = events_of(answer)
    assert events[-1]["type"] == "response.completed"
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    return answer.headers.get("x-quern-ignored"), done


async def test_its_first_request_is_answered_with_a_call_of_a_tool_in_a_group(start: Start) -> None:
    async with start(saying(calling("multi_agent_v1__close_agent", {"target": "x"}))) as quern:
        ignored, (call,) = await sent(quern, recorded("first_request"))
        assert ignored == "tools.8 (web_search)"
        assert (call["type"], call["namespace"], call["name"]) == ("function_call", "multi_agent_v1", "close_agent")
        assert '"name": "multi_agent_v1__spawn_agent"' in prompt_text(quern)
        assert "web_search" not in prompt_text(quern)


async def test_its_patches_are_texts_that_keep_to_its_grammar(start: Start) -> None:
    async with start(saying(calling("apply_patch", {"input": PATCH}))) as quern:
        body = recorded("after_a_patch")
        ignored, (call,) = await sent(quern, body)
        assert ignored is None
        assert (call["type"], call["name"], call["input"]) == ("custom_tool_call", "apply_patch", PATCH)
        grammar = quern.engine.requests[-1].grammar
        assert isinstance(grammar, LarkGrammar)
        assert "Begin Patch" in grammar.lark
        assert "Success. Updated the following files" in prompt_text(quern)
        result = {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "Exit code: 0"}
        ignored, _ = await sent(quern, {**body, "input": [*body["input"], call, result]})
        assert ignored is None
        assert prompt_text(quern).count("*** Begin Patch") == 3  # with the one in the grammar


async def test_its_compaction_is_a_request_like_others(start: Start) -> None:
    async with start(saying("The agent could not be closed.")) as quern:
        ignored, (message,) = await sent(quern, recorded("compaction"))
        assert ignored is None
        assert message["content"][0]["text"] == "The agent could not be closed."
        assert '"name": "multi_agent_v1__close_agent"' in prompt_text(quern)


@pytest.mark.parametrize("name", ["first_request", "after_a_patch", "compaction"])
async def test_its_prompts_can_be_counted(start: Start, name: str) -> None:
    async with start(saying("x")) as quern:
        body = {key: value for key, value in recorded(name).items() if key not in {"stream", "store", "include"}}
        counted = await quern.client.post("/v1/responses/input_tokens", json=body)
        assert counted.json()["input_tokens"] > 100
