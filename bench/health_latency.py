"""How long `/health` takes while N streams run, on a real server with a real model. Prints milliseconds.

python bench/health_latency.py --model qwen2.5-coder-1.5b --streams 16
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

import httpx2

from quern.config import Settings
from serving import served

PAUSE_SECONDS = 0.05


async def _stream(client: httpx2.AsyncClient, index: int, max_tokens: int) -> None:
    data = {"prompt": f"Explain {index} sorting algorithms in detail.", "max_tokens": str(max_tokens)}
    async with client.stream("POST", "/v1/code/chat_stream", data=data) as response:
        async for _ in response.aiter_bytes():
            pass


async def _health(client: httpx2.AsyncClient, samples: list[float]) -> None:
    while True:
        started = time.monotonic()
        (await client.get("/health")).raise_for_status()
        samples.append((time.monotonic() - started) * 1000)
        await asyncio.sleep(PAUSE_SECONDS)


async def main() -> None:
    """Run the streams, sample meanwhile, print the distribution."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-1.5b")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()
    samples: list[float] = []
    async with served(Settings().models_dir, options.model) as client:
        sampling = asyncio.get_running_loop().create_task(_health(client, samples))
        await asyncio.gather(*(_stream(client, index, options.max_tokens) for index in range(options.streams)))
        sampling.cancel()
    percentiles = statistics.quantiles(samples, n=100)
    print(f"{options.model}, {options.streams} streams, {len(samples)} samples of /health, milliseconds")
    print(f"median {percentiles[49]:.1f}  p95 {percentiles[94]:.1f}  p99 {percentiles[98]:.1f}  max {max(samples):.1f}")


if __name__ == "__main__":
    asyncio.run(main())
