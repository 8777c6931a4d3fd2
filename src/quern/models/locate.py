"""From what a person calls a model to a file, or a folder, on this machine."""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from quern.errors import ModelNotFound
from quern.modelfiles.folder import check_folder
from quern.modelfiles.gguf_header import check_magic
from quern.models.catalog import CatalogEntry, find, lookup
from quern.models.integrity import read_manifest
from quern.models.partial import PartialFile


class OnDisk(StrEnum):
    """How much of a catalog entry's file is here."""

    YES = "yes"
    PARTLY = "partly"
    NO = "no"


def entry_path(entry: CatalogEntry, models_dir: Path) -> Path:
    """Where the entry's file is, or would be."""
    return models_dir / entry.name / entry.file_name


def on_disk(entry: CatalogEntry, models_dir: Path) -> OnDisk:
    """Whether the entry's file is here, judged by its size alone. Raises OSError."""
    path = entry_path(entry, models_dir)
    if path.is_file():
        manifest = read_manifest(path)
        return OnDisk.YES if manifest is None or manifest.size == path.stat().st_size else OnDisk.PARTLY
    return OnDisk.PARTLY if PartialFile(path).size else OnDisk.NO


def named_entry(name_or_path: str) -> CatalogEntry | None:
    """The catalog entry with that name; None for a path. Raises ModelNotFound for neither."""
    entry = lookup(name_or_path)
    if entry is None and not _looks_like_path(name_or_path):
        return find(name_or_path)
    return entry


def resolve(name_or_path: str, models_dir: Path) -> Path | None:
    """The model that is meant: a catalog entry's file, or None while it isn't on this disk; or a checked path.

    Raises ModelNotFound for a name that isn't in the catalog and a path where no model is, ModelCorrupt for a file
    that holds something else.
    """
    entry = named_entry(name_or_path)
    if entry is None:
        return checked_path(Path(name_or_path))
    path = entry_path(entry, models_dir)
    return path if path.is_file() else None


def model_id(name_or_path: str) -> str:
    """What clients see: a catalog name as it is, of a path the last part without `.gguf`."""
    if lookup(name_or_path) is not None:
        return name_or_path
    path = Path(name_or_path).expanduser().absolute()
    return path.stem if path.suffix == ".gguf" else path.name


def checked_path(path: Path) -> Path:
    """`path`, absolute, if it is a readable GGUF file or a model's folder. Raises ModelNotFound, ModelCorrupt."""
    try:
        path = path.expanduser().absolute()
        if path.is_dir():
            check_folder(path)
            return path
        if not path.exists():
            raise ModelNotFound(
                f"There is no model file {path}. Give the path of a .gguf file or of a model's folder, or one of the "
                f"names that `quern models` lists."
            )
        if not path.is_file():
            raise ModelNotFound(f"{path} is not a regular file. Give the path of a .gguf file.")
        check_magic(path)
    # A home directory that can't be found is a RuntimeError.
    except (OSError, RuntimeError) as error:
        raise ModelNotFound(f"The model file {path} can't be read ({error}). Give the path of a .gguf file.") from error
    return path


def _looks_like_path(text: str) -> bool:
    if "/" in text or "\\" in text or text.startswith("~") or text.lower().endswith(".gguf"):
        return True
    with suppress(OSError):
        return Path(text).exists()
    return False
