"""From a model's files and settings to a served model: which engine, and everything that it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from quern.config import Settings
from quern.config_models import EngineName, EngineSettings, ModelToServe
from quern.engine.base import Engine
from quern.engine.engine_choice import ModelKind, choose, native_facts
from quern.engine.fake import FakeEngine
from quern.engine.residency import OnDemandEngine, Residency
from quern.engine.vllm.command import GIB, computes_on_cpu, whole_gib
from quern.errors import ConfigError, ModelError
from quern.grammar.json_schema import Llguidance
from quern.machine import memory
from quern.modelfiles.description import ModelFacts
from quern.modelfiles.sizes import kv_cache_bytes, loaded_bytes
from quern.obs.metrics import Metrics
from quern.prompt.codec import TextCodec
from quern.turns.models import ServedModel

if TYPE_CHECKING:
    from quern.engine.completions.engine import Connected
    from quern.engine.served.backend import Backend

log = structlog.get_logger(__name__)

OURS = 0.9
"""The part of the memory that models may have, where no setting says more."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model's file or folder on disk, checked, the name that clients see, and what else the settings say of it."""

    path: Path
    name: str
    served: ModelToServe


def models_of(files: Sequence[ModelFile], settings: Settings, metrics: Metrics) -> list[ServedModel]:
    """The models of `files`, in this order; where the settings have tables of models, they share the memory. Reads
    their vocabularies, so it may take seconds.

    Raises ConfigError or ModelError.
    """
    residency = _residency(settings.server.model_memory_gb) if settings.models else None
    models: list[ServedModel] = []
    try:
        models.extend(_served(file, metrics, residency, settings.engines_dir) for file in files)
    except (ConfigError, ModelError):
        for model in models:
            model.codec.close()
        raise
    return models


def _residency(memory_gb: float | None) -> Residency:
    return Residency(round(memory_gb * 1e9 if memory_gb is not None else memory().total * OURS))


def fake_model(settings: Settings) -> ServedModel:
    """A model without weights, and what makes its prompts."""
    codec = TextCodec.builtin()
    engine = FakeEngine(
        parallel=settings.engine.parallel,
        context_length=settings.engine.context_length or 32768,
        vocabulary_size=codec.vocabulary_size,
    )
    return ServedModel(engine.info.model_id, engine, codec, frozenset(settings.model.aliases))


def _served(file: ModelFile, metrics: Metrics, residency: Residency | None, engines_dir: Path) -> ServedModel:
    """One model, with the engine that suits it; in a `residency` it is loaded when somebody asks. Raises ConfigError or
    ModelError.
    """
    served = file.served
    codec = TextCodec.load(file.path)
    try:
        facts = codec.facts
        kind = ModelKind(facts.architecture, codec.quantisation, folder=file.path.is_dir(), embeds=facts.embeds)
        choice = choose(served.engine, native_facts(), kind)
        make = partial(_engine, choice.name, file, codec, metrics, engines_dir)
        if residency is None:
            engine = make()
        else:
            size = memory_of(choice.name, served.engine, codec.facts, codec.size_bytes, engines_dir)
            engine = _on_demand(file, make, residency, size)
    except (ConfigError, ModelError):
        codec.close()
        raise
    log.info("engine_chosen", model=file.name, engine=choice.name.value, reason=choice.reason)
    reason = choice.reason if served.engine.name is EngineName.AUTO else ""
    return ServedModel(file.name, engine, codec, frozenset(served.aliases), reason)


def memory_of(name: EngineName, settings: EngineSettings, facts: ModelFacts, weights: int, engines_dir: Path) -> int:
    """Bytes of this machine's memory that a model takes with an engine, its KV cache among them: none where it is at
    somebody else's, or on a GPU. `weights`: their bytes on the disk.
    """
    if settings.url is not None or name is EngineName.REMOTE:
        return 0
    if name is EngineName.VLLM and not computes_on_cpu(settings.vllm.command, engines_dir):
        return 0
    if name is EngineName.CPU:
        kv_cache = kv_cache_bytes(facts.kv_shape, settings.kv_tokens, settings.kv_type)
        return loaded_bytes(weights, facts.quantisation, settings.quantise) + kv_cache
    kv_cache = kv_cache_bytes(facts.kv_shape, settings.kv_tokens)
    return weights + (whole_gib(kv_cache) * GIB if name is EngineName.VLLM else kv_cache)


