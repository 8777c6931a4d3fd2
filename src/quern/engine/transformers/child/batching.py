"""Answers by Transformers' own continuous batching: many run at once, each with sampling values of its own.

Its manager (5.19) keeps the paged KV cache, schedules steps and runs the model; of sampling it offers temperature, top-k
and top-p by request and nothing else. But it hands every step's logits to its list of logits processors, with the
requests that are in the step. So one list of ours draws the tokens itself, and leaves only that one to be chosen by the
manager, which takes the likeliest. That needs steps that are computed one after the other, without CUDA graphs.
"""

from __future__ import annotations

import asyncio
import importlib
import math
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from .completion import Completion, Ended, Event, Failed, Progress
from .grammars import Constraint, Grammars
from .http import Facts
from .loading import load_model
from .sampling import NothingToDraw, Sampler

LOST = "The engine has failed, so this answer was lost"
WATCH_SECONDS = 0.5
BLOCK_TOKENS = 32
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
            return [Ended(stop=True, stop_reason=token if token in self.completion.stop_token_ids else None)]
        if self.constraint is not None and self.constraint.failure:
            return [Failed(self.constraint.failure)]
        if self.constraint is not None and self.constraint.complete:
            return [Ended(stop=True)]
        return [Ended(stop=False)] if self.drawn == self.completion.max_tokens else []


class Drawing:
    """The manager's list of logits processors, in whose place it draws. `cancel` ends a request of the manager's.

    The members are those of `ContinuousBatchingLogitsProcessorList` in Transformers 5.19.
    """

    do_processing = True
    tensors_required = 0

    def __init__(self) -> None:
        self._running: dict[str, Running] = {}
        self._step: list[tuple[str, int, bool, int]] = []
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

    def check_kwargs(self, _: dict[str, Any]) -> None:
        """Sampling values never go through the manager."""

    def fill_defaults(self, _: Any) -> None:
        """There is nothing to be filled."""

    def prepare_tensor_args(self, requests_in_batch: Sequence[Any], arg_storage: Any) -> Any:
        """Remember which rows of the step's logits belong to whom."""
        self._step = [
            (future.state.request_id, future.query_length, future.has_new_token, future.state.position_offset)
            for future in requests_in_batch
        ]
        return arg_storage

    def __call__(self, _: Any, scores: Any, __: Any) -> Any:
        """Draw for every row [V] of the scores that an answer goes on from, and leave only the drawn id in it."""
        row = -1
        for request_id, count_, has_new_token, position in self._step:
            row += count_
            running = self._running.get(request_id)
            if running is None:
                continue
            if not has_new_token:
                running.tell([Progress(position)])
                continue
            token, events = running.draw(scores[row])
            scores[row].fill_(-math.inf)
            scores[row, token] = 0.0
            if isinstance(events[-1], Ended | Failed):
                del self._running[request_id]
                if not running.ends_by_itself(token):
                    self.cancel(request_id)
            running.tell(events)
        return scores


class Router:
    """Where the manager puts what it says of requests; only their failures are not known here already."""

    def __init__(self, drawing: Drawing) -> None:
        self._drawing = drawing

    def deliver(self, output: Any) -> None:
        """One output."""
        if output.error is not None:
            self._drawing.fail(output.request_id, str(output.error))

    def deliver_batch(self, outputs: Sequence[Any]) -> None:
        """Several of them."""
        for output in outputs:
            self.deliver(output)


class BatchingGenerator:
    """Computes answers with a loaded model. For one event loop."""

    def __init__(self, model: Any, manager: Any, facts: Facts, grammars: Grammars, end_ids: frozenset[int]) -> None:
        self._model = model
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
        self._manager.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def check(self) -> str:
        """Why nothing can be computed any more; empty while it can."""
        return "" if self._manager.is_running() else "The manager of continuous batching has ended."

    async def generate(self, completion: Completion) -> AsyncGenerator[Sequence[Event]]:
        """One answer's events. Closing it cancels. Raises Refused."""
        constraint = await asyncio.to_thread(self._grammars.compile, completion.grammar) if completion.grammar else None
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Sequence[Event]]()
        end_ids = completion.stop_token_ids | (frozenset() if completion.ignore_eos else self._end_ids)

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
            )
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
            time.sleep(WATCH_SECONDS)
        sys.stderr.write("The manager of continuous batching has ended.\n")
        os._exit(ENGINE_LOST)
