"""The cpu engine keeps to grammars, with a real model: whatever it draws, the answer is of the schema."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import pytest_asyncio

from quern.config import EngineSettings
from quern.engine.base import GenerateRequest, Grammar, JsonGrammar, TextGrammar, Tokens
from quern.engine.choice import native_facts
from quern.errors import EngineFailed, InvalidRequest
from quern.prompt.prompt import Prompt
from quern.types import FinishReason, SamplingParams

from .engines import Run, Subject, cpu_subject
from .json_schemas import GIVES_UP, PAIR, PATHOLOGICAL, SCHEMAS, closed

NATIVE = native_facts()
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        NATIVE.instruction_set is None and not NATIVE.trouble, reason="the engine cpu can't run on this machine"
    ),
]

SETTINGS = EngineSettings(parallel=4, context_length=1024, kv_tokens=4096)
TIGHT = EngineSettings(parallel=4, context_length=512, kv_tokens=512)
TOOL_CALL = TextGrammar(f'start: <tool_call> "\\n" %json {json.dumps(PAIR)} "\\n" </tool_call>', None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def subject(small_model_path: Path) -> AsyncGenerator[Subject]:
    async with started(small_model_path, SETTINGS) as subject:
        yield subject


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(model_folder: Path) -> AsyncGenerator[Subject]:
    """A random network with the small model's tokens: it is fast, and wants no grammar's tokens."""
    async with started(model_folder, SETTINGS) as subject:
        yield subject


@asynccontextmanager
async def started(model: Path, settings: EngineSettings) -> AsyncGenerator[Subject]:
    subject = cpu_subject(model, Prompt.load(model), settings)
    await subject.engine.start()
    try:
        yield subject
    finally:
        await subject.engine.close()
        subject.prompt.close()


def json_grammar(schema: dict[str, Any]) -> JsonGrammar:
    return JsonGrammar(json.dumps(schema))


def request(
    subject: Subject, grammar: Grammar | None, text: str = "Answer in JSON.", **sampling: Any
) -> GenerateRequest:
    """Greedy unless said otherwise."""
    values: dict[str, Any] = {"max_tokens": 300, "temperature": 0, **sampling}
    return replace(subject.request(text), sampling=SamplingParams(**values), grammar=grammar)


def hot(seed: int) -> dict[str, Any]:
    """Any token that the grammar allows may be drawn."""
    return {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": seed}


def text_of(subject: Subject, run: Run) -> str:
    return subject.prompt.tokenizer.decode(run.ids)


def check(subject: Subject, run: Run, schema: dict[str, Any]) -> None:
    assert run.finished.reason is FinishReason.STOP
    text = text_of(subject, run)
    jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())
    assert text == text.strip()


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
async def test_whatever_is_drawn_the_answer_is_of_its_schema(subject: Subject, schema: dict[str, Any]) -> None:
    grammar = json_grammar(schema)
    await subject.engine.check_grammar(grammar)
    draws: list[dict[str, Any]] = [{}, hot(1), {"temperature": 2.0, "repetition_penalty": 1.5, "seed": 3}]
    runs = await asyncio.gather(*(subject.run(request(subject, grammar, **values)) for values in draws))
    for run in runs:
        check(subject, run, schema)


async def test_any_object_is_an_object(subject: Subject) -> None:
    text = 'Describe a cat as a JSON object with the keys "name" and "age".'
    run = await subject.run(request(subject, json_grammar({"type": "object"}), text))
    check(subject, run, {"type": "object"})


async def test_a_model_that_wants_blanks_only_comes_to_an_end(tiny: Subject) -> None:
    ids = range(tiny.prompt.vocabulary_size)
    blanks = {token: 100.0 for token in ids if tiny.prompt.tokenizer.token_bytes(token).isspace()}
    run = await tiny.run(request(tiny, json_grammar({"type": "array", "const": [1]}), logit_bias=blanks))
    check(tiny, run, {"const": [1]})
    assert any(blank in text_of(tiny, run) for blank in " \n")


async def test_special_tokens_of_a_text_grammar_are_drawn_as_such_and_never_inside_of_a_string(
    subject: Subject,
) -> None:
    special = subject.prompt.tokenizer.special
    opening, closing = special.user_defined["<tool_call>"], special.user_defined["</tool_call>"]
    eager = dict.fromkeys((opening, closing, *special.control.values()), 100.0)
    draws: list[dict[str, Any]] = [{}, {"logit_bias": eager}, hot(5)]
    for run in await asyncio.gather(*(subject.run(request(subject, TOOL_CALL, **values)) for values in draws)):
        assert (run.ids[0], run.ids[-1]) == (opening, closing)
        assert not {opening, closing, *special.control.values()} & set(run.ids[1:-1])
        jsonschema.validate(json.loads(subject.prompt.tokenizer.decode(run.ids[1:-1])), PAIR)
        assert run.finished.reason is FinishReason.STOP


async def test_a_text_grammar_that_may_end_ends_where_the_model_ends_it(subject: Subject) -> None:
    run = await subject.run(request(subject, TextGrammar("start: /[ -~\\n]*/", None), max_tokens=400))
    assert run.finished.reason is FinishReason.STOP
    assert text_of(subject, run).isascii()
    assert not subject.prompt.stop_token_ids & set(run.ids)


async def test_in_one_batch_each_sequence_keeps_to_its_own_grammar_and_one_without_is_as_alone(
    subject: Subject,
) -> None:
    free = request(subject, None, max_tokens=40, **hot(9))
    alone = await subject.run(free)
    first, second = SCHEMAS["recursive"], SCHEMAS["formats"]
    runs = await asyncio.gather(
        subject.run(request(subject, json_grammar(first), **hot(1))),
        subject.run(free),
        subject.run(request(subject, json_grammar(second), **hot(1))),
        subject.run(request(subject, TOOL_CALL, **hot(1))),
    )
    check(subject, runs[0], first)
    check(subject, runs[2], second)
    assert runs[1].ids == alone.ids
    assert runs[3].ids[0] == subject.prompt.tokenizer.special.user_defined["<tool_call>"]


async def test_a_seed_repeats_its_answer_and_logprobs_are_those_of_the_free_model(subject: Subject) -> None:
    grammar = json_grammar(closed(unlikely={"const": "zyzzyva"}))
    first, again = [await subject.run(request(subject, grammar, logprobs=3, **hot(4))) for _ in range(2)]
    assert first.ids == again.ids
    logprobs = [logprob for event in first.events if isinstance(event, Tokens) for logprob in event.logprobs or ()]
    assert len(logprobs) == len(first.ids)
    for token, logprob in zip(first.ids, logprobs, strict=True):
        assert len(logprob.top) == 3
        assert [value for _, value in logprob.top] == sorted((value for _, value in logprob.top), reverse=True)
        assert logprob.value == dict(logprob.top).get(token, logprob.value) <= logprob.top[0][1]
    assert any(token not in dict(logprob.top) for token, logprob in zip(first.ids, logprobs, strict=True))


async def test_an_answer_that_is_cut_off_is_a_length_and_a_whole_one_at_its_last_token_is_a_stop(
    tiny: Subject,
) -> None:
    grammar = json_grammar(PAIR)
    whole = await tiny.run(request(tiny, grammar))
    exact, short = [await tiny.run(request(tiny, grammar, max_tokens=len(whole.ids) - less)) for less in (0, 1)]
    assert (exact.ids, exact.finished.reason) == (whole.ids, FinishReason.STOP)
    assert (short.ids, short.finished.reason) == (whole.ids[:-1], FinishReason.LENGTH)


async def test_where_the_models_end_is_ignored_the_grammars_end_is_the_end(tiny: Subject) -> None:
    run = await tiny.run(request(tiny, json_grammar(PAIR), ignore_eos=True))
    check(tiny, run, PAIR)


async def test_a_bias_that_leaves_nothing_to_draw_fails_its_own_answer(tiny: Subject) -> None:
    (digit,) = tiny.prompt.tokenizer.encode("7")
    hopeless = request(tiny, json_grammar({"const": 7}), logit_bias={digit: -math.inf})
    async with tiny.running(tiny.endless(max_tokens=40)) as other:
        with pytest.raises(EngineFailed, match="No token that the grammar of this answer allows could be drawn"):
            await tiny.run(hopeless)
        assert [type(event) async for event in other].count(Tokens) > 0


async def test_a_grammar_that_becomes_too_complex_fails_its_own_answer(tiny: Subject) -> None:
    async with tiny.running(tiny.endless(max_tokens=60)) as other:
        with pytest.raises(EngineFailed, match=r"could not be kept to any longer.*too complex"):
            await tiny.run(request(tiny, json_grammar(GIVES_UP), **hot(1)))
        assert [type(event) async for event in other].count(Tokens) > 0


async def test_a_grammar_goes_on_where_it_was_after_its_sequence_lost_its_blocks(model_folder: Path) -> None:
    schema = {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 40, "maxItems": 40}
    async with started(model_folder, TIGHT) as tiny:
        requests = [request(tiny, json_grammar(schema), max_tokens=400, **hot(seed)) for seed in range(4)]
        runs = asyncio.ensure_future(asyncio.gather(*(tiny.run(each) for each in requests)))
        await tiny.wait_until(lambda: tiny.engine.stats().running == 4)
        await tiny.wait_until(lambda: tiny.engine.stats().waiting > 0)
        for run in await runs:
            check(tiny, run, schema)


@pytest.mark.parametrize(
    ("grammar", "part"),
    [
        (json_grammar(closed(a=closed(b={"not": {}}))), "`not` at #/properties/a/properties/b"),
        (json_grammar(closed(a={"type": "string", "pattern": "(?=a)b"})), r"pattern at #/properties/a .*look-around"),
        (json_grammar({"type": "integer", "minimum": 5, "maximum": 3}), r"minimum \(5\) is greater than maximum"),
        (JsonGrammar("{"), "is no JSON"),
        (JsonGrammar("x" * 70_000), "70000 characters"),
        (TextGrammar("start: <no_such_token>", None), "<no_such_token>"),
        (TextGrammar('start: %json {"uniqueItems": true}', None), "`uniqueItems`"),
    ],
)
async def test_what_cant_be_kept_to_is_refused_with_the_part(tiny: Subject, grammar: Grammar, part: str) -> None:
    for attempt in (tiny.engine.check_grammar(grammar), tiny.run(request(tiny, grammar))):
        with pytest.raises(InvalidRequest, match=part) as refused:
            await attempt
        assert len(str(refused.value)) < 500


async def test_the_worst_schemas_come_to_an_end_and_the_engine_goes_on_meanwhile(tiny: Subject) -> None:
    async with asyncio.timeout(120):
        other = asyncio.ensure_future(tiny.run(tiny.endless(max_tokens=900)))
        for schema in PATHOLOGICAL:
            with suppress(InvalidRequest, EngineFailed):
                await tiny.run(request(tiny, JsonGrammar(schema), max_tokens=20, **hot(1)))
        assert len((await other).ids) == 900
        check(tiny, await tiny.run(request(tiny, json_grammar(PAIR))), PAIR)
