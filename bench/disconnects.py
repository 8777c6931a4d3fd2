"""How long a sequence stays taken after its client's socket closed, in prefill and in decode. Prints seconds.

python bench/disconnects.py --model qwen2.5-coder-1.5b --repeat 5
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

import httpx2

from quern.config import Settings
from serving import served

POLL_SECONDS = 0.01
LONG_PROMPT = "What does this do?\n" + "x = [y * 2 for y in range(10)]\n" * 500


async def _running(client: httpx2.AsyncClient) -> int:
    return (await client.get("/ready")).json()["running"]


async def _freed_after(client: httpx2.AsyncClient, prompt: str, *, wait_for_text: bool) -> float:
    data = {"prompt": prompt, "max_tokens": "2000"}
    headers = {"x-quern-on-disconnect": "cancel"}
    async with client.stream("POST", "/v1/code/chat_stream", data=data, headers=headers) as response:
        chunks = response.aiter_raw()
        await anext(chunks)
        if wait_for_text:
            await anext(chunks)
        while not await _running(client):
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.sleep(1)
    closed = time.monotonic()
    while await _running(client):
        await asyncio.sleep(POLL_SECONDS)
    return time.monotonic() - closed


async def main() -> None:
    """Close sockets, time the release, print medians and the slowest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-1.5b")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    async with served(Settings().models_dir, options.model) as client:
        for phase, prompt in (("prefill", LONG_PROMPT), ("decode", "Count from 1 to 2000, one number per line.")):
            times = [
                await _freed_after(client, f"{number} {prompt}", wait_for_text=phase == "decode")
                for number in range(options.repeat)
            ]
            print(f"{phase}: median {statistics.median(times):.2f} s, slowest {max(times):.2f} s of {len(times)}")


if __name__ == "__main__":
    asyncio.run(main())
