"""The native model, seen as `Model`: the only module that imports `_native`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

from quern.config import KvType, Quantise
from quern.engine.base import GenerateRequest
from quern.engine.cpu import _native  # pyright: ignore[reportMissingModuleSource] (built from native/)
from quern.engine.cpu.model import DrawnToken, ModelSpec
from quern.engine.cpu.sequence import Part
from quern.errors import ModelLoadError

SEED_BITS = 64


@dataclass(frozen=True, slots=True)
class NativeOptions:
    """How a model is loaded; `kv_tokens` is the size of the KV cache in tokens."""

    threads: int
    kv_tokens: int
    kv_type: KvType
    quantise: Quantise


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
                f"There was not enough memory to load {path} with a KV cache of {options.kv_tokens} tokens. Choose a "
                f"smaller model, lower engine.kv_tokens, or free some memory."
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

    def sampler(self, request: GenerateRequest) -> _native.Sampler:
        """A sampler of the request's own. Raises ValueError where a value can't be used."""
        sampling = request.sampling
        seed = sampling.seed if sampling.seed is not None else secrets.randbits(SEED_BITS)
        sampler = _native.Sampler(
            vocabulary_size=self._spec.vocabulary_size,
            temperature=sampling.temperature,
            top_k=min(sampling.top_k, self._spec.vocabulary_size),
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            seed=seed % 2**SEED_BITS,
            logit_bias=sampling.logit_bias,
        )
        sampler.observe_prompt(request.prompt)
        return sampler

    def forward(self, parts: Sequence[Part]) -> Sequence[Sequence[DrawnToken]]:
        """Compute one step."""
        return self._model.forward([_item(part) for part in parts])


def architectures() -> frozenset[str]:
    """Models that it runs, by the names that their files give their kind."""
    return frozenset(_native.ARCHITECTURES)


def instruction_set() -> str | None:
    """The widest instruction set of this machine that it uses; None where it can't run here."""
    return _native.instruction_set()


def _item(part: Part) -> _native.Item:
    sequence, start = part.sequence, part.sequence.computed
    return _native.Item(
        sequence.tokens[start : start + part.count],
        start,
        sequence.blocks,
        cast("_native.Sampler", sequence.sampler) if part.draws else None,
    )
