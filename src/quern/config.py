"""Every setting, read once at start and frozen.

Sources, first wins: command line, environment (`QUERN_SERVER__PORT=9000`), the TOML file given by `--config`
(`[server]` `port = 9000`), the defaults below. The table in docs/operations.md is checked against these classes.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self, cast

import platformdirs
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    create_model,
    model_validator,
)

from quern.errors import ConfigError
from quern.sampling import PARAMETERS, SETTINGS, SamplingParams
from quern.types import DisconnectPolicy

ENV_PREFIX = "QUERN_"
ENV_DELIMITER = "__"
SERVER_VARIABLE = "QUERN_SERVER"
"""No setting: where the client commands look for their server."""
SECRET_SETTINGS = frozenset({"engine.api_key", "store.url"})


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class EngineName(StrEnum):
    """Engines that `--engine` accepts."""

    AUTO = "auto"
    CPU = "cpu"
    LLAMACPP = "llamacpp"
    FAKE = "fake"


class KvType(StrEnum):
    """Numbers in the `cpu` engine's KV cache."""

    BF16 = "bf16"
    INT8 = "int8"


class Quantise(StrEnum):
    """What the `cpu` engine makes of weights that are floats in the model's file."""

    Q8 = "q8"
    Q4 = "q4"


class LogFormat(StrEnum):
    """How log lines are written."""

    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """The least severe log line that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class UnknownFields(StrEnum):
    """What becomes of a request's fields that are not known."""

    ACCEPT = "accept"
    REFUSE = "refuse"


def _listed(value: Any) -> Any:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


HOST_PATTERN = re.compile(r"\*|(\*\.)?[^\s/@*:]+|[0-9a-fA-F:.]+")
ORIGIN_PATTERN = re.compile(r"\*|null|[a-z][a-z0-9+.\-]*://[^\s/]*")


