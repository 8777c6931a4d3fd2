"""Settings of what is served: models, and the engines that run them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field, SecretStr

from quern.config_values import Frozen, Listed, Numbers, Words


class EngineName(StrEnum):
    """Engines that `--engine` accepts."""

    AUTO = "auto"
    CPU = "cpu"
    LLAMACPP = "llamacpp"
    VLLM = "vllm"
    TRANSFORMERS = "transformers"
    REMOTE = "remote"
    FAKE = "fake"


class KvType(StrEnum):
    """Numbers in the `cpu` engine's KV cache."""

    BF16 = "bf16"
    INT8 = "int8"


class Quantise(StrEnum):
    """What the `cpu` engine makes of weights that are floats in the model's file."""

    Q8 = "q8"
    Q4 = "q4"


class ModelSettings(Frozen):
    """Which model, and how far its file is trusted."""

    name: str = Field(
        default="qwen2.5-coder-1.5b",
        description="A catalog name (`quern models`), or a path to a GGUF file or a folder with safetensors.",
    )
    aliases: Listed = Field(
        default=(),
        description="More names, separated by commas, under which requests may ask for the model; `*` is any name.",
    )
    verify: bool = Field(
        default=True, description="Check a downloaded model's SHA-256 at every start (about 0.6 s per GB)."
    )


class VllmSettings(Frozen):
    """vLLM, which the engine `vllm` starts; what is not set is vLLM's own business."""

    command: str | None = Field(
        default=None,
        description=(
            "The environment that vLLM is started from: its folder, its Python or its program `vllm`. If unset "
            "`engines/vllm` or `engines/vllm-cpu` in the data directory, else the `vllm` on the PATH."
        ),
    )
    tensor_parallel: int = Field(default=1, ge=1, description="GPUs that the model is spread over.")
    max_model_len: int | None = Field(
        default=None,
        ge=256,
        description="Most tokens of one sequence; what `engine.context_length` says if unset.",
    )
    gpu_memory_utilization: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the GPU's memory that it takes; what the weights leave of that is the KV cache.",
    )
    quantization: str | None = Field(
        default=None, description="How the weights are quantised, where the model's folder does not say: `fp8`, say."
    )
    kv_cache_dtype: str | None = Field(
        default=None, description="Numbers in its KV cache: `fp8` takes half the memory of the model's own."
    )
    arguments: Words = Field(
        default=(), description="Further arguments of `vllm serve`, as a list or as one text; they win over ours."
    )


class TransformersSettings(Frozen):
    """Hugging Face Transformers, which the engine `transformers` runs the model with, on any device of PyTorch's."""

    command: str | None = Field(
        default=None,
        description=(
            "The environment that it runs in: its folder or its Python. If unset `engines/transformers` in the data "
            "directory."
        ),
    )
    device: str = Field(
        default="auto",
        description="Where the model goes, a `device_map` of Transformers: `auto` spreads it, or `cuda:1`, `cpu`.",
    )
    dtype: str = Field(
        default="auto", description="Numbers that it computes with: `auto` is the folder's, or `bfloat16`, `float32`."
    )
    trust_remote_code: bool = Field(
        default=False, description="Run programs that the model's folder brings along. They may do anything."
    )


class RemoteSettings(Frozen):
    """Servers that somebody else runs, which the engine `remote` uses."""

    urls: Listed = Field(
        default=(),
        description=(
            "Servers of completions over token ids (vLLM, a router in front of several), separated by commas; all hold "
            "the model that `model.name` names."
        ),
    )
    weights: Numbers = Field(
        default=(), description="How much each of them takes, in the same order: `2, 1`; the same if unset."
    )
    api_key: SecretStr | None = Field(default=None, description="Key for all of them.")
    health: str = Field(
        default="/health",
        pattern="^/",
        description=(
            "Where they say that they are well. For vllm-router `/readiness`: its `/health` is unwell as soon as one "
            "of its servers is."
        ),
    )


class EngineSettings(Frozen):
    """The inference engine."""

    name: EngineName = Field(
        default=EngineName.AUTO,
        description="`auto`, `cpu`, `llamacpp`, `vllm`, `transformers`, `remote` or `fake`.",
    )
    url: str | None = Field(
        default=None,
        description="A running llama-server to use instead of our own child process; it must hold the same model.",
    )
    api_key: SecretStr | None = Field(default=None, description="Key for the llama-server at `engine.url`.")
    parallel: int = Field(default=16, ge=1, le=256, description="Sequences generated at once; further ones wait.")
    context_length: int | None = Field(
        default=None,
        ge=256,
        description="Most tokens one sequence may hold; the model's own limit (at most 32768) if unset.",
    )
    kv_tokens: int = Field(
        default=81920,
        ge=256,
        description="KV cache shared by all sequences, in tokens; a turn that does not fit waits.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="Threads for inference; if unset one for each physical core that affinity and cgroups allow.",
    )
    batch_tokens: int | None = Field(
        default=None,
        ge=32,
        description=(
            "Most prompt tokens per engine step: small keeps running streams' pace, large prefills. If unset 64 with "
            "`cpu`, which takes twice as many while nothing streams, and 128 with `llamacpp`."
        ),
    )
    stuck_seconds: float = Field(
        default=120.0,
        gt=0,
        description=(
            "How long one step of the engine may take; from then on it counts as stuck: its turns fail, `llamacpp` is "
            "started anew, and `cpu` takes no turns until it goes on, or until systemd's watchdog starts the server "
            "anew."
        ),
    )
    hung_seconds: float = Field(
        default=60.0,
        gt=0,
        description=(
            "`llamacpp`: how long the inference process may answer nothing at all, not even whether it is alive; then "
            "its turns fail and it is started anew."
        ),
    )
    kv_type: KvType = Field(
        default=KvType.BF16, description="`cpu`: numbers in the KV cache, `bf16` or `int8` (half the memory)."
    )
    quantise: Quantise = Field(
        default=Quantise.Q8, description="`cpu`: what weights become that are floats in the file, `q8` or `q4`."
    )
    vllm: VllmSettings = VllmSettings()
    transformers: TransformersSettings = TransformersSettings()
    remote: RemoteSettings = RemoteSettings()


class TableSettings(Frozen):
    """One of several models: a table `[models.NAME]` of the configuration file. Requests ask for it as `NAME`."""

    path: str | None = Field(
        default=None,
        description="A catalog name, or a path to a GGUF file or a folder with safetensors; the table's name if unset.",
    )
    aliases: Listed = Field(default=(), description="More names under which requests may ask for it.")
    default: bool = Field(default=False, description="It answers requests that name no model; else the first one does.")
    verify: bool = Field(default=True, description="As `model.verify`.")
    preload: bool = Field(
        default=True,
        description="Load it at the start, where it fits beside those before it; else when it is asked for.",
    )
    keep_alive_minutes: float | None = Field(
        default=None,
        ge=0,
        description="Unload it after so long without work; if unset only where another one needs its memory.",
    )
    engine: EngineSettings = Field(
        default=EngineSettings(), description="What differs from `[engine]`: a table `[models.NAME.engine]`."
    )


@dataclass(frozen=True, slots=True)
class ModelToServe:
    """One model, as the settings have it. `name`: for requests; None is that of its file. `source`: a catalog name or a
    path. `preload`, `keep_alive_minutes`: as in `TableSettings`.
    """

    source: str
    name: str | None
    aliases: tuple[str, ...]
    verify: bool
    engine: EngineSettings
    preload: bool = True
    keep_alive_minutes: float | None = None
