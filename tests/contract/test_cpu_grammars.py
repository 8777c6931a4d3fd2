"""What only the cpu engine has to show of grammars."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import pytest_asyncio

from quern.config_models import EngineSettings
from quern.engine.base import Finished, Tokens
from quern.errors import InvalidRequest
from quern.types import FinishReason

from .engines import RUNS_CPU, Subject, make_subject, started
from .test_grammars import SETTINGS, SHORT, TOOL_CALL, check, json_grammar, request

pytestmark = [pytest.mark.asyncio(loop_scope="module"), RUNS_CPU]

TIGHT = EngineSettings(parallel=4, context_length=512, kv_tokens=512, threads=1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def subject(tiny_model_path: Path) -> AsyncGenerator[Subject]:
    async with started(make_subject("cpu", tiny_model_path, SETTINGS)) as subject:
        yield subject


async def test_special_tokens_of_a_text_grammar_are_drawn_as_such_and_never_inside_of_a_string(
    subject: Subject,
) -> None:
    special = subject.codec.tokenizer.special
    opening, closing = special.user_defined["<tool_call>"], special.user_defined["</tool_call>"]
    eager = dict.fromkeys((opening, closing, *special.control.values()), 100.0)
    for run in [await subject.run(request(subject, TOOL_CALL, logit_bias=bias)) for bias in ({}, eager)]:
        assert (run.ids[0], run.ids[-1]) == (opening, closing)
        assert not {opening, closing, *special.control.values()} & set(run.ids[1:-1])
        jsonschema.validate(json.loads(subject.codec.tokenizer.decode(run.ids[1:-1])), SHORT)
        assert run.finished.reason is FinishReason.STOP


async def test_a_grammar_goes_on_where_it_was_after_its_sequence_lost_its_blocks(tiny_model_path: Path) -> None:
    schema = {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 40, "maxItems": 40}
    async with started(make_subject("cpu", tiny_model_path, TIGHT)) as subject:
        requests = [request(subject, json_grammar(schema), max_tokens=400, seed=seed) for seed in range(4)]
        runs = asyncio.ensure_future(asyncio.gather(*(subject.run(each) for each in requests)))
        await subject.wait_until(lambda: subject.engine.stats().running == 4)
        await subject.wait_until(lambda: subject.engine.stats().waiting > 0)
        for run in await runs:
            check(subject, run, schema)


async def test_an_answer_that_ended_with_its_grammar_is_over_whatever_the_limit_is_now(subject: Subject) -> None:
    whole = await subject.run(request(subject, TOOL_CALL))
    for most in (len(whole.ids), len(whole.ids) + 50):
        again = await subject.run(replace(request(subject, TOOL_CALL, max_tokens=most), generated=whole.ids))
        assert [type(event) for event in again.events] == [Finished]
        assert again.finished.reason is FinishReason.STOP
        assert again.finished.usage.completion_tokens == len(whole.ids)


async def test_what_is_not_of_its_grammar_is_not_gone_on_with_and_others_go_on(subject: Subject) -> None:
    words = tuple(subject.codec.tokenizer.encode("Certainly! Here"))
    async with subject.running(subject.endless(max_tokens=600)) as other:
        with pytest.raises(InvalidRequest, match="does not follow its grammar"):
            await subject.run(replace(request(subject, json_grammar(SHORT)), generated=words))
        assert isinstance(await anext(other), Tokens)
