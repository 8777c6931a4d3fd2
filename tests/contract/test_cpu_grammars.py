"""What only the cpu engine has to show of grammars: special tokens in them, and those that become too complex."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import jsonschema
import pytest
import pytest_asyncio
from tests.json_schemas import GIVES_UP, PATHOLOGICAL, an_object

from quern.config import EngineSettings
from quern.engine.base import Tokens
from quern.errors import EngineFailed, InvalidRequest
from quern.grammar.grammar import JsonGrammar, TextGrammar
from quern.turns.preparation import CALLS_OR_JSON
from quern.types import FinishReason

from .engines import RUNS_CPU, Subject, make_subject
from .test_grammars import SETTINGS, SHORT, check, json_grammar, request, text_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), RUNS_CPU]

TIGHT = EngineSettings(parallel=4, context_length=512, kv_tokens=512, threads=1)
TOOL_CALL = TextGrammar(f'start: <tool_call> "\\n" %json {json.dumps(SHORT)} "\\n" </tool_call>', None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def subject(tiny_model_path: Path) -> AsyncGenerator[Subject]:
    async with started(tiny_model_path, SETTINGS) as subject:
        yield subject


@asynccontextmanager
async def started(model: Path, settings: EngineSettings) -> AsyncGenerator[Subject]:
    subject = make_subject("cpu", model, settings)
    await subject.engine.start()
    try:
        yield subject
    finally:
        await subject.engine.close()
        subject.prompt.close()


async def test_special_tokens_of_a_text_grammar_are_drawn_as_such_and_never_inside_of_a_string(
    subject: Subject,
) -> None:
    special = subject.prompt.tokenizer.special
    opening, closing = special.user_defined["<tool_call>"], special.user_defined["</tool_call>"]
    eager = dict.fromkeys((opening, closing, *special.control.values()), 100.0)
    for run in [await subject.run(request(subject, TOOL_CALL, logit_bias=bias)) for bias in ({}, eager)]:
        assert (run.ids[0], run.ids[-1]) == (opening, closing)
        assert not {opening, closing, *special.control.values()} & set(run.ids[1:-1])
        jsonschema.validate(json.loads(subject.prompt.tokenizer.decode(run.ids[1:-1])), SHORT)
        assert run.finished.reason is FinishReason.STOP


async def test_with_tools_and_a_schema_calls_can_be_closed_and_follow_each_other(subject: Subject) -> None:
    special = subject.prompt.tokenizer.special
    opening, closing = special.user_defined["<tool_call>"], special.user_defined["</tool_call>"]
    grammar = TextGrammar(CALLS_OR_JSON.replace("{schema}", json.dumps(SHORT)), None)
    bias = {opening: 50.0, closing: 14.0}
    run = await subject.run(request(subject, grammar, logit_bias=bias, temperature=1.0, max_tokens=300))
    tags = [token for token in run.ids if token in {opening, closing}]
    assert len(tags) > 3
    assert tags == [opening, closing] * (len(tags) // 2) + [opening] * (len(tags) % 2)
    answer = await subject.run(request(subject, grammar, logit_bias={opening: -math.inf}))
    check(subject, answer, SHORT)


async def test_a_bias_that_leaves_nothing_to_draw_fails_its_own_answer(subject: Subject) -> None:
    (digit,) = subject.prompt.tokenizer.encode("7")
    hopeless = request(subject, json_grammar({"const": 7}), logit_bias={digit: -math.inf})
    async with subject.running(subject.endless(max_tokens=600)) as other:
        with pytest.raises(EngineFailed, match="No token that the grammar of this answer allows could be drawn"):
            await subject.run(hopeless)
        assert [type(event) async for event in other].count(Tokens) > 0


async def test_a_grammar_that_becomes_too_complex_fails_its_own_answer(subject: Subject) -> None:
    async with subject.running(subject.endless(max_tokens=900)) as other:
        with pytest.raises(EngineFailed, match=r"could not be kept to any longer.*too complex"):
            await subject.run(request(subject, json_grammar(GIVES_UP)))
        assert [type(event) async for event in other].count(Tokens) > 0


async def test_a_grammar_goes_on_where_it_was_after_its_sequence_lost_its_blocks(tiny_model_path: Path) -> None:
    schema = {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 40, "maxItems": 40}
    async with started(tiny_model_path, TIGHT) as subject:
        requests = [request(subject, json_grammar(schema), max_tokens=400, seed=seed) for seed in range(4)]
        runs = asyncio.ensure_future(asyncio.gather(*(subject.run(each) for each in requests)))
        await subject.wait_until(lambda: subject.engine.stats().running == 4)
        await subject.wait_until(lambda: subject.engine.stats().waiting > 0)
        for run in await runs:
            check(subject, run, schema)


async def test_the_worst_schemas_come_to_an_end_and_the_engine_goes_on_meanwhile(subject: Subject) -> None:
    async with asyncio.timeout(120):
        for schema in PATHOLOGICAL:
            async with subject.running(subject.endless(max_tokens=900)) as other:
                with suppress(InvalidRequest, EngineFailed):
                    await subject.run(request(subject, JsonGrammar(schema), max_tokens=20))
                assert isinstance(await anext(other), Tokens)
        check(subject, await subject.run(request(subject, json_grammar(SHORT))), SHORT)


async def test_many_optional_members_dont_end_an_answer_in_its_middle(subject: Subject) -> None:
    properties = {f"p{n}": {"type": "string", "maxLength": n % 20 + 1} for n in range(400)}
    schema = an_object(properties, required=["p399"])
    comma = {token: 5.0 for text in (",", '",') for token in subject.prompt.tokenizer.encode(text)}
    run = await subject.run(request(subject, json_grammar(schema), logit_bias=comma, max_tokens=300))
    assert len(text_of(subject, run)) > 300
