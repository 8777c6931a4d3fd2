"""How much of this machine is ours: cores and memory, counted in one way for the engines and for `quern doctor`.

A container's limits are those of its control group and of every group around it: version 2 of the interface, as in
Linux' Documentation/admin-guide/cgroup-v2.rst. Which CPUs are one physical core is in sysfs, as in
Documentation/admin-guide/cputopology.rst; where there is none, psutil is asked.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class SystemFiles:
    """Where Linux tells about itself."""

    cpus: Path = Path("/sys/devices/system/cpu")
    cgroups: Path = Path("/sys/fs/cgroup")
    cgroup_membership: Path = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes; `total` is the machine's, or the container's limit."""

    total: int
    available: int


LINUX = SystemFiles()


def usable_cores(allowed: Collection[int] | None = None, files: SystemFiles = LINUX) -> int:
    """Physical cores that this process may keep busy, at least 1: how many threads inference gets by default.

    `allowed`: the CPUs that it may run on, those of its affinity mask if None. CPUs that share a core count once, and
    of a quota of CPU time only whole cores count.
    """
    cores = _distinct_cores(_affinity() if allowed is None else allowed, files)
    return max(1, min([cores, *_cpu_quotas(files)]))


def physical_cores() -> int:
    """Physical cores of the machine, whoever may use them."""
    return psutil.cpu_count(logical=False) or psutil.cpu_count() or 1


def memory(files: SystemFiles = LINUX) -> Memory:
    """This machine's memory, or what its container may have of it."""
    machine = psutil.virtual_memory()
    limits = [int(value) for (value,) in cgroup_values("memory.max", files) if value != "max"]
    return Memory(min([machine.total, *limits]), min([machine.available, *limits]))


def give_memory_back() -> None:
    """Have the C library return to the system what was freed; it keeps it for its threads else. See malloc_trim(3) of
    glibc; elsewhere nothing. Blocks for some milliseconds.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def cgroup_values(name: str, files: SystemFiles = LINUX) -> list[list[str]]:
    """The words of the file `name` of this process's control group and of every one above it, innermost first.

    Nothing where there is none, or none that can be read.
    """
    root = files.cgroups
    lines = (_read(files.cgroup_membership) or "").splitlines()
    folders = [root / line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    groups = [group for folder in folders for group in (folder, *folder.parents) if group.is_relative_to(root)]
    texts = [_read(group / name) for group in groups]
    return [text.split() for text in texts if text]


def _affinity() -> Collection[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _distinct_cores(cpus: Collection[int], files: SystemFiles) -> int:
    """Each CPU names all the CPUs of its core, so as many cores as different answers."""
    siblings = [_read(files.cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list") for cpu in cpus]
    if all(siblings):
        return len(set(siblings))
    return min(physical_cores(), len(cpus))


def _cpu_quotas(files: SystemFiles) -> list[int]:
    """Whole CPUs that the control groups' quotas are worth."""
    return [int(quota) // int(period) for quota, period in cgroup_values("cpu.max", files) if quota != "max"]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None
