"""An engine without a model: deterministic, scriptable, as slow and as unreliable as it is told to be."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import math
import struct
from array import array
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence, Set
from contextlib import aclosing
from typing import Any, cast

from quern.engine.base import (
    EmbedRequest,
    EngineEvent,
    EngineInfo,
    EngineState,
    EngineStats,
    Finished,
    GenerateRequest,
    Logprob,
    Tokens,
    Vector,
    ended_before,
)
from quern.engine.gate import Gate
from quern.engine.slots import SlotTable
from quern.errors import ContextExceeded, EngineFailed, EngineUnavailable, InvalidRequest, ModelLoadError
from quern.events import Prefill, Queued
from quern.grammar.kinds import Grammar, JsonGrammar
from quern.grammar.schema_walk import places
from quern.types import FinishReason, Timings, Usage

Reply = Callable[[GenerateRequest], Sequence[int]]

BYTES = 256
LIKELIEST = -0.5
CRASHED = "The fake engine crashed while it was answering, so this answer was lost. Ask again."


def echo(request: GenerateRequest) -> Sequence[int]:
    """The prompt's text: its ids without the special tokens of the byte vocabulary."""
    return [token for token in request.prompt if token < BYTES]


class FakeEngine:
    """Answers every request with the ids that `reply` returns for it, then ends the turn.

    Delays are in seconds: `token_delay` before each token, `prefill_delay` before each `prefill_chunk` prompt tokens,
    `load_delay` for `start` and for coming back after `crash`. A generation fails after `fail_after` tokens, `start`
    fails with `load_error`. `requests` holds every request that got a sequence, `grammars` every grammar that was
    checked; none changes an answer, but a JSON schema must be an object and have the keyword `refused_keyword` nowhere.
    With `ignore_eos` the reply is repeated up to `max_tokens`. Sampling values change nothing, so equal requests have
    equal answers. The likeliest tokens are always the drawn one and those with the next ids. A request that goes on
    gets the rest of its reply, or is refused with the sentence `not_continued`; `fail_after` counts what it gets now.

    Embeddings have `embedding_length` numbers and point anywhere, for the same ids the same way; `embedded` holds every
    request for one that got a sequence. They take the prefill's time and fail where `fail_after` is 0.
    """

    def __init__(
        self,
        *,
        reply: Reply = echo,
        parallel: int = 4,
        context_length: int = 32768,
        kv_tokens: int | None = None,
        vocabulary_size: int = BYTES + 3,
        token_delay: float = 0.0,
        prefill_delay: float = 0.0,
        prefill_chunk: int = 64,
        load_delay: float = 0.0,
        load_error: str | None = None,
        fail_after: int | None = None,
        refused_keyword: str | None = None,
        not_continued: str | None = None,
        embedding_length: int = 64,
        model_id: str = "fake",
    ) -> None:
        self.reply = reply
        self.token_delay = token_delay
        self.prefill_delay = prefill_delay
        self.fail_after = fail_after
        self.refused_keyword = refused_keyword
        self.not_continued = not_continued
        self.silent_seconds = 0.0
        self.requests: list[GenerateRequest] = []
        self.grammars: list[Grammar] = []
        self.embedded: list[EmbedRequest] = []
        self._embedding_length = embedding_length
        self._prefill_chunk = prefill_chunk
        self._load_delay = load_delay
        self._load_error = load_error
        self._info = EngineInfo(
            engine="fake",
            model_id=model_id,
            context_length=context_length,
            vocabulary_size=vocabulary_size,
            parallel=parallel,
            device="no device",
            quantisation="no weights",
        )
        self._gate = Gate(parallel, kv_tokens if kv_tokens is not None else parallel * context_length)
        self._slots = SlotTable(parallel)
        self._state = EngineState.NEW
        self._loading_since = 0.0
        self._life = 0
        self._comeback: asyncio.Task[None] | None = None

    @property
    def info(self) -> EngineInfo:
        """What is served."""
        return self._info

    async def start(self) -> None:
        """Take `load_delay`. Raises ModelLoadError where a `load_error` was given."""
        self._state = EngineState.LOADING
        await self._load()

    async def close(self) -> None:
        """End everything; waiting and running generations end with EngineFailed."""
        self._lose_everything(EngineState.CLOSED)
        self._gate.refuse_waiting(EngineFailed("The engine was closed while this request waited its turn."))
        if self._comeback is not None:
            self._comeback.cancel()
            await asyncio.wait([self._comeback])
            self._comeback = None

    def crash(self) -> None:
        """Lose every running generation, and come back by itself after `load_delay`."""
        self._lose_everything(EngineState.RESTARTING)
        if self._comeback is not None:
            self._comeback.cancel()
        self._comeback = asyncio.get_running_loop().create_task(self._load())

    def stats(self) -> EngineStats:
        """A snapshot."""
        loading = self._state in {EngineState.LOADING, EngineState.RESTARTING}
        elapsed = asyncio.get_running_loop().time() - self._loading_since if loading else 0.0
        return EngineStats(
            self._state,
            running=self._gate.running,
            waiting=self._gate.waiting,
            load_progress=min(elapsed / self._load_delay, 1.0) if loading and self._load_delay else float(self._ready),
            load_remaining=max(self._load_delay - elapsed, 0.0) if loading else 0.0,
            silent_seconds=self.silent_seconds,
        )

    async def check_grammar(self, grammar: Grammar, owner: str = "") -> None:  # noqa: ARG002
        """See `Engine.check_grammar`."""
        if not self._ready:
            raise self._unavailable()
        self.grammars.append(grammar)
        if isinstance(grammar, JsonGrammar):
            _check_schema(grammar.schema, self.refused_keyword)

    def check_continuable(self, request: GenerateRequest) -> None:  # noqa: ARG002
        """See `Engine.check_continuable`."""
        if self.not_continued is not None:
            raise InvalidRequest(self.not_continued)

    def forget(self, tags: Set[str]) -> None:
        """See `Engine.forget`."""
        self._slots.forget(tags)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[EngineEvent]:
        """Generate one sequence; see `Engine.generate`. Raises ContextExceeded where it could never fit."""
        if not self._ready:
            raise self._unavailable()
        if request.generated:
            self.check_continuable(request)
        prompt_tokens, max_tokens = len(request.prompt), request.sampling.max_tokens
        if prompt_tokens + max_tokens > self._info.context_length:
            raise ContextExceeded(prompt_tokens, max_tokens, self._info.context_length)
        end = ended_before(request)
        if end is not None:
            yield end
            return
        arrived = _now()
        place = self._gate.arrive(prompt_tokens + max_tokens, request)
        try:
            async with aclosing(self._gate.positions(place)) as positions:
                async for position in positions:
                    yield Queued(position)
            async with aclosing(self._run(request, queued_ms=(_now() - arrived) * 1000)) as events:
                async for event in events:
                    self._gate.charge(place, event)
                    yield event
        finally:
            self._gate.leave(place)

    async def embed(self, request: EmbedRequest) -> Vector:
        """The embedding of one sequence; see `Engine.embed`."""
        if not self._ready:
            raise self._unavailable()
        if len(request.prompt) > self._info.context_length:
            raise ContextExceeded(len(request.prompt), 0, self._info.context_length)
        place = self._gate.arrive(len(request.prompt), request)
        try:
            await self._gate.turn(place)
            if not self._ready:
                raise self._unavailable()
            self.embedded.append(request)
            life = self._life
            for _ in range(0, len(request.prompt), self._prefill_chunk):
                await self._sleep(self.prefill_delay, life)
            self._fail_after([])
            self._gate.embedded(place)
            return _direction(request.prompt, self._embedding_length)
        finally:
            self._gate.leave(place)

    @property
    def _ready(self) -> bool:
        return self._state is EngineState.READY

    async def _load(self) -> None:
        self._loading_since = _now()
        await asyncio.sleep(self._load_delay)
        if self._load_error is not None:
            self._state = EngineState.CLOSED
            raise ModelLoadError(self._load_error)
        self._state = EngineState.READY
        self._gate.resume()

    def _lose_everything(self, state: EngineState) -> None:
        self._state = state
        self._life += 1
        self._slots = SlotTable(self._info.parallel)
        self._gate.pause()

    def _unavailable(self) -> EngineUnavailable:
        seconds = max(1, math.ceil(self.stats().load_remaining))
        return EngineUnavailable(f"The fake engine is {self._state}. Try again in {seconds} s.", seconds)

    async def _run(self, request: GenerateRequest, queued_ms: float) -> AsyncGenerator[EngineEvent]:
        if not self._ready:
            raise self._unavailable()
        life, slots = self._life, self._slots
        lease = slots.take(request.cache_salt, request.known, request.cache_tag)
        self.requests.append(request)
        shown: list[int] = []
        reason = FinishReason.STOP
        began = _now()
        try:
            total, cached = len(request.known), lease.reusable
            for done in range(cached, total, self._prefill_chunk):
                yield Prefill(done, total, cached)
                await self._sleep(self.prefill_delay, life)
            yield Prefill(total, total, cached)
            decoding = _now()
            for token in self._answer(request):
                self._fail_after(shown)
                await self._sleep(self.token_delay, life)
                if token in request.stop_token_ids:
                    break
                shown.append(token)
                yield Tokens((token,), self._logprobs(token, request.sampling.logprobs))
                if len(request.generated) + len(shown) == request.sampling.max_tokens:
                    reason = FinishReason.LENGTH
                    break
            self._fail_after(shown)
            timings = Timings(queued_ms, (decoding - began) * 1000, (_now() - decoding) * 1000)
            yield Finished(reason, _usage(request, cached, len(shown)), timings)
        finally:
            slots.give_back(lease, request.cache_salt, (*request.known, *shown))

    def _answer(self, request: GenerateRequest) -> Iterable[int]:
        reply = self.reply(request)
        whole = itertools.cycle(reply or (0,)) if request.sampling.ignore_eos else reply
        return itertools.islice(whole, len(request.generated), None)

    def _logprobs(self, token: int, most: int | None) -> tuple[Logprob, ...] | None:
        if most is None:
            return None
        top = (((token + place) % self._info.vocabulary_size, LIKELIEST - place) for place in range(most))
        return (Logprob(LIKELIEST, tuple(top)),)

    async def _sleep(self, seconds: float, life: int) -> None:
        await asyncio.sleep(seconds)
        if self._life != life:
            raise EngineFailed(CRASHED)

    def _fail_after(self, shown: list[int]) -> None:
        if self.fail_after is not None and len(shown) >= self.fail_after:
            msg = f"The fake engine failed after {len(shown)} tokens, as it was told to."
            raise EngineFailed(msg)


def _usage(request: GenerateRequest, cached: int, shown: int) -> Usage:
    prompt_tokens = len(request.prompt)
    return Usage(prompt_tokens, min(cached, prompt_tokens), len(request.generated) + shown)


def _direction(ids: Sequence[int], length: int) -> Vector:
    """Numbers that look random and follow from `ids` alone; their squares add up to 1."""
    digest = hashlib.shake_256(array("q", ids).tobytes()).digest(2 * length)
    numbers = [number + 0.5 for number in struct.unpack(f"<{length}h", digest)]
    norm = math.hypot(*numbers)
    return array("f", [number / norm for number in numbers])


def _check_schema(text: str, refused_keyword: str | None) -> None:
    try:
        schema: object = json.loads(text)
    except ValueError:
        schema = None
    if not isinstance(schema, dict):
        msg = "The JSON schema is not a JSON object, so no answer can be kept to it. Send an object."
        raise InvalidRequest(msg)
    for place, part in places([cast("dict[str, Any]", schema)]):
        if refused_keyword in part:
            msg = f"The fake engine was told to refuse the keyword `{refused_keyword}` (at {place}/{refused_keyword})."
            raise InvalidRequest(msg)


def _now() -> float:
    return asyncio.get_running_loop().time()
