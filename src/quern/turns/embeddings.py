"""Embeddings: texts in, vectors out. Nothing is remembered, and nothing outlives the request that asks for it."""

from __future__ import annotations

import asyncio
import math
import time
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from quern.access.usage import UsageMeter
from quern.config import TurnSettings
from quern.engine.base import EmbedRequest, Engine, Priority, Vector
from quern.errors import EngineUnavailable, InputTooLong, InvalidRequest, QueueFull
from quern.obs.metrics import Metrics
from quern.turns.models import ServedModel
from quern.turns.preparation import check_ids
from quern.turns.request import Caller
from quern.turns.retry_after import RetryAfter
from quern.turns.service import LOADING_RETRY_AFTER, TurnService
from quern.turns.tokens import TextOrIds

MOST_INPUTS = 2048
"""Of one request, as at OpenAI."""

SERVER_STOPS = "The server stopped before everything was embedded, so nothing is. Send it again once it is back."


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector for each input, in their order; `prompt_tokens` are those of all inputs together."""

    vectors: tuple[Vector, ...]
    prompt_tokens: int


class EmbeddingService:
    """Embeds with a model that is one for embeddings.

    A request has at most as many inputs at work as the engine has sequences, so the next one waits for a few of them
    and not for all. One input alone is probably somebody's question; many are an index that is built, behind it.
    """

    def __init__(
        self,
        turns: TurnService,
        usage: UsageMeter,
        *,
        metrics: Metrics,
        settings: TurnSettings,
    ) -> None:
        self._turns = turns
        self._usage = usage
        self._metrics = metrics
        self._settings = settings
        self._running: dict[asyncio.Task[Embeddings], ServedModel] = {}
        self._interrupted = False
        self._retry: defaultdict[ServedModel, RetryAfter] = defaultdict(RetryAfter)

    async def embed(
        self,
        model: ServedModel,
        inputs: Sequence[TextOrIds],
        caller: Caller,
        *,
        dimensions: int | None = None,
        field: str = "input",
    ) -> Embeddings:
        """Embed texts, or token ids; `dimensions`: how many numbers each vector is cut to (Kusupati et al. 2022,
        "Matryoshka Representation Learning"), its length 1 again. `field`: the request's field that has the inputs.

        Without inputs there are no vectors. Cancelling it frees all sequences. Raises EngineUnavailable,
        InvalidRequest, QueueFull, InputTooLong or EngineFailed.
        """
        await self._turns.reach(model)
        _check(model, inputs, dimensions, field)
        if not inputs:
            return Embeddings((), 0)
        self._check_places(model, caller)
        began = time.monotonic()
        work = asyncio.get_running_loop().create_task(_embed(model, inputs, caller, dimensions, field))
        self._running[work] = model
        try:
            embeddings = await work
        except asyncio.CancelledError:
            if self._interrupted:
                raise EngineUnavailable(SERVER_STOPS, LOADING_RETRY_AFTER) from None
            raise
        finally:
            del self._running[work]
            self._retry[model].ended(others=self._at_work(model), parallel=model.info.parallel)
        seconds = time.monotonic() - began
        self._metrics.embedded(caller.principal.name, embeddings.prompt_tokens)
        await self._usage.charge_embedding(caller.principal, model.name, embeddings.prompt_tokens, seconds)
        return embeddings

    def reload(self, settings: TurnSettings) -> None:
        """Admit requests under other limits from now on."""
        self._settings = settings

    async def drain(self, grace_seconds: float) -> None:
        """Let running requests finish for `grace_seconds`, then end the rest. New ones are refused as turns are."""
        if self._running:
            await asyncio.wait(self._running, timeout=grace_seconds)
        self.interrupt()

    def interrupt(self) -> None:
        """End every running request with EngineUnavailable, at once."""
        self._interrupted = True
        for work in self._running:
            work.cancel()

    def _at_work(self, model: ServedModel) -> int:
        return sum(one is model for one in self._running.values())

    def _check_places(self, model: ServedModel, caller: Caller) -> None:
        """Raises QueueFull where all are taken."""
        parallel, running, retry = model.info.parallel, self._at_work(model), self._retry[model]
        limit = parallel + self._settings.max_queued
        free = limit - running
        if running >= parallel and free <= retry.kept(caller.known_by, free):
            seconds = retry.refuse(caller.known_by)
            msg = f"All {limit} places for requests of embeddings are taken. Try again in {seconds} s."
            raise QueueFull(msg, seconds)
        retry.admitted(caller.known_by)


async def _embed(
    model: ServedModel, inputs: Sequence[TextOrIds], caller: Caller, dimensions: int | None, field: str
) -> Embeddings:
    prompts = await asyncio.to_thread(_encode, model, inputs, field)
    priority = caller.priority(Priority.NORMAL if len(prompts) == 1 else Priority.BACKGROUND)
    who = caller.principal
    requests = [EmbedRequest(ids, priority, who.cache_salt, who.owner, who.weight) for ids in prompts]
    vectors = await _embed_all(model.engine, requests)
    if dimensions is not None:
        vectors = await asyncio.to_thread(shortened, vectors, dimensions)
    return Embeddings(tuple(vectors), sum(map(len, prompts)))


def _check(model: ServedModel, inputs: Sequence[TextOrIds], dimensions: int | None, field: str) -> None:
    longest = model.embedding_length
    if not longest:
        raise InvalidRequest(
            f"The served model {model.name!r} writes text and makes no embeddings. Serve one that does, such as "
            f"Qwen3-Embedding: `quern serve --model` with the path of its folder or GGUF file.",
            field="model",
        )
    if len(inputs) > MOST_INPUTS:
        raise InvalidRequest(
            f"The field {field} has {len(inputs)} inputs; a request may have {MOST_INPUTS}. Send it in parts.",
            field=field,
        )
    if dimensions is not None and not 1 <= dimensions <= longest:
        raise InvalidRequest(
            f"dimensions={dimensions} can't be had: this model's vectors have {longest} numbers and can be cut to any "
            f"length from 1 to that. Ask for fewer, or leave dimensions out.",
            field="dimensions",
        )


def _encode(model: ServedModel, inputs: Sequence[TextOrIds], field: str) -> list[tuple[int, ...]]:
    """The inputs' ids. One after the other: the tokenizer's own objects take many times an id's room."""
    prompts: list[tuple[int, ...]] = []
    context_length = model.info.context_length
    for index, given in enumerate(inputs):
        name = field if len(inputs) == 1 else f"{field}.{index}"
        if not isinstance(given, str):
            check_ids(given, model.codec.vocabulary_size, name)
        ids = model.codec.encode_whole(given)
        if not ids or not (isinstance(given, str) or given):
            raise InvalidRequest(f"The input {name} is empty. Send some text, or leave it out.", field=name)
        if len(ids) > context_length:
            raise InputTooLong(name, len(ids), context_length)
        prompts.append(ids)
    return prompts


async def _embed_all(engine: Engine, requests: Sequence[EmbedRequest]) -> list[Vector]:
    """In order. Where one fails, none goes on."""
    vectors: dict[int, Vector] = {}
    waiting = iter(enumerate(requests))

    async def work() -> None:
        for index, request in waiting:
            vectors[index] = await engine.embed(request)

    workers = [asyncio.ensure_future(work()) for _ in range(min(engine.info.parallel, len(requests)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [vectors[index] for index in range(len(requests))]


def shortened(vectors: Sequence[Vector], dimensions: int) -> list[Vector]:
    """The first numbers of each vector, its length 1 again. One of length 0 stays as it is."""
    shorter: list[Vector] = []
    for vector in vectors:
        first = vector[:dimensions]
        length = math.hypot(*first)
        shorter.append(array("f", [value / length for value in first]) if length > 0 else first)
    return shorter
