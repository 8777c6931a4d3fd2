"""What OpenAI's and Ollama's own libraries may send is served, or refused for a reason that docs/api.md tells."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from ollama import _types as ollama_types
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params
from tests.vendor_types import Case, Walk

from .conftest import Quern, Start

FUNCTION = {"name": "x", "parameters": {"type": "object"}}


@dataclass(frozen=True)
class Vendor:
    """A vendor's request: its path and its type. `given`: see `Walk`. `beside`: what a member of the body needs besides
    it. `refused`: patterns of places, with words of the refusal. `limit`: the member with the most tokens of an
    answer, if it stands in the body. `base`: what a request has that the type doesn't ask for. `said_last`: what comes
    last in a list, so that all else in it was said before. `embedding_length`: it is for a model with vectors of so
    many numbers. `unserved`: the members that are left out and named, anywhere.
    """

    path: str
    params: Any
    given: Mapping[Any, Any]
    beside: Mapping[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    refused: Mapping[str, str] = field(default_factory=dict[str, str])
    limit: str | None = "max_tokens"
    base: Mapping[str, Any] = field(default_factory=dict[str, Any])
    said_last: Mapping[str, Any] = field(default_factory=dict[str, Any])
    embedding_length: int = 0
    unserved: frozenset[str] | None = None

    def body(self, case: Case) -> dict[str, Any]:
        """The request of a case."""
        member = re.split(r"[.=\[]", case.place)[0]
        limit = {} if self.limit is None else {self.limit: 1}
        body: dict[str, Any] = {**self.base, **case.value, **self.beside.get(member, {}), **limit}
        for name, last in self.said_last.items():
            said = body.get(name)
            if isinstance(said, list):
                body[name] = [*cast("list[Any]", said), last]
        return body


OLLAMA: dict[Any, Any] = {"model": "fake", "role": "user", ollama_types.Image: "aGk="}
OLLAMA_UNSERVED = frozenset({"mirostat", "tfs_z", "typical_p"})

VENDORS = [
    Vendor(
        "/v1/chat/completions",
        chat_params.CompletionCreateParamsNonStreaming,
        given={
            "model": "fake",
            "tool_choice.allowed_tools.tools": [{"type": "function", "function": {"name": "x"}}],
        },
        beside={
            "tool_choice": {"tools": [{"type": "function", "function": FUNCTION}]},
            "function_call": {"functions": [FUNCTION]},
            "top_logprobs": {"logprobs": True},
        },
        refused={
            r"messages=\[\]": "at least 1",
            r"messages\.0\[user\]\.content\[Iterable\]=\[\]": "missing",
            r"messages\.0\[user\]\.content\[Iterable\]\.0\[(image_url|input_audio|file)\].*": "no text",
            r"audio(?!=null).*": "text only",
            r"modalities\[List\]\.0=audio": "text only",
        },
    ),
    Vendor(
        "/v1/completions",
        completion_create_params.CompletionCreateParamsNonStreaming,
        given={"model": "fake"},
        refused={r"prompt=null": "missing", r"prompt\[.*\](\.0)?=\[\]": "prompt"},
    ),
    Vendor(
        "/v1/responses",
        response_create_params.ResponseCreateParamsNonStreaming,
        given={"model": "fake"},
        base={"input": "hi", "store": False},
        limit="max_output_tokens",
        said_last={"input": {"role": "user", "content": "hi"}},
        beside={"tool_choice": {"tools": [{"type": "function", **FUNCTION}]}, "background": {"store": True}},
        refused={
            r"input=null": "nothing to answer",
            r"input\[List\]\.0\[.*item_reference.*": "no such item",
            r"conversation(?!=null).*": "no such conversation",
            r"previous_response_id(?!=null).*": "no such response",
            r"prompt(\[.*)?": "not kept here",
            r"tool_choice\[allowed_tools\]\.mode=required": "there are no tools",
            r"tool_choice\[(file_search|mcp|programmatic_tool_calling)\].*": "runs no tools of its own",
            r"tool_choice\[(apply_patch|shell)\].*": "not among the tools",
        },
    ),
    Vendor(
        "/api/chat",
        ollama_types.ChatRequest,
        given=OLLAMA,
        base={"messages": [{"role": "user", "content": "hi"}]},
        limit=None,
        refused={r"messages\[Sequence\]\.0\[Message\]\.images(\[Sequence\])?": "messages.0.images"},
        unserved=OLLAMA_UNSERVED | {"tools.0"},
    ),
    Vendor(
        "/api/generate",
        ollama_types.GenerateRequest,
        given=OLLAMA,
        base={"prompt": "hi", "stream": False},
        limit=None,
        refused={
            r"context(\[Sequence\])?": "context",
            r"images(\[Sequence\])?": "images",
            r"template(\[str\])?": "template",
        },
        unserved=OLLAMA_UNSERVED | {"width", "height", "steps"},
    ),
    Vendor(
        "/api/embed",
        ollama_types.EmbedRequest,
        given=OLLAMA,
        limit=None,
        embedding_length=8,
        unserved=frozenset(),
    ),
    Vendor(
        "/api/embeddings",
        ollama_types.EmbeddingsRequest,
        given=OLLAMA,
        limit=None,
        embedding_length=8,
        unserved=frozenset(),
    ),
]
"""Chat Completions' content of an answer or a result is not refused whatever it is, so only the user's stands there."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.path)
async def test_what_the_vendors_types_allow_is_served_or_refused_for_a_documented_reason(
    start: Start, vendor: Vendor
) -> None:
    wrong: list[str] = []
    met: set[str] = set()
    cases = list(
        {json.dumps(vendor.body(one)): one for one in Walk(vendor.given, first="tools").cases(vendor.params)}.values()
    )
    async with start(embedding_length=vendor.embedding_length) as quern:
        for case in cases:
            response = await _post(quern, vendor.path, vendor.body(case))
            pattern = next((one for one in vendor.refused if re.fullmatch(one, case.place)), None)
            if pattern is not None and response.status_code in {400, 404}:
                met.add(pattern)
                if vendor.refused[pattern] in response.text:
                    continue
            if pattern is not None or response.status_code != 200 or not _only(response, vendor.unserved):
                wrong.append(f"{case.place}: {response.status_code} {response.text[:200]}")
    assert not wrong, "\n".join(wrong)
    assert met == vendor.refused.keys()
    assert len(cases) > 40


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool", "Assistant", "function", "x"])
async def test_every_message_that_ollamas_library_may_send_can_be_history(quern: Quern, role: str) -> None:
    last = {"role": "user", "content": "hi"}
    for case in Walk({**OLLAMA, "role": role}).cases(ollama_types.Message):
        for said in (case.value, {name: value for name, value in case.value.items() if name != "role"}):
            response = await _post(quern, "/api/chat", {"messages": [said, last], "stream": False})
            assert response.status_code == 200, f"{said}: {response.text}"
            assert "x-quern-ignored" not in response.headers, said


async def test_a_message_whose_role_ollamas_library_leaves_open_is_somebodys(quern: Quern) -> None:
    for role, shown in (("Assistant", "assistant"), ("SYSTEM", "system"), ("x", "user"), (None, "user")):
        body = {"messages": [{"role": role, "content": "ab"}, {"role": "user", "content": "hi"}], "stream": False}
        assert (await _post(quern, "/api/chat", body)).status_code == 200
        prompt = quern.codec.tokenizer.decode(quern.engine.requests[-1].prompt)
        assert re.search(rf"{shown}\s+ab", prompt), prompt


def _only(response: Any, unserved: frozenset[str] | None) -> bool:
    """Whether nothing else was left out."""
    named = response.headers.get("x-quern-ignored", "")
    return unserved is None or {name.removeprefix("options.").partition(" ")[0] for name in named.split(", ")} <= {
        *unserved, ""
    }  # fmt: skip


async def _post(quern: Quern, path: str, body: dict[str, Any]) -> Any:
    content = json.dumps(body)
    return await quern.client.post(path, content=content, headers={"content-type": "application/json"})
