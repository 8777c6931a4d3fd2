"""A chat model, a small model for gaps and an embedding model (random weights) on one server, in a memory that does
not hold all: clients ask each of them at the same time, for as long as you like. Prints what was answered, how often a
model was unloaded, and the memory that was taken next to the one that was given.

    python -m bench.three_models --seconds 90

Exits with 1 where an answer was lost, no model was unloaded, or the memory was more than given.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import psutil
import requests
from tests.e2e.conftest import ServerProcess
from tests.model_folders import write_embedding_file

from quern.config import Settings

CONFIG = """
[server]
model_memory_gb = {memory}
[engine]
kv_tokens = 8192
context_length = 4096
[models.chat]
path = "qwen2.5-coder-1.5b"
aliases = ["gpt-4o"]
default = true
[models.gaps]
path = "qwen2.5-coder-0.5b"
[models.vectors]
path = {vectors}
"""
OWN_GB = 0.4
"""What a server takes without models."""
ASKED = {
    "chat": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "Write bubble sort."}], "max_tokens": 32},
    ),
    "gaps": ("/v1/completions", {"prompt": "def add(a, b):\n    return ", "suffix": "\n", "max_tokens": 8}),
    "vectors": ("/v1/embeddings", {"input": ["def add(a, b)", "bubble sort"]}),
}


class Load:
    """Clients that ask until the time is over, and what became of that."""

    def __init__(self, url: str, until: float) -> None:
        self._url = url
        self._until = until
        self.answers = Counter[tuple[str, int]]()
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def ask(self, model: str) -> None:
        """One request after the other."""
        path, body = ASKED[model]
        while time.monotonic() < self._until:
            began = time.monotonic()
            answer = requests.post(f"{self._url}{path}", json={"model": model, **body}, timeout=600)
            self.answers[model, answer.status_code] += 1
            self.seconds[model].append(time.monotonic() - began)


def most_memory(process: psutil.Process, stop: threading.Event) -> float:
    """The most that the server's processes had of their own, in GB, until `stop`."""
    most = 0.0
    while not stop.wait(0.2):
        most = max(most, sum(one.memory_info().rss for one in [process, *process.children(recursive=True)]) / 1e9)
    return most


def main() -> None:
    """Serve, load, tell."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        vectors, data = Path(folder, "vectors.gguf"), Path(folder, "data")
        data.mkdir()
        (data / "models").symlink_to(Settings().models_dir)
        (small,) = (Settings().models_dir / "qwen2.5-coder-0.5b").glob("*.gguf")
        write_embedding_file(vectors, small)
        config = Path(folder, "quern.toml")
        config.write_text(CONFIG.format(memory=options.memory, vectors=json.dumps(str(vectors))), encoding="utf-8")
        server = ServerProcess(data, "--config", str(config)).wait_until_ready()
        try:
            sys.exit(0 if measured(server, options) else 1)
        finally:
            server.stop()


def measured(server: ServerProcess, options: argparse.Namespace) -> bool:
    """Print what there was to see; whether that is as it should be."""
    process, stop = psutil.Process(server.process.pid), threading.Event()
    load = Load(server.url, time.monotonic() + options.seconds)
    with ThreadPoolExecutor() as pool:
        memory = pool.submit(most_memory, process, stop)
        asking = [pool.submit(load.ask, model) for model in ASKED for _ in range(options.clients)]
        for one in asking:
            one.result()
        stop.set()
    states = Counter(
        turn["state"] for turn in requests.get(f"{server.url}/v1/turns?limit=100", timeout=30).json()["data"]
    )
    unloaded = server.log().count("model_unloaded")
    for model, seconds in load.seconds.items():
        print(f"{model:8} {len(seconds):5} answers, median {median(seconds):.2f} s, longest {max(seconds):.1f} s")
    print(f"statuses {dict(load.answers)}; the last turns {dict(states)}")
    print(f"unloaded {unloaded} times; {memory.result():.2f} GB taken at most, {options.memory} GB given for models")
    whole = {status for _, status in load.answers} == {200} and set(states) == {"completed"}
    return whole and unloaded > 0 and memory.result() < options.memory + OWN_GB


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--clients", type=int, default=2, help="of each model")
    parser.add_argument("--memory", type=float, default=1.6, help="for models, in GB")
    return parser.parse_args()


if __name__ == "__main__":
    main()
