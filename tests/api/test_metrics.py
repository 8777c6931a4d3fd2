"""What the server measures, as those who scrape it see it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families as plain

from quern.engine.fake import FakeEngine
from quern.prompt.codec import TextCodec

from .conftest import Quern, Start
from .engines import saying
from .test_keys import bearer, control, make

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
MESSAGES = [{"role": "user", "content": "hello"}]


async def families(quern: Quern, headers: dict[str, str] | None = None) -> dict[str, Metric]:
    answer = await quern.client.get("/metrics", headers=headers or {})
    assert answer.status_code == 200, answer.text
    return {family.name: family for family in plain(answer.text)}


async def value(quern: Quern, sample: str, **labels: str) -> float:
    """A sample's value; 0 where it isn't there."""
    async with control(quern) as local:
        text = (await local.get("/metrics")).text
    for family in plain(text):
        for one in family.samples:
            if one.name == sample and labels.items() <= one.labels.items():
                return one.value
    return 0.0


async def chat(quern: Quern, content: str = "hello", headers: dict[str, str] | None = None, **fields: Any) -> None:
    body = {"messages": [{"role": "user", "content": content}], **fields}
    answer = await quern.client.post("/v1/chat/completions", json=body, headers=headers or {})
    assert answer.status_code == 200, answer.text


async def test_a_turn_is_timed_and_its_tokens_are_counted(quern: Quern) -> None:
    await chat(quern, "hello there", max_tokens=5)
    found = await families(quern)
    samples = {(one.name, one.labels.get("le")): one.value for family in found.values() for one in family.samples}
    for name in ("time_to_first_token", "e2e_request_latency", "request_prefill_time", "request_decode_time"):
        assert samples[f"quern_{name}_seconds_count", None] == 1, name
        assert samples[f"quern_{name}_seconds_bucket", "+Inf"] == 1, name
    assert samples["quern_inter_token_latency_seconds_count", None] == 4
    assert samples["quern_inter_token_latency_seconds_bucket", "+Inf"] == 4
    assert samples["quern_request_generation_tokens_sum", None] == 5
    assert await value(quern, "quern_generation_tokens_total", key="anonymous") == 5
    assert await value(quern, "quern_turns_total", state="completed", finished_reason="length") == 1
    assert await value(quern, "quern_request_queue_time_seconds_count", priority="normal") == 1


async def test_what_the_prefix_cache_had_is_counted(quern: Quern) -> None:
    for _ in range(2):
        await chat(quern, "the same words " * 20, max_tokens=2)
    prompt = await value(quern, "quern_prompt_tokens_total", key="anonymous")
    cached = await value(quern, "quern_prompt_tokens_cached_total", key="anonymous")
    assert 0 < cached < prompt
    assert await value(quern, "quern_prefix_cache_queries_total") == prompt
    assert await value(quern, "quern_prefix_cache_hits_total") == cached


async def test_those_who_wait_are_counted_by_priority(start: Start) -> None:
    engine = FakeEngine(parallel=1, token_delay=0.01, vocabulary_size=TextCodec.builtin().vocabulary_size)
    async with start(engine) as quern, asyncio.TaskGroup() as group:
        running = [group.create_task(chat(quern, "x" * 500)) for _ in range(3)]
        infill = {"input_prefix": "a" * 500, "input_suffix": "b"}
        running.append(group.create_task(_post(quern, "/infill", infill)))
        while engine.stats().waiting < 3:
            await asyncio.sleep(0.005)
        assert await value(quern, "quern_num_requests_running") == 1
        waiting = {
            one: await value(quern, "quern_num_requests_waiting", priority=one) for one in ("normal", "interactive")
        }
        assert sum(waiting.values()) == 3
        assert waiting["interactive"] <= 1
        for task in running:
            task.cancel()
    assert await value(quern, "quern_num_requests_waiting", priority="normal") == 0


async def _post(quern: Quern, path: str, body: dict[str, Any]) -> None:
    await quern.client.post(path, json=body)


async def test_refusals_are_counted_by_kind_and_requests_by_the_template_of_their_route(quern: Quern) -> None:
    for number in range(3):
        await quern.client.get(f"/v1/conversations/no-such-{number}")
        await quern.client.get(f"/nowhere/{number}")
    await quern.client.post("/v1/chat/completions", json={"messages": 1})
    await quern.client.post("/v1/messages", json={"messages": MESSAGES, "model": "another", "max_tokens": 1})
    assert await value(quern, "quern_refusals_total", kind="not_found") == 6
    assert await value(quern, "quern_refusals_total", kind="invalid") == 1
    assert await value(quern, "quern_refusals_total", kind="model_not_found") == 1
    requests = "quern_http_requests_total"
    route = {"route": "/v1/conversations/{conversation_id}", "method": "GET", "status": "404"}
    assert await value(quern, requests, **route) == 3
    assert await value(quern, requests, route="other", method="other", status="404") == 3


@pytest.mark.parametrize("method", ["BREW", "GET", "X" * 500])
async def test_nothing_that_a_client_makes_up_becomes_a_label(quern: Quern, method: str) -> None:
    await quern.client.request(method, "/v1/made-up-by-a-client")
    await quern.client.request(method, "/v1/chat/completions")
    text = (await quern.client.get("/metrics")).text
    assert "made-up" not in text
    assert method == "GET" or method not in text


async def test_a_refusal_for_the_lack_of_a_key_is_counted_too(quern: Quern) -> None:
    await make(quern, "anna")
    assert (await quern.client.get("/v1/models")).status_code == 401
    assert await value(quern, "quern_refusals_total", kind="unauthorized") == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES, "no_such_field": 1, "nor_this": 2}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 9, "no_such_field": 1, "nor_this": 2}),
        ("/v1/responses", {"input": "hello", "no_such_field": 1, "nor_this": 2}),
        ("/api/chat", {"messages": MESSAGES, "no_such_field": 1, "nor_this": 2}),
    ],
)
async def test_fields_that_were_left_out_are_counted_by_route(quern: Quern, path: str, body: dict[str, Any]) -> None:
    assert (await quern.client.post(path, json=body)).status_code == 200
    assert await value(quern, "quern_ignored_fields_total", route=path) == 2


async def test_repairs_of_tool_calls_are_counted(start: Start) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    async with start(saying('<tool_call>\n{"name": "look", "arguments": {"a": 1,}}\n</tool_call>')) as quern:
        await chat(quern, tools=[tool])
        assert await value(quern, "quern_tool_call_repairs_total") == 1
        assert await value(quern, "quern_turns_total", finished_reason="tool_calls") == 1


async def test_only_so_many_keys_have_a_label_of_their_own(start: Start) -> None:
    async with start(metrics={"max_keys": 2}) as quern:
        for name in ("anna", "ben", "cleo", "dan"):
            await chat(quern, headers=bearer(await make(quern, name)), max_tokens=3)
        tokens = {
            name: await value(quern, "quern_generation_tokens_total", key=name)
            for name in ("anna", "ben", "cleo", "dan", "other")
        }
    assert tokens == {"anna": 3, "ben": 3, "cleo": 0, "dan": 0, "other": 6}


async def test_with_keys_metrics_are_for_administrators(quern: Quern) -> None:
    assert (await quern.client.get("/metrics")).status_code == 200, "open as the rest while there is no key"
    user, admin = await make(quern, "anna"), await make(quern, "ops", role="admin")
    assert (await quern.client.get("/metrics")).status_code == 401
    assert (await quern.client.get("/metrics", headers=bearer(user))).status_code == 403
    assert (await quern.client.get("/metrics", headers=bearer(admin))).status_code == 200
    async with control(quern) as local:
        assert (await local.get("/metrics")).status_code == 200


async def test_beside_keys_callers_without_one_see_no_metrics(start: Start) -> None:
    async with start(server={"host": "0.0.0.0", "allow_anonymous": True}) as quern:
        assert (await quern.client.get("/metrics")).status_code == 200
        await make(quern, "anna")
        assert (await quern.client.get("/metrics")).status_code == 403


async def test_public_metrics_need_no_key_and_nothing_else_opens_with_them(start: Start) -> None:
    async with start(metrics={"public": True}) as quern:
        user = await make(quern, "anna")
        for headers in ({}, bearer("wrong"), bearer(user)):
            assert (await quern.client.get("/metrics", headers=headers)).status_code == 200
        assert (await quern.client.get("/v1/usage")).status_code == 401
        assert (await quern.client.get("/metrics/x")).status_code == 401


async def test_accept_chooses_between_prometheus_text_and_openmetrics(quern: Quern) -> None:
    await chat(quern)
    text = await quern.client.get("/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    opened = await quern.client.get("/metrics", headers={"accept": f"{OPENMETRICS},text/plain;q=0.5"})
    assert opened.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert opened.text.endswith("# EOF\n")
    assert {"quern_turns", "quern_inter_token_latency_seconds"} <= set(
        re.findall(r"^# TYPE (\w+)", opened.text, re.MULTILINE)
    )


async def test_a_scraper_is_told_of_the_process_the_build_the_model_and_the_event_loop(quern: Quern) -> None:
    found = await families(quern)
    [model] = [one for one in found["quern_model_info"].samples if one.name == "quern_model_info"]
    assert model.labels["model_name"] == quern.engine.info.model_id
    assert {"process_resident_memory_bytes", "quern_build_info", "quern_event_loop_lag_seconds"} <= set(found)
    assert await value(quern, "quern_engine_state", state="ready") == 1
    assert await value(quern, "quern_engine_state", state="restarting") == 0


async def test_metrics_answer_while_the_model_loads(start: Start) -> None:
    async with start(FakeEngine(load_delay=30), wait_until_loaded=False) as quern:
        assert await value(quern, "quern_engine_state", state="loading") == 1


async def test_no_metric_has_a_word_of_a_prompt_or_of_an_answer(quern: Quern) -> None:
    await chat(quern, "a_secret_of_mine", user="somebody_else", metadata={"a": "b_secret"})
    text = (await quern.client.get("/metrics")).text
    assert "secret" not in text
    assert "somebody" not in text
