"""Answers by Transformers' own continuous batching: many run at once, each with sampling values of its own.

Its manager (5.19) keeps the paged KV cache, schedules steps and runs the model; of sampling it offers temperature,
top-k and top-p by request and nothing else. But it hands every step's logits to its list of logits processors, with the
requests that are in the step. So one list of ours draws the tokens itself, and leaves only that one to be chosen by the
manager, which takes the likeliest. That needs steps that are computed one after the other, without CUDA graphs.
"""

from __future__ import annotations

import asyncio
import importlib
import math
import os
import secrets
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from .completion import Completion, Ended, Event, Failed, Progress
from .grammars import Constraint, Grammars
from .http import Facts
from .loading import describe_device, load_model
from .prefixes import SALT, SaltedPrefixes
from .sampling import NothingToDraw, Sampler

if TYPE_CHECKING:
    from .serve import ChildConfig

LOST = "The engine has failed, so this answer was lost"
WATCH_SECONDS = 0.5
BLOCK_TOKENS = 32
MARGIN = 0.1
"""Share of the cache below which the manager forgets the prefixes that nobody uses, all at once, and lets nobody in. So
there is that much more of it.
"""
CPU_BATCH = 128
ACCELERATOR_BATCH = 2048
"""The most tokens of a step, where the configuration does not say."""
ENGINE_LOST = 4
"""The exit code where the manager's thread has ended."""


@dataclass(slots=True, eq=False)
class Running:
    """One answer that runs. `tell` may be called in any thread."""

    completion: Completion
    sampler: Sampler
    constraint: Constraint | None
    end_ids: frozenset[int]
    tell: Callable[[Sequence[Event]], None]
    drawn: int = 0
    cached: int = 0

    def draw(self, logits: Any) -> tuple[int, list[Event]]:
        """Draw from float logits [V]; the id, and what there is to tell of it."""
        allowed = None if self.constraint is None else self.constraint.allowed(logits)
        if self.constraint is not None and self.constraint.failure:
            return 0, [Failed(self.constraint.failure)]
        try:
            token = self.sampler.draw(logits, allowed)
        except NothingToDraw as error:
            return 0, [Failed(str(error))]
        self.drawn += 1
        if self.constraint is not None:
            self.constraint.consume(token.id)
        return token.id, [token, *self._end(token.id)]

    def ends_by_itself(self, token: int) -> bool:
        """Whether the manager sees for itself that the answer has ended with this token."""
        return token in self.end_ids or self.drawn == self.completion.max_tokens

    def _end(self, token: int) -> list[Event]:
        if token in self.end_ids:
            reason = token if token in self.completion.stop_token_ids else None
            return [Ended(stop=True, stop_reason=reason, cached=self.cached)]
        if self.constraint is not None and self.constraint.failure:
            return [Failed(self.constraint.failure)]
        if self.constraint is not None and self.constraint.complete:
            return [Ended(stop=True, cached=self.cached)]
        return [Ended(stop=False, cached=self.cached)] if self.drawn == self.completion.max_tokens else []


class Drawing:
    """The manager's list of logits processors, in whose place it draws. `cancel` ends a request of the manager's.

    The members are those of `ContinuousBatchingLogitsProcessorList` in Transformers 5.19.
    """

    do_processing = True
    tensors_required = 0

    def __init__(self) -> None:
        self._running: dict[str, Running] = {}
        self._step: list[tuple[str, bool, int]] = []
        self.cancel: Callable[[str], None] = lambda _: None

    def begin(self, request_id: str, running: Running) -> None:
        """From now on the request's tokens are drawn here."""
        self._running[request_id] = running

    def end(self, request_id: str) -> None:
        """Nothing more is told of the request."""
        if self._running.pop(request_id, None) is not None:
            self.cancel(request_id)

    def fail(self, request_id: str, why: str) -> None:
        """The manager has given a request up."""
        running = self._running.pop(request_id, None)
        if running is not None:
            running.tell([Failed(f"{LOST}: {why}. Ask again.")])

    def salt_of(self, request_id: str) -> str:
        """With whom a request shares its prompt's prefix: with nobody, where it is over."""
        running = self._running.get(request_id)
        return secrets.token_hex(16) if running is None else running.completion.cache_salt

    def found_cached(self, request_id: str, tokens: int) -> None:
        """So much of a request's prompt needs not be computed."""
        running = self._running.get(request_id)
        if running is not None and not running.drawn:
            running.cached = tokens

    def check_kwargs(self, _: dict[str, Any]) -> None:
        """Of these there is only the salt."""

    def fill_defaults(self, _: Any) -> None:
        """There is nothing to be filled."""

    def prepare_tensor_args(self, requests_in_batch: Sequence[Any], arg_storage: Any) -> Any:
        """Remember who is in the step, whether the end of what there is of it is reached, and how much is computed."""
        self._step = [
            (future.state.request_id, future.has_new_token, future.state.position_offset)
            for future in requests_in_batch
        ]
        return arg_storage

    def __call__(self, _: Any, scores: Any, __: Any) -> Any:
        """Draw from the rows [V] of the scores, one for each that reaches its end; leave only the drawn id there."""
        row = -1
        for request_id, draws, computed in self._step:
            row += draws
            running = self._running.get(request_id)
            if running is None:
                continue
            if not draws:
                running.tell([Progress(computed, running.cached)])
                continue
            token, events = running.draw(scores[row])
            scores[row].fill_(-math.inf)
            scores[row, token] = 0.0
            if isinstance(events[-1], Ended | Failed):
                self._running.pop(request_id, None)  # its reader may have left meanwhile
                if not running.ends_by_itself(token):
                    self.cancel(request_id)
            running.tell(events)
        return scores


