"""What `quern doctor` makes of the facts: pure decisions, one function a check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from quern.engine.engine_choice import EngineChoice
from quern.errors import ConfigError, ModelError
from quern.modelfiles.description import KvShape
from quern.models.progress import format_bytes

OLDEST_PYTHON = (3, 11)
# Buffers of the inference process and the server itself: 0.3 GB measured with a model of 0.5B, more with wider ones.
WORK_MEMORY_BYTES = 700 * 10**6
SPARE_DISK_BYTES = 10**9
NO_KV_CACHE = KvShape(0, 0, 0)
WITHOUT = {
    "grammars": (
        "JSON schemas and demanded calls are refused: a vLLM keeps to them with --structured-outputs-config "
        '\'{"backend": "guidance"}\'.'
    ),
    "logprobs": "Probabilities of tokens are refused.",
    "priorities": "All turns are alike to it: a vLLM has priorities with --scheduling-policy priority.",
    "salts": "Owners share its cache, so one can tell by the time that an answer takes what another has asked.",
}
"""What follows from what a server lacks."""
FAST_FEATURES = {"avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX-VNNI", "avx512f": "AVX-512", "avx2": "AVX2"}


class Status(StrEnum):
    """How a check went; `warn` works, but not as well as it could."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report: what was found and, unless it is fine, what to do about it."""

    name: str
    status: Status
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """`flags` as Linux names them, None where they can't be told. `usable_cores`: see `machine.usable_cores`."""

    machine: str
    flags: frozenset[str] | None
    physical_cores: int
    usable_cores: int


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """All in bytes. `total` is the machine's, or the container's limit. `served`: a running server has its part."""

    total: int
    available: int
    model: int
    kv_cache: int
    served: bool


@dataclass(frozen=True, slots=True)
class LocatedModel:
    """`path` is None while the file is not here, then `size` is what will come. Sizes in bytes; `held` of it are here.

    `problem` is a sentence.
    """

    name: str
    path: Path | None = None
    size: int = 0
    kv_shape: KvShape = NO_KV_CACHE
    architecture: str = ""
    quantisation: str = ""
    held: int = 0
    verified: bool = False
    problem: str = ""
    embeds: bool = False

    @property
    def to_fetch(self) -> int:
        """Bytes still to come."""
        return 0 if self.path else self.size - self.held


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """`writable` and `free` (bytes) are of `existing`, the nearest folder of `data_dir` that exists."""

    data_dir: Path
    existing: Path
    writable: bool
    free: int
    to_fetch: int


@dataclass(frozen=True, slots=True)
class RemoteFacts:
    """A server of `engine.remote`. `lacking`: what it can't do, by name; `problem`: why it can't be used at all."""

    url: str
    lacking: tuple[str, ...] = ()
    problem: str = ""


class DatabaseState(StrEnum):
    """What became of opening the database."""

    OPENS = "opens"
    ABSENT = "absent"
    IN_USE = "in use"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """`where` names the database without its password; `problem` is a sentence."""

    where: str
    state: DatabaseState
    problem: str = ""


class PortState(StrEnum):
    """Who has the port."""

    FREE = "free"
    QUERN = "quern"
    OTHER = "other"
    UNUSABLE = "unusable"


@dataclass(frozen=True, slots=True)
class PortFacts:
    """`models`: what a Quern at the port serves, nothing while it loads. `problem`: why the address is unusable."""

    host: str
    port: int
    state: PortState
    models: tuple[str, ...] = ()
    problem: str = ""


def check_python(version: tuple[int, int, int]) -> Check:
    """The interpreter."""
    found = f"Python {'.'.join(map(str, version))}"
    if version >= OLDEST_PYTHON:
        return Check("python", Status.OK, found)
    return Check("python", Status.FAIL, found, "Install Quern with Python 3.11 or newer.")


def check_cpu(cpu: CpuFacts) -> Check:
    """The instructions that inference lives on."""
    if cpu.flags is None or cpu.machine not in {"x86_64", "AMD64"}:
        return Check("cpu", Status.OK, f"{cpu.machine}; its features can't be told here")
    present = [title for flag, title in FAST_FEATURES.items() if flag in cpu.flags]
    if "avx2" not in cpu.flags:
        return Check(
            "cpu",
            Status.FAIL,
            f"{cpu.machine} without AVX2",
            "The bundled engine is built for AVX2. Use another machine, or point engine.url at a llama-server that is "
            "built for this one.",
        )
    return Check("cpu", Status.OK, f"{cpu.machine} with {', '.join(present)}")


def check_cores(cpu: CpuFacts, threads: int | None) -> Check:
    """Inference threads against the cores we may use; `threads` is the setting, None for every usable core."""
    wanted = threads or cpu.usable_cores
    found = f"{wanted} inference threads on {cpu.usable_cores} usable of {cpu.physical_cores} physical cores"
    if wanted > cpu.usable_cores:
        advice = f"Threads without a core of their own slow each other down: set engine.threads to {cpu.usable_cores}."
        return Check("cores", Status.WARN, found, advice)
    return Check("cores", Status.OK, found)


