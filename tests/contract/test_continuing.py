"""A generation goes on where an earlier life of it ended: cut, lost, or full. The whole is what it would have been."""

from __future__ import annotations

import asyncio
import random
import re
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from quern.engine.base import EngineState, Finished, GenerateRequest, Logprob, Tokens
from quern.engine.cpu.engine import CpuEngine
from quern.errors import ContextExceeded, EngineFailed, InvalidRequest
from quern.sampling import SamplingParams
from quern.types import FinishReason

from .engines import CONTEXT_LENGTH, Run, Subject, collect, exhaust
from .test_grammars import PERSON, SHORT, TOOL_CALL, json_grammar

pytestmark = pytest.mark.asyncio(loop_scope="module")


GREEDY: dict[str, dict[str, Any]] = {
    "plain": {},
    "a nucleus of nothing": {"temperature": 1.0, "top_p": 0.0},
    "repetition": {"repetition_penalty": 1.4},
    "presence": {"presence_penalty": 1.5},
    "frequency": {"frequency_penalty": 0.7, "repetition_penalty": 1.1},
    "a bias": {"logit_bias": {17: 4.0, 18: 3.9}, "presence_penalty": 0.2, "repetition_penalty": 1.0},
}
DRAWN: dict[str, dict[str, Any]] = {
    "all of the vocabulary": {"top_p": 1.0, "top_k": 0},
    "with penalties": {"presence_penalty": 1.0, "frequency_penalty": 0.5, "repetition_penalty": 1.3, "top_k": 0},
    "truncated": {"top_p": 0.9, "top_k": 40, "min_p": 0.001},
    "a wide seed": {"seed": 2**62 + 3, "temperature": 2.0, "top_p": 1.0},
    "a negative seed": {"seed": -5, "top_p": 1.0, "ignore_eos": True},
}


def asked(subject: Subject, **values: Any) -> GenerateRequest:
    """Greedy, unless said otherwise. An echo of it is longer than the answer may be."""
    asked_for: dict[str, Any] = {"max_tokens": 24, "temperature": 0, "logprobs": 2, **values}
    asked_for["temperature"] = min(asked_for["temperature"], subject.hottest)
    request = subject.request("Count from one to twenty, and then back.")
    return replace(request, sampling=SamplingParams(**asked_for))


def seeded(subject: Subject, **values: Any) -> GenerateRequest:
    return asked(subject, **{"temperature": 1.0, "seed": 11, **values})


@dataclass
class Told:
    """What the reader of an answer has, over all of its lives."""

    ids: list[int] = field(default_factory=list[int])
    logprobs: list[Logprob | None] = field(default_factory=list[Logprob | None])
    end: Finished | None = None

    async def live(self, subject: Subject, request: GenerateRequest, most: int) -> None:
        """One life: until it ends, or is cut after some more tokens."""
        more = 0
        async with aclosing(subject.engine.generate(replace(request, generated=tuple(self.ids)))) as events:
            async for event in events:
                if isinstance(event, Finished):
                    self.end = event
                if isinstance(event, Tokens):
                    self.ids.extend(event.ids)
                    self.logprobs.extend(event.logprobs or [None] * len(event.ids))
                    more += len(event.ids)
                    if more >= most:
                        return


def same_logprobs(subject: Subject, one: list[Logprob | None], other: list[Logprob | None]) -> None:
    """To the bit, where the engine computes one token as it computes many."""
    if isinstance(subject.engine, CpuEngine):
        assert one == other
        return
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        if first is not None and second is not None:
            assert first.value == pytest.approx(second.value, abs=0.05)


def told_by(run: Run) -> list[Logprob | None]:
    return [logprob for event in run.tokens for logprob in event.logprobs or [None] * len(event.ids)]


def check_rest(subject: Subject, request: GenerateRequest, whole: Run, rest: Run, at: int) -> None:
    """The rest is that of the whole, and counted as a part of it."""
    assert rest.ids == whole.ids[at:]
    same_logprobs(subject, told_by(rest), told_by(whole)[-len(rest.ids) or len(whole.ids) :])
    assert rest.finished.reason is whole.finished.reason
    usage = rest.finished.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(request.prompt), len(whole.ids))
    assert usage.cached_tokens <= usage.prompt_tokens
    assert {prefill.total for prefill in rest.prefills} <= {len(request.prompt) + at}
    assert not rest.prefills or rest.prefills[-1].done == rest.prefills[-1].total
    dones = [prefill.done for prefill in rest.prefills]
    assert dones == sorted(set(dones))


