"""Loading the model, and saying how far that is."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TELL_SECONDS = 0.25
WEIGHTS = "*.safetensors"
MOST = 0.99


def load_model(
    folder: str, *, dtype: str, device: str, trust_remote_code: bool, on_progress: Callable[[float], None]
) -> Any:
    """The model of a folder, on the devices that `device_map` finds for it. `on_progress` hears 0 to 1, in a thread."""
    transformers: Any = importlib.import_module("transformers")
    with _told(Path(folder), on_progress):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            device_map=device,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            attn_implementation="sdpa",
        )
    return model.eval()


@contextmanager
def _told(folder: Path, on_progress: Callable[[float], None]) -> Generator[None]:
    """Tell how much of the weights is in memory, the computer's or its accelerators'."""
    size = max(sum(file.stat().st_size for file in folder.glob(WEIGHTS)), 1)
    done = threading.Event()
    first = _bytes_in_memory()

    def watch() -> None:
        reached = 0.0
        while not done.wait(TELL_SECONDS):
            fraction = min((_bytes_in_memory() - first) / size, MOST)
            if fraction > reached:
                reached = fraction
                on_progress(fraction)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _bytes_in_memory() -> int:
    torch: Any = importlib.import_module("torch")
    held = sum(torch.cuda.memory_allocated(one) for one in range(torch.cuda.device_count()))
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        held += pages * os.sysconf("SC_PAGE_SIZE")
    return held


def describe_device(model: Any) -> str:
    """What runs the model, for people."""
    torch: Any = importlib.import_module("torch")
    if model.device.type == "cuda":
        return f"{torch.cuda.get_device_name(model.device)} (PyTorch {torch.__version__})"
    if model.device.type == "cpu":
        return f"CPU, {torch.get_num_threads()} threads (PyTorch {torch.__version__})"
    return f"{model.device} (PyTorch {torch.__version__})"