def check_memory(memory: MemoryFacts) -> Check:
    """The model, its KV cache and work buffers against the memory there is."""
    needed = memory.model + memory.kv_cache + WORK_MEMORY_BYTES
    found = (
        f"{format_bytes(needed)} needed (model {format_bytes(memory.model)}, KV cache {format_bytes(memory.kv_cache)}, "
        f"work {format_bytes(WORK_MEMORY_BYTES)}), {format_bytes(memory.available)} available of "
        f"{format_bytes(memory.total)}"
    )
    advice = "Take a smaller model, or lower engine.kv_tokens."
    if needed > memory.total:
        return Check("memory", Status.FAIL, found, advice)
    if needed > memory.available and not memory.served:
        return Check("memory", Status.WARN, found, f"Close other programs before starting the server. {advice}")
    return Check("memory", Status.OK, found)


def check_model(model: LocatedModel) -> Check:
    """The model's file or folder."""
    if model.problem:
        return Check("model", Status.FAIL, f"{model.name} can't be used", model.problem)
    if model.path is None:
        part = f", {format_bytes(model.held)} of it is here" if model.held else ""
        return Check(
            "model",
            Status.WARN,
            f"{model.name} is not downloaded yet ({format_bytes(model.size)}{part})",
            f"`quern pull {model.name}` fetches it; otherwise `quern serve` does so when it starts.",
        )
    verified = ", checksum right" if model.verified else ""
    return Check("model", Status.OK, f"{model.name} at {model.path} ({format_bytes(model.size)}{verified})")


def check_engine(choice: EngineChoice | ConfigError) -> Check:
    """What will run the model, and why; an error where the settings ask for what can't be."""
    if isinstance(choice, ConfigError):
        return Check("engine", Status.FAIL, "the chosen engine can't be used", str(choice))
    found = f"{choice.name}: {choice.reason}"
    if choice.degraded:
        return Check("engine", Status.WARN, found, "Install Quern again; in a clone, `make setup` builds the module.")
    return Check("engine", Status.OK, found)


def check_vllm(program: str | ModelError) -> Check:
    """vLLM's environment. What fits into a GPU's memory vLLM says itself, when it starts."""
    if isinstance(program, ModelError):
        return Check("vllm", Status.FAIL, "not found", str(program))
    return Check("vllm", Status.OK, program)


def check_transformers(python: str | ModelError) -> Check:
    """The environment with Transformers. What fits into a GPU's memory PyTorch says itself, when it is loaded."""
    if isinstance(python, ModelError):
        return Check("transformers", Status.FAIL, "not found", str(python))
    return Check("transformers", Status.OK, python)


def check_remote(servers: Sequence[RemoteFacts]) -> Check:
    """The servers of `engine.remote`: one is enough to serve, and what one of them lacks is asked of none."""
    problems = [server.problem for server in servers if server.problem]
    usable = [server.url for server in servers if not server.problem]
    found = f"{len(usable)} of {len(servers)} servers can be used"
    if problems:
        return Check("remote", Status.WARN if usable else Status.FAIL, found, " ".join(problems))
    lacking = sorted({name for server in servers for name in server.lacking})
    if lacking:
        advice = " ".join(WITHOUT[name] for name in lacking)
        return Check("remote", Status.WARN, f"{found}; without {', '.join(lacking)}", advice)
    return Check("remote", Status.OK, found)


def check_disk(disk: DiskFacts) -> Check:
    """The data directory, and room for what is still to be fetched."""
    found = f"{disk.data_dir} has {format_bytes(disk.free)} free"
    if disk.to_fetch:
        found += f", the model needs {format_bytes(disk.to_fetch)}"
    elsewhere = "choose another place with --data-dir (setting data_dir)."
    if not disk.writable:
        return Check("data_dir", Status.FAIL, f"{disk.existing} is not writable", f"Make it writable, or {elsewhere}")
    if disk.free < disk.to_fetch:
        return Check("data_dir", Status.FAIL, found, f"Free some space, or {elsewhere}")
    if disk.free < disk.to_fetch + SPARE_DISK_BYTES:
        advice = f"Little is left for conversations: free some space, or {elsewhere}"
        return Check("data_dir", Status.WARN, found, advice)
    return Check("data_dir", Status.OK, found)


def check_database(database: DatabaseFacts) -> Check:
    """Where conversations are kept."""
    match database.state:
        case DatabaseState.BROKEN:
            return Check("database", Status.FAIL, f"{database.where} can't be opened", database.problem)
        case DatabaseState.IN_USE:
            return Check("database", Status.OK, f"{database.where} is in use by a running server")
        case DatabaseState.ABSENT:
            return Check("database", Status.OK, f"{database.where} will be created at the first start")
        case DatabaseState.OPENS:
            return Check("database", Status.OK, f"{database.where} opens")


def check_port(port: PortFacts) -> Check:
    """The address that the server listens on."""
    where = f"{port.host}:{port.port}"
    match port.state:
        case PortState.FREE:
            return Check("port", Status.OK, f"{where} is free")
        case PortState.QUERN:
            doing = f"serves {', '.join(port.models)}" if port.models else "is starting or stopping"
            return Check("port", Status.OK, f"a Quern at {where} {doing}")
        case PortState.OTHER:
            advice = "Stop that program, or choose another port with --port (setting server.port)."
            return Check("port", Status.FAIL, f"{where} is taken by another program", advice)
        case PortState.UNUSABLE:
            advice = "Choose an address of this machine with --host and --port."
            return Check("port", Status.FAIL, f"{where} can't be listened on: {port.problem}", advice)