def _on_demand(file: ModelFile, make: Callable[[], Engine], residency: Residency, size: int) -> OnDemandEngine:
    minutes = file.served.keep_alive_minutes
    return OnDemandEngine(
        file.name,
        make,
        residency,
        size=size,
        preload=file.served.preload,
        keep_alive=minutes * 60 if minutes is not None else None,
    )


def _engine(name: EngineName, file: ModelFile, codec: TextCodec, metrics: Metrics, engines_dir: Path) -> Engine:
    match name:
        case EngineName.CPU:
            return _cpu(file, codec, metrics)
        case EngineName.VLLM:
            return _vllm(file, codec, engines_dir)
        case EngineName.TRANSFORMERS:
            return _transformers(file, codec, engines_dir)
        case EngineName.REMOTE:
            return _remote(file, codec)
        case _:
            return _llamacpp(file, codec)


def _cpu(file: ModelFile, codec: TextCodec, metrics: Metrics) -> Engine:
    from quern.engine.cpu.engine import CpuEngine  # noqa: PLC0415 (brings the native module along)

    return CpuEngine(
        file.path,
        model_id=file.name,
        facts=codec.facts,
        vocabulary=codec.tokenizer,
        settings=file.served.engine,
        on_step=metrics.step,
    )


def _vllm(file: ModelFile, codec: TextCodec, engines_dir: Path) -> Engine:
    from quern.engine.vllm.process import VllmProcess  # noqa: PLC0415 (what one engine needs)

    process = VllmProcess(
        file.path,
        served_name=file.name,
        facts=codec.facts,
        settings=file.served.engine,
        engines_dir=engines_dir,
    )
    return _completions(EngineName.VLLM, process, file, codec)


def _transformers(file: ModelFile, codec: TextCodec, engines_dir: Path) -> Engine:
    from quern.engine.transformers.process import TransformersProcess  # noqa: PLC0415 (what one engine needs)

    process = TransformersProcess(
        file.path,
        facts=codec.facts,
        end_ids=codec.tokenizer.end_of_turn_ids,
        settings=file.served.engine,
        engines_dir=engines_dir,
    )
    return _completions(EngineName.TRANSFORMERS, process, file, codec, Llguidance.OWN)


def _remote(file: ModelFile, codec: TextCodec) -> Engine:
    from quern.engine.remote.backend import RemoteServers  # noqa: PLC0415 (what one engine needs)

    servers = RemoteServers(file.served.engine.remote, codec.tokenizer, connections=file.served.engine.parallel)
    return _completions(EngineName.REMOTE, servers, file, codec)


def _completions(
    name: EngineName,
    backend: Backend[Connected],
    file: ModelFile,
    codec: TextCodec,
    llguidance: Llguidance = Llguidance.VLLM,
) -> Engine:
    """The engine over what completes token ids. `llguidance`: whose is there."""
    from quern.engine.completions.engine import CompletionsEngine  # noqa: PLC0415 (what some engines need)

    return CompletionsEngine(
        backend,
        name=name.value,
        model_id=file.name,
        quantisation=codec.quantisation,
        settings=file.served.engine,
        vocabulary=codec.tokenizer,
        llguidance=llguidance,
    )


def _llamacpp(file: ModelFile, codec: TextCodec) -> Engine:
    from quern.engine.llamacpp.engine import LlamaCppEngine  # noqa: PLC0415 (brings xllamacpp's client along)

    return LlamaCppEngine(
        file.path,
        model_id=file.name,
        quantisation=codec.quantisation,
        vocabulary=codec.tokenizer,
        settings=file.served.engine,
        embeds=codec.facts.embeds,
    )
