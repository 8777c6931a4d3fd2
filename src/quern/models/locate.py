"""From what a person calls a model to a file on this machine."""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from quern.errors import ModelNotFound
from quern.models.catalog import CatalogEntry, find, lookup
from quern.models.integrity import check_magic, read_manifest
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
    """The model file that is meant: a catalog entry's, or None while it isn't on this disk; or a checked path.

    Raises ModelNotFound for a name that isn't in the catalog and a path where no model file is, ModelCorrupt for one
    that holds something else.
    """
    entry = named_entry(name_or_path)
    if entry is None:
        return checked_path(Path(name_or_path))
    path = entry_path(entry, models_dir)
    return path if path.is_file() else None


def checked_path(path: Path) -> Path:
    """`path`, absolute, if it is a readable GGUF file. Raises ModelNotFound, ModelCorrupt."""
    try:
        path = path.expanduser().absolute()
        if path.is_dir():
            raise ModelNotFound(_about_directory(path))
        if not path.exists():
            raise ModelNotFound(
                f"There is no model file {path}. Give the path of a .gguf file, or one of the names that `quern "
                f"models` lists."
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


def _about_directory(path: Path) -> str:
    if (path / "config.json").exists() or any(path.glob("*.safetensors")):
        return (
            f"{path} is a model directory in Hugging Face's layout, and this engine takes GGUF files only for now. "
            f"Give the path of a .gguf file of the same model, or one of the names that `quern models` lists."
        )
    inside = sorted(file.name for file in path.glob("*.gguf"))
    hint = f"one of the files in it: {', '.join(inside)}" if inside else "a .gguf file; there is none in it"
    return f"{path} is a directory. Give the path of {hint}."
