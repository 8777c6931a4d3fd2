"""Where environments are: `<data dir>/engines/NAME`, a link to the folder of the one that was made last.

A virtual environment can't be moved: its scripts name its folder. So each is made where it stays, in a folder of its
own, and what changes in one step is the link. A folder to which no link leads is what an interrupted installation left.
A folder instead of a link is somebody's own, used as it is and never changed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from quern.engine.environments.catalog import EnvironmentEntry

RECORD = "quern-environment.json"


class Installed(StrEnum):
    """Whether an environment is there."""

    YES = "yes"
    NO = "no"
    OWN = "own"


@dataclass(frozen=True, slots=True)
class EnvironmentRecord:
    """What is written into a whole environment. `disk` is in bytes; `installed_at` a time in ISO 8601."""

    requirements: tuple[str, ...]
    disk: int
    installed_at: str


@dataclass(frozen=True, slots=True)
class Found:
    """What there is of an environment: `version` of its distribution; `disk` in bytes, 0 where nobody has counted."""

    state: Installed
    path: Path
    version: str = ""
    disk: int = 0


def environment_python(engines_dir: Path, name: str) -> Path | None:
    """The interpreter of the environment `name`; None where there is none.

    Its path is that of the folder itself: a process is seen by it to run there also when the link leads elsewhere.
    """
    python = (engines_dir / name).resolve() / "bin" / "python"
    return python if python.exists() else None


def look(entry: EnvironmentEntry, engines_dir: Path) -> Found:
    """What there is of an environment."""
    path = engines_dir / entry.name
    if environment_python(engines_dir, entry.name) is None:
        return Found(Installed.NO, path)
    version = _version(path, entry.distribution)
    record = read_record(path) if path.is_symlink() else None
    if record is None:
        return Found(Installed.OWN, path, version)
    return Found(Installed.YES, path, version, record.disk)


def read_record(path: Path) -> EnvironmentRecord | None:
    """The record of a whole environment; None where there is none."""
    try:
        fields = json.loads((path / RECORD).read_bytes())
        return EnvironmentRecord(tuple(fields["requirements"]), int(fields["disk"]), str(fields["installed_at"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(path: Path, record: EnvironmentRecord) -> None:
    """Say that the environment in the folder `path` is whole."""
    (path / RECORD).write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")


def folders(entry: EnvironmentEntry, engines_dir: Path) -> list[Path]:
    """The folders that were made for an environment, whole or not, whether a link leads there or not."""
    return sorted(path for path in engines_dir.glob(f".{entry.name}@*") if path.is_dir() and not path.is_symlink())


def users(folder: Path) -> list[int]:
    """The processes that run from a folder's interpreter, by id."""
    inside = f"{folder.resolve()}/"
    found: list[int] = []
    for process in psutil.process_iter(["cmdline"]):
        command: list[str] = process.info["cmdline"] or []
        if command and str(Path(command[0]).parent.resolve()).startswith(inside):
            found.append(process.pid)
    return found


def _version(path: Path, distribution: str) -> str:
    """The version of an installed distribution, from the name of its metadata; empty where it isn't there."""
    name = distribution.replace("-", "_")
    found = sorted(path.glob(f"lib/python3*/site-packages/{name}-*.dist-info"))
    return found[0].name.removeprefix(f"{name}-").removesuffix(".dist-info") if found else ""
