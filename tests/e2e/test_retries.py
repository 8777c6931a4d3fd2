"""Retries on a real server: one generation is paid for, whatever was killed in between."""

from __future__ import annotations

import json
from typing import Any

import requests

from .conftest import StartServer

KEY = {"Idempotency-Key": "one-and-the-same"}
LONG: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Write a Python function that sorts a list. Explain each line."}],
    "max_tokens": 120,
    "temperature": 0,
    "stream": True,
}


def _ask(url: str, *, most: int | None = None, headers: dict[str, str] | None = None) -> tuple[str, requests.Response]:
    """An answer's text, or its first `most` pieces; then the connection is left open."""
    answer = requests.post(f"{url}/v1/chat/completions", json=LONG, headers=headers, stream=True, timeout=120)
    answer.raise_for_status()
    pieces: list[str] = []
    for line in answer.iter_lines(decode_unicode=True):
        if line.startswith("data: {"):
            pieces.append(json.loads(line[6:])["choices"][0]["delta"].get("content") or "")
        if most is not None and len(pieces) >= most:
            break
    return "".join(pieces), answer


def test_a_repeat_after_kill_9_gets_the_same_turn_whole_and_as_if_undisturbed(start_server: StartServer) -> None:
    server = start_server()
    begun, first = _ask(server.url, most=20, headers=KEY)
    server.kill()
    server = start_server()
    text, repeat = _ask(server.url, headers=KEY)
    assert repeat.headers["x-quern-adopted"] == first.headers["x-quern-turn-id"]
    assert text.startswith(begun)
    undisturbed, other = _ask(server.url)
    assert "x-quern-adopted" not in other.headers
    assert text == undisturbed
    assert _ask(server.url, headers=KEY)[0] == text


def test_a_stream_whose_connection_was_lost_goes_on_for_an_equal_request(start_server: StartServer) -> None:
    server = start_server()
    begun, first = _ask(server.url, most=10)
    first.close()
    server.wait_for(lambda stats: stats["running"] == 1)
    text, repeat = _ask(server.url)
    assert repeat.headers["x-quern-adopted"] == first.headers["x-quern-turn-id"]
    assert text.startswith(begun)
