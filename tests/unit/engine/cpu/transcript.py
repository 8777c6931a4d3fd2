"""A scheduler around a scripted model: requests arrive, steps are made, and every notice is remembered."""

from __future__ import annotations

from tests.unit.engine.cpu.scripted import ScriptedModel

from quern.engine.base import EmbedRequest, Finished, GenerateRequest, Tokens, Vector
from quern.engine.cpu.scheduler import Embedded, Notice, Scheduler
from quern.engine.cpu.step_budget import Budget
from quern.sampling import SamplingParams

BLOCK = 4


def prompt(tokens: int, first: int = 0) -> tuple[int, ...]:
    return tuple((first + index) % 50 for index in range(tokens))


def request(ids: tuple[int, ...], max_tokens: int = 4, salt: str = "") -> GenerateRequest:
    return GenerateRequest(ids, SamplingParams(max_tokens=max_tokens), cache_salt=salt)


class Run:
    """A scheduler with a scripted model, and all of its notices. A step takes one second."""

    def __init__(self, *, blocks: int = 64, parallel: int = 4, shared: int = 8) -> None:
        self.model = ScriptedModel(blocks=blocks, block_tokens=BLOCK)
        self.scheduler = Scheduler(blocks=blocks, block_tokens=BLOCK, parallel=parallel, budget=Budget(shared))
        self.notices: list[Notice] = []
        self.clock = 0.0
        self._keys = 0
        self._blocks = blocks

    def arrive(self, request: GenerateRequest | EmbedRequest) -> int:
        self._keys += 1
        end = self.model.embedding() if isinstance(request, EmbedRequest) else object()
        self.scheduler.submit(self._keys, request, end, self.clock)
        return self._keys

    def step(self) -> dict[int, int]:
        """One step: the computed tokens by sequence."""
        step = self.scheduler.plan(self.clock)
        self.notices += step.notices
        self.clock += 1
        if step.parts:
            self.notices += self.scheduler.apply(step, self.model.forward(step.parts), self.clock)
        return {part.sequence.key: part.count for part in step.parts}

    def steps(self, count: int) -> list[dict[int, int]]:
        return [self.step() for _ in range(count)]

    def finish(self) -> None:
        while self.step():
            pass

    def held_blocks(self) -> set[int]:
        """The blocks of those that run."""
        return {block for sequence in self.scheduler.running for block in sequence.blocks}

    def every_block_can_be_had(self) -> bool:
        """Whether a sequence that needs all blocks runs, where no other one is left."""
        key = self.arrive(request(prompt(self._blocks * BLOCK - 1), max_tokens=1, salt="somebody new"))
        self.finish()
        return bool(self.reported(key, Finished))

    def reported(self, key: int, kind: type = object) -> list[object]:
        return [notice.event for notice in self.notices if notice.key == key and isinstance(notice.event, kind)]

    def ids(self, key: int) -> tuple[int, ...]:
        return tuple(
            token for notice in self.reported(key, Tokens) if isinstance(notice, Tokens) for token in notice.ids
        )

    def vector(self, key: int) -> Vector:
        (end,) = [notice for notice in self.reported(key, Embedded) if isinstance(notice, Embedded)]
        return end.vector

    def finished(self, key: int) -> Finished:
        (end,) = [notice for notice in self.reported(key, Finished) if isinstance(notice, Finished)]
        return end
