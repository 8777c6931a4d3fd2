"""Models on this machine, by the names that `quern` knows them by."""

from __future__ import annotations

from pathlib import Path

from quern.config import Settings
from quern.models.locate import resolve


def installed(name: str) -> Path:
    """The file of a catalog name or a path. Raises FileNotFoundError where it has not been fetched."""
    path = resolve(name, Settings().models_dir)
    if path is None:
        msg = f"The model {name} is not on this disk. Fetch it first: quern pull {name}"
        raise FileNotFoundError(msg)
    return path
