"""Which grammar an answer is kept to, and what a caller is told where there is none."""

from __future__ import annotations

import pytest
from tests.unit.turns.live_turns import BYTES

from quern.engine.fake import FakeEngine
from quern.errors import InvalidRequest
from quern.grammar.grammar import JsonGrammar
from quern.turns.grammars import Grammars
from quern.turns.preparation import Prepared, prepare
from quern.turns.request import CallMode, ChatInput, TokenInput, ToolUse
from quern.types import Message, Role, Tool

REFUSED, KEPT = JsonGrammar('{"items": {"not": {}}}'), JsonGrammar('{"items": {}}')
ASKED = ChatInput((Message(Role.USER, "hi"),), schema="{}", schema_field="response_format")
READ = Tool("read", "", {"type": "object", "properties": {"path": {"type": "string"}}})
WRITE = Tool("write", "", {"type": "object", "properties": {"mode": {"not": {"const": 5}}}}, strict=True)


@pytest.fixture
async def grammars() -> Grammars:
    engine = FakeEngine(vocabulary_size=BYTES.vocabulary_size, refused_keyword="not")
    await engine.start()
    return Grammars(engine, BYTES)


async def test_the_first_one_that_the_engine_keeps_to_is_the_answers(grammars: Grammars) -> None:
    assert await grammars.choose(Prepared((1,), grammars=(KEPT, REFUSED)), ASKED) is KEPT
    assert await grammars.choose(Prepared((1,), grammars=(REFUSED, KEPT)), ASKED) is KEPT


async def test_where_there_is_none_nothing_is_kept_to(grammars: Grammars) -> None:
    assert await grammars.choose(Prepared((1,)), ASKED) is None
    assert await grammars.choose(Prepared((1,)), TokenInput((1,))) is None


async def test_a_refused_schema_is_named_by_its_field(grammars: Grammars) -> None:
    with pytest.raises(InvalidRequest, match="`not` \\(at #/items/not\\)") as refused:
        await grammars.choose(Prepared((1,), grammars=(REFUSED, REFUSED)), ASKED)
    assert refused.value.field == "response_format"


async def test_a_tool_whose_call_cant_be_demanded_is_named(grammars: Grammars) -> None:
    given = ChatInput(ASKED.items, tool_use=ToolUse((READ, WRITE), CallMode.REQUIRED))
    with pytest.raises(InvalidRequest, match="A call of the tool 'write' can't be demanded") as refused:
        await grammars.choose(prepare(BYTES, [], given), given)
    assert refused.value.field == "tools"
    assert "`not`" in str(refused.value)


async def test_only_the_tool_that_must_be_called_has_to_be_enforceable(grammars: Grammars) -> None:
    given = ChatInput(ASKED.items, tool_use=ToolUse((READ, WRITE), CallMode.REQUIRED, "read"))
    assert await grammars.choose(prepare(BYTES, [], given), given) is not None
