"""The client against a real server on a real socket."""

from __future__ import annotations

import itertools
import json
import socket
import time

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.client.scripted_server import End, Scripted, ScriptedServer

from quern.client import AnswerStream, QuernClient, ServedModel, ServerState
from quern.errors import AnswerBroken, ConfigError, ServerRefused, ServerUnreachable
from quern.types import DisconnectPolicy

GENERATE = "/v1/code/generate"
CHAT = "/v1/code/chat_stream"
CONVERSATION = "0b8b9c1e-3f0a-4a42-9a57-0a4f2d8d6c11"
HEADER = f"conversation_id:{CONVERSATION}\n---\n".encode()
EVENT_STREAM = "text/event-stream; charset=utf-8"


def test_a_streamed_answer_arrives_in_pieces_before_it_is_complete(server: ScriptedServer) -> None:
    server.answer(GENERATE, Scripted((b"one ", b"two"), end=End.NEVER))
    with QuernClient(server.url) as client, client.stream_generate("Count") as answer:
        assert [next(answer), next(answer)] == ["one ", "two"]


def test_characters_split_over_chunks_come_out_whole(server: ScriptedServer) -> None:
    text = "冒泡排序 🫧 é"
    server.answer(GENERATE, Scripted(tuple(bytes([byte]) for byte in text.encode())))
    with QuernClient(server.url) as client, client.stream_generate("Sort") as answer:
        pieces = list(answer)
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_generate_returns_the_whole_answer(server: ScriptedServer) -> None:
    server.answer(GENERATE, Scripted((b"def f():\n", b"    pass")))
    with QuernClient(server.url) as client:
        assert client.generate("Write f") == "def f():\n    pass"


def test_options_are_sent_as_form_fields_and_absent_ones_are_not(server: ScriptedServer) -> None:
    server.answer(GENERATE, Scripted())
    with QuernClient(server.url) as client:
        client.generate("用 Python & C++", max_tokens=5, temperature=0.0, top_k=None, seed=0, stop=["\n\n", "END"])
    [request] = server.received
    assert request.headers["accept"] == "text/plain"
    assert request.form == {
        "prompt": ["用 Python & C++"],
        "max_tokens": ["5"],
        "temperature": ["0.0"],
        "seed": ["0"],
        "stop": ["\n\n", "END"],
    }


def test_closing_an_answer_closes_the_connection(server: ScriptedServer) -> None:
    server.answer(GENERATE, Scripted((b"and so on",), end=End.NEVER))
    with QuernClient(server.url) as client:
        answer = client.stream_generate("Go on")
        assert next(answer) == "and so on"
        answer.close()
        assert server.client_gone.wait(30)
        answer.close()


def test_a_first_turn_tells_its_conversation_and_keeps_it_out_of_the_text(server: ScriptedServer) -> None:
    server.answer(CHAT, Scripted((HEADER, b"Hello"), media_type=EVENT_STREAM))
    with QuernClient(server.url) as client, client.stream_chat("Hi", on_disconnect=DisconnectPolicy.CANCEL) as answer:
        assert answer.conversation_id == CONVERSATION
        assert "".join(answer) == "Hello"
    [request] = server.received
    assert request.headers["x-quern-on-disconnect"] == "cancel"
    assert request.form == {"prompt": ["Hi"]}


def test_a_conversation_is_known_before_its_first_word(server: ScriptedServer) -> None:
    server.answer(CHAT, Scripted((HEADER,), media_type=EVENT_STREAM, end=End.NEVER))
    with QuernClient(server.url) as client, client.stream_chat("Hi") as answer:
        assert answer.conversation_id == CONVERSATION


def test_a_later_turn_carries_the_conversation_and_passes_every_byte(server: ScriptedServer) -> None:
    server.answer(CHAT, Scripted((HEADER + b"quoted",), media_type=EVENT_STREAM))
    with QuernClient(server.url) as client, client.stream_chat("Repeat the header", CONVERSATION) as answer:
        assert "".join(answer) == HEADER.decode() + "quoted"
        assert answer.conversation_id == CONVERSATION
    [request] = server.received
    assert request.form["conversation_id"] == [CONVERSATION]
    assert "x-quern-on-disconnect" not in request.headers


