"""`quern serve` with a model for embeddings, a file and a folder, and the official `openai` library."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest
import requests
from tests.model_folders import write_embedding_file, write_embedding_folder
from tests.native.reference import Reference
from tests.unit.modelfiles.gguf_files import ENDOFTEXT, write_gguf

from quern.engine.engine_choice import native_facts
from quern.modelfiles.gguf import read_gguf
from quern.prompt.tokenizer import Tokenizer

from .conftest import ServerProcess, StartServer

RUNS_CPU = pytest.mark.skipif(native_facts().instruction_set is None, reason="the engine cpu can't run on this machine")
TEXTS = ["def add(a, b):\n    return a + b\n", "hello", "SELECT 1", "a" * 200]


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("vocabulary") / "bytes.gguf")


def client_of(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


def check(server: ServerProcess, reference: Reference, vocabulary: Path, name: str) -> None:
    """Everything that a client sees of it."""
    (model,) = requests.get(f"{server.url}/v1/models", timeout=10).json()["data"]
    assert (model["id"], model["embedding_length"], model["capabilities"]["embeddings"]) == (name, 256, True)
    client = client_of(server)
    answer = client.embeddings.create(model=name, input=TEXTS)
    tokenizer = Tokenizer(read_gguf(vocabulary).vocabulary)
    prompts = [[*tokenizer.encode(text), ENDOFTEXT] for text in TEXTS]
    assert answer.usage.prompt_tokens == sum(map(len, prompts))
    for ids, entry in zip(prompts, answer.data, strict=True):
        right = reference.hidden_states([ids])[0][-1]
        assert np.dot(entry.embedding, right) / np.linalg.norm(right) > 0.999
    with pytest.raises(openai.BadRequestError, match="/v1/embeddings"):
        client.chat.completions.create(model=name, messages=[{"role": "user", "content": "hi"}])


@pytest.mark.parametrize("engine", [pytest.param("cpu", marks=RUNS_CPU), "llamacpp"])
def test_a_file_is_served(engine: str, start_server: StartServer, vocabulary: Path, tmp_path: Path) -> None:
    reference = write_embedding_file(tmp_path / "tiny-embedding.gguf", vocabulary)
    server = start_server("--engine", engine, model=str(tmp_path / "tiny-embedding.gguf"))
    check(server, reference, vocabulary, "tiny-embedding")
    assert server.stop() == 0


@RUNS_CPU
def test_a_folder_as_it_is_published_is_served(start_server: StartServer, vocabulary: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Tiny-Embedding"
    folder.mkdir()
    reference = write_embedding_folder(folder, vocabulary)
    check(start_server(model=str(folder)), reference, vocabulary, "Tiny-Embedding")


@RUNS_CPU
@pytest.mark.parametrize("signals", [1, 2])
def test_a_request_that_runs_when_the_server_stops_is_told_to_come_back(
    signals: int, start_server: StartServer, vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the grace, or at once with a second signal."""
    write_embedding_file(tmp_path / "tiny-embedding.gguf", vocabulary)
    monkeypatch.setenv("QUERN_SERVER__SHUTDOWN_GRACE_SECONDS", "60" if signals == 2 else "0.5")
    server = start_server(model=str(tmp_path / "tiny-embedding.gguf"))
    with ThreadPoolExecutor() as pool:
        body = {"input": [f"{number} " + "word " * 700 for number in range(1500)]}
        running = pool.submit(requests.post, f"{server.url}/v1/embeddings", json=body, timeout=60)
        server.wait_for(lambda stats: stats["running"] > 0)
        for _ in range(signals):
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        response = running.result()
        assert server.process.wait(30) == 0
    assert response.status_code == 503
    assert "Send it again" in response.json()["error"]["message"]
