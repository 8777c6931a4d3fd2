"""Tokens per second of N clients through HTTP against the same prompts given to the engine directly, in one run.

Both sides use the same engine settings and model file. The HTTP side is a real `quern serve` process; the direct side
calls `Engine.generate` in this process. Rounds alternate (direct, HTTP, direct, HTTP, …), each with prompts of its own
so that no prefix cache helps either. Prints one row per round and the medians.

    python bench/http_overhead.py --model qwen2.5-coder-1.5b --clients 8 --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2

from quern.app import Application, build_app
from quern.cli.progress import progress_display
from quern.config import Settings
from quern.engine.base import Finished, GenerateRequest
from quern.models.pull import ensure
from quern.served_models import ModelFile
from quern.types import Message, Role
from serving import served

TASKS = (
    "Write a red-black tree in Python with insert and delete.",
    "用 Java 写一个线程安全的 LRU 缓存，并解释每个方法。",
    "Write a JSON parser in C, with error messages.",
    "Implement a thread pool in C++ with futures.",
    "用 Go 写一个限流器，支持令牌桶和滑动窗口。",
    "Write a markdown to HTML converter in JavaScript.",
    "Write a Rust function that merges overlapping intervals, with tests.",
    "Write SQL that finds the three best customers of each month.",
)


def _prompts(clients: int, round_number: int) -> list[str]:
    return [f"Task {round_number}.{index}: {TASKS[index % len(TASKS)]}" for index in range(clients)]


async def direct(application: Application, prompts: list[str], max_tokens: int) -> int:
    """Generate all prompts at once through the engine's door; returns the tokens."""
    sampling = Settings().generation.model_copy(update={"max_tokens": max_tokens, "temperature": 0.0}).sampling()

    async def one(prompt: str) -> int:
        ids = application.models.default.codec.encode_chat([Message(Role.USER, prompt)])
        request = GenerateRequest(ids, sampling, application.models.default.codec.stop_token_ids)
        async for event in application.models.default.engine.generate(request):
            if isinstance(event, Finished):
                return event.usage.completion_tokens
        return 0

    return sum(await asyncio.gather(*(one(prompt) for prompt in prompts)))


async def over_http(client: httpx2.AsyncClient, prompts: list[str], max_tokens: int) -> int:
    """Stream all prompts at once through `chat_stream`; returns the tokens, as the server counted them."""

    async def one(prompt: str) -> str:
        text = ""
        data = {"prompt": prompt, "max_tokens": str(max_tokens), "temperature": "0"}
        async with client.stream("POST", "/v1/code/chat_stream", data=data) as response:
            async for chunk in response.aiter_text():
                text += chunk
        return text.partition("\n---\n")[0].removeprefix("conversation_id:")

    tokens = 0
    for conversation_id in await asyncio.gather(*(one(prompt) for prompt in prompts)):
        body = (await client.get(f"/v1/conversations/{conversation_id}")).json()
        tokens += body["turns"][0]["usage"]["completion_tokens"]
    return tokens


async def _speed(work: Callable[[], Awaitable[int]]) -> float:
    started = time.monotonic()
    tokens = await work()
    return tokens / (time.monotonic() - started)


async def main() -> None:
    """Alternate the two sides and print what each gave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-1.5b")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=128)
    options = parser.parse_args()
    settings = Settings()
    with progress_display() as progress:
        path = await asyncio.to_thread(ensure, options.model, settings.models_dir, progress=progress)
    with tempfile.TemporaryDirectory() as folder:
        (wanted,) = settings.to_serve()
        file = ModelFile(path, options.model, wanted)
        application = build_app(settings.model_copy(update={"data_dir": Path(folder)}), [file])
        async with application.running() as loading, served(settings.models_dir, options.model) as client:
            await loading
            await over_http(client, _prompts(options.clients, -1), 8)
            await direct(application, _prompts(options.clients, -1), 8)
            rows: list[tuple[float, float]] = []
            print(f"{options.model}, {options.clients} clients, {options.max_tokens} tokens each; tokens/s")
            print("round  direct    HTTP   ratio")
            for number in range(options.rounds):
                prompts = _prompts(options.clients, number)
                engine_speed = await _speed(lambda p=prompts: direct(application, p, options.max_tokens))
                http_speed = await _speed(lambda p=prompts: over_http(client, p, options.max_tokens))
                rows.append((engine_speed, http_speed))
                print(
                    f"{number:5}  {engine_speed:6.1f}  {http_speed:6.1f}  {http_speed / engine_speed:6.3f}", flush=True
                )
    middle = [statistics.median(column) for column in zip(*rows, strict=True)]
    ratio = statistics.median(http / engine for engine, http in rows)
    print(f"median {middle[0]:6.1f}  {middle[1]:6.1f}  {ratio:6.3f}")


if __name__ == "__main__":
    asyncio.run(main())
