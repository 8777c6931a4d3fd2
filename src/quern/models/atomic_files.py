"""Writing files so that a crash leaves the old state or the new one, never something between."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

Record = TypeVar("Record", bound=BaseModel)


def sync(path: Path) -> None:
    """Force a file, or a directory's entries, to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(source: Path, target: Path) -> None:
    """Move `source` to `target` in the same directory: durable, and there is never half a `target`. Raises OSError."""
    sync(source)
    source.replace(target)
    sync(target.parent)


def save_record(path: Path, record: BaseModel) -> None:
    """Write a small record as JSON, atomically. Raises OSError."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    replace(fresh, path)


def load_record(path: Path, shape: type[Record]) -> Record | None:
    """Read what `save_record` wrote; None where there is nothing, or nothing of that shape. Raises OSError."""
    try:
        return shape.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
