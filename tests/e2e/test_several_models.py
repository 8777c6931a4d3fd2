"""Several models on one real server, in a memory that holds only one of them."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil
import requests

from .conftest import ServerProcess

CONFIG = """
[server]
model_memory_gb = {memory}
[engine]
kv_tokens = 4096
[models.chat]
path = {path}
aliases = ["gpt-4o"]
[models.gaps]
path = {path}
[models.gaps.engine]
parallel = 2
"""


def ask(url: str, model: str) -> tuple[int, str]:
    body = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
    answer = requests.post(f"{url}/v1/chat/completions", json=body, timeout=120)
    return answer.status_code, str(answer.json().get("model") or answer.text)


def test_models_that_do_not_fit_together_take_turns_under_load_and_no_request_is_lost(
    tmp_path: Path, small_model_path: Path
) -> None:
    size = small_model_path.stat().st_size
    config = tmp_path / "quern.toml"
    config.write_text(CONFIG.format(memory=1.5 * size / 1e9, path=json.dumps(str(small_model_path))))
    server = ServerProcess(tmp_path, "--config", str(config))
    try:
        server.wait_until_ready()
        assert "gaps: loaded when it is asked for" in server.log()
        alone = psutil.Process(server.process.pid).memory_info().rss
        with ThreadPoolExecutor(6) as clients:
            answers = [*clients.map(partial(ask, server.url), ["gaps", "chat", "gpt-4o"] * 4)]
        assert Counter(answers) == {(200, "gaps"): 4, (200, "chat"): 8}
        turns = requests.get(f"{server.url}/v1/turns", timeout=10).json()["data"]
        assert Counter((turn["model"], turn["state"]) for turn in turns) == {
            ("gaps", "completed"): 4,
            ("chat", "completed"): 8,
        }
        assert server.log().count("model_unloaded") >= 1
        assert psutil.Process(server.process.pid).memory_info().rss < alone + size / 2
    finally:
        server.stop()


def test_a_model_that_can_never_fit_is_refused_with_the_sum(tmp_path: Path, small_model_path: Path) -> None:
    config = tmp_path / "quern.toml"
    config.write_text(CONFIG.format(memory=0.1, path=json.dumps(str(small_model_path))))
    server = ServerProcess(tmp_path, "--config", str(config))
    try:
        assert server.process.wait(60) == 1
        assert "all models together may have 0.1 GB" in server.log()
    finally:
        server.stop()
