"""Every setting, read once at start (`config_sources.py`) and frozen.

The table in docs/operations.md is checked against these classes.
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import platformdirs
from pydantic import Field, SecretStr, create_model, model_validator

from quern.config_models import EngineSettings, ModelSettings, ModelToServe, TableSettings
from quern.config_values import AbsolutePath, Frozen, HostPatterns, OriginPatterns
from quern.sampling import PARAMETERS, SETTINGS, SamplingParams
from quern.types import DisconnectPolicy

RELOADABLE: dict[str, Any] = {"reloadable": True}
"""Of a setting that a running server takes over when it reads its settings anew."""


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


class ServerSettings(Frozen):
    """The HTTP listener."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8001, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    allow_anonymous: bool = Field(
        default=False,
        description="Serve callers without a key too: on an address that other machines can reach, or beside keys.",
    )
    shutdown_grace_seconds: float = Field(
        default=30.0,
        ge=0,
        description="How long running turns may go on after SIGTERM before they end as interrupted.",
        json_schema_extra=RELOADABLE,
    )
    hosts: HostPatterns = Field(
        default=(),
        description=(
            "Names beside this machine's own that requests may name as their `Host`, separated by commas; "
            "`*.example.com` is every name below, `*` any name."
        ),
    )
    cors_origins: OriginPatterns = Field(
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
        json_schema_extra=RELOADABLE,
    )
    max_connections_per_address: int = Field(
        default=512,
        ge=1,
        description="The same for each address; a proxy in front of the server is one.",
        json_schema_extra=RELOADABLE,
    )
    body_bytes: int = Field(
        default=16 * 2**20,
        ge=1024,
        description=(
            "Bytes of all bodies together that are received, parsed and tokenised at once, those below 64 KiB not "
            "counted; further ones wait."
        ),
    )
    model_memory_gb: float | None = Field(
        default=None,
        gt=0,
        description=(
            "Several models: the most memory of all that are loaded together, weights and KV caches, in GB; if unset "
            "nine tenths of the machine's, or of its container's."
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


def _generation_settings() -> type[Frozen]:
    declared: dict[str, Any] = {name: (PARAMETERS[name].type, PARAMETERS[name].field()) for name in SETTINGS}
    return create_model("_GenerationSettings", __base__=Frozen, **declared)


class GenerationSettings(_generation_settings()):
    """What a request gets where it says nothing."""

    def sampling(self, **given: Any) -> SamplingParams:
        """How an answer's tokens are drawn: the values that a request gives over these; None gives nothing."""
        chosen = {name: value for name, value in given.items() if value is not None}
        return SamplingParams(**{**self.model_dump(), **chosen})


class ResumeInterrupted(StrEnum):
    """Which interrupted turns go on by themselves."""

    OFF = "off"
    CONVERSATIONS = "conversations"
    ALL = "all"


class TurnSettings(Frozen):
    """Turns: the queue, and what happens when nobody listens any more."""

    max_queued: int = Field(
        default=64,
        ge=0,
        description="Turns that may wait for a sequence; one more is a 503.",
        json_schema_extra=RELOADABLE,
    )
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
    urgent_tokens: int = Field(
        default=256, ge=1, description="Tokens for which an answer that fills a gap goes before all others."
    )
    resume_hours: float = Field(
        default=24,
        ge=0,
        le=24 * 366,
        description=(
            "How long after its end a turn can be followed again from its first event, and go on where it stopped; so "
            "long its prompt and its answer are kept, one-shot requests' too. 0: none of that, nothing kept."
        ),
    )
    resume_interrupted: ResumeInterrupted = Field(
        default=ResumeInterrupted.OFF,
        description=(
            "Turns that a stop or a crash interrupted go on by themselves at the next start: `off`, `conversations` or "
            "`all`."
        ),
    )
    idempotency_hours: float = Field(
        default=24,
        ge=0,
        le=24 * 366,
        description=(
            "How long an `Idempotency-Key` is known: so long the same request under the same key gets the same turn, "
            "and that turn is kept. 0: the header is not looked at."
        ),
    )
    adopt_retries: bool = Field(
        default=True,
        description=(
            "A request that is equal to one whose connection was lost gets the turn that this one started, where it "
            "still runs or has ended unheard."
        ),
    )
    adopt_seconds: float = Field(
        default=10.0,
        ge=0,
        description=(
            "How long after the loss it may come; so long a stream's turn that would be cancelled for it goes on."
        ),
    )
    save_interval_ms: int = Field(default=50, ge=10, description="The most text, in time, that a `kill -9` can lose.")
    commit_interval_ms: int = Field(
        default=1000,
        ge=10,
        description=(
            "The most text, in time, that is lost where the machine goes down: so often it is committed to the SQLite "
            "file; in between it is written to a file beside it. Another database gets it at every save."
        ),
    )
    save_tokens: int = Field(
        default=32, ge=1, description="Save earlier than that once a turn has so many unsaved tokens."
    )
    loop_repeats: int = Field(
        default=300,
        ge=0,
        description="An answer is ended once its last tokens repeat a short period so many times; 0 is never.",
        json_schema_extra=RELOADABLE,
    )
    loop_tokens: int = Field(
        default=1000,
        ge=0,
        description="With fewer tokens than that, repeats are no loop.",
        json_schema_extra=RELOADABLE,
    )
    loop_period: int = Field(
        default=64,
        ge=1,
        le=1024,
        description="The longest period, in tokens, that counts.",
        json_schema_extra=RELOADABLE,
    )
    loop_calls: int = Field(
        default=200,
        ge=0,
        description=(
            "A turn is ended that calls a tool once more after so many repeats of the same call (or of up to four in "
            "turn) with the same result, nobody having asked for anything in between; 0 is never."
        ),
        json_schema_extra=RELOADABLE,
    )


class TitleSource(StrEnum):
    """Where a conversation's title comes from that has none."""

    RULE = "rule"
    MODEL = "model"
    OFF = "off"


class ConversationSettings(Frozen):
    """Conversations: their titles, and how long they are kept."""

    titles: TitleSource = Field(
        default=TitleSource.RULE,
        description=(
            "A conversation without a title gets one from its first turn: `rule` (the first line that its user says), "
            "`model` (the same, and once there is an answer what the model makes of it, in the background), or `off`."
        ),
    )
    keep_days: float = Field(
        default=0,
        ge=0,
        le=36_600,
        description=(
            "Conversations in which nothing has happened for so many days are deleted for good, archived ones too, "
            "pinned ones not, and so are stored responses on which no later one builds. 0: they are kept for ever."
        ),
    )
    max_import_bytes: int = Field(
        default=2**30,
        ge=1024,
        description=(
            "Largest file of exported conversations that is imported; a larger one is a 413. It lies in the data "
            "directory until it is read."
        ),
    )


class AccessSettings(Frozen):
    """Keys, which are in the database: `quern keys`."""

    share_cache: bool = Field(
        default=False,
        description=(
            "Reuse prompts' prefixes between keys too. Saves time where colleagues work on the same code; who measures "
            "times can then tell which prompts others have sent."
        ),
    )


def _limit(description: str) -> Any:
    return Field(default=0, ge=0, description=description, json_schema_extra=RELOADABLE)


class LimitSettings(Frozen):
    """What each key may use, where it has no limit of its own (`quern keys limit`), and everybody without a key
    together. 0 is no limit.
    """

    turns_at_once: int = _limit("Turns of a key that run at once; further ones wait.")
    turns_waiting: int = _limit("Turns of a key that wait, with `turns_at_once`; one more is a 429.")
    requests_per_minute: int = _limit("Requests that compute something; more are a 429.")
    tokens_per_minute: int = _limit("Tokens a minute that a key's requests cost: computed of prompts, and generated.")
    tokens_per_day: int = _limit("The same a day, which begins at midnight UTC.")
    storage_mib: int = _limit(
        "MiB of text that a key may have stored, in conversations and responses; what would be more is a 403."
    )


class MetricsSettings(Frozen):
    """What `GET /metrics` shows, and to whom."""

    public: bool = Field(
        default=False, description="Show `/metrics` without a key. It has the names of keys, and no prompt."
    )
    max_keys: int = Field(
        default=50, ge=0, le=1000, description="Keys whose tokens are counted by name; those of all others are `other`."
    )


class TracingSettings(Frozen):
    """Traces for OpenTelemetry; they take the extra `quern-coder[otel]`."""

    otlp_endpoint: str | None = Field(
        default=None,
        description=(
            "URL of a collector that takes OTLP over HTTP, such as `http://127.0.0.1:4318`: traces are sent there. If "
            "unset, the variable OTEL_EXPORTER_OTLP_ENDPOINT decides; without it there are none."
        ),
    )


class StoreSettings(Frozen):
    """The database."""

    url: SecretStr | None = Field(
        default=None, description="SQLAlchemy URL of the database; `quern.db` (SQLite) in the data directory if unset."
    )
    pool_size: int = Field(
        default=8,
        ge=1,
        le=1000,
        description=(
            "Connections to PostgreSQL that a server opens at most, and keeps; one more hears what others on the same "
            "database do. SQLite has one."
        ),
    )
    reserve_mib: int = Field(
        default=16,
        ge=0,
        le=2**20,
        description=(
            "MiB of the disk that are kept beside the SQLite database, so that on a full disk turns can end and "
            "conversations be deleted. 0: none."
        ),
    )

    lease_seconds: float = Field(
        default=10.0,
        ge=0.5,
        le=3600,
        description=(
            "On PostgreSQL: how long the database may not hear from this server until others that share it take its "
            "turns over."
        ),
    )

    @property
    def reserve_bytes(self) -> int:
        """The same in bytes."""
        return self.reserve_mib * 2**20


class LogSettings(Frozen):
    """Logs go to standard error. Prompts, answers and keys are never in them."""

    format: LogFormat = Field(
        default=LogFormat.CONSOLE,
        description="`console` for people, `json` for machines.",
        json_schema_extra=RELOADABLE,
    )
    level: LogLevel = Field(
        default=LogLevel.INFO, description="`debug`, `info`, `warning` or `error`.", json_schema_extra=RELOADABLE
    )


def default_data_dir() -> Path:
    """`$XDG_DATA_HOME/quern`, normally `~/.local/share/quern`."""
    return Path(platformdirs.user_data_dir("quern", appauthor=False))


class Settings(Frozen):
    """All settings."""

    data_dir: AbsolutePath = Field(default_factory=default_data_dir, description="Models and the embedded database.")
    server: ServerSettings = ServerSettings()
    model: ModelSettings = ModelSettings()
    models: dict[str, TableSettings] = Field(
        default_factory=dict[str, TableSettings],
        description="Several models on one server, a table `[models.NAME]` each, in place of `[model]`.",
    )
    engine: EngineSettings = EngineSettings()
    generation: GenerationSettings = GenerationSettings()
    turns: TurnSettings = TurnSettings()
    conversations: ConversationSettings = ConversationSettings()
    access: AccessSettings = AccessSettings()
    limits: LimitSettings = LimitSettings()
    metrics: MetricsSettings = MetricsSettings()
    tracing: TracingSettings = TracingSettings()
    store: StoreSettings = StoreSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _check_models(self) -> Self:
        if not self.models:
            return self
        usual = ModelSettings()
        if (self.model.name, self.model.aliases) != (usual.name, usual.aliases):
            msg = "Models are named twice, by model.name or model.aliases and by tables [models.NAME]: leave one out"
            raise ValueError(msg)
        if sum(table.default for table in self.models.values()) > 1:
            msg = "Several tables [models.NAME] say default = true, and only one model can be the default"
            raise ValueError(msg)
        names = [*self.models, *(alias for table in self.models.values() for alias in set(table.aliases))]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            msg = f"Two models in the tables [models.NAME] have the name or alias {twice[0]!r}: rename one"
            raise ValueError(msg)
        return self

    def to_serve(self) -> tuple[ModelToServe, ...]:
        """The models, the default first."""
        if not self.models:
            one = self.model
            return (ModelToServe(one.name, None, one.aliases, one.verify, self.engine),)
        tables = sorted(self.models.items(), key=lambda table: not table[1].default)
        return tuple(
            ModelToServe(
                table.path or name,
                name,
                table.aliases,
                table.verify,
                self._engine_of(table),
                table.preload,
                table.keep_alive_minutes,
            )
            for name, table in tables
        )

    def _engine_of(self, table: TableSettings) -> EngineSettings:
        own = table.engine
        return self.engine.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})

    @property
    def models_dir(self) -> Path:
        """Where downloaded models live."""
        return self.data_dir / "models"

    @property
    def engines_dir(self) -> Path:
        """Where the environments of engines live that have one of their own."""
        return self.data_dir / "engines"

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL in force; may hold a password, so never log it."""
        if self.store.url is not None:
            return self.store.url.get_secret_value()
        return f"sqlite+aiosqlite:///{self.data_dir / 'quern.db'}"
