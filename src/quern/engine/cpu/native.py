"""The native model, seen as `Model`: the only module that imports `_native`."""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from quern.config_models import KvType, Quantise
from quern.engine.base import GenerateRequest
from quern.engine.cpu import _native  # pyright: ignore[reportMissingModuleSource] (built from native/)
from quern.engine.cpu.model import Drawn, DrawnToken, ModelSpec
from quern.engine.cpu.sequence import Part
from quern.errors import ModelLoadError
from quern.grammar.compiler import Constraint

SEED_BITS = 64
NOTHING_TO_DRAW = (
    "The model's numbers for this answer are no numbers any more, so no token could be drawn and the answer was lost. "
    "If it happens again, the model file is damaged: fetch it again."
)
NOTHING_TO_EMBED = (
    "The model's numbers for this text are no numbers any more, so it has no embedding. The model file is probably "
    "damaged: fetch it again."
)
NOTHING_ALLOWED = (
    "No token that the grammar of this answer allows could be drawn, so the answer was lost: its logit_bias or "
    "ignore_eos rules all of them out. Ask again without."
)


@dataclass(frozen=True, slots=True)
class NativeOptions:
    """How a model is loaded; `kv_tokens` is the size of the KV cache in tokens, and `kv_bytes` what that will take."""

    threads: int
    kv_tokens: int
    kv_type: KvType
    kv_bytes: int
    quantise: Quantise


class SequenceSampler:
    """How one sequence draws: the native sampler, and how far the answer is in its grammar. `nothing_drawn`: a sentence
    for the case that nothing can be drawn.
    """

    def __init__(self, native: _native.Sampler, constraint: Constraint | None, nothing_drawn: str) -> None:
        self._native = native
        self._constraint = constraint
        self._nothing_drawn = nothing_drawn

    def prepared(self) -> _native.Sampler | None:
        """The native sampler, ready for one draw; None where the grammar can't be kept to."""
        if self._constraint is not None:
            mask = self._constraint.mask()
            if self._constraint.failure:
                return None
            self._native.allow(mask)
        return self._native

    def accept(self, tokens: Sequence[DrawnToken]) -> tuple[bool, str]:
        """These were drawn, none where the draw failed: whether the grammar allows nothing more, and the failure."""
        if self._constraint is not None:
            self._constraint.consume(token.id for token in tokens)
        failure = self._constraint.failure if self._constraint is not None else ""
        complete = self._constraint is not None and self._constraint.complete
        return complete, failure or ("" if tokens else self._nothing_drawn)


class NativeModel:
    """A model that the native module has loaded."""

    def __init__(self, model: _native.Model, threads: int) -> None:
        self._model = model
        self._spec = ModelSpec(
            context_length=model.context_length,
            vocabulary_size=model.vocabulary_size,
            kv_blocks=model.kv_blocks,
            block_tokens=_native.BLOCK_TOKENS,
            device=f"CPU, {threads} threads ({model.isa})",
        )

    @classmethod
    def load(cls, path: Path, options: NativeOptions, progress: Callable[[float], None]) -> Self:
        """Load `path`. Raises ModelLoadError, and whatever `progress` raises."""
        try:
            model = _native.Model(
                str(path),
                threads=options.threads,
                kv_tokens=options.kv_tokens,
                kv_type=options.kv_type,
                quantise=options.quantise,
                progress=progress,
            )
        except _native.ModelFileError as error:
            raise ModelLoadError(str(error)) from error
        except MemoryError as error:
            msg = (
                f"There was not enough memory to load {path} with a KV cache of {options.kv_tokens} tokens, "
                f"which takes {options.kv_bytes / 1e9:.1f} GB. Choose a smaller model, lower engine.kv_tokens, or free "
                f"some memory."
            )
            raise ModelLoadError(msg) from error
        except (ValueError, RuntimeError) as error:
            msg = f"The engine could not load {path} with {options.threads} threads: {error}"
            raise ModelLoadError(msg) from error
        return cls(model, options.threads)

    @property
    def spec(self) -> ModelSpec:
        """The model in numbers."""
        return self._spec

    def sampler(self, request: GenerateRequest, constraint: Constraint | None) -> SequenceSampler:
        """A sampler of the request's own, at the position that its answer has. Raises ValueError where a value can't be
        used.
        """
        sampling = request.sampling
        seed = sampling.seed if sampling.seed is not None else secrets.randbits(SEED_BITS)
        sampler = _native.Sampler(
            vocabulary_size=self._spec.vocabulary_size,
            temperature=0.0 if sampling.greedy else sampling.temperature,
            top_k=min(sampling.top_k, self._spec.vocabulary_size),
            top_p=1.0 if sampling.greedy else sampling.top_p,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            seed=seed % 2**SEED_BITS,
            logit_bias=sampling.logit_bias,
            top_logprobs=min(sampling.logprobs or 0, self._spec.vocabulary_size),
        )
        sampler.observe_prompt(request.prompt)
        sampler.observe_generated(request.generated)
        nothing_drawn = NOTHING_ALLOWED if constraint is not None and sampling.logit_bias else NOTHING_TO_DRAW
        return SequenceSampler(sampler, constraint, nothing_drawn)

    def embedding(self) -> _native.Embedding:
        """Where a sequence's embedding goes."""
        return _native.Embedding()

    def forward(self, parts: Sequence[Part]) -> Sequence[Drawn]:
        """Compute one step."""
        drawn = self._model.forward([_item(part) for part in parts])
        return [_outcome(part, tokens) for part, tokens in zip(parts, drawn, strict=True)]


def architectures() -> frozenset[str]:
    """Models that it runs, by the names that their files give their kind."""
    return frozenset(_native.ARCHITECTURES)


def instruction_set() -> str | None:
    """The widest instruction set of this machine that it uses; None where it can't run here."""
    return _native.instruction_set()


def _item(part: Part) -> _native.Item:
    sequence, start = part.sequence, part.sequence.computed
    tokens = sequence.tokens[start : start + part.count]
    match sequence.end if part.reaches_end else None:
        case SequenceSampler() as sampler:
            return _native.Item(tokens, start, sequence.blocks, sampler.prepared())
        case _native.Embedding() as embedding:
            return _native.Item(tokens, start, sequence.blocks, embedding=embedding)
        case _:
            return _native.Item(tokens, start, sequence.blocks)


def _outcome(part: Part, tokens: Sequence[DrawnToken]) -> Drawn:
    match part.sequence.end if part.reaches_end else None:
        case SequenceSampler() as sampler:
            complete, failure = sampler.accept(tokens)
            return Drawn(failure=failure) if failure else Drawn(tokens, complete)
        case _native.Embedding() as embedding:
            vector = array("f", embedding.values)
            return Drawn(vector=vector) if vector else Drawn(failure=NOTHING_TO_EMBED)
        case _:
            return Drawn()