async def check_splits(subject: Subject, request: GenerateRequest, *, places: int = 4) -> Run:
    """Wherever the answer is cut: the first, the last, and some places between."""
    whole = await subject.run(request)
    count = len(whole.ids)
    assert count > 4
    between = random.Random(repr(whole.ids)).sample(range(2, count - 1), min(places, count - 3))
    for at in (1, *between, count - 1, count):
        for salt in (subject.request().cache_salt, request.cache_salt):
            rest = await subject.run(replace(request, generated=whole.ids[:at], cache_salt=salt))
            check_rest(subject, request, whole, rest, at)
    return whole


@pytest.mark.parametrize("name", GREEDY)
async def test_a_greedy_answer_goes_on_wherever_it_was_cut_or_is_refused(subject: Subject, name: str) -> None:
    request = asked(subject, **GREEDY[name])
    if goes_on(subject, request, "penalty"):
        await check_splits(subject, request)
    else:
        await refused(subject, request, "penalty")


@pytest.mark.parametrize("name", DRAWN)
async def test_a_seeded_answer_goes_on_with_the_draws_that_would_have_come_or_is_refused(
    subject: Subject, name: str
) -> None:
    request = seeded(subject, **DRAWN[name])
    if goes_on(subject, request, "seed"):
        await check_splits(subject, request)
    else:
        await refused(subject, request, "seed")


@pytest.mark.parametrize("values", [{"temperature": 0.0}, {"temperature": 3.0, "top_p": 1.0, "top_k": 0}])
@pytest.mark.parametrize("name", ["json", "many members", "call"])
async def test_an_answer_goes_on_within_its_grammar_or_is_refused(
    subject: Subject, name: str, values: dict[str, Any]
) -> None:
    grammar = {"json": json_grammar(SHORT), "many members": json_grammar(PERSON), "call": TOOL_CALL}[name]
    quote = dict.fromkeys(subject.codec.tokenizer.encode('"'), 9.0)
    request = replace(
        seeded(subject, **values, max_tokens=400, logit_bias=quote, repetition_penalty=1.1), grammar=grammar
    )
    if goes_on(subject, request, "grammar"):
        whole = await check_splits(subject, request)
        assert whole.finished.reason is FinishReason.STOP
    else:
        await refused(subject, request, "grammar")


async def test_an_answer_in_many_lives_is_the_one_of_a_single_life(subject: Subject) -> None:
    chosen = random.Random(7)
    for request in (asked(subject), asked(subject, repetition_penalty=1.3), seeded(subject, top_p=1.0, top_k=0)):
        if not goes_on(subject, request, "seed"):
            continue
        whole = await subject.run(request)
        told = Told()
        while told.end is None:
            await told.live(subject, replace(request, cache_salt=subject.request().cache_salt), chosen.randint(1, 7))
        assert tuple(told.ids) == whole.ids
        same_logprobs(subject, told.logprobs, told_by(whole))
        assert told.end.reason is whole.finished.reason
        assert told.end.usage.completion_tokens == len(whole.ids)


async def test_beside_others_it_goes_on_as_alone(subject: Subject) -> None:
    for request, why in ((asked(subject, presence_penalty=0.5), "penalty"), (seeded(subject, top_p=1.0), "seed")):
        if goes_on(subject, request, why):
            whole = await subject.run(request)
            again = replace(request, generated=whole.ids[:9], cache_salt=subject.request().cache_salt)
            async with subject.running(subject.endless("Something else.")):
                check_rest(subject, request, whole, await subject.run(again), 9)


async def test_what_was_lost_with_the_engine_goes_on_once_it_is_back(subject: Subject) -> None:
    request = subject.endless("Tell me a long story.", max_tokens=120)
    whole = await subject.run(request)
    again, ids = replace(request, cache_salt=subject.request().cache_salt), list[int]()
    async with aclosing(subject.engine.generate(again)) as events:
        async for event in events:
            if isinstance(event, Tokens):
                ids.extend(event.ids)
                if len(ids) == 5:
                    break
        await subject.crash()
        with pytest.raises(EngineFailed):
            await exhaust(events)
    await subject.wait_until(lambda: subject.engine.stats().state is EngineState.READY)
    rest = await subject.run(replace(again, generated=tuple(ids)))
    check_rest(subject, request, whole, rest, len(ids))


