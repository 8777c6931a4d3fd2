"""Which tool is to blame for a call that can't be demanded is looked for, but not for long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from quern.engine.fake import FakeEngine
from quern.errors import EngineUnavailable, InvalidRequest
from quern.grammar.grammar_choice import MOST_SUSPECTS, GrammarChoice
from quern.grammar.kinds import Grammar
from quern.grammar.tool_calls import ToolFormat, demanded_call
from quern.types import Tool


def tool(name: str, schema: dict[str, Any]) -> Tool:
    return Tool(name, "", {"type": "object", "properties": {"x": schema}}, strict=True)


KEPT = [tool(f"kept_{size}", {"const": "x" * size}) for size in range(20, 60)]
SMALL, LARGE = tool("small", {"not": {}}), tool("large", {"not": {"const": "x" * 100}})


class SlowEngine(FakeEngine):
    """Takes for ever, or can't tell, once it has refused the grammar of all tools together."""

    def __init__(self, *, unavailable: bool = False) -> None:
        super().__init__(refused_keyword="not")
        self._busy = unavailable

    async def check_grammar(self, grammar: Grammar, owner: str = "") -> None:
        if not self.grammars:
            await super().check_grammar(grammar, owner)
        if self._busy:
            raise EngineUnavailable("Other grammars take long to be prepared.", 5)
        await asyncio.Event().wait()


async def refusal(engine: FakeEngine, *tools: Tool) -> str:
    await engine.start()
    choice = GrammarChoice(engine.check_grammar, ToolFormat.JSON, seconds=0.05)
    with pytest.raises(InvalidRequest) as refused:
        await choice.choose(demanded_call(ToolFormat.JSON, tools), "tools", tools)
    assert refused.value.field == "tools"
    return str(refused.value)


async def test_the_tools_with_the_largest_parameters_are_looked_at_first() -> None:
    engine = FakeEngine(refused_keyword="not")
    assert "the tool 'large'" in await refusal(engine, SMALL, *KEPT, LARGE)
    together, alone = engine.grammars
    assert together != alone


async def test_no_more_than_a_few_tools_are_looked_at() -> None:
    engine = FakeEngine(refused_keyword="not")
    sentence = await refusal(engine, SMALL, *KEPT)
    assert len(engine.grammars) == 1 + MOST_SUSPECTS
    assert "the tool" not in sentence
    assert "`not`" in sentence


@pytest.mark.parametrize("unavailable", [True, False])
async def test_where_that_takes_too_long_the_tools_are_refused_together(unavailable: bool) -> None:
    sentence = await refusal(SlowEngine(unavailable=unavailable), SMALL, LARGE)
    assert "the tool" not in sentence
    assert "`not`" in sentence
