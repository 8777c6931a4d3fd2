"""Which grammar an answer is kept to, and what a caller is told where there is none."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from quern.engine.fake import FakeEngine
from quern.errors import InvalidRequest
from quern.grammar.grammar_choice import GrammarChoice
from quern.grammar.kinds import JsonGrammar
from quern.grammar.tool_calls import ToolFormat, demanded_call
from quern.types import Tool

REFUSED, KEPT = JsonGrammar('{"items": {"not": {}}}'), JsonGrammar('{"items": {}}')
READ = Tool("read", "", {"type": "object", "properties": {"path": {"type": "string"}}})
WRITE = Tool("write", "", {"type": "object", "properties": {"mode": {"not": {"const": 5}}}}, strict=True)


@pytest.fixture
async def choice() -> AsyncGenerator[GrammarChoice]:
    engine = FakeEngine(refused_keyword="not")
    await engine.start()
    yield GrammarChoice(engine.check_grammar, ToolFormat.JSON)
    await engine.close()


async def test_the_first_one_that_can_be_kept_to_is_the_answers(choice: GrammarChoice) -> None:
    assert await choice.choose([KEPT, REFUSED], "response_format") is KEPT
    assert await choice.choose([REFUSED, KEPT], "response_format") is KEPT


async def test_where_there_is_none_nothing_is_kept_to(choice: GrammarChoice) -> None:
    assert await choice.choose([]) is None
    assert await choice.choose([], "tools", [READ]) is None


async def test_a_refused_schema_is_named_by_its_field(choice: GrammarChoice) -> None:
    with pytest.raises(InvalidRequest, match="`not` \\(at #/items/not\\)") as refused:
        await choice.choose([REFUSED, REFUSED], "response_format")
    assert refused.value.field == "response_format"


async def test_a_tool_whose_call_cant_be_demanded_is_named(choice: GrammarChoice) -> None:
    tools = (READ, WRITE)
    with pytest.raises(InvalidRequest, match="A call of the tool 'write' can't be demanded") as refused:
        await choice.choose(demanded_call(ToolFormat.JSON, tools), "tools", tools)
    assert refused.value.field == "tools"
    assert "`not`" in str(refused.value)
