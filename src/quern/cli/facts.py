"""What `quern doctor` looks at: the machine, the disk, the database, the port. Nothing here decides anything."""

from __future__ import annotations

import asyncio
import errno
import os
import platform
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

import filelock

from quern.cli.checks import (
    CpuFacts,
    DatabaseFacts,
    DatabaseState,
    DiskFacts,
    LocatedModel,
    MemoryFacts,
    PortFacts,
    PortState,
    RemoteFacts,
)
from quern.client import QuernClient
from quern.config import ServerSettings, Settings
from quern.config_models import EngineName, EngineSettings
from quern.engine.engine_choice import EngineChoice, ModelKind, choose, native_facts
from quern.engine.remote.backend import RemoteServers
from quern.engine.transformers.process import find_python
from quern.engine.vllm.command import find_vllm
from quern.environment import key_of_clients
from quern.errors import ClientError, ConfigError, ModelError, StoreError
from quern.machine import memory, physical_cores, usable_cores
from quern.modelfiles.model import read_model
from quern.modelfiles.sizes import kv_cache_bytes, loaded_bytes, size_on_disk
from quern.models.catalog import find
from quern.models.integrity import read_manifest, verify
from quern.models.locate import entry_path, named_entry, resolve
from quern.models.partial import PartialFile
from quern.models.progress import Progress
from quern.prompt.codec import TextCodec
from quern.store.database import Database

ANSWER_SECONDS = 5.0


def cpu_facts() -> CpuFacts:
    """This machine's processor, and how much of it this process may use."""
    return CpuFacts(platform.machine(), _cpu_flags(), physical_cores(), usable_cores())


def memory_facts(model: int, kv_cache: int, *, served: bool) -> MemoryFacts:
    """This machine's memory, or this container's, and what `model` and `kv_cache` (bytes) take of it."""
    ours = memory()
    return MemoryFacts(ours.total, ours.available, model, kv_cache, served=served)


def locate_model(name: str, models_dir: Path, *, checksum: bool, progress: Progress) -> LocatedModel:
    """Where the model's file is, what it needs, and with `checksum` whether its bytes are right."""
    try:
        entry = named_entry(name)
        path = resolve(name, models_dir)
        if path is None:
            entry = find(name)
            held = PartialFile(entry_path(entry, models_dir)).size
            return LocatedModel(
                name, None, entry.size, entry.kv_shape, entry.architecture, entry.quantisation, held=held
            )
        verified = False
        if entry is not None:
            verify(path, entry, progress, checksum=checksum)
            verified = checksum and (read_manifest(path) is not None or bool(entry.pins))
        model = read_model(path).facts
        return LocatedModel(
            name,
            path,
            size_on_disk(path),
            model.kv_shape,
            model.architecture,
            model.quantisation,
            verified=verified,
            embeds=model.embeds,
        )
    except ModelError as error:
        return LocatedModel(name, problem=str(error))
    except OSError as error:
        return LocatedModel(name, problem=f"{error.filename} can't be read: {error.strerror}.")


def engine_choice(settings: EngineSettings, model: LocatedModel) -> EngineChoice | ConfigError:
    """What a server would run the model with, or why it would not start."""
    try:
        folder = model.path is not None and model.path.is_dir()
        kind = ModelKind(model.architecture, model.quantisation, folder=folder, embeds=model.embeds)
        return choose(settings, native_facts(), kind)
    except ConfigError as error:
        return error


def memory_needed(settings: EngineSettings, model: LocatedModel, choice: EngineChoice | ConfigError) -> tuple[int, int]:
    """Memory that the weights and the KV cache take in the engine of this choice, in bytes."""
    if isinstance(choice, EngineChoice) and choice.name is EngineName.CPU:
        weights = loaded_bytes(model.size, model.quantisation, settings.quantise)
        return weights, kv_cache_bytes(model.kv_shape, settings.kv_tokens, settings.kv_type)
    return model.size, kv_cache_bytes(model.kv_shape, settings.kv_tokens)


def vllm_program(settings: Settings) -> str | ModelError:
    """What vLLM would be started with, or why it can't be."""
    try:
        return " ".join(find_vllm(settings.engine.vllm.command, settings.engines_dir))
    except ModelError as error:
        return error


def transformers_python(settings: Settings) -> str | ModelError:
    """The interpreter that Transformers would run in, or why it can't."""
    try:
        return str(find_python(settings.engine.transformers.command, settings.engines_dir))
    except ModelError as error:
        return error


def remote_servers(settings: EngineSettings, model: Path) -> Sequence[RemoteFacts]:
    """What the servers of `engine.remote` can do; each is asked what a server here would ask it at its start."""
    codec = TextCodec.load(model)
    try:
        outcomes = asyncio.run(RemoteServers(settings.remote, codec.tokenizer, connections=1).survey())
    finally:
        codec.close()
    return [
        RemoteFacts(url, problem=str(outcome)) if isinstance(outcome, ModelError) else RemoteFacts(url, outcome.lacking)
        for url, outcome in zip(settings.remote.urls, outcomes, strict=True)
    ]


def disk_facts(data_dir: Path, to_fetch: int) -> DiskFacts:
    """The disk under `data_dir`, which need not exist yet."""
    existing = next(folder for folder in (data_dir, *data_dir.parents) if os.access(folder, os.F_OK))
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    return DiskFacts(data_dir, existing, writable, shutil.disk_usage(existing).free, to_fetch)


def database_facts(settings: Settings) -> DatabaseFacts:
    """Open the database as a server would, unless that would create it, and close it again."""
    file = settings.data_dir / "quern.db"
    own = settings.store.url is None
    where = str(file) if own else "the database of store.url"
    if own and not os.access(file, os.F_OK):
        return DatabaseFacts(where, DatabaseState.ABSENT)
    try:
        asyncio.run(_open_and_close(settings.database_url))
    except StoreError as error:
        if isinstance(error.__cause__, filelock.Timeout):
            return DatabaseFacts(where, DatabaseState.IN_USE)
        return DatabaseFacts(where, DatabaseState.BROKEN, str(error))
    return DatabaseFacts(where, DatabaseState.OPENS)


def port_facts(server: ServerSettings) -> PortFacts:
    """Who has the port: nobody, a Quern, or something else."""
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((server.host, server.port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return PortFacts(server.host, server.port, PortState.UNUSABLE, problem=error.strerror or str(error))
        return _who_listens(server)
    return PortFacts(server.host, server.port, PortState.FREE)


def _who_listens(server: ServerSettings) -> PortFacts:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104 (looked at, not bound)
    url = f"http://[{host}]:{server.port}" if ":" in host else f"http://{host}:{server.port}"
    try:
        with QuernClient(url, key=key_of_clients(), read_timeout=ANSWER_SECONDS) as client:
            models = tuple(model.id for model in client.models()) if client.ready() else ()
    except ClientError:
        return PortFacts(server.host, server.port, PortState.OTHER)
    return PortFacts(server.host, server.port, PortState.QUERN, models)


async def _open_and_close(url: str) -> None:
    database = Database(url, claim_seconds=0)
    try:
        await database.open()
    finally:
        await database.close()


def _cpu_flags() -> frozenset[str] | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), None)
    return None if flags is None else frozenset(flags.split())