async def test_right_before_its_end_it_ends_without_a_token(subject: Subject) -> None:
    request = asked(subject)
    ids = (await subject.run(request)).ids
    stop = next(token for token in ids if ids.index(token) > 3)
    ended = replace(request, stop_token_ids=frozenset({stop}), cache_salt="stopping")
    whole = await subject.run(ended)
    assert whole.finished.reason is FinishReason.STOP
    for at in (len(whole.ids) - 1, len(whole.ids)):
        check_rest(subject, ended, whole, await subject.run(replace(ended, generated=whole.ids[:at])), at)


async def test_an_answer_that_has_all_that_it_may_have_ends_at_once(subject: Subject) -> None:
    whole = await subject.run(subject.endless(max_tokens=6))
    for most in (6, 5):
        full = replace(subject.endless(max_tokens=most), generated=whole.ids)
        run = await subject.run(full)
        assert [type(event) for event in run.events] == [Finished]
        assert run.finished.reason is FinishReason.LENGTH
        assert run.finished.usage.completion_tokens == 6
        assert run.finished.usage.prompt_tokens == len(full.prompt)


@pytest.mark.parametrize("penalties", [{}, {"repetition_penalty": 1.5}, {"frequency_penalty": 1.0}])
async def test_with_more_room_a_full_answer_goes_on_as_if_it_had_had_it(
    subject: Subject, penalties: dict[str, float]
) -> None:
    for request in (asked(subject, **penalties, max_tokens=30), seeded(subject, **penalties, max_tokens=30)):
        if goes_on(subject, request, "penalty|seed"):
            whole = await subject.run(request)
            short = await subject.run(replace(request, sampling=replace(request.sampling, max_tokens=11)))
            assert (short.ids, short.finished.reason) == (whole.ids[:11], FinishReason.LENGTH)
            check_rest(subject, request, whole, await subject.run(replace(request, generated=short.ids)), 11)


async def test_without_a_seed_it_goes_on_with_new_draws_up_to_the_same_limit(subject: Subject) -> None:
    request = asked(subject, temperature=1.0, top_p=1.0, seed=None, ignore_eos=True, max_tokens=20)
    begun = (await subject.run(request)).ids[:8]
    run = await subject.run(replace(request, generated=begun))
    assert len(run.ids) == 12
    assert (run.finished.reason, run.finished.usage.completion_tokens) == (FinishReason.LENGTH, 20)


async def test_what_is_reused_of_an_answer_is_told_while_it_is_computed_and_not_counted_as_prompt(
    subject: Subject,
) -> None:
    request = subject.endless(max_tokens=120)
    whole = await subject.run(request)
    run = await subject.run(replace(request, generated=whole.ids[:100]))
    if subject.tells_prefill:
        assert len(request.prompt) < run.prefills[0].cached < len(request.prompt) + 100
    assert run.finished.usage.cached_tokens == len(request.prompt)
    assert run.ids == whole.ids[100:]


async def test_the_context_holds_prompt_and_limit_whatever_there_is_of_the_answer(subject: Subject) -> None:
    request = subject.endless()
    ids = (await subject.run(subject.endless(max_tokens=40))).ids
    room = CONTEXT_LENGTH - len(request.prompt)
    fits = replace(request, generated=ids, sampling=replace(request.sampling, max_tokens=room))
    async with subject.running(fits):
        pass
    with pytest.raises(ContextExceeded):
        await subject.run(replace(fits, sampling=replace(fits.sampling, max_tokens=room + 1)))


async def test_a_continued_answer_waits_in_line_like_any_other(subject: Subject) -> None:
    request = asked(subject)
    whole = await subject.run(request)
    again = replace(request, generated=whole.ids[:10], cache_salt="waits")
    async with subject.running(subject.endless()), subject.running(subject.endless()):
        waits = asyncio.ensure_future(collect(subject.engine, again))
        await subject.wait_until(lambda: subject.engine.stats().waiting == 1)
    run = await waits
    assert run.positions == [1]
    check_rest(subject, request, whole, run, 10)


def goes_on(subject: Subject, request: GenerateRequest, why_not: str) -> bool:
    """Whether the engine says that it can, of a request that has not begun as of one that has."""
    said: list[str] = []
    for each in (request, replace(request, generated=request.prompt[:3])):
        try:
            subject.engine.check_continuable(each)
        except InvalidRequest as error:
            said.append(str(error))
    assert len(said) in {0, 2}
    assert all(re.search(why_not, sentence) for sentence in said)
    return not said


async def refused(subject: Subject, request: GenerateRequest, why: str) -> None:
    """From its beginning the answer is had; to go on with it is refused before anything is computed."""
    whole = await subject.run(request)
    assert whole.ids
    with pytest.raises(InvalidRequest, match=why):
        await subject.run(replace(request, generated=whole.ids[:3]))
