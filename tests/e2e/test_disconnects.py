"""Raw sockets that close, against the real engine: the sequence is free again soon after, on both endpoints."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import requests

from .conftest import ServerProcess

ENDPOINTS = ["/v1/code/generate", "/v1/code/chat_stream"]
FREE_SECONDS = 10.0
"""Generous for a busy machine, and still far less than any of these requests would take; bench/ has the real times."""


def _post(server: ServerProcess, path: str, prompt: str) -> socket.socket:
    url = urlsplit(server.url)
    body = f"prompt={quote(prompt)}&max_tokens=3000"
    connection = socket.create_connection((url.hostname, url.port))
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Quern-On-Disconnect: cancel\r\nContent-Length: {len(body)}\r\n"
    )
    connection.sendall(f"{head}Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}".encode())
    return connection


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_socket_closed_in_mid_decode_frees_its_sequence(server: ServerProcess, path: str) -> None:
    connection = _post(server, path, "Count from 1 to 2000, one number per line.")
    server.wait_for(lambda stats: stats["running"] == 1)
    if path.endswith("stream"):
        while b"\n" not in connection.recv(4096).partition(b"---\n")[2]:
            pass
    connection.close()
    server.wait_for(lambda stats: stats["running"] == 0, FREE_SECONDS)


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_socket_closed_during_prefill_frees_its_sequence(server: ServerProcess, path: str) -> None:
    connection = _post(server, path, f"What does this do? {path} " + "x = [y * 2 for y in range(10)]\n" * 800)
    server.wait_for(lambda stats: stats["running"] == 1)
    connection.close()
    server.wait_for(lambda stats: stats["running"] == 0, FREE_SECONDS)


@pytest.fixture(scope="module")
def single_server(
    tmp_path_factory: pytest.TempPathFactory, data_dir_with_model: Callable[[Path], Path]
) -> Iterator[ServerProcess]:
    """A server of one place."""
    folder = data_dir_with_model(tmp_path_factory.mktemp("single"))
    server = ServerProcess(folder, "--model", "qwen2.5-coder-0.5b", QUERN_ENGINE__PARALLEL="1")
    yield server.wait_until_ready()
    server.stop()


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_socket_closed_in_the_queue_leaves_it(single_server: ServerProcess, path: str) -> None:
    server = single_server
    runs = _post(server, ENDPOINTS[0], "Count from 1 to 2000, one number per line.")
    server.wait_for(lambda stats: stats["running"] == 1)
    waits = _post(server, path, "Say hello.")
    server.wait_for(lambda stats: stats["waiting"] == 1)
    waits.close()
    server.wait_for(lambda stats: stats["waiting"] == 0, FREE_SECONDS)
    assert server.stats()["running"] == 1
    runs.close()
    server.wait_for(lambda stats: stats["running"] == 0, FREE_SECONDS)
    assert requests.post(f"{server.url}/v1/code/generate", data={"prompt": "x", "max_tokens": 3}, timeout=60).ok