@given(cuts=st.sets(st.integers(1, 80)))
def test_a_header_cut_anywhere_is_still_found(cuts: set[int]) -> None:
    text = "答案\n---\nnot a header"
    body = HEADER + text.encode()
    edges = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    chunks = (body[start:end] for start, end in itertools.pairwise(edges))
    answer = AnswerStream.of_new_conversation(httpx2.Response(200, content=chunks), "http://test")
    assert answer.conversation_id == CONVERSATION
    assert "".join(answer) == text


def test_a_connection_that_ends_early_is_not_a_whole_answer(server: ScriptedServer) -> None:
    server.answer(GENERATE, Scripted((b"def f(",), headers={"x-request-id": "r-17"}, end=End.BROKEN))
    with QuernClient(server.url) as client, client.stream_generate("Write f") as answer:
        assert next(answer) == "def f("
        with pytest.raises(AnswerBroken, match=r"\(request r-17\) ended before the answer did"):
            next(answer)


def test_a_server_that_goes_silent_is_given_up_after_the_read_time_out(server: ScriptedServer) -> None:
    server.answer(GENERATE, Scripted((b"one",), end=End.NEVER))
    with QuernClient(server.url, read_timeout=0.2) as client, pytest.raises(AnswerBroken, match="gone silent"):
        client.generate("Count")


def test_nobody_at_the_address_is_said_with_the_way_out() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with QuernClient(url) as client, pytest.raises(ServerUnreachable) as caught:
            client.generate("Hi")
    assert url in str(caught.value)
    assert "`quern serve`" in str(caught.value)


def test_a_refusal_carries_the_servers_own_sentence_and_the_time_to_wait(server: ScriptedServer) -> None:
    body = json.dumps({"detail": "The queue is full: try again in 12 seconds."}).encode()
    server.answer(GENERATE, Scripted((body,), 503, "application/json", {"retry-after": "12"}))
    with QuernClient(server.url) as client, pytest.raises(ServerRefused) as caught:
        client.generate("Hi")
    assert (caught.value.status, caught.value.retry_after) == (503, 12)
    assert str(caught.value) == "The queue is full: try again in 12 seconds."


def test_a_list_of_invalid_fields_becomes_a_sentence_each(server: ScriptedServer) -> None:
    detail = [
        {"loc": ["body", "temperature"], "msg": "Input should be less than or equal to 2", "type": "less_than_equal"},
        {"loc": ["body", "prompt"], "msg": "Send the text to answer as the form field prompt.", "type": "missing"},
    ]
    server.answer(CHAT, Scripted((json.dumps({"detail": detail}).encode(),), 422, "application/json"))
    with QuernClient(server.url) as client, pytest.raises(ServerRefused) as caught:
        client.stream_chat("Hi", temperature=9.0)
    assert str(caught.value) == (
        "temperature: Input should be less than or equal to 2. Send the text to answer as the form field prompt."
    )
    assert caught.value.retry_after is None


def test_an_error_in_the_shape_of_openai_carries_the_servers_own_sentence_too(server: ScriptedServer) -> None:
    error = {"message": "The model is still loading.", "type": "server_error", "param": None, "code": "unavailable"}
    body = json.dumps({"error": error}, ensure_ascii=False).encode()
    server.answer("/v1/models", Scripted((body,), 503, "application/json", {"retry-after": "3"}))
    with QuernClient(server.url) as client, pytest.raises(ServerRefused) as caught:
        client.models()
    assert (caught.value.status, caught.value.retry_after) == (503, 3)
    assert str(caught.value) == "The model is still loading."


@pytest.mark.parametrize(
    "answer",
    [
        Scripted((b"<h1>Bad Gateway</h1>",), 502, "text/html", {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}),
        Scripted((b"[]",), 404, "application/json"),
        Scripted((b'{"detail": 3}',), 999, "application/json"),
        Scripted((b'{"error": "it broke"}',), 500, "application/json"),
        Scripted((b'{"error": {"message": null}}',), 500, "application/json"),
        Scripted((), 307, "text/plain", {"location": "/elsewhere"}),
    ],
)
def test_an_error_that_is_not_ours_points_at_the_address(server: ScriptedServer, answer: Scripted) -> None:
    server.answer(GENERATE, answer)
    with QuernClient(server.url) as client, pytest.raises(ServerRefused, match="may not be a Quern server") as caught:
        client.generate("Hi")
    assert caught.value.status == answer.status
    assert caught.value.retry_after is None
    assert str(answer.status) in str(caught.value)