class Router:
    """Where the manager puts what it says of requests; only their failures are not known here already.

    The members are those of `OutputRouter` in Transformers 5.19 that a manager's thread calls.
    """

    def __init__(self, drawing: Drawing) -> None:
        self._drawing = drawing

    def deliver_batch(self, _: Sequence[Any]) -> None:
        """These have drawn a token, or have ended: that is told already."""

    def fail_and_deliver(self, state: Any, error: Exception) -> None:
        """This one is given up."""
        self._drawing.fail(state.request_id, str(error))


def load(config: ChildConfig, on_progress: Callable[[float], None]) -> BatchingGenerator:
    """Load the model and begin to serve it. Raises what `from_pretrained` does."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    if config.threads:
        torch.set_num_threads(config.threads)
    model = load_model(
        config.model,
        dtype=config.dtype,
        device=config.device,
        trust_remote_code=config.trust_remote_code,
        on_progress=on_progress,
    )
    text_config = model.config.get_text_config()
    manager = model.init_continuous_batching(
        generation_config=transformers.GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=1),
        continuous_batching_config=transformers.ContinuousBatchingConfig(
            page_size=BLOCK_TOKENS,
            num_blocks=math.ceil(config.kv_tokens / BLOCK_TOKENS / (1 - MARGIN)) + config.parallel,
            max_batch_tokens=config.batch_tokens or (CPU_BATCH if model.device.type == "cpu" else ACCELERATOR_BATCH),
            max_requests_per_batch=config.parallel,
            use_async_batching=False,
            use_cuda_graph=False,
            safety_margin=MARGIN,
        ),
    )
    facts = Facts(
        context_length=min(config.sequence_tokens, text_config.max_position_embeddings),
        vocabulary_size=text_config.vocab_size,
        device=describe_device(model),
        dtype=str(model.dtype).removeprefix("torch."),
    )
    grammars = Grammars(config.model, text_config.vocab_size, config.end_ids)
    generator = BatchingGenerator(manager, facts, grammars, frozenset(config.end_ids))
    generator.start()
    return generator


class BatchingGenerator:
    """Computes answers with a loaded model. For one event loop."""

    def __init__(self, manager: Any, facts: Facts, grammars: Grammars, end_ids: frozenset[int]) -> None:
        self._manager = manager
        self._facts = facts
        self._grammars = grammars
        self._end_ids = end_ids
        self._drawing = Drawing()
        self._ids = count()
        manager.logit_processor = self._drawing
        manager.output_router = Router(self._drawing)
        self._drawing.cancel = manager.cancel_request

    @property
    def facts(self) -> Facts:
        """What is served."""
        return self._facts

    def start(self) -> None:
        """Start the manager's thread, and see to it that the process ends when that does."""
        self._manager.warmup()  # makes the cache
        SaltedPrefixes(self._manager.batch_processor.cache, self._drawing.salt_of, self._drawing.found_cached)
        self._manager.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def check(self) -> str:
        """Why nothing can be computed any more; empty while it can."""
        return "" if self._manager.is_running() else "The manager of continuous batching has ended."

    async def generate(self, completion: Completion) -> AsyncGenerator[Sequence[Event]]:
        """One answer's events, after none at first, which says that it is taken. Closing it cancels. Raises Refused."""
        constraint = await asyncio.to_thread(self._grammars.compile, completion.grammar) if completion.grammar else None
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Sequence[Event]]()
        end_ids = completion.stop_token_ids | (frozenset[int]() if completion.ignore_eos else self._end_ids)

        def tell(told: Sequence[Event]) -> None:
            loop.call_soon_threadsafe(events.put_nowait, told)

        request_id = str(next(self._ids))
        running = Running(completion, Sampler(completion), constraint, end_ids, tell)
        self._drawing.begin(request_id, running)
        try:
            self._manager.add_request(
                list(completion.prompt),
                request_id=request_id,
                max_new_tokens=completion.max_tokens,
                eos_token_id=sorted(end_ids) or -1,
                **{SALT: completion.cache_salt},
            )
            yield []
            while True:
                told = await events.get()
                yield told
                if isinstance(told[-1], Ended | Failed):
                    return
        finally:
            self._drawing.end(request_id)

    def _watch(self) -> None:
        """What the manager's thread can't get over, this process can't either: whoever started it starts it anew."""
        while self._manager.is_running():
            threading.Event().wait(WATCH_SECONDS)
        sys.stderr.write("The manager of continuous batching has ended.\n")
        os._exit(ENGINE_LOST)
