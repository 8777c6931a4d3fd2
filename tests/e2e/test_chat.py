"""The real model through plain `requests`, as the existing client uses it."""

from __future__ import annotations

import ast
import threading

import requests

from .conftest import ServerProcess, chat
from .real_engines import EXACT

BUBBLE_SORT = "用 Python 写一个最基础版的冒泡排序算法，只写函数体即可，不必写测试代码和示例"
TO_JAVA = "非常好。现在，请把上面这段 Python 代码无缝地转换成功能完全等效的 Java 代码。"


def _fenced(text: str) -> str:
    """The first fenced block, or everything where there is none."""
    if "```" not in text:
        return text
    block = text.split("```")[1]
    return block.partition("\n")[2]


def test_one_shot_generation_returns_python_that_parses(server: ServerProcess) -> None:
    response = requests.post(
        f"{server.url}/v1/code/generate", data={"prompt": BUBBLE_SORT, "temperature": 0, "max_tokens": 400}, timeout=360
    )
    assert response.status_code == 200
    body = response.json()
    assert body["status"] == "success"
    assert "<|im_end|>" not in body["result"]
    assert any(isinstance(node, ast.For | ast.While) for node in ast.walk(ast.parse(_fenced(body["result"]))))


def test_a_two_turn_chat_shows_the_header_once_and_the_second_answer_builds_on_the_first(
    server: ServerProcess,
) -> None:
    conversation_id, python, first_chunks = chat(server.url, BUBBLE_SORT, temperature=0, max_tokens=500)
    same_id, java, later_chunks = chat(server.url, TO_JAVA, conversation_id, temperature=0, max_tokens=600)
    assert first_chunks[0] == f"conversation_id:{conversation_id}\n---\n"
    assert same_id == conversation_id
    assert sum("conversation_id:" in chunk for chunk in first_chunks + later_chunks) == 1
    assert "�" not in python + java
    assert "def " in python
    assert "public " in java or "static " in java
    assert "int[]" in java
    body = requests.get(f"{server.url}/v1/conversations/{conversation_id}", timeout=10).json()
    assert [message["content"] for message in body["messages"]] == [BUBBLE_SORT, python, TO_JAVA, java]
    first, second = body["turns"]
    assert second["usage"]["cached_tokens"] >= 0.8 * first["usage"]["prompt_tokens"]


def test_chinese_and_emoji_come_through_without_noise(server: ServerProcess) -> None:
    prompt = "请原样重复这一行，不要加别的：你好，世界！🦄🀄𠜎龘 — ½"
    _, text, chunks = chat(server.url, prompt, temperature=0, max_tokens=60)
    assert "你好，世界" in text
    assert "�" not in text
    assert "".join(chunks[1:]) == text


@EXACT
def test_the_same_seed_gives_the_same_answer(server: ServerProcess) -> None:
    fields = {"prompt": "Write a haiku about merge sort.", "seed": 7, "max_tokens": 40}
    answers = [requests.post(f"{server.url}/v1/code/generate", data=fields, timeout=60).json() for _ in range(2)]
    assert answers[0] == answers[1]


def test_sixteen_streams_at_once_all_make_progress_and_health_answers_meanwhile(server: ServerProcess) -> None:
    everyone_has_text = threading.Barrier(17, timeout=120)
    statuses: list[int] = []

    def stream(index: int) -> None:
        with requests.post(
            f"{server.url}/v1/code/chat_stream",
            data={"prompt": f"Write a long story about {index} sorting algorithms."},
            headers={"X-Quern-On-Disconnect": "cancel"},
            stream=True,
            timeout=360,
        ) as response:
            chunks = response.iter_content(chunk_size=None, decode_unicode=True)
            assert next(chunks).startswith("conversation_id:")
            assert next(chunks)
            everyone_has_text.wait()
            statuses.append(response.status_code)

    threads = [threading.Thread(target=stream, args=(index,)) for index in range(16)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert requests.get(f"{server.url}/health", timeout=1).status_code == 200
        if everyone_has_text.n_waiting == 16:
            everyone_has_text.wait()
            break
    for thread in threads:
        thread.join()
    assert statuses == [200] * 16
    server.wait_for(lambda stats: stats["running"] == 0)


def test_logs_are_json_with_request_ids_and_hold_no_prompt_and_no_answer(server: ServerProcess) -> None:
    requests.post(
        f"{server.url}/v1/code/generate",
        data={"prompt": "my-secret-prompt-marker", "max_tokens": 5},
        headers={"x-request-id": "e2e-log-test"},
        timeout=60,
    )
    log = server.log()
    assert '"request_id": "e2e-log-test"' in log
    assert "my-secret-prompt-marker" not in log
