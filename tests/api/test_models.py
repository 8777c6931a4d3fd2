"""The served model under its names, for the clients of several servers."""

from __future__ import annotations

import anthropic
import openai
import pytest

from quern.engine.fake import FakeEngine

from .conftest import Quern, Start


async def test_an_entry_has_the_members_that_several_servers_clients_read(quern: Quern) -> None:
    length = quern.engine.info.context_length
    body = (await quern.client.get("/v1/models/fake")).json()
    capabilities = body.pop("capabilities")
    assert body == {
        "id": "fake",
        "root": "fake",
        "object": "model",
        "type": "model",
        "created": 0,
        "created_at": "1970-01-01T00:00:00Z",
        "owned_by": "quern",
        "display_name": "fake",
        "lifecycle": "active",
        "state": "ready",
        "load_progress": 1.0,
        "context_length": length,
        "max_model_len": length,
        "max_input_tokens": length,
        "max_tokens": 32768,
        "vocabulary_size": quern.engine.info.vocabulary_size,
        "embedding_length": None,
        "quantisation": "no weights",
        "engine": "fake",
        "device": "no device",
        "parallel": 4,
    }
    assert {name for name, able in capabilities.items() if able is True} == {
        "completion_chat",
        "completion_fim",
        "function_calling",
    }
    assert {name for name, able in capabilities.items() if able == {"supported": True}} == {"structured_outputs"}


async def test_the_list_has_the_model_then_each_alias_as_an_entry_of_its_own(start: Start) -> None:
    async with start(model={"aliases": ("z-code", "*", "gpt-4o", "fake")}) as quern:
        body = (await quern.client.get("/v1/models")).json()
        alias = (await quern.client.get("/v1/models/gpt-4o")).json()
        any_name = (await quern.client.get("/v1/models/org/name")).json()
    assert (body["object"], body["has_more"], body["first_id"], body["last_id"]) == ("list", False, "fake", "z-code")
    assert [(entry["id"], entry["root"]) for entry in body["data"]] == [
        ("fake", "fake"),
        ("gpt-4o", "fake"),
        ("z-code", "fake"),
    ]
    assert body["data"][1] == alias
    assert (any_name["id"], any_name["root"]) == ("org/name", "fake")


async def test_an_unknown_name_is_a_404_and_a_loading_model_a_503(start: Start) -> None:
    async with start() as quern:
        unknown = await quern.client.get("/v1/models/gpt-4o")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"
    assert "'fake'" in unknown.json()["error"]["message"]
    async with start(FakeEngine(load_delay=30), wait_until_loaded=False) as quern:
        for path in ("/v1/models", "/v1/models/fake"):
            loading = await quern.client.get(path)
            assert (loading.status_code, loading.json()["error"]["code"]) == (503, "model_unavailable")


async def test_openais_library_lists_and_retrieves(start: Start) -> None:
    async with (
        start(live=True, model={"aliases": "gpt-4o"}) as quern,
        openai.AsyncOpenAI(base_url=f"{quern.client.base_url}/v1", api_key="none", max_retries=0) as client,
    ):
        assert [model.id async for model in client.models.list()] == ["fake", "gpt-4o"]
        assert (await client.models.retrieve("gpt-4o")).owned_by == "quern"
        with pytest.raises(openai.NotFoundError, match="is not served here"):
            await client.models.retrieve("nope")


async def test_anthropics_library_lists_and_retrieves(start: Start) -> None:
    async with (
        start(live=True, model={"aliases": "claude"}) as quern,
        anthropic.AsyncAnthropic(base_url=str(quern.client.base_url), api_key="none", max_retries=0) as client,
    ):
        assert [model.id async for model in client.models.list()] == ["fake", "claude"]
        model = await client.models.retrieve("claude")
        assert (model.type, model.display_name, model.lifecycle) == ("model", "claude", "active")
        assert model.created_at.year == 1970
        assert model.capabilities is not None
        assert model.capabilities.structured_outputs.supported
        assert not model.capabilities.thinking.supported
        with pytest.raises(anthropic.NotFoundError):
            await client.models.retrieve("nope")
