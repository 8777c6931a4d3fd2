"""What the engine needs of a model. `native.py` has the real one; tests have one that follows a script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from quern.engine.base import GenerateRequest, Vector
from quern.engine.cpu.sequence import Part
from quern.grammar.compiler import Constraint


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A loaded model in numbers; `device` is for people."""

    context_length: int
    vocabulary_size: int
    kv_blocks: int
    block_tokens: int
    device: str


class DrawnToken(Protocol):
    """A token that was drawn, and the natural logarithm of its probability; `top`: those of the likeliest, best first,
    as many as the request asks for.
    """

    @property
    def id(self) -> int: ...
    @property
    def logprob(self) -> float: ...
    @property
    def top(self) -> Sequence[tuple[int, float]]: ...


@dataclass(frozen=True, slots=True)
class Drawn:
    """What came of a part. `complete`: its grammar allows nothing more. `failure`: why nothing came, a sentence.

    A part that reaches its sequence's end has tokens, or the `vector` of a sequence that is embedded, or a failure; the
    others have none of them.
    """

    tokens: Sequence[DrawnToken] = ()
    complete: bool = False
    failure: str = ""
    vector: Vector | None = None


class Model(Protocol):
    """A loaded model with its KV cache; one thread at a time."""

    @property
    def spec(self) -> ModelSpec:
        """Its numbers; they never change."""
        ...

    def sampler(self, request: GenerateRequest, constraint: Constraint | None) -> object:
        """How this request's tokens are drawn; it remembers what was, also in an earlier life, as `constraint` does.
        Raises ValueError where a value can't be used.
        """
        ...

    def embedding(self) -> object:
        """Where one sequence's embedding goes."""
        ...

    def forward(self, parts: Sequence[Part]) -> Sequence[Drawn]:
        """Compute one step: what came of each part."""
        ...


LoadModel = Callable[[Callable[[float], None]], Model]
"""Loads a model, telling the share that is done, 0 to 1; what it is told with may raise to end the loading.

Raises ModelLoadError.
"""
