"""`quern serve` with a model for embeddings, a file and a folder, and the official `openai` library."""

from __future__ import annotations

import signal
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
def test_a_server_that_is_stopped_in_the_middle_ends_and_says_why(
    start_server: StartServer, vocabulary: Path, tmp_path: Path
) -> None:
    write_embedding_file(tmp_path / "tiny-embedding.gguf", vocabulary)
    server = start_server(model=str(tmp_path / "tiny-embedding.gguf"))
    with ThreadPoolExecutor() as pool:
        body = {"input": ["word " * 700] * 1500}
        running = pool.submit(requests.post, f"{server.url}/v1/embeddings", json=body, timeout=60)
        server.wait_for(lambda stats: stats["running"] > 0)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        with pytest.raises(requests.ConnectionError):
            running.result().raise_for_status()
