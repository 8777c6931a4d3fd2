"""The examples of Ollama's own documentation, as scripts copy them: served, or refused by a name in docs/api.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from .conftest import Quern, Start
from .engines import saying

SKY = "Why is the sky blue?"
USER: dict[str, Any] = {"role": "user", "content": "why is the sky blue?"}
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAG0AAABm"
AGE: dict[str, Any] = {
    "type": "object",
    "properties": {"age": {"type": "integer"}, "available": {"type": "boolean"}},
    "required": ["age", "available"],
}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather for a location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "The location to get the weather for"},
                "format": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["location", "format"],
        },
    },
}
CALL = """<tool_call>
{"name": "get_current_weather", "arguments": {"location": "Paris", "format": "celsius"}}
</tool_call>"""
CALLED = {"function": {"name": "get_current_weather", "arguments": {"format": "celsius", "location": "Paris"}}}
EVERY_OPTION: dict[str, Any] = {
    "num_keep": 5, "seed": 42, "num_predict": 100, "top_k": 20, "top_p": 0.9, "min_p": 0.0, "typical_p": 0.7,
    "repeat_last_n": 33, "temperature": 0.8, "repeat_penalty": 1.2, "presence_penalty": 1.5, "frequency_penalty": 1.0,
    "mirostat": 1, "mirostat_tau": 0.8, "mirostat_eta": 0.6, "penalize_newline": True, "stop": ["\n", "user:"],
    "numa": False, "num_ctx": 1024, "num_batch": 2, "num_gpu": 1, "main_gpu": 0, "low_vram": False,
    "vocab_only": False, "use_mmap": True, "use_mlock": False, "num_thread": 8,
}  # fmt: skip

COUNTS = {"total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"}

SERVED: dict[str, tuple[str, dict[str, Any], list[str], str | None]] = {
    "generate": ("generate", {"prompt": SKY}, [f"user\n{SKY}"], None),
    "generate, not streamed": ("generate", {"prompt": SKY, "stream": False}, [f"user\n{SKY}"], None),
    "generate with a system message": (
        "generate", {"prompt": SKY, "system": "You are Mario."}, ["system\nYou are Mario.", SKY], None,
    ),
    "generate with a suffix": (
        "generate",
        {"prompt": "def compute_gcd(a, b):", "suffix": "    return result", "options": {"temperature": 0}},
        ["def compute_gcd(a, b):", "    return result"],
        None,
    ),
    "generate with a schema": ("generate", {"prompt": "Respond using JSON", "format": AGE}, ["using JSON"], None),
    "generate any JSON": ("generate", {"prompt": "Respond using JSON", "format": "json"}, ["using JSON"], None),
    "generate, raw": (
        "generate", {"prompt": "[INST] why is the sky blue? [/INST]", "raw": True},
        ["[INST] why is the sky blue? [/INST]"], None,
    ),
    "generate, reproducible": ("generate", {"prompt": SKY, "options": {"seed": 123}}, [SKY], None),
    "generate with every option": (
        "generate", {"prompt": SKY, "options": EVERY_OPTION}, [SKY], "options.typical_p, options.mirostat",
    ),
    "generate with a model that stays": ("generate", {"prompt": SKY, "keep_alive": "10m"}, [SKY], None),
    "chat": ("chat", {"messages": [USER]}, ["user\nwhy is the sky blue?"], None),
    "chat, not streamed": ("chat", {"messages": [USER], "stream": False}, ["user\nwhy is the sky blue?"], None),
    "chat with a schema": ("chat", {"messages": [USER], "format": AGE, "options": {"temperature": 0}}, [], None),
    "chat with history": (
        "chat",
        {"messages": [USER, {"role": "assistant", "content": "due to rayleigh scattering."},
                      {"role": "user", "content": "how is that different than mie scattering?"}]},
        ["assistant\ndue to rayleigh scattering.", "user\nhow is that different than mie scattering?"],
        None,
    ),
    "chat with an image that was seen before": (
        "chat",
        {"messages": [{"role": "user", "content": "what is in this image?", "images": [PICTURE]},
                      {"role": "assistant", "content": "A pig.", "images": None}, USER]},
        ["what is in this image?\n[an image was here]"],
        None,
    ),
    "chat, reproducible": ("chat", {"messages": [USER], "options": {"seed": 101, "temperature": 0}}, [], None),
    "chat with tools": ("chat", {"messages": [USER], "tools": [WEATHER]}, ["get_current_weather"], None),
    "chat with a call and its result": (
        "chat",
        {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [CALLED]},
                      {"role": "tool", "tool_name": "get_current_weather", "content": "11 degrees celsius"}],
         "tools": [WEATHER]},
        ['"location": "Paris"', "11 degrees celsius"],
        None,
    ),
    "chat with thinking": (
        "chat",
        {"think": True, "messages": [USER, {"role": "assistant", "content": "ok", "thinking": "Let me see."}, USER]},
        ["assistant\nok"],
        None,
    ),
}  # fmt: skip


async def post(quern: Quern, path: str, body: dict[str, Any]) -> httpx2.Response:
    """As curl sends it, which is how the documentation asks: as a form."""
    content = json.dumps({"model": "fake", **body})
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return await quern.client.post(f"/api/{path}", content=content, headers=headers)


def text_of(path: str, answer: dict[str, Any]) -> str:
    return answer["response"] if path == "generate" else answer["message"]["content"]


@pytest.mark.parametrize("example", SERVED)
async def test_a_documented_example_is_served_in_the_documented_shape(start: Start, example: str) -> None:
    path, body, shown, ignored = SERVED[example]
    async with start(saying("Rayleigh")) as quern:
        response = await post(quern, path, body)
        prompt = quern.codec.tokenizer.decode(quern.engine.requests[-1].prompt)
    assert response.status_code == 200, response.text
    assert response.headers.get("x-quern-ignored") == ignored
    assert all(said in prompt for said in shown), prompt
    *pieces, last = [json.loads(line) for line in response.text.splitlines()]
    assert bool(pieces) == body.get("stream", True)
    assert "".join(text_of(path, answer) for answer in [*pieces, last]) == "Rayleigh"
    assert all(answer["model"] == "fake" and answer["created_at"] for answer in [*pieces, last])
    assert [answer["done"] for answer in [*pieces, last]] == [False] * len(pieces) + [True]
    assert last["done_reason"] == "stop"
    assert last.keys() > COUNTS
    assert "Let me see" not in prompt


async def test_the_options_of_the_example_reach_the_engine(quern: Quern) -> None:
    await post(quern, "generate", {"prompt": SKY, "options": EVERY_OPTION})
    sampling = quern.engine.requests[-1].sampling
    assert (sampling.seed, sampling.max_tokens, sampling.top_k, sampling.top_p) == (42, 100, 20, 0.9)
    assert (sampling.min_p, sampling.temperature, sampling.repetition_penalty) == (0, 0.8, 1.2)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1.5, 1)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_has_the_documented_shape(start: Start, stream: bool) -> None:
    async with start(saying(CALL)) as quern:
        response = await post(quern, "chat", {"messages": [USER], "tools": [WEATHER], "stream": stream})
    answers = [json.loads(line) for line in response.text.splitlines()]
    calls = [call for answer in answers for call in answer["message"].get("tool_calls", [])]
    assert calls == [CALLED]
    assert "".join(answer["message"]["content"] for answer in answers) == ""


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("generate", {}, "load"),
        ("generate", {"prompt": ""}, "load"),
        ("generate", {"keep_alive": -1}, "load"),
        ("generate", {"keep_alive": 0}, "unload"),
        ("chat", {"messages": []}, "load"),
        ("chat", {"messages": [], "keep_alive": 0}, "unload"),
        ("chat", {"messages": [], "keep_alive": "0"}, "unload"),
    ],
)
async def test_a_model_is_loaded_and_unloaded_in_one_object(
    quern: Quern, path: str, body: dict[str, Any], reason: str
) -> None:
    response = await post(quern, path, body)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["done"], answer["done_reason"], text_of(path, answer)) == (True, reason, "")
    assert not quern.engine.requests
    assert (await post(quern, "chat", {"messages": [USER]})).status_code == 200, "it is still there"


async def test_lists_of_models_have_the_documented_members(quern: Quern) -> None:
    details = {"parent_model", "format", "family", "families", "parameter_size", "quantization_level"}
    (listed,) = (await quern.client.get("/api/tags")).json()["models"]
    assert listed.keys() == {"name", "model", "modified_at", "size", "digest", "details"}
    (running,) = (await quern.client.get("/api/ps")).json()["models"]
    assert running.keys() > {"name", "model", "size", "digest", "details", "expires_at", "size_vram"}
    shown = (await post(quern, "show", {"verbose": True})).json()
    assert shown.keys() >= {"modelfile", "parameters", "template", "details", "model_info", "capabilities"}
    assert all(set(entry["details"]) == details for entry in (listed, running, shown))
    assert set((await quern.client.get("/api/version")).json()) == {"version"}


async def test_texts_are_embedded_in_the_documented_shapes(start: Start) -> None:
    async with start(embedding_length=64) as quern:
        one = (await post(quern, "embed", {"input": SKY})).json()
        two = (await post(quern, "embed", {"input": [SKY, "Why is the grass green?"], "truncate": True})).json()
        older = (await post(quern, "embeddings", {"prompt": "Here is an article about llamas..."})).json()
    assert one.keys() == {"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}
    assert [len(vector) for vector in one["embeddings"]] == [64]
    assert [len(vector) for vector in two["embeddings"]] == [64, 64]
    assert two["embeddings"][0] == one["embeddings"][0]
    assert (older.keys(), len(older["embedding"])) == ({"embedding"}, 64)


@pytest.mark.parametrize("body", [{}, {"input": ""}, {"input": []}, {"input": None}])
async def test_without_a_text_nothing_is_embedded(start: Start, body: dict[str, Any]) -> None:
    older = {"prompt": body["input"]} if isinstance(body.get("input"), str) else {}
    async with start(embedding_length=64) as quern:
        assert (await post(quern, "embed", body)).json()["embeddings"] == []
        assert (await post(quern, "embeddings", older)).json() == {"embedding": []}
        both = await post(quern, "embed", {"input": ["", "a"]})
    assert [len(vector) for vector in both.json()["embeddings"]] == [64, 64]


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "generate with images": ("generate", {"prompt": "What is in this picture?", "images": [PICTURE]}, "images"),
    "generate with a template": ("generate", {"prompt": SKY, "template": "{{ .Prompt }}"}, "template"),
    "generate with the context of an answer": ("generate", {"prompt": SKY, "context": [1, 2, 3]}, "context"),
    "chat with images": (
        "chat",
        {"messages": [{"role": "user", "content": "what is in this image?", "images": [PICTURE]}]},
        "messages.0.images",
    ),
}


@pytest.mark.parametrize("example", REFUSED)
async def test_a_documented_example_that_cant_be_served_is_refused_by_its_field(quern: Quern, example: str) -> None:
    path, body, name = REFUSED[example]
    response = await post(quern, path, body)
    assert response.status_code == 400, response.text
    assert response.json()["error"].startswith(f"The field {name} can't be used: ")
    assert not quern.engine.requests


DIGEST = "sha256:29fdb92e57cf0827ded04ae6461b5931d01fa595843f55d36f5b275a52087dd2"
UNSERVED: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/api/create", {"model": "mario", "from": "llama3.2", "system": "You are Mario."}),
    ("POST", "/api/create", {"model": "mario", "modelfile": "FROM llama3", "quantize": "q4_K_M"}),
    ("POST", "/api/copy", {"source": "fake", "destination": "fake-backup"}),
    ("DELETE", "/api/delete", {"model": "fake"}),
    ("POST", "/api/push", {"model": "mattw/pygmalion:latest", "stream": False}),
    ("POST", f"/api/blobs/{DIGEST}", {}),
]


@pytest.mark.parametrize(("method", "path", "body"), UNSERVED)
async def test_what_manages_models_is_refused_by_a_sentence_that_says_how_it_is_done_here(
    quern: Quern, method: str, path: str, body: dict[str, Any]
) -> None:
    response = await quern.client.request(method, path, content=json.dumps(body))
    assert response.status_code == 400, response.text
    assert set(response.json()) == {"error"}
    assert "over HTTP" in response.json()["error"]
    assert "quern" in response.json()["error"]
    page = (Path(__file__).parents[2] / "docs/api.md").read_text(encoding="utf-8")
    assert f"`{method} {path.removesuffix('/' + DIGEST)}" in page.partition("\n## Ollama\n")[2].partition("\n## ")[0]


async def test_there_is_no_blob_and_no_model_but_the_served_one(quern: Quern) -> None:
    assert (await quern.client.head(f"/api/blobs/{DIGEST}")).status_code == 404
    for path in ("pull", "show"):
        response = await post(quern, path, {"model": "llama3.2"})
        assert (response.status_code, "llama3.2" in response.json()["error"]) == (404, True)
    assert (await post(quern, "pull", {"stream": False})).json() == {"status": "success"}
    assert [json.loads(line) for line in (await post(quern, "pull", {})).text.splitlines()] == [{"status": "success"}]
