"""What `quern doctor` looks at: the machine, the disk, the database, the port. Nothing here decides anything."""

from __future__ import annotations

import asyncio
import errno
import os
import platform
import shutil
import socket
from pathlib import Path

import filelock
import psutil

from quern.cli.checks import (
    CpuFacts,
    DatabaseFacts,
    DatabaseState,
    DiskFacts,
    MemoryFacts,
    ModelFacts,
    PortFacts,
    PortState,
)
from quern.client import QuernClient
from quern.config import EngineName, EngineSettings, ServerSettings, Settings
from quern.engine.choice import EngineChoice, ModelKind, choose, native_facts
from quern.engine.cpu.loading import loaded_bytes
from quern.errors import ClientError, ConfigError, ModelError, StoreError
from quern.modelfiles.model_file import read_model
from quern.models.catalog import find
from quern.models.integrity import read_manifest, verify
from quern.models.locate import entry_path, named_entry, resolve, size_on_disk
from quern.models.partial import PartialFile
from quern.models.progress import Progress
from quern.store.database import Database

CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_MEMBERSHIP = Path("/proc/self/cgroup")
ANSWER_SECONDS = 5.0


def cpu_facts() -> CpuFacts:
    """This machine's processor, and how much of it this process may use."""
    physical = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    limits = [int(quota) // int(period) for quota, period in cgroup_values("cpu.max") if quota != "max"]
    return CpuFacts(platform.machine(), _cpu_flags(), physical, max(1, min(physical, allowed, *limits)))


def memory_facts(model: int, kv_cache: int, *, served: bool) -> MemoryFacts:
    """This machine's memory, or this container's, and what `model` and `kv_cache` (bytes) take of it."""
    memory = psutil.virtual_memory()
    limits = [int(value) for (value,) in cgroup_values("memory.max") if value != "max"]
    return MemoryFacts(
        total=min([memory.total, *limits]),
        available=min([memory.available, *limits]),
        model=model,
        kv_cache=kv_cache,
        served=served,
    )


def model_facts(name: str, models_dir: Path, *, checksum: bool, progress: Progress) -> ModelFacts:
    """Where the model's file is, what it needs, and with `checksum` whether its bytes are right."""
    try:
        entry = named_entry(name)
        path = resolve(name, models_dir)
        if path is None:
            entry = find(name)
            held = PartialFile(entry_path(entry, models_dir)).size
            return ModelFacts(
                name, None, entry.size, entry.kv_bytes_per_token, entry.architecture, entry.quantisation, held=held
            )
        verified = False
        if entry is not None:
            verify(path, entry, progress, checksum=checksum)
            verified = checksum and (read_manifest(path) is not None or bool(entry.pins))
        model = read_model(path).facts
        return ModelFacts(
            name,
            path,
            size_on_disk(path),
            model.kv_bytes_per_token(),
            model.architecture,
            model.quantisation,
            verified=verified,
        )
    except ModelError as error:
        return ModelFacts(name, None, 0, 0, trouble=str(error))
    except OSError as error:
        return ModelFacts(name, None, 0, 0, trouble=f"{error.filename} can't be read: {error.strerror}.")


def engine_choice(settings: EngineSettings, model: ModelFacts) -> EngineChoice | ConfigError:
    """What a server would run the model with, or why it would not start."""
    try:
        folder = model.path is not None and model.path.is_dir()
        return choose(settings, native_facts(), ModelKind(model.architecture, model.quantisation, folder=folder))
    except ConfigError as error:
        return error


def weight_bytes(settings: EngineSettings, model: ModelFacts, choice: EngineChoice | ConfigError) -> int:
    """Memory that the weights take in the engine of this choice, in bytes."""
    if isinstance(choice, EngineChoice) and choice.name is EngineName.CPU:
        return loaded_bytes(model.size, model.quantisation, settings.quantise)
    return model.size


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
            return PortFacts(server.host, server.port, PortState.UNUSABLE, trouble=error.strerror or str(error))
        return _who_listens(server)
    return PortFacts(server.host, server.port, PortState.FREE)


def _who_listens(server: ServerSettings) -> PortFacts:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104 (looked at, not bound)
    url = f"http://[{host}]:{server.port}" if ":" in host else f"http://{host}:{server.port}"
    try:
        with QuernClient(url, read_timeout=ANSWER_SECONDS) as client:
            models = tuple(model.id for model in client.models()) if client.ready() else ()
    except ClientError:
        return PortFacts(server.host, server.port, PortState.OTHER)
    return PortFacts(server.host, server.port, PortState.QUERN, models)


async def _open_and_close(url: str) -> None:
    database = Database(url)
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


def cgroup_values(name: str, root: Path = CGROUP_ROOT, membership: Path = CGROUP_MEMBERSHIP) -> list[list[str]]:
    """The words of the file `name` of this process's control group and of every one above it.

    Version 2 of the interface, as in Linux' Documentation/admin-guide/cgroup-v2.rst; nothing where there is none.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    folders = [root / line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    files = [above / name for folder in folders for above in (folder, *folder.parents) if above.is_relative_to(root)]
    return [file.read_text(encoding="utf-8").split() for file in files if file.is_file()]