def test_a_page_that_is_no_answer_is_not_taken_for_one(server: ScriptedServer) -> None:
    server.answer(GENERATE, Scripted((b"<h1>It works!</h1>",), media_type="text/html"))
    server.answer(CHAT, Scripted((b"It works! " * 100,), media_type=EVENT_STREAM, end=End.NEVER))
    server.answer("/v1/models", Scripted((b'{"object": "list"}',), media_type="application/json"))
    with QuernClient(server.url) as client:
        with pytest.raises(ServerRefused, match="not a Quern server"):
            client.generate("Hi")
        with pytest.raises(ServerRefused, match="not a Quern server"):
            client.stream_chat("Hi")
        assert server.client_gone.wait(30)
        with pytest.raises(ServerRefused, match="not a Quern server"):
            client.models()


def test_a_chat_that_ends_within_its_header_is_refused(server: ScriptedServer) -> None:
    server.answer(CHAT, Scripted((HEADER[:20],), media_type=EVENT_STREAM))
    with QuernClient(server.url) as client, pytest.raises(ServerRefused):
        client.stream_chat("Hi")


def test_models_are_listed_with_their_context(server: ScriptedServer) -> None:
    body = b'{"object": "list", "data": [{"id": "qwen2.5-coder-0.5b", "object": "model", "context_length": 32768}]}'
    server.answer("/v1/models", Scripted((body,), media_type="application/json"))
    with QuernClient(server.url + "/") as client:
        assert client.models() == [ServedModel(id="qwen2.5-coder-0.5b", context_length=32768)]


def test_ready_tells_a_loading_server_from_a_ready_one_and_from_a_strange_one(server: ScriptedServer) -> None:
    loading = Scripted((b'{"status": "loading"}',), 503, "application/json")
    server.answer("/ready", loading, Scripted(), Scripted(status=404))
    with QuernClient(server.url) as client:
        assert client.ready() is False
        assert client.ready() is True
        with pytest.raises(ServerRefused):
            client.ready()


def test_the_state_is_told_whether_turns_are_taken_or_not(server: ScriptedServer) -> None:
    loading = Scripted((b'{"status": "loading", "load_progress": 0.5}',), 503, "application/json")
    busy = Scripted((b'{"status": "ready", "running": 2, "waiting": 1, "more": 3}',), media_type="application/json")
    server.answer("/ready", loading, busy, Scripted((b"OK",)), Scripted(status=404))
    with QuernClient(server.url) as client:
        assert client.state() == ServerState(status="loading", load_progress=0.5)
        assert client.state() == ServerState(status="ready", running=2, waiting=1)
        for _ in range(2):
            with pytest.raises(ServerRefused):
                client.state()


@pytest.mark.parametrize("url", ["127.0.0.1:8001", "localhost", "ftp://127.0.0.1", "http://", "http://[::1", ""])
def test_an_address_that_is_none_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ConfigError, match=r"write it like http://127\.0\.0\.1:8001"):
        QuernClient(url)


def test_a_password_in_the_address_is_used_but_never_shown(server: ScriptedServer) -> None:
    server.answer("/ready", Scripted(), Scripted((b"x",), end=End.BROKEN))
    with QuernClient(server.url.replace("://", "://someone:s3cret@")) as client:
        assert client.ready()
        assert server.received[0].headers["authorization"].startswith("Basic ")
        with pytest.raises(AnswerBroken) as caught:
            client.ready()
    assert "s3cret" not in f"{caught.value} {client.server}"


def test_a_proxy_of_the_network_is_not_asked_for_this_machine(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server.answer(GENERATE, Scripted((b"here",)))
    with QuernClient(server.url) as client:
        assert client.generate("Hi") == "here"


def test_the_default_read_time_out_is_at_least_six_minutes(server: ScriptedServer) -> None:
    with QuernClient(server.url) as client:
        assert (client._http.timeout.read or 0) >= 360


def test_an_answer_given_up_in_mid_stream_does_not_disturb_the_next(server: ScriptedServer) -> None:
    server.answer(GENERATE, Scripted((b"long",), end=End.NEVER), Scripted((b"short",)))
    with QuernClient(server.url) as client:
        with client.stream_generate("Long") as answer:
            next(answer)
        started = time.monotonic()
        assert client.generate("Short") == "short"
        assert time.monotonic() - started < 30
