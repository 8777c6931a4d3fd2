"""docs/api.md says of every request field what becomes of it: the server does just that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from ollama import _types as ollama_types
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params
from pydantic import BaseModel
from tests.field_tables import field_table, known_fields, status

from quern.api.anthropic.request import CountTokensRequest, MessagesRequest
from quern.api.llamacpp.completion_request import CompletionRequest as LlamaCppCompletionRequest
from quern.api.llamacpp.infill_request import InfillRequest
from quern.api.ollama.embedding import EmbedRequest as OllamaEmbedRequest
from quern.api.ollama.requests import ChatRequest, GenerateRequest
from quern.api.openai.chat_request import ChatCompletionRequest
from quern.api.openai.completions_request import CompletionRequest
from quern.api.openai.embeddings import EmbeddingRequest
from quern.api.openai.fim_completions import FimRequest
from quern.api.openai.response_request import ResponseRequest

from .conftest import Quern, Start

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]


@dataclass(frozen=True)
class Request:
    """A request with a table: its smallest body, the model that reads it, what the vendor's reference has.

    `embedding_length`: it is for a model with vectors of so many numbers.
    """

    body: dict[str, Any]
    model: type[BaseModel]
    reference: frozenset[str] = frozenset()
    embedding_length: int = 0


def _fields(params: type[Any]) -> frozenset[str]:
    return frozenset(params.__annotations__)


ANTHROPIC_HTTP_FIELDS = frozenset({"temperature", "top_p", "top_k"})
"""Of the HTTP API, though the library has no parameters for them any more."""

ANTHROPIC_LIBRARY_FIELDS = frozenset({"workspace_id", "user_profile_id"})
"""Of the library alone: it sends them as headers."""

OLLAMA_PICTURE_FIELDS = frozenset({"width", "height", "steps"})
"""For models that make images."""

REQUESTS = {
    "POST /v1/chat/completions": Request(
        {"messages": MESSAGES}, ChatCompletionRequest, _fields(chat_params.CompletionCreateParamsStreaming)
    ),
    "POST /v1/completions": Request(
        {"prompt": "hi"}, CompletionRequest, _fields(completion_create_params.CompletionCreateParamsStreaming)
    ),
    "POST /v1/embeddings": Request(
        {"input": "hi"}, EmbeddingRequest, _fields(embedding_create_params.EmbeddingCreateParams), embedding_length=64
    ),
    "POST /v1/responses": Request(
        {"input": "hi"}, ResponseRequest, _fields(response_create_params.ResponseCreateParamsStreaming)
    ),
    "POST /v1/messages": Request(
        {"messages": MESSAGES, "max_tokens": 50},
        MessagesRequest,
        (_fields(message_create_params.MessageCreateParamsStreaming) | ANTHROPIC_HTTP_FIELDS)
        - ANTHROPIC_LIBRARY_FIELDS,
    ),
    "POST /v1/messages/count_tokens": Request(
        {"messages": MESSAGES},
        CountTokensRequest,
        _fields(message_count_tokens_params.MessageCountTokensParams) - ANTHROPIC_LIBRARY_FIELDS,
    ),
    "POST /infill": Request({"input_prefix": "a", "input_suffix": "b"}, InfillRequest),
    "POST /completion": Request({"prompt": "hi"}, LlamaCppCompletionRequest),
    "POST /v1/fim/completions": Request({"prompt": "hi"}, FimRequest),
    "POST /api/chat": Request({"messages": MESSAGES}, ChatRequest, frozenset(ollama_types.ChatRequest.model_fields)),
    "POST /api/embed": Request(
        {"input": "hi"}, OllamaEmbedRequest, frozenset(ollama_types.EmbedRequest.model_fields), embedding_length=64
    ),
    "POST /api/generate": Request(
        {"prompt": "hi"}, GenerateRequest, frozenset(ollama_types.GenerateRequest.model_fields) - OLLAMA_PICTURE_FIELDS
    ),
}
NO_OP_VALUES: tuple[Any, ...] = ("auto", {}, True, 1, [], None)
ROWS = [(request, name, told) for request in REQUESTS for name, told in field_table(request).items()]


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_table_has_every_field_of_the_reference_and_every_field_that_is_read(request_: str) -> None:
    told = field_table(request_)
    wanted = REQUESTS[request_].reference | known_fields(REQUESTS[request_].model)
    assert wanted <= told.keys(), f"not in the table: {sorted(wanted - told.keys())}"


@pytest.mark.parametrize(("request_", "name", "told"), ROWS)
def test_a_row_says_what_the_request_model_does(request_: str, name: str, told: str) -> None:
    assert status(REQUESTS[request_].model, name) == told


@pytest.mark.parametrize(("request_", "name", "told"), [row for row in ROWS if row[2] == "refused"])
async def test_a_refused_field_is_a_400_that_names_it(quern: Quern, request_: str, name: str, told: str) -> None:
    path = request_.removeprefix("POST ")
    response = await quern.client.post(path, json={**REQUESTS[request_].body, name: {"x": 1}})
    assert response.status_code == 400, response.text
    assert name in response.text
    assert quern.engine.requests == []


@pytest.mark.parametrize("request_", REQUESTS)
async def test_what_is_left_out_is_named_and_changes_nothing(start: Start, request_: str) -> None:
    path = request_.removeprefix("POST ")
    names = [name for name, told in field_table(request_).items() if told == "left out"] + ["in_no_table"]
    async with start(embedding_length=REQUESTS[request_].embedding_length) as quern:
        plain = await quern.client.post(path, json=REQUESTS[request_].body)
        response = await quern.client.post(path, json={**REQUESTS[request_].body, **dict.fromkeys(names, "x")})
    assert (plain.status_code, response.status_code) == (200, 200), response.text
    assert response.headers["x-quern-ignored"].split(", ") == names
    assert "x-quern-ignored" not in plain.headers
    first, *others = [*quern.engine.requests, *quern.engine.embedded] or [None]
    assert all(other == first for other in others)


@pytest.mark.parametrize("request_", REQUESTS)
async def test_no_ops_of_any_type_change_nothing(start: Start, request_: str) -> None:
    path = request_.removeprefix("POST ")
    names = [name for name, told in field_table(request_).items() if told == "no-op"]
    async with start(embedding_length=REQUESTS[request_].embedding_length) as quern:
        for value in NO_OP_VALUES:
            response = await quern.client.post(path, json={**REQUESTS[request_].body, **dict.fromkeys(names, value)})
            assert response.status_code == 200, response.text
            assert "x-quern-ignored" not in response.headers
    first, *others = [*quern.engine.requests, *quern.engine.embedded] or [None]
    assert all(other == first for other in others)
