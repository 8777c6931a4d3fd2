"""Whether a model file is what it should be."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from quern.errors import ModelCorrupt
from quern.modelfiles.gguf_header import check_magic
from quern.models.atomic_files import load_record
from quern.models.catalog import CatalogEntry, SourceKind
from quern.models.progress import Progress

CHUNK_BYTES = 4 * 2**20


class Manifest(BaseModel):
    """What is written beside every fetched file, as `<file>.json`. `size` is in bytes, `fetched_at` in UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size: int
    source: SourceKind
    fetched_at: datetime


def manifest_path(path: Path) -> Path:
    """Where the manifest of the model file at `path` is."""
    return path.with_name(path.name + ".json")


def read_manifest(path: Path) -> Manifest | None:
    """The manifest of the model file at `path`; None if it was not fetched by us. Raises OSError."""
    return load_record(manifest_path(path), Manifest)


def sha256_of(path: Path, progress: Progress, phase: str) -> str:
    """The SHA-256 of a whole file, in hex. Raises OSError."""
    digest = hashlib.sha256()
    total = path.stat().st_size
    buffer = memoryview(bytearray(CHUNK_BYTES))
    done = 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            done += count
            progress.advance(phase, done, total)
    return digest.hexdigest()


def verify(path: Path, entry: CatalogEntry, progress: Progress, *, checksum: bool = True) -> None:
    """Check an installed file against its manifest, or the catalog's checksums where somebody put it there by hand.

    Without `checksum` only its size is looked at, or its beginning. Raises ModelCorrupt naming the file, and OSError.
    """
    manifest = read_manifest(path)
    size = path.stat().st_size
    if manifest and size != manifest.size:
        raise ModelCorrupt(f"{path} is damaged: it has {size} bytes and should have {manifest.size}.")
    if manifest is None:
        check_magic(path)
    expected = {manifest.sha256} if manifest else entry.pins
    if not checksum:
        return
    if not expected:
        progress.notice(f"{path} was not fetched by Quern and has no known checksum, so it was not checked.")
        return
    actual = sha256_of(path, progress, f"Checking {entry.name}")
    if actual in expected:
        return
    if manifest:
        raise ModelCorrupt(f"{path} is damaged: its SHA-256 is {actual} and should be {manifest.sha256}.")
    raise ModelCorrupt(
        f"{path} is not the file that Quern knows as {entry.name}: its SHA-256 is {actual}. Somebody put it there by "
        f"hand, so it is left alone. Remove it to have the known file fetched, or move it elsewhere and give its path "
        f"instead of a name."
    )
