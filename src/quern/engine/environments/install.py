"""Making an environment with pip, from whatever index this machine is set up for, and removing one.

An environment is made in a folder of its own and becomes the one that is used in one step, when it is whole
(`place.py`). So an installation that is interrupted changes nothing, and what it left is removed by the next.
"""

from __future__ import annotations

import errno
import secrets
import shutil
import venv
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from quern.engine.environments.catalog import EnvironmentEntry
from quern.engine.environments.pip import PipFailed, run_pip
from quern.engine.environments.place import (
    EnvironmentRecord,
    Found,
    Installed,
    folders,
    look,
    read_record,
    users,
    write_record,
)
from quern.errors import EnvironmentNotMade

DOWNLOADS = 0.6
"""Bytes of what is downloaded, for each byte of the environment; they lie beside it for a while."""


class Progress(Protocol):
    """Hears how far an installation is, in the thread that runs it; see `quern.models.progress`."""

    def advance(self, phase: str, done: int, total: int | None) -> None:
        """`done` of `total` bytes of a phase."""
        ...

    def notice(self, message: str) -> None:
        """A sentence for a person."""
        ...


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes of disk: of the environment, and of what lies beside it while it is made."""

    environment: int
    beside: int

    @property
    def total(self) -> int:
        """What has to be free."""
        return self.environment + self.beside


def needs(entry: EnvironmentEntry, *, cpu: bool = False) -> Needs:
    """The disk that an installation takes. Raises ConfigError as `EnvironmentEntry.chosen` does."""
    disk = entry.chosen(cpu=cpu)[1]
    return Needs(disk, int(disk * DOWNLOADS))


def install(
    entry: EnvironmentEntry, engines_dir: Path, *, cpu: bool = False, upgrade: bool = False, progress: Progress
) -> Found:
    """Make the environment unless it is there. `upgrade`: make it anew where it is there with other versions.

    Blocking. Raises EnvironmentNotMade, and ConfigError as `EnvironmentEntry.chosen` does.
    """
    requirements, _ = entry.chosen(cpu=cpu)
    path = engines_dir / entry.name
    with _disk_errors_explained(path), _locked(entry, engines_dir):
        _remove_leftovers(entry, engines_dir)
        found = look(entry, engines_dir)
        _refuse_own(found)
        if found.state is Installed.YES and not _to_be_made(entry, found, requirements, progress, upgrade=upgrade):
            return found
        _check_space(entry, engines_dir, cpu=cpu, progress=progress)
        before = path.resolve() if path.is_symlink() else None
        _make(entry, engines_dir, requirements, progress)
        if before is not None:
            _discard(before, progress)
    return look(entry, engines_dir)


def remove(entry: EnvironmentEntry, engines_dir: Path) -> int:
    """Remove the environment; returns the bytes that are free again, 0 where there was none. Raises
    EnvironmentNotMade while something runs in it.
    """
    path = engines_dir / entry.name
    with _disk_errors_explained(path), _locked(entry, engines_dir):
        found = look(entry, engines_dir)
        _refuse_own(found)
        running = users(path) if path.is_symlink() else []
        if running:
            raise EnvironmentNotMade(
                f"{path} is in use by process {', '.join(map(str, running))}, so it is not removed. Stop that server "
                f"first (`quern stop`)."
            )
        path.unlink(missing_ok=True)
        _remove_leftovers(entry, engines_dir)
    return found.disk


def _to_be_made(
    entry: EnvironmentEntry, found: Found, requirements: tuple[str, ...], progress: Progress, *, upgrade: bool
) -> bool:
    record = read_record(found.path)
    if record is not None and set(record.requirements) == set(requirements):
        progress.notice(f"{entry.name} {found.version} is there already.")
        return False
    if not upgrade:
        progress.notice(
            f"{entry.name} {found.version} is there, and this version of Quern would install others: "
            f"{', '.join(requirements)}. `quern engines install {entry.name} --upgrade` does it."
        )
    return upgrade


def _make(entry: EnvironmentEntry, engines_dir: Path, requirements: tuple[str, ...], progress: Progress) -> None:
    folder = engines_dir / f".{entry.name}@{secrets.token_hex(4)}"
    temporary = folder / "tmp"
    try:
        venv.EnvBuilder(symlinks=True).create(folder)
        temporary.mkdir()
        run_pip(folder, ["install", *requirements], temporary=temporary, progress=progress)
        if entry.unwanted:
            run_pip(folder, ["uninstall", "--yes", *entry.unwanted], temporary=temporary, progress=progress)
        shutil.rmtree(temporary)
        made = EnvironmentRecord(requirements, _bytes_in(folder), datetime.now(UTC).isoformat(timespec="seconds"))
        write_record(folder, made)
        link = folder / "link"
        link.symlink_to(folder.name, target_is_directory=True)
        link.replace(engines_dir / entry.name)
    except PipFailed as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise EnvironmentNotMade(
            f"The environment for {entry.name} could not be made: {error}. Nothing was changed. pip takes packages "
            f"from the index that it is set up for (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, pip.conf)."
        ) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _check_space(entry: EnvironmentEntry, engines_dir: Path, *, cpu: bool, progress: Progress) -> None:
    needed = needs(entry, cpu=cpu)
    free = shutil.disk_usage(engines_dir).free
    progress.notice(
        f"{entry.title}: about {needed.environment / 1e9:.1f} GB in {engines_dir}, and {needed.beside / 1e9:.1f} GB "
        f"more while it is made; {free / 1e9:.1f} GB are free."
    )
    if free < needed.total:
        raise EnvironmentNotMade(
            f"{entry.name} needs {needed.total / 1e9:.1f} GB in {engines_dir}, and only {free / 1e9:.1f} GB are free "
            f"there, so it is not installed. Free some space, or choose another place with --data-dir."
        )


def _refuse_own(found: Found) -> None:
    if found.state is Installed.OWN:
        raise EnvironmentNotMade(
            f"{found.path} is there and was not made by `quern engines install`, so it is left as it is. It is used; "
            f"to have one made by Quern, move it away first."
        )


def _remove_leftovers(entry: EnvironmentEntry, engines_dir: Path) -> None:
    """Remove the folders to which no link leads and in which nothing runs."""
    path = engines_dir / entry.name
    used = path.resolve() if path.is_symlink() else None
    for folder in folders(entry, engines_dir):
        if folder.resolve() != used and not users(folder):
            shutil.rmtree(folder)


def _discard(folder: Path, progress: Progress) -> None:
    if users(folder):
        progress.notice(
            f"A server still runs in the environment of before, {folder}: it goes with the next `quern engines` "
            f"command that changes something. Start the server anew to have the new one."
        )
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _bytes_in(folder: Path) -> int:
    return sum(file.lstat().st_blocks * 512 for file in folder.rglob("*"))


@contextmanager
def _locked(entry: EnvironmentEntry, engines_dir: Path) -> Generator[None]:
    engines_dir.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(engines_dir / f".{entry.name}.lock", blocking=False):
            yield
    except Timeout:
        raise EnvironmentNotMade(
            f"Another `quern engines` command is at work on {entry.name} in {engines_dir}. Wait for it to end."
        ) from None


@contextmanager
def _disk_errors_explained(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno == errno.ENOSPC
        advice = "Free some space" if full else "Make the place writable"
        raise EnvironmentNotMade(
            f"The environment {path} could not be changed: {error.filename or path}: {error.strerror or error}. "
            f"{advice}, or choose another one with --data-dir."
        ) from error
