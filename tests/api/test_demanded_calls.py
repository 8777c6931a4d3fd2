"""A demanded call of a tool whose schema holds what the engine can't enforce, in every dialect."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from quern.engine.base import EngineEvent, GenerateRequest, Tokens
from quern.engine.fake import FakeEngine
from quern.errors import GrammarExhausted
from quern.grammar.kinds import JsonGrammar
from quern.prompt.codec import TextCodec

from .conftest import Start

SCHEMA = {
    "type": "object",
    "properties": {"link": {"type": "string", "format": "uri"}, "count": {"type": "integer"}},
    "required": ["link"],
}
USER = [{"role": "user", "content": "hi"}]


def chat_completion(strict: bool | None) -> dict[str, Any]:
    function = {"name": "fetch", "parameters": SCHEMA, "strict": strict}
    return {"messages": USER, "tools": [{"type": "function", "function": function}], "tool_choice": "required"}


def response(strict: bool | None) -> dict[str, Any]:
    tool = {"type": "function", "name": "fetch", "parameters": SCHEMA, "strict": strict}
    return {"input": "hi", "tools": [tool], "tool_choice": {"type": "function", "name": "fetch"}}


def message(strict: bool | None) -> dict[str, Any]:
    tool = {"name": "fetch", "input_schema": SCHEMA, "strict": strict}
    return {"messages": USER, "max_tokens": 50, "tools": [tool], "tool_choice": {"type": "any"}}


DIALECTS = {
    "/v1/chat/completions": chat_completion,
    "/v1/responses": response,
    "/v1/messages": message,
}


@pytest.mark.parametrize("path", DIALECTS)
async def test_its_structure_is_enforced_unless_the_tool_is_strict(start: Start, path: str) -> None:
    engine = FakeEngine(vocabulary_size=TextCodec.builtin().vocabulary_size, refused_keyword="format")
    async with start(engine) as quern:
        for strict in (None, False):
            answered = await quern.client.post(path, json=DIALECTS[path](strict))
            assert answered.status_code == 200, answered.text
            grammar = engine.requests[-1].grammar
            assert isinstance(grammar, JsonGrammar)
            assert '"link": {"type": "string"}, "count": {"type": "integer"}' in grammar.schema
            assert '"required": ["link"]' in grammar.schema
        refused = await quern.client.post(path, json=DIALECTS[path](strict=True))
        assert refused.status_code == 400
        assert "`format` (at #/properties/arguments/properties/link/format)" in refused.json()["error"]["message"]
        assert len(engine.requests) == 2


@pytest.mark.parametrize("path", DIALECTS)
async def test_all_of_it_is_enforced_where_the_engine_can(start: Start, path: str) -> None:
    async with start() as quern:
        assert (await quern.client.post(path, json=DIALECTS[path](None))).status_code == 200
        grammar = quern.engine.requests[-1].grammar
    assert isinstance(grammar, JsonGrammar)
    assert '"format": "uri"' in grammar.schema


class Exhausting(FakeEngine):
    """Loses each generation after some tokens, as an engine does whose grammar costs more than it may."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[EngineEvent]:
        count = 0
        async with aclosing(super().generate(request)) as events:
            async for event in events:
                yield event
                count += isinstance(event, Tokens)
                if count == 3:
                    raise GrammarExhausted("The grammar of this answer could not be kept to any longer.")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions"])
async def test_an_answer_that_its_own_grammar_ends_is_the_requests_fault(start: Start, path: str) -> None:
    bodies: dict[str, dict[str, Any]] = {"/v1/responses": {"input": "hi"}, "/v1/completions": {"prompt": "hello"}}
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 50}
    async with start(Exhausting(vocabulary_size=TextCodec.builtin().vocabulary_size)) as quern:
        response = await quern.client.post(path, json=bodies.get(path, chat))
    assert response.status_code == 400, response.text
    assert "could not be kept to" in response.json()["error"]["message"]
