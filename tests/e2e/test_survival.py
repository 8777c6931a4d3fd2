"""Normal bad days, for real: killed processes, signals, crashes of the inference process."""

from __future__ import annotations

import signal
import threading
import time

import psutil
import pytest
import requests

from .conftest import StartServer, chat

LONG = {"prompt": "Count from 1 to 2000, one number per line, without stopping.", "max_tokens": 2000, "temperature": 0}


class Reader(threading.Thread):
    """Reads a stream in the background and remembers when each text came and how it ended."""

    def __init__(self, url: str, **fields: object) -> None:
        super().__init__()
        self._url = url
        self._fields = fields
        self.pieces: list[tuple[float, str]] = []
        self.conversation_id = ""
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            response = requests.post(f"{self._url}/v1/code/chat_stream", data=self._fields, stream=True, timeout=360)
            response.raise_for_status()
            for chunk in response.iter_content(chunk_size=None, decode_unicode=True):
                if chunk.startswith("conversation_id:"):
                    self.conversation_id = chunk.strip().removeprefix("conversation_id:").removesuffix("\n---")
                else:
                    self.pieces.append((time.monotonic(), chunk))
        except requests.RequestException as error:
            self.error = error

    def wait_for_text(self, pieces: int = 10) -> Reader:
        deadline = time.monotonic() + 60
        while len(self.pieces) < pieces and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(self.pieces) >= pieces, "no text came"
        return self

    def text(self, until: float = float("inf")) -> str:
        return "".join(piece for moment, piece in self.pieces if moment <= until)


def _reading(url: str, **fields: object) -> Reader:
    reader = Reader(url, **(fields or LONG))
    reader.start()
    return reader


def test_after_kill_9_the_conversation_continues_and_at_most_the_last_quarter_second_is_lost(
    start_server: StartServer,
) -> None:
    server = start_server()
    done_id, done_text, _ = chat(server.url, "Say hello in Python.", temperature=0, max_tokens=60)
    reader = _reading(server.url).wait_for_text(40)
    killed = time.monotonic()
    inference = server.children()
    server.kill()
    reader.join(10)
    assert reader.error is not None, "the client must not take the text for a whole answer"
    _, alive = psutil.wait_procs(inference, timeout=10)
    assert not alive, "the inference process must not outlive the server"

    server = start_server()
    body = requests.get(f"{server.url}/v1/conversations/{reader.conversation_id}", timeout=10).json()
    (turn,) = body["turns"]
    assert turn["state"] == "interrupted"
    assert turn["text"].startswith(reader.text(until=killed - 0.25)), "older text than the last 250 ms was lost"
    assert len(turn["text"]) > 0
    complete = requests.get(f"{server.url}/v1/conversations/{done_id}", timeout=10).json()
    assert complete["messages"][1]["content"] == done_text
    for conversation_id in (done_id, reader.conversation_id):
        _, text, _ = chat(server.url, "Now say it in Java.", conversation_id, temperature=0, max_tokens=40)
        assert text


def test_a_killed_inference_process_fails_its_turns_honestly_and_comes_back(start_server: StartServer) -> None:
    server = start_server("--engine", "llamacpp")
    reader = _reading(server.url).wait_for_text()
    for child in server.children():
        child.kill()
    reader.join(20)
    assert reader.error is not None
    server.wait_for(lambda stats: stats["status"] == "ready", 60)
    body = requests.get(f"{server.url}/v1/conversations/{reader.conversation_id}", timeout=10).json()
    assert body["turns"][0]["state"] == "failed"
    assert reader.text().startswith(body["turns"][0]["text"][:20])
    _, text, _ = chat(server.url, "Say hello.", reader.conversation_id, max_tokens=10)
    assert text


def test_a_signal_lets_running_turns_finish_and_refuses_new_ones(start_server: StartServer) -> None:
    server = start_server()
    reader = _reading(server.url, prompt="Count to 40.", max_tokens=80, temperature=0).wait_for_text(3)
    server.process.send_signal(signal.SIGTERM)
    server.wait_for(lambda stats: stats["status"] == "stopping")
    refused = requests.post(f"{server.url}/v1/code/generate", data={"prompt": "x"}, timeout=5)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    reader.join(60)
    assert reader.error is None
    assert server.process.wait(20) == 0
    server = start_server("--engine", "fake")
    body = requests.get(f"{server.url}/v1/conversations/{reader.conversation_id}", timeout=10).json()
    assert body["turns"][0]["state"] == "completed"
    assert body["messages"][1]["content"] == reader.text()


def test_a_turn_that_outlasts_the_grace_ends_as_interrupted_with_all_its_text(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUERN_SERVER__SHUTDOWN_GRACE_SECONDS", "0.5")
    server = start_server()
    reader = _reading(server.url).wait_for_text()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    reader.join(10)
    assert reader.error is not None
    server = start_server("--engine", "fake")
    turn = requests.get(f"{server.url}/v1/conversations/{reader.conversation_id}", timeout=10).json()["turns"][0]
    assert turn["state"] == "interrupted"
    assert turn["text"].startswith(reader.text())


def test_a_second_sigterm_does_not_wait_for_the_grace(start_server: StartServer) -> None:
    server = start_server()
    reader = _reading(server.url).wait_for_text()
    server.process.send_signal(signal.SIGTERM)
    server.wait_for(lambda stats: stats["status"] == "stopping")
    reader.wait_for_text(len(reader.pieces) + 10)
    assert server.process.poll() is None, "the first signal waits for the turn"
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(10) == 0
    reader.join(10)
    assert reader.error is not None
