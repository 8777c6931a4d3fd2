"""Which engine runs the model, and why: a pure decision over the settings, the machine and the model."""

from __future__ import annotations

from dataclasses import dataclass

from quern.config_models import EngineName, EngineSettings
from quern.errors import ConfigError

INSTRUCTION_SETS = {
    "avx512_bf16": "AVX-512 with VNNI and BF16",
    "avx512_vnni": "AVX-512 with VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx2": "AVX2",
}
NATIVE_FILE_TYPES = frozenset({
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K",
    "IQ4_NL",
})  # fmt: skip
"""Those of `file_types.LLAMA_FILE_TYPES` whose tensors all have types that the native module reads."""

CONVERT = (
    "serve it with --engine vllm or transformers, convert it to a GGUF file (convert_hf_to_gguf.py of llama.cpp does "
    "that) and give its path, or give one of the names that `quern models` lists."
)
FOLDER_ENGINES = frozenset({EngineName.VLLM, EngineName.TRANSFORMERS})
NOT_A_FOLDER = (
    "The engine {} serves a model's folder with safetensors, and this model is a GGUF file. Give the path of such a "
    "folder, as it is published at Hugging Face or ModelScope, or leave the choice to --engine auto."
)
URL_IS_ANOTHERS = (
    "The setting engine.url names a llama-server elsewhere, which the engine {} does not use: leave one of the two out."
)
NO_EMBEDDINGS = "The engine {} makes no embeddings, and this model nothing else. Leave the choice to --engine auto."
TWO_ELSEWHERE = (
    "The settings engine.url and engine.remote.urls both name servers elsewhere, a llama-server and servers of "
    "completions over token ids: leave one of the two out."
)
NO_URLS = (
    "The engine remote uses servers that somebody else runs, and none is named: set engine.remote.urls to theirs, "
    "separated by commas."
)


@dataclass(frozen=True, slots=True)
class NativeFacts:
    """What the native module says of itself and of this machine; `problem`: why it can't be asked, as a sentence."""

    architectures: frozenset[str] = frozenset()
    instruction_set: str | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ModelKind:
    """What a model's files say of it: its architecture and how its weights are stored, as llama.cpp names them.

    `folder`: it is not a GGUF file but a folder in Hugging Face's layout. `embeds`: it makes embeddings, and no text.
    """

    architecture: str
    quantisation: str
    folder: bool = False
    embeds: bool = False


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine, and the reason as a sentence. `degraded`: another one was meant to be used and can't be."""

    name: EngineName
    reason: str
    degraded: bool = False


def choose(settings: EngineSettings, native: NativeFacts, model: ModelKind) -> EngineChoice:
    """Decide. Raises ConfigError where the settings ask for what can't be."""
    obstacle = _obstacle(native, model)
    _check_named(settings, model)
    elsewhere = bool(settings.remote.urls) and not model.embeds
    if model.folder and settings.url is None and not (settings.name is EngineName.AUTO and elsewhere):
        _check_folder_engine(settings.name, obstacle)
    match settings.name:
        case EngineName.AUTO if settings.url is not None:
            return EngineChoice(EngineName.LLAMACPP, "The setting engine.url names a llama-server.")
        case EngineName.AUTO if elsewhere:
            return EngineChoice(EngineName.REMOTE, "The setting engine.remote.urls names servers elsewhere.")
        case EngineName.AUTO if obstacle:
            return EngineChoice(EngineName.LLAMACPP, obstacle, degraded=bool(native.problem))
        case EngineName.CPU if obstacle:
            msg = f"The engine cpu can't be used. {obstacle} With --engine auto llamacpp runs the model instead."
            raise ConfigError(msg)
        case EngineName.AUTO:
            reason = f"This machine has {_title(native.instruction_set)} and the model is of a kind that cpu runs."
            return EngineChoice(EngineName.CPU, reason)
        case named:
            return EngineChoice(named, "The setting engine.name says so.")


def native_facts() -> NativeFacts:
    """Ask the native module; one that is missing, broken or from another version is told, not raised."""
    try:
        from quern.engine.cpu import native  # noqa: PLC0415 (where it is broken, the other engines still work)

        return NativeFacts(native.architectures(), native.instruction_set())
    except (ImportError, AttributeError) as error:
        return NativeFacts(problem=f"The native module of the engine cpu can't be used: {error}.")


def _check_named(settings: EngineSettings, model: ModelKind) -> None:
    """Raise ConfigError where the settings or the model keep the named engine from being what they ask for."""
    name = settings.name
    if name in FOLDER_ENGINES | {EngineName.CPU, EngineName.REMOTE} and settings.url is not None:
        raise ConfigError(URL_IS_ANOTHERS.format(name))
    if name is EngineName.AUTO and settings.url is not None and settings.remote.urls:
        raise ConfigError(TWO_ELSEWHERE)
    if name is EngineName.REMOTE and not settings.remote.urls:
        raise ConfigError(NO_URLS)
    if name in FOLDER_ENGINES and not model.folder:
        raise ConfigError(NOT_A_FOLDER.format(name))
    if name in FOLDER_ENGINES | {EngineName.REMOTE} and model.embeds:
        raise ConfigError(NO_EMBEDDINGS.format(name))


def _check_folder_engine(name: EngineName, obstacle: str) -> None:
    """Raise ConfigError unless the engine will be one that reads folders: `cpu`, or another that is named."""
    if name in FOLDER_ENGINES | {EngineName.REMOTE}:
        return
    if name is EngineName.LLAMACPP:
        obstacle = "The engine llamacpp reads GGUF files and this model is a folder with safetensors."
        msg = f"{obstacle} Leave the choice to --engine auto, or {CONVERT}"
        raise ConfigError(msg)
    if obstacle:
        msg = f"{obstacle} No other engine here reads a folder with safetensors by itself: {CONVERT}"
        raise ConfigError(msg)


def _obstacle(native: NativeFacts, model: ModelKind) -> str:
    """Why `cpu` can't run the model, as a sentence; empty where it can."""
    if native.problem:
        return native.problem
    if native.instruction_set is None:
        return "The engine cpu needs an x86-64 processor with AVX2, which this machine does not have."
    if model.architecture not in native.architectures:
        return f"The engine cpu does not run models of the architecture {model.architecture!r}."
    if model.quantisation not in NATIVE_FILE_TYPES:
        return f"The engine cpu does not read weights that are stored as {model.quantisation}."
    return ""


def _title(instruction_set: str | None) -> str:
    name = instruction_set or ""
    return INSTRUCTION_SETS.get(name, name)
