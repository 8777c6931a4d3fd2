"""Which tool is to blame for a call that can't be demanded is looked for, but not for long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.turns.live_turns import BYTES

from quern.engine.fake import FakeEngine
from quern.errors import EngineUnavailable, InvalidRequest
from quern.grammar.grammar import Grammar
from quern.turns.grammars import MOST_SUSPECTS, Grammars
from quern.turns.preparation import prepare
from quern.turns.request import CallMode, ChatInput, ToolUse
from quern.types import Message, Role, Tool


def tool(name: str, schema: dict[str, Any]) -> Tool:
    return Tool(name, "", {"type": "object", "properties": {"x": schema}}, strict=True)


KEPT = [tool(f"kept_{size}", {"const": "x" * size}) for size in range(20, 60)]
SMALL, LARGE = tool("small", {"not": {}}), tool("large", {"not": {"const": "x" * 100}})


class SlowEngine(FakeEngine):
    """Takes for ever, or can't tell, once it has refused the grammar of all tools together."""

    def __init__(self, *, unavailable: bool = False) -> None:
        super().__init__(vocabulary_size=BYTES.vocabulary_size, refused_keyword="not")
        self._busy = unavailable

    async def check_grammar(self, grammar: Grammar) -> None:
        if not self.grammars:
            await super().check_grammar(grammar)
        if self._busy:
            raise EngineUnavailable("Other grammars take long to be prepared.", 5)
        await asyncio.Event().wait()


async def refusal(engine: FakeEngine, *tools: Tool) -> str:
    await engine.start()
    given = ChatInput((Message(Role.USER, "hi"),), tool_use=ToolUse(tools, CallMode.REQUIRED))
    with pytest.raises(InvalidRequest) as refused:
        await Grammars(engine, BYTES, seconds=0.05).choose(prepare(BYTES, [], given), given)
    assert refused.value.field == "tools"
    return str(refused.value)


async def test_the_tools_with_the_largest_parameters_are_looked_at_first() -> None:
    engine = FakeEngine(vocabulary_size=BYTES.vocabulary_size, refused_keyword="not")
    assert "the tool 'large'" in await refusal(engine, SMALL, *KEPT, LARGE)
    together, alone = engine.grammars
    assert together != alone


async def test_no_more_than_a_few_tools_are_looked_at() -> None:
    engine = FakeEngine(vocabulary_size=BYTES.vocabulary_size, refused_keyword="not")
    sentence = await refusal(engine, SMALL, *KEPT)
    assert len(engine.grammars) == 1 + MOST_SUSPECTS
    assert "the tool" not in sentence
    assert "`not`" in sentence


@pytest.mark.parametrize("unavailable", [True, False])
async def test_where_that_takes_too_long_the_tools_are_refused_together(unavailable: bool) -> None:
    sentence = await refusal(SlowEngine(unavailable=unavailable), SMALL, LARGE)
    assert "the tool" not in sentence
    assert "`not`" in sentence