def _host_patterns(values: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(value.lower().strip("[]").rstrip(".") for value in values)
    for name in names:
        if not HOST_PATTERN.fullmatch(name):
            msg = f"{name!r} is no host. Name hosts without a scheme, port or path, like gpu.example.com"
            raise ValueError(msg)
    return names


def _origin_patterns(values: tuple[str, ...]) -> tuple[str, ...]:
    origins = tuple(value.lower().removesuffix("/") if not value.endswith("://") else value.lower() for value in values)
    for origin in origins:
        if not ORIGIN_PATTERN.fullmatch(origin):
            msg = (
                f"{origin!r} is no origin. An origin is a scheme, a host and perhaps a port, like http://localhost:3000"
            )
            raise ValueError(msg)
    return origins


class ServerSettings(_Frozen):
    """The HTTP listener."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8001, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    allow_anonymous: bool = Field(
        default=False, description="Serve callers without a key on an address that other machines can reach."
    )
    shutdown_grace_seconds: float = Field(
        default=30.0, ge=0, description="How long running turns may go on after SIGTERM before they end as interrupted."
    )
    hosts: Annotated[tuple[str, ...], BeforeValidator(_listed), AfterValidator(_host_patterns)] = Field(
        default=(),
        description=(
            "Names beside this machine's own that requests may name as their `Host`, separated by commas; "
            "`*.example.com` is every name below, `*` any name."
        ),
    )
    cors_origins: Annotated[tuple[str, ...], BeforeValidator(_listed), AfterValidator(_origin_patterns)] = Field(
        default=(),
        description=(
            "Origins whose pages may use the server, separated by commas: `http://localhost:3000`, "
            "`vscode-webview://*`, `null`; `*` is any origin."
        ),
    )
    max_request_bytes: int = Field(
        default=8 * 2**20,
        ge=1024,
        description="Largest request body, packed (`Content-Encoding`) and unpacked; a larger one is a 413.",
    )
    max_header_bytes: int = Field(
        default=65536, ge=1024, description="Largest headers of a request, and longest URL; more is a 431, or a 414."
    )
    max_headers: int = Field(default=200, ge=8, description="Most headers of a request; one more is a 431.")
    header_seconds: float = Field(
        default=20.0, gt=0, description="How long a request's headers may take from their first byte; then it is a 408."
    )
    body_seconds: float = Field(
        default=30.0, gt=0, description="How long a request's body may pause; then it is a 408."
    )
    min_body_rate: int = Field(
        default=1024,
        ge=1,
        description="Bytes per second that a request's body has to bring on the whole, from `body_seconds` on.",
    )
    idle_seconds: float = Field(
        default=75.0, gt=0, description="How long a connection is kept open between two requests, or before the first."
    )
    max_connections: int = Field(
        default=2048,
        ge=1,
        description=(
            "Most connections at once. For one more, the one that has longest been without a request is closed; where "
            "all have one under way, it is a 503."
        ),
    )
    max_connections_per_address: int = Field(
        default=512, ge=1, description="The same for each address; a proxy in front of the server is one."
    )
    body_bytes: int = Field(
        default=16 * 2**20,
        ge=1024,
        description=(
            "Bytes of all bodies together that are received, parsed and tokenised at once, those below 64 KiB not "
            "counted; further ones wait."
        ),
    )
    unknown_fields: UnknownFields = Field(
        default=UnknownFields.ACCEPT,
        description=(
            "Fields of a request that are not known: `accept` leaves them out and names them in `x-quern-ignored` and "
            "in the log, `refuse` is a 400. The two plain endpoints always refuse."
        ),
    )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the listener."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class ModelSettings(_Frozen):
    """Which model, and how far its file is trusted."""

    name: str = Field(
        default="qwen2.5-coder-1.5b",
        description="A catalog name (`quern models`), or a path to a GGUF file or a folder with safetensors.",
    )
    aliases: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        default=(),
        description="More names, separated by commas, under which requests may ask for the model; `*` is any name.",
    )
    verify: bool = Field(
        default=True, description="Check a downloaded model's SHA-256 at every start (about 0.6 s per GB)."
    )


class EngineSettings(_Frozen):
    """The inference engine."""

    name: EngineName = Field(default=EngineName.AUTO, description="`auto`, `cpu`, `llamacpp` or `fake`.")
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
    kv_type: KvType = Field(
        default=KvType.BF16, description="`cpu`: numbers in the KV cache, `bf16` or `int8` (half the memory)."
    )
    quantise: Quantise = Field(
        default=Quantise.Q8, description="`cpu`: what weights become that are floats in the file, `q8` or `q4`."
    )


def _generation_settings() -> type[_Frozen]:
    declared: dict[str, Any] = {name: (PARAMETERS[name].type, PARAMETERS[name].field()) for name in SETTINGS}
    return create_model("_GenerationSettings", __base__=_Frozen, **declared)


class GenerationSettings(_generation_settings()):
    """What a request gets where it says nothing."""

    def sampling(self, **given: Any) -> SamplingParams:
        """How an answer's tokens are drawn: the values that a request gives over these; None gives nothing."""
        chosen = {name: value for name, value in given.items() if value is not None}
        return SamplingParams(**{**self.model_dump(), **chosen})


class TurnSettings(_Frozen):
    """Turns: the queue, and what happens when nobody listens any more."""

    max_queued: int = Field(default=64, ge=0, description="Turns that may wait for a sequence; one more is a 503.")
    one_shot_disconnect: DisconnectPolicy = Field(
        default=DisconnectPolicy.CANCEL,
        description="One-shot requests whose client went away: `cancel`, `finish` or `hold`.",
    )
    conversation_disconnect: DisconnectPolicy = Field(
        default=DisconnectPolicy.HOLD, description="The same for turns of conversations."
    )
    hold_seconds: float = Field(
        default=60.0, ge=0, description="`hold`: how long a turn goes on without a reader before it is cancelled."
    )
    save_interval_ms: int = Field(default=200, ge=10, description="The most text, in time, that a `kill -9` can lose.")
    save_tokens: int = Field(
        default=32, ge=1, description="Save earlier than that once a turn has so many unsaved tokens."
    )


class StoreSettings(_Frozen):
    """The database."""

    url: SecretStr | None = Field(
        default=None, description="SQLAlchemy URL of the database; `quern.db` (SQLite) in the data directory if unset."
    )


class LogSettings(_Frozen):
    """Logs go to standard error. Prompts, answers and keys are never in them."""

    format: LogFormat = Field(default=LogFormat.CONSOLE, description="`console` for people, `json` for machines.")
    level: LogLevel = Field(default=LogLevel.INFO, description="`debug`, `info`, `warning` or `error`.")


def default_data_dir() -> Path:
    """`$XDG_DATA_HOME/quern`, normally `~/.local/share/quern`."""
    return Path(platformdirs.user_data_dir("quern", appauthor=False))


def _expand(value: Any) -> Any:
    return Path(value).expanduser().absolute() if isinstance(value, str | Path) else value


class Settings(_Frozen):
    """All settings."""

    data_dir: Annotated[Path, BeforeValidator(_expand)] = Field(
        default_factory=default_data_dir, description="Models and the embedded database."
    )
    server: ServerSettings = ServerSettings()
    model: ModelSettings = ModelSettings()
    engine: EngineSettings = EngineSettings()
    generation: GenerationSettings = GenerationSettings()
    turns: TurnSettings = TurnSettings()
    store: StoreSettings = StoreSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _check_exposure(self) -> Self:
        if not self.server.loopback and not self.server.allow_anonymous:
            msg = (
                f"Refusing to listen on {self.server.host}: other machines could reach it and no access control is "
                f"configured, so anyone on the network could use the model and read every conversation. Keep to "
                f"127.0.0.1, or accept that with --allow-anonymous (setting server.allow_anonymous)."
            )
            raise ValueError(msg)
        return self

    @property
    def models_dir(self) -> Path:
        """Where downloaded models live."""
        return self.data_dir / "models"

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL in force; may hold a password, so never log it."""
        if self.store.url is not None:
            return self.store.url.get_secret_value()
        return f"sqlite+aiosqlite:///{self.data_dir / 'quern.db'}"


def load_settings(config_file: Path | None = None, overrides: dict[str, Any] | None = None) -> Settings:
    """Read file and environment, put `overrides` (nested, from the command line) on top.

    Raises ConfigError naming the setting and where its value came from.
    """
    values: dict[str, Any] = {}
    for source in (_from_file(config_file), _from_environment(), overrides or {}):
        _merge(values, source)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def hub_environment() -> dict[str, str]:
    """The variables that Hugging Face's own tools honour and so do we: HF_ENDPOINT and HF_TOKEN, where set."""
    return {name: os.environ[name] for name in ("HF_ENDPOINT", "HF_TOKEN") if name in os.environ}


def child_environment() -> dict[str, str]:
    """The environment for our own child processes: without the variables that may hold secrets."""
    return {name: value for name, value in os.environ.items() if not name.startswith((ENV_PREFIX, "HF_TOKEN"))}


def server_of_clients() -> str | None:
    """The address in QUERN_SERVER; None where it is not set or empty."""
    return os.environ.get(SERVER_VARIABLE) or None


def port_is_given() -> bool:
    """Whether the environment has the setting server.port."""
    return "port" in _from_environment().get("server", {})


def _from_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The configuration file {path} can't be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration file {path} is not valid TOML: {error}.") from error


def _from_environment() -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in sorted(os.environ.items()):
        if not name.startswith(ENV_PREFIX) or name == SERVER_VARIABLE:
            continue
        *rooms, setting = name.removeprefix(ENV_PREFIX).lower().split(ENV_DELIMITER)
        target = values
        for room in rooms:
            inner: Any = target.setdefault(room, {})
            if not isinstance(inner, dict):
                raise ConfigError(
                    f"The variable {name} is a setting of {room}, and another variable gives {room} itself a value. "
                    f"There is no such setting: unset the other one; docs/operations.md lists them all."
                )
            target = cast("dict[str, Any]", inner)
        target[setting] = value
    return values


def _merge(into: dict[str, Any], source: dict[str, Any]) -> None:
    for key, value in source.items():
        present = into.get(key)
        if isinstance(value, dict) and isinstance(present, dict):
            _merge(present, value)  # pyright: ignore[reportUnknownArgumentType]
        else:
            into[key] = value


def _explain(error: ValidationError) -> str:
    sentences: list[str] = []
    for item in error.errors(include_url=False, include_context=False):
        name = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ").rstrip(".")
        if item["type"] == "extra_forbidden":
            message = f"There is no setting {name}; docs/operations.md lists them all"
        elif name in SECRET_SETTINGS:
            message = f"The setting {name} can't be used: {message}"
        elif name:
            message = f"The setting {name} can't be {item['input']!r}: {message}"
        sentences.append(message + ".")
    return " ".join(sentences)
