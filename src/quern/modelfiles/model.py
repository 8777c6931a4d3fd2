"""A model on this machine, a GGUF file or a folder: what its files say of it."""

from __future__ import annotations

from pathlib import Path

from quern.modelfiles.description import ModelDescription
from quern.modelfiles.folder import read_folder
from quern.modelfiles.gguf import read_gguf


def read_model(path: Path) -> ModelDescription:
    """Read a GGUF file, or a folder in Hugging Face's layout; below half a second for a Qwen model.

    Raises ModelNotFound, ModelCorrupt, and ModelLoadError where the model is of a kind that can't be served.
    """
    return read_folder(path) if path.is_dir() else read_gguf(path)
